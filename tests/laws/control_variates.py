"""Weights of control variates: they bias nothing, are learnt, and start where they were told to."""

from dataclasses import replace

import torch
from registry import network

import varigrad as vg
from laws.base import TOLERANCE, drawn, hold, law, logits, seeded, t, trained
from varigrad import distributions as dist
from varigrad.estimators import (
    DoubleControlVariate,
    LeaveOneOut,
    Rodeo,
)
from varigrad.testing import PROGRAMS, check_case, exact_gradient, expected_gradient, largest_difference


def _coins(estimator, target, *start):
    """The mean of (b - target)^2 over some coins, with nothing else in the bound."""
    start = t(start)

    def model():
        z = vg.sample("z", dist.Bernoulli(logits=start).to_event(1))
        vg.factor("f", (z - target).square().mean(-1))

    def guide():
        vg.sample("z", dist.Bernoulli(logits=vg.param("t", start)).to_event(1), estimator=estimator)

    return seeded(vg.ELBO(weights={"z": 0.0}), model, guide)


@law
def no_weight_of_a_double_control_variate_biases():
    for alpha in (0.0, -1.0, 0.5):
        for program in ("bernoulli", "one_hot", "masked"):
            estimator = DoubleControlVariate(2, alpha, train=False)
            verdict = check_case(estimator, program, PROGRAMS[program])
            assert verdict.how == "exact" and verdict.passed, verdict


@law
def weights_of_control_variates_are_learnt():
    """A coin's gradient has no variance left; that of many, a fraction of leave-one-out's, where it is known."""
    for target, start in ((0.45, 0.0), (0.49, 2.0), (0.49, -2.0)):
        bound = trained(_coins(Rodeo(2), target, start), 300)
        assert float(expected_gradient(bound).variance["t"].sum()) < 1e-12
    for estimator, limit in ((LeaveOneOut(2), 1.4e-9), (DoubleControlVariate(2), 6e-11), (Rodeo(2), 2e-10)):
        bound = trained(_coins(estimator, 0.499, *[0.5] * 200), 100)
        found = torch.stack([drawn(bound, seed)["t"] for seed in range(200)])
        assert limit / 2.5 < float(found.var(0).mean()) < limit, (estimator, found.var(0).mean())


@law
def what_was_asked_for_is_what_is_used_first():
    for made in (DoubleControlVariate(2, -0.3), Rodeo(2, -0.3, 0.2, 0.1)):
        fixed = replace(made, train=False)
        one, two = (expected_gradient(_coins(e, 0.45, 0.3, -0.6)).variance["t"] for e in (made, fixed))
        assert torch.equal(one, two)


@law
def slopes_that_are_not_finite_count_nothing():
    """A square root at zero."""

    def model():
        z = vg.sample("z", dist.Bernoulli(t(0.3)))
        vg.factor("f", z.sqrt())

    for estimator in (DoubleControlVariate(2, -1.0, train=False), Rodeo(2, 0.5, -1.0, train=False)):

        def guide(estimator=estimator):
            vg.sample("z", dist.Bernoulli(logits=logits("t", 0.7)), estimator=estimator)

        hold(model, guide)


@law
def a_network_of_steps_is_trained_to_lower_the_variance():
    """And nothing else is trained by that, nor the network by anything else."""

    def model():
        z = vg.sample("z", dist.Bernoulli(t(0.5, 0.5)).to_event(1))
        vg.factor("f", z.sum(-1).exp())

    def bound_of(estimator):
        def guide():
            vg.sample("z", dist.Bernoulli(logits=logits("t", 0.3, -0.6)).to_event(1), estimator=estimator)

        return seeded(vg.ELBO(), model, guide)

    net = network(2, 8, 2)
    plain, learning = trained(bound_of(Rodeo(2)), 200), bound_of(Rodeo(2, network=net))
    assert torch.equal(drawn(learning)["t"], drawn(bound_of(Rodeo(2)))["t"]), "its weight starts at zero"
    assert [n for n, _ in learning.named_parameters() if n != "t"] == [f"baselines.z.{n}" for n in net.state_dict()]
    adam = torch.optim.Adam(net.parameters(), lr=0.03)
    for _ in range(200):
        adam.zero_grad()
        learning().backward()
        adam.step()
    assert largest_difference(expected_gradient(learning).mean, exact_gradient(learning)[1]) < TOLERANCE
    before, after = (float(expected_gradient(b).variance["t"].sum()) for b in (plain, learning))
    assert after < 0.85 * before, (before, after)
