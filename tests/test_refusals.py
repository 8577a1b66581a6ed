"""Estimators refuse what they do not serve, by a text that says why and what to try."""

import pytest
import torch
from torch import distributions as td

import varigrad as vg
from varigrad import distributions as dist
from varigrad.errors import BaselineError, SiteError
from varigrad.estimators import (
    ARM,
    ARMS,
    Antithetic,
    DoubleControlVariate,
    Lax,
    LocalExpectation,
    MeasureValued,
    OptimalScore,
    Pathwise,
    Relax,
    Rodeo,
    SelfCritical,
    Sobol,
    StochasticAD,
    SumAndSample,
    UnorderedSet,
)

three, four = torch.full((3,), 1 / 3), torch.full((4, 3), 1 / 3)
NET = torch.nn.Linear(2, 1)
CASES = [
    (ARM(), dist.Categorical(three), "ARM is for Bernoulli choices", "Enumerate"),
    (ARMS(3), dist.Normal(0.0, 1.0), "ARMS is for Bernoulli choices", "LeaveOneOut"),
    (LocalExpectation(), dist.Poisson(torch.tensor(2.0)), "finite, listed support", "LeaveOneOut"),
    (LocalExpectation(), dist.Categorical(three[:1]), "one value", "Score"),
    (UnorderedSet(4), dist.Categorical(three), "has 3 values here, and 4 different ones are asked for", "Enumerate"),
    (SumAndSample(3), dist.Categorical(three), "has 3 values here, and 4 different ones are asked for", "Enumerate"),
    (UnorderedSet(2), dist.Categorical(four).to_event(1), "an event of Categorical choices", "LocalExpectation"),
    (MeasureValued(), dist.Beta(2.0, 2.0), "no measure-valued derivative of Beta", "LeaveOneOut"),
    (StochasticAD(), dist.Normal(0.0, 1.0), "no coupling of Normal", "LeaveOneOut"),
    (OptimalScore(), dist.StudentT(3.0), "free parameters of StudentT are not listed", "MovingAverage"),
    (DoubleControlVariate(2), dist.Categorical(three), "values between the categories", "one_hot @ table"),
    (Rodeo(2), dist.OneHotCategorical(three), "turns coins over", "DoubleControlVariate(2)"),
    (Rodeo(2), dist.Normal(0.0, 1.0), "for Bernoulli", "LeaveOneOut(4)"),
    (Relax(NET), dist.Categorical(three), "values between the categories", "one_hot @ table"),
    (Lax(NET), dist.Bernoulli(torch.tensor(0.3)), "Lax is for Normal choices", "Relax"),
    (SelfCritical(), dist.Beta(0.5, 0.5), "mode of positive density", "LeaveOneOut"),
]


@pytest.mark.parametrize(("estimator", "family", "because", "try_"), CASES)
def test_families(estimator, family, because, try_):
    with pytest.raises(SiteError, match=because) as caught:
        vg.ELBO()(lambda: vg.sample("z", family), lambda: vg.sample("z", family, estimator=estimator))
    assert f"{type(estimator).__name__} cannot serve this site" in str(caught.value)
    assert try_ in str(caught.value)


HALVES = Pathwise(coupling=Antithetic())
SPREAD = Pathwise(coupling=Sobol())


class Own(td.Normal):
    """Nobody knows how it draws."""


COUPLED = {
    "one particle": (1, HALVES, dist.Normal(0.0, 1.0), {}, "there is one particle", "ELBO"),
    "no others": (1, SPREAD, dist.Normal(0.0, 1.0), {}, "there is one particle", "ELBO"),
    "odd": (5, HALVES, dist.Normal(0.0, 1.0), {}, "5 is odd, so that one particle has no mirror image", "particles=6"),
    "discrete": (4, SPREAD, dist.Bernoulli(0.3), {}, "no rsample", "Score"),
    "rejection": (4, HALVES, dist.RejectionGamma(2.0), {}, "as many attempts as it happens to take", "Pathwise"),
    "unknown": (4, SPREAD, Own(torch.tensor(0.0), torch.tensor(1.0)), {}, "draws of them is not known", "Pathwise"),
    "loop": (4, HALVES, dist.Normal(0.0, 1.0), {"vectorize": False}, "run one by one", r"plan\(\), which says why"),
}


