"""What a plan says its answer relies on."""

import pytest
import torch

import varigrad as vg
from varigrad import distributions as dist
from varigrad.estimators import GumbelSoftmax, LeaveOneOut, Score


@torch.library.custom_op("varigrad_test_plan::doubled", mutates_args=())
def doubled(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@doubled.register_fake
def _(x):
    return torch.empty_like(x)


def plan_of(read, estimator):
    def model():
        with vg.plate("n", 3):
            z = vg.sample("z", dist.Bernoulli(torch.full((3,), 0.4)))
            vg.sample("x", dist.Normal(read(z), 1.0), obs=torch.ones(3))

    def guide():
        with vg.plate("n", 3):
            vg.sample("z", dist.Bernoulli(logits=vg.param("t", torch.zeros(3))), estimator=estimator)

    return vg.ELBO()(model, guide).plan()


SEEN = "the operations seen so far"


@pytest.mark.parametrize("estimator", [Score(), LeaveOneOut(2)], ids=["score", "leave one out"])
def test_what_operations_prove_relies_on_them_alone(estimator):
    plan = plan_of(lambda z: 2 * z + z.exp(), estimator)
    assert plan.unproven == () and len(plan.relies_on) == 1 and plan.relies_on[0].startswith(SEEN)
    assert " yes\n" in str(plan) and f"\nunbiased relies on: {SEEN}" in str(plan)


def test_what_only_numbers_speak_for_is_no_yes():
    plan = plan_of(doubled, LeaveOneOut(2))  # an operation of which nothing is known
    assert plan.unproven == (
        "particles and alternatives being kept apart, compared at 4 point(s): no operation that was seen proves it",
    )
    assert " by numbers\n" in str(plan) and " yes\n" not in str(plan)
    assert f"unbiased relies on: {plan.unproven[0]}" in str(plan)


def test_an_estimator_that_is_biased_relies_on_nothing():
    plan = plan_of(lambda z: 2 * z, GumbelSoftmax(0.5))
    assert plan.relies_on == () and "relies on" not in str(plan)
