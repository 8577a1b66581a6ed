"""Estimators refuse what they do not serve, by a text that says why and what to try."""

import pytest
import torch

import varigrad as vg
from varigrad import distributions as dist
from varigrad.errors import BaselineError, SiteError
from varigrad.estimators import (
    ARM,
    ARMS,
    DoubleControlVariate,
    LocalExpectation,
    MeasureValued,
    OptimalScore,
    Rodeo,
    SelfCritical,
    StochasticAD,
    SumAndSample,
    UnorderedSet,
)

three, four = torch.full((3,), 1 / 3), torch.full((4, 3), 1 / 3)
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
    (SelfCritical(), dist.Beta(0.5, 0.5), "mode of positive density", "LeaveOneOut"),
]


@pytest.mark.parametrize(("estimator", "family", "because", "try_"), CASES)
def test_families(estimator, family, because, try_):
    with pytest.raises(SiteError, match=because) as caught:
        vg.ELBO()(lambda: vg.sample("z", family), lambda: vg.sample("z", family, estimator=estimator))
    assert f"{type(estimator).__name__} cannot serve this site" in str(caught.value)
    assert try_ in str(caught.value)


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


def test_a_network_of_the_wrong_shape():
    def program(estimator=None):
        vg.sample("z", dist.Bernoulli(logits=vg.param("t", torch.zeros(()))), estimator=estimator)

    rodeo = Rodeo(2, network=torch.nn.Linear(2, 1))
    bound = vg.ELBO()(program, lambda: program(rodeo))
    with pytest.raises(BaselineError, match="two functions of two numbers"):
        bound()
