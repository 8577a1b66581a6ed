"""Outcomes are counted before they are listed: minibatches, values, joint choices."""

import itertools
import math

import pytest
import torch

import varigrad as vg
from varigrad import distributions as dist
from varigrad.distributions.finite_support import count_of, listed
from varigrad.estimators import DisARM, Enumerate, LeaveOneOut, Score
from varigrad.gradients.exact import draws_of, exact_gradient, options_of
from varigrad.gradients.outcomes import LIMIT, NotEnumerable, Outcomes, outcomes
from varigrad.testing import assert_unbiased

t = torch.tensor

FINITE = {
    "bernoulli": dist.Bernoulli(t([0.2, 0.6])),
    "categorical": dist.Categorical(torch.ones(3, 5)),
    "one_hot": dist.OneHotCategorical(torch.ones(3, 5)),
    "binomial": dist.Binomial(4, t([0.2, 0.6])),
    "beta_binomial": dist.BetaBinomial(t([1.0, 2.0]), t(1.0), total_count=4),
    "empirical": dist.Empirical(t([0.0, 1.0, 2.0]), torch.zeros(3)),
    "masked": dist.Categorical(torch.ones(2, 5)).mask(False),
    "torch": torch.distributions.Categorical(torch.ones(7)),
}


@pytest.mark.parametrize("name", FINITE)
def test_values_are_as_many_as_the_support_lists(name):
    distribution = FINITE[name]
    assert count_of(distribution) == len(distribution.enumerate_support(expand=False))


def test_infinite_supports_have_no_count():
    assert count_of(dist.Poisson(1.0)) is None and listed(dist.Poisson(1.0)) is None
    assert count_of(dist.Bernoulli(0.5).to_event(0)) == 2


class Unlisted:
    """A family that must not list its support."""

    def enumerate_support(self, expand=True):
        raise AssertionError("it was listed")


class ManyVectors(Unlisted, dist.OneHotCategorical):
    pass


class ManyValues(Unlisted, dist.Categorical):
    pass


def test_long_supports_are_counted_and_not_listed():
    vectors, values = ManyVectors(torch.ones(50_000)), ManyValues(torch.ones(1_000_000))
    assert count_of(vectors) == 50_000 and listed(vectors) is None
    assert Enumerate().alternatives(vectors) == 50_000
    for distribution in (vectors.expand([3]), values):
        with pytest.raises(NotEnumerable, match="more than 100 outcomes"):
            Outcomes(limit=100).draw(distribution)
    with pytest.raises(NotEnumerable, match="a ManyValues has 1000000 values, more than 100000 outcomes"):
        Outcomes().draw(values)
    assert Outcomes((3,)).draw(ManyValues(torch.ones(5))) == 3
    assert Outcomes((1, 2)).draw(ManyVectors(torch.ones(2, 3))).tolist() == [[0, 1, 0], [0, 0, 1]]


def test_a_fit_does_not_list_the_values_of_a_site():
    logits = torch.zeros(50_000)

    def model():
        vg.sample("z", ManyVectors(logits=logits))

    def guide():
        vg.sample("z", ManyVectors(logits=vg.param("t", logits)), estimator=Score())

    vg.SVI(model, guide, vg.optim.SGD(lr=0.1), seed=0).run(2, progress=False)


@pytest.mark.parametrize(("size", "count"), [(5, 2), (5, 0), (5, 5), (4, 1), (6, 4)])
def test_every_minibatch_comes_once(size, count):
    found, total = [], 0.0
    for source in outcomes():
        found.append(tuple(source.subset(size, count).tolist()))
        total += source.probability
        assert source.probability == pytest.approx(1 / math.comb(size, count))
    assert sorted(found) == sorted(itertools.combinations(range(size), count))
    assert total == pytest.approx(1.0)


@pytest.mark.parametrize(("size", "count"), [(60, 10), (1_000_000, 500_000), (1_000_000, 999_000), (100_001, 1)])
def test_too_many_minibatches_are_counted(size, count):
    with pytest.raises(NotEnumerable, match=f"a minibatch of {count} of {size} has more than {LIMIT} outcomes"):
        Outcomes().subset(size, count)


def coins(size, batch):
    """A plate of coins in minibatches; what is seen of each is a constant, so the gradient is the same in all."""
    x = torch.full((size,), 0.7)

    def model():
        with vg.plate("data", size, subsample_size=batch) as chosen:
            z = vg.sample("z", dist.Bernoulli(0.4))
            vg.sample("x", dist.Normal(z, 1.0), obs=x[chosen])

    def guide():
        with vg.plate("data", size, subsample_size=batch):
            vg.sample("z", dist.Bernoulli(logits=vg.param("logits", t(0.2))))

    return model, guide


def test_compare_measures_a_plate_whose_minibatches_cannot_be_listed():
    found = vg.compare(*coins(60, 10), (), {"z": [Score(), DisARM()]}, budget=20)
    assert "mean of 80 draws with LeaveOneOut(k=4)" in str(found)
    assert [row.estimator for row in found.measured] == ["Score()", "DisARM()"]
    assert all(row.verdict == "unbiased" for row in found.measured)


def test_compare_is_exact_where_minibatches_are_few():
    assert "exact, by enumeration" in str(vg.compare(*coins(4, 2), (), {"z": [Score()]}, budget=30))


def test_unbiasedness_is_asserted_where_minibatches_cannot_be_listed():
    assert_unbiased(*coins(60, 10), (), {"z": DisARM()}, draws=200)


def test_unbiasedness_is_asserted_of_a_site_with_many_values():
    logits = torch.linspace(0.0, 1.0, 20_000)  # ten times as many as are enumerated

    def model():
        vg.sample("z", dist.Categorical(logits=logits))

    def guide():
        vg.sample("z", dist.Categorical(logits=logits + vg.param("slope", 0.1) * logits))

    assert_unbiased(model, guide, (), {"z": LeaveOneOut(2)}, draws=200)


def test_joint_outcomes_of_a_plate_are_counted_before_any_is_run():
    runs = []

    def model():
        with vg.plate("n", 40):
            vg.sample("z", dist.Bernoulli(0.4))

    def guide():
        runs.append(1)
        with vg.plate("n", 40):
            vg.sample("z", dist.Bernoulli(logits=vg.param("t", torch.zeros(40))))

    bound = vg.ELBO(estimators={"z": Score()})(model, guide)
    for count in (options_of, draws_of, exact_gradient):
        runs.clear()
        with pytest.raises(NotEnumerable, match=f"a draw has more than {LIMIT} outcomes"):
            count(bound)
        assert len(runs) == 1
    with pytest.raises(NotEnumerable, match="more than 9 outcomes"):
        options_of(bound, limit=9)
