"""The comparison of runs side by side with single ones tells rounding from mixing."""

import pytest
import torch

import varigrad as vg
from varigrad import distributions as dist
from varigrad.estimators import Pathwise
from varigrad.objectives.checks.replays import same


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_few_roundings_are_no_difference_and_a_hundred_are_one(dtype):
    """In bfloat16, two neighbouring numbers are further apart than a thousandth."""
    eps = torch.finfo(dtype).eps
    one = torch.tensor([1.0, -2.0], dtype=dtype)
    assert same(one, one * (1 + 4 * eps)), "rounding"
    assert same(one, (one * (1 + 4 * eps)).expand(3, 2))
    assert not same(one, one * 8), "no rounding"
    if eps < 1e-2 / 64:
        assert not same(one, one * 1.02)


def test_infinities_are_the_same_as_themselves_only():
    inf = torch.tensor([torch.inf])
    assert same(inf, inf) and not same(inf, -inf) and not same(inf, torch.tensor([1.0]))


def test_a_point_mass_is_rounded_by_the_shape_that_it_is_computed_in():
    """A matrix product of many rows need not round like one of a single row: the point mass follows its value."""

    def guide(shift):
        u = vg.sample("u", dist.Normal(vg.param("m", lambda: torch.zeros(3)), 1.0).to_event(1), auxiliary=True)
        # A rounding error that depends on the shape, on every processor:
        value = u.exp() * (1.0 + shift * (u.dim() > 1))
        vg.sample("z", dist.Delta(value).to_event(1))

    def model(shift):
        vg.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))

    bound = vg.ELBO(5, {"u": Pathwise()}, vectorize=True)(model, guide)
    assert bound(torch.finfo(torch.float32).eps).isfinite()
    with pytest.raises(vg.errors.VarigradError, match="the value of 'z' mixes particles or alternatives"):
        vg.ELBO(5, {"u": Pathwise()}, vectorize=True)(model, guide)(0.1)