@pytest.mark.parametrize("name", COUPLED)
def test_draws_that_cannot_be_coupled(name):
    particles, estimator, family, options, because, try_ = COUPLED[name]

    def program(**notes):
        vg.sample("z", family, **notes)

    with pytest.raises(SiteError, match=rf"'z': .*{because}.*Try: .*{try_}"):
        vg.ELBO(particles, **options)(program, lambda: program(estimator=estimator))()


def test_draws_of_particles_that_turn_out_to_run_one_by_one():
    def program(**notes):
        z = vg.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1), **notes)
        vg.factor("f", -(z.sum() ** 2))  # over the particles, too

    bound = vg.ELBO(4)(program, lambda: program(estimator=SPREAD))
    with pytest.raises(SiteError, match="the particles run one by one"):
        bound()
    assert "mixes particles" in str(bound.plan())


def test_a_renyi_bound_has_independent_particles():
    def program(**notes):
        vg.sample("z", dist.Normal(0.0, 1.0), **notes)

    with pytest.raises(SiteError, match="over independent particles"):
        vg.Renyi(0.0, 4)(program, lambda: program(estimator=HALVES)).init()


def test_a_coupling_by_another_name():
    with pytest.raises(TypeError, match="coupling must be a Coupling such as Antithetic"):
        Pathwise(coupling="antithetic")


@pytest.mark.parametrize("chosen", [StochasticAD(), OptimalScore()], ids=lambda e: type(e).__name__)
def test_trained_number_of_failures(chosen):
    def program(estimator=None):
        failures = vg.param("r", 2.0, constraint=dist.constraints.positive)
        vg.sample("z", dist.NegativeBinomial(failures, torch.tensor(0.4)), estimator=estimator)

    bound = vg.ELBO()(program, lambda: program(chosen))
    with pytest.raises(SiteError, match="total_count is trained"):
        bound()


@pytest.mark.parametrize(
    "estimator",
    [LocalExpectation(), UnorderedSet(2), SumAndSample(1), StochasticAD(), MeasureValued()],
    ids=lambda e: type(e).__name__,
)
def test_joint_costs(estimator):
    def guide():
        with vg.plate("n", 2):
            vg.sample("z", dist.Bernoulli(logits=vg.param("t", torch.zeros(2))), estimator=estimator)

    def model():
        with vg.plate("n", 2):
            z = vg.sample("z", dist.Bernoulli(0.3))
        vg.sample("x", dist.Normal(z.sum(-1), 1.0), obs=torch.tensor(0.4))

    bound = vg.ELBO()(model, guide)
    with pytest.raises(SiteError, match="varies all elements of plate 'n' together, and the term 'x' depends"):
        bound()


@pytest.mark.parametrize(
    "make",
    [lambda: ARMS(1), lambda: ARMS(9), lambda: UnorderedSet(1), lambda: UnorderedSet(True), lambda: SumAndSample(0)],
)
def test_counts(make):
    with pytest.raises(SiteError, match=r"must be a whole number .*Try: "):
        make()


@pytest.mark.parametrize("estimator", [DoubleControlVariate, Rodeo])
@pytest.mark.parametrize("k", [1, True, 2.0])
def test_too_few_draws(estimator, k):
    with pytest.raises(SiteError, match="whole number of at least 2"):
        estimator(k)


@pytest.mark.parametrize(
    ("estimator", "family", "text"),
    [
        (Rodeo(2, network=NET), lambda m: dist.Bernoulli(logits=m), "two functions of two numbers"),
        (Relax(torch.nn.Linear(1, 2)), lambda m: dist.Bernoulli(logits=m), "one cost for each element"),
        (Lax(torch.nn.Linear(1, 2)), lambda m: dist.Normal(m, 1.0), "one cost for each element"),
    ],
)
def test_a_network_of_the_wrong_shape(estimator, family, text):
    def program(estimator=None):
        vg.sample("z", family(vg.param("t", torch.zeros(()))), estimator=estimator)

    bound = vg.ELBO()(program, lambda: program(estimator))
    with pytest.raises(BaselineError, match=text):
        bound()
