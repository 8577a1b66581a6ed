"""`assert_unbiased`: what it finds, without sampling where the outcomes are few, and what it says of its power."""

from dataclasses import dataclass, replace

import pytest
import torch

import varigrad as vg
from varigrad import distributions as dist
from varigrad.errors import VarigradError
from varigrad.estimators import DisARM, Enumerate, LeaveOneOut, Pathwise, Score
from varigrad.testing import assert_unbiased


@dataclass(frozen=True)
class Long(Score):
    """Its gradient is too long, by five percent if nothing else is said."""

    factor: float = 1.05

    def surrogate(self, draw, cost, state):
        found = super().surrogate(draw, cost, state)
        return replace(found, value=self.factor * found.value)


def coin():
    z = vg.sample("z", dist.Bernoulli(torch.tensor(0.3)))
    vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.5))


def coins():
    vg.sample("z", dist.Bernoulli(logits=vg.param("w", 0.2)))


def normal():
    z = vg.sample("z", dist.Normal(0.0, 1.0))
    vg.sample("x", dist.Normal(z, 0.5), obs=torch.tensor(1.5))


def normals():
    vg.sample("z", dist.Normal(vg.param("m", -1.0), 0.5))


@pytest.mark.parametrize("draws", [2, 100])
def test_five_percent_too_long_is_found_without_sampling_where_outcomes_are_few(draws):
    with pytest.raises(AssertionError, match=r"'w' is biased by .*\n?.*without sampling"):
        assert_unbiased(coin, coins, (), {"z": Long()}, draws=draws)


@pytest.mark.parametrize("estimator", [Score(), LeaveOneOut(2), DisARM(), Enumerate()])
def test_what_is_right_passes_without_sampling(estimator):
    assert assert_unbiased(coin, coins, (), {"z": estimator}, draws=10) == 0


def test_a_gradient_that_is_too_long_is_found_by_more_draws_than_were_asked_for():
    assert assert_unbiased(normal, normals, (), {"z": Long(factor=3.0)}, draws=20) > 1.5  # so few do not tell
    with pytest.raises(AssertionError, match=r"'m' is biased by .*\n.* \d{3,} draws"):
        assert_unbiased(normal, normals, (), {"z": Long(factor=3.0)}, draws=20, scale_error=1.8)


def test_the_power_is_told():
    few = assert_unbiased(normal, normals, (), {"z": Pathwise()}, draws=100)
    many = assert_unbiased(normal, normals, (), {"z": Pathwise()}, draws=900)
    assert 2.3 < few / many < 4.0  # a third, by the square root
    wanted = 0.6 * few
    assert 0.5 * wanted < assert_unbiased(normal, normals, (), {"z": Pathwise()}, draws=100, scale_error=wanted) < few


def test_a_power_that_is_out_of_reach_is_refused():
    with pytest.raises(AssertionError, match=r"100 draws find an error of scale of [\d.]+ only, and 100 times as many"):
        assert_unbiased(normal, normals, (), {"z": Pathwise()}, draws=100, scale_error=1e-4)


def test_a_size_of_the_error_is_needed():
    with pytest.raises(VarigradError, match=r"scale_error must be positive, got 0\. Try: scale_error=0\.05"):
        assert_unbiased(coin, coins, scale_error=0)
