"""Twenty programs with minibatches: `compare`, `decide` and "auto" against enumeration of minibatches and outcomes."""

import itertools

import pytest
import torch

import varigrad as vg
from varigrad import distributions as dist
from varigrad.estimators import DisARM, MovingAverage, Score
from varigrad.testing import assert_unbiased, exact_gradient, expected_gradient, largest_difference

pytestmark = pytest.mark.slow

SIZES = [(2, 1), (3, 1), (3, 2), (4, 1)]
X = torch.tensor([0.7, -0.4, 1.9, 0.2], dtype=torch.float64)


def bernoulli(probs):
    return dist.Bernoulli(torch.as_tensor(probs, dtype=torch.float64))


def logits(name, value):
    return vg.param(name, torch.as_tensor(value, dtype=torch.float64))


def local(size, batch):
    """A coin for each row of the data, all with one parameter."""

    def model():
        with vg.plate("data", size, subsample_size=batch) as rows:
            z = vg.sample("z", bernoulli(0.4))
            vg.sample("x", dist.Normal(z, 1.0), obs=X[rows])

    def guide():
        with vg.plate("data", size, subsample_size=batch):
            vg.sample("z", dist.Bernoulli(logits=logits("w", 0.2)))

    return model, guide


def amortised(size, batch):
    """The guide's coin depends on the row's own datum."""

    def guide():
        with vg.plate("data", size, subsample_size=batch) as rows:
            vg.sample("z", dist.Bernoulli(logits=logits("w", 0.5) * X[rows] + logits("b", -0.1)))

    return local(size, batch)[0], guide


def shared(size, batch):
    """One coin for all rows."""

    def model():
        z = vg.sample("z", bernoulli(0.4))
        with vg.plate("data", size, subsample_size=batch) as rows:
            vg.sample("x", dist.Normal(z, 1.0), obs=X[rows])

    def guide():
        vg.sample("z", dist.Bernoulli(logits=logits("w", 0.2)))

    return model, guide


def per_row(size, batch):
    """A parameter for each row, of which a step reaches some."""

    def guide():
        with vg.plate("data", size, subsample_size=batch) as rows:
            vg.sample("z", dist.Bernoulli(logits=logits("w", [0.2, -0.3, 0.5, 0.1])[rows]))

    return local(size, batch)[0], guide


def weighted(size, batch):
    """The rows' terms differ in weight, and a factor reads the choice."""

    def model():
        with vg.plate("data", size, subsample_size=batch) as rows:
            z = vg.sample("z", bernoulli(0.3))
            vg.factor("f", X[rows] * z)

    return model, amortised(size, batch)[1]


PROGRAMS = {
    f"{make.__name__}-{batch}of{size}": make(size, batch)
    for make, (size, batch) in itertools.product((local, amortised, shared, per_row, weighted), SIZES)
}


def test_there_are_twenty():
    assert len(PROGRAMS) == 20


@pytest.mark.parametrize("name", PROGRAMS)
def test_compare_finds_them_unbiased(name):
    found = vg.compare(*PROGRAMS[name], (), {"z": [Score(), DisARM()]}, budget=15)
    assert "exact, by enumeration" in str(found)
    assert [m.verdict for m in found.measured] == ["unbiased"] * 2


@pytest.mark.parametrize("name", PROGRAMS)
def test_auto_takes_an_estimator_whose_mean_is_the_exact_gradient(name):
    svi = vg.SVI(*PROGRAMS[name], vg.optim.SGD(lr=1e-3), vg.ELBO(estimators="auto"), seed=0)
    svi.run(2, progress=False)
    difference = largest_difference(expected_gradient(svi.bound).mean, exact_gradient(svi.bound)[1])
    assert difference < 1e-9


@pytest.mark.parametrize("name", PROGRAMS)
def test_decide_takes_an_estimator_whose_mean_is_the_exact_gradient(name):
    bound = vg.ELBO(estimators={"z": "auto"})(*PROGRAMS[name])
    vg.decide(bound)
    difference = largest_difference(expected_gradient(bound).mean, exact_gradient(bound)[1])
    assert difference < 1e-9


@pytest.mark.parametrize("name", PROGRAMS)
def test_nothing_is_sampled_to_assert_it(name):
    assert assert_unbiased(*PROGRAMS[name], (), {"z": Score(MovingAverage())}, draws=10) == 0
