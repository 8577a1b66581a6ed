"""Distributions: torch's densities under our methods, and draws that follow them from a generator of their own."""

import copy
import math
import pickle

import mpmath
import numpy as np
import pytest
import torch
from families import (
    DRAWS,
    FAMILIES,
    LEVEL,
    OWN,
    assert_same_law,
    drawn,
    everything,
    ours,
    reference_draws,
    reparameterised,
    theirs,
)
from scipy import stats
from torch import distributions as td

from varigrad import distributions as dist
from varigrad.distributions import Source

t = torch.tensor


def test_every_family_of_torch_is_here():
    bases = {"Distribution", "ExponentialFamily", "Independent"}
    families = {n for n, c in vars(td).items() if isinstance(c, type) and issubclass(c, td.Distribution)} - bases
    assert families == FAMILIES.keys()


def test_every_family_of_ours_is_tested():
    """But for a density without draws, two whose draws are torch's (`test_densities.py`), two chains that are tested by
    themselves (`test_gaussian_hmm.py`, `test_hidden_markov_programs.py`), and an interface.
    """
    families = {n for n, c in vars(dist).items() if isinstance(c, type) and issubclass(c, td.Distribution)}
    elsewhere = {"ImproperUniform", "RelaxedBernoulliStraightThrough", "RelaxedOneHotCategoricalStraightThrough"}
    chains = {"IndependentHMM", "LinearHMM"}
    assert families - everything().keys() == {"Wrapper", *elsewhere, *chains}


@pytest.mark.parametrize("name", FAMILIES)
def test_densities_are_torchs(name):
    torch.manual_seed(0)
    reference, family = theirs(name), ours(name)
    value = drawn(name, (4,))
    density = reference.log_prob(value)
    assert isinstance(family, type(reference))
    torch.testing.assert_close(family.log_prob(value), density)  # some of ours are written with fewer operations
    keep = t([True, False, True, True])
    expanded = family.expand_by((4,))
    assert type(expanded) is type(family)
    assert expanded.batch_shape == (4,)
    assert expanded.log_prob(value).allclose(density)
    event = expanded.to_event(1)
    assert (event.batch_shape, event.event_shape) == ((), (4, *reference.event_shape))
    assert event.log_prob(value).allclose(density.sum())
    assert expanded.mask(keep).log_prob(value).allclose(torch.where(keep, density, 0.0))
    assert expanded.mask(keep).to_event(1).log_prob(value).allclose(density[keep].sum())
    assert event.mask(False).log_prob(value) == 0
    assert expanded.to_event(0) is expanded
    assert family.expand_by((2, 3)).expand_by((4,)).batch_shape == (4, 2, 3)


@pytest.mark.parametrize("name", everything())
def test_shapes_agree_everywhere(name):
    d = everything()[name]()
    for each in (
        d,
        d.expand_by((2, 3)),
        d.expand_by((2, 3)).to_event(1),
        d.mask(True),
        d.expand_by((2,)).mask(t([True, False])),
    ):
        value = Source(torch.Generator().manual_seed(0)).draw(each)
        assert value.shape == each.batch_shape + each.event_shape
        assert each.log_prob(value).shape == each.batch_shape
        assert value.isfinite().all()
        assert not value.requires_grad


@pytest.mark.parametrize(
    "copy_of", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))], ids=["deepcopy", "pickle"]
)
@pytest.mark.parametrize("name", everything())
def test_they_copy_and_pickle(name, copy_of):
    for d in (everything()[name](), everything()[name]().expand_by((2,)).to_event(1).mask(t(True))):
        twin = copy_of(d)
        value = Source(torch.Generator().manual_seed(0)).draw(d)
        again = Source(torch.Generator().manual_seed(0)).draw(twin)
        assert type(twin) is type(d)
        assert torch.equal(value, again)
        assert torch.equal(twin.log_prob(value), d.log_prob(value))


@pytest.mark.parametrize("name", everything())
def test_draws_follow_the_law_and_only_their_generator(name):
    d = everything()[name]()
    before = torch.random.get_rng_state()
    for pathwise in reparameterised(d):
        generator = torch.Generator().manual_seed(2)
        draws = Source(generator).draw(d.expand_by((DRAWS,)), reparameterised=pathwise).detach()
        again = Source(torch.Generator().manual_seed(2)).draw(d.expand_by((DRAWS,)), reparameterised=pathwise)
        assert torch.equal(draws, again)
        assert torch.equal(torch.random.get_rng_state(), before)
        if name not in ("Delta", "Unit"):
            assert not torch.equal(generator.get_state(), torch.Generator().manual_seed(2).get_state())
        assert_same_law(draws, reference_draws(name, d))
        torch.random.set_rng_state(before)


@pytest.mark.parametrize("name", FAMILIES)
def test_torchs_own_objects_are_drawn_alike(name):
    """The user may write `torch.distributions.Normal`: same numbers as ours, generator or not."""
    raw, family = theirs(name).expand((5,)), ours(name).expand((5,))
    sources = [Source(torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(sources[0].draw(raw), sources[1].draw(family))
    torch.manual_seed(3)
    one = Source().draw(raw)
    torch.manual_seed(3)
    assert torch.equal(one, Source().draw(family))


@pytest.mark.parametrize("name", [n for n in FAMILIES if True in reparameterised(ours(n))])
def test_reparameterised_draws_carry_gradients(name):
    arguments = [a.clone().requires_grad_() if isinstance(a, torch.Tensor) else a for a in FAMILIES[name]]
    leaves = [a for a in arguments if isinstance(a, torch.Tensor)]
    if not leaves:
        arguments = [td.Normal(leaves.append(t(0.0, requires_grad=True)) or leaves[0], 1.0), arguments[1]]
    d = getattr(dist, name)(*arguments)
    drawn = Source(torch.Generator().manual_seed(0)).draw(d, reparameterised=True)
    assert any(g is not None for g in torch.autograd.grad(drawn.sum(), leaves, allow_unused=True))
    assert not Source(torch.Generator().manual_seed(0)).draw(d).requires_grad


# What torch lacks


def test_delta():
    value = t([1.0, 2.0, 3.0], requires_grad=True)
    d = dist.Delta(value, log_density=t(0.5), event_dim=1)
    assert not Source().draw(d).requires_grad
    assert d.log_prob(value) == 0.5
    assert d.log_prob(t([1.0, 2.0, 4.0])) == -torch.inf
    (gradient,) = torch.autograd.grad(d.rsample((4,)).sum(), value)
    assert torch.equal(gradient, t([4.0, 4.0, 4.0]))
    assert dist.Delta(t(2.0, dtype=torch.float64)).log_prob(t(2.0, dtype=torch.float64)) == 0
    assert torch.equal(d.mean, value)
    assert not d.variance.any()


def test_unit():
    d = dist.Unit(t([0.1, 0.2]))
    value = d.sample()
    assert value.shape == (2, 0)
    assert torch.equal(d.log_prob(value), t([0.1, 0.2]))


def test_logistic():
    d, x = dist.Logistic(t(1.0), t(2.0)), torch.linspace(-20, 20, 101, dtype=torch.float64)
    law = stats.logistic(1, 2)
    assert np.allclose(d.log_prob(x), law.logpdf(x))
    assert np.allclose(d.cdf(x), law.cdf(x))
    assert np.allclose(d.icdf(t([0.1, 0.5, 0.9])), law.ppf([0.1, 0.5, 0.9]))
    assert np.isclose(d.entropy(), law.entropy())
    assert np.allclose([d.mean, d.variance], law.stats())
    assert d.log_prob(t([1e4, -1e4])).isfinite().all()


def continuous_bernoulli(logits, x):
    """Log-density, distribution function and its inverse, each with its derivative by the logits, in fifty digits."""
    with mpmath.workdps(50):
        logits, x, step = mpmath.mpf(logits), mpmath.mpf(x), mpmath.mpf(10) ** -15
        functions = (
            lambda a: a * x + (mpmath.log(a / mpmath.expm1(a)) if a else 0),
            lambda a: mpmath.expm1(a * x) / mpmath.expm1(a) if a else x,
            lambda a: mpmath.log1p(x * mpmath.expm1(a)) / a if a else x,
        )
        return [(float(f(logits)), float((f(logits + step) - f(logits - step)) / (2 * step))) for f in functions]


@pytest.mark.parametrize(
    "logits", [0.0, 1e-9, -1e-4, 0.003, 0.0041, -0.02, 0.0499, -0.0499, 0.0501, -0.0501, 0.3, -4, 30]
)
@pytest.mark.parametrize("x", [0.01, 0.3, 0.5, 0.99])
def test_continuous_bernoulli_near_the_uniform_distribution(logits, x):
    """Numbers and derivatives, inside and outside the window where series count."""
    value = t(x, dtype=torch.float64)
    for name, (number, slope) in zip(("log_prob", "cdf", "icdf"), continuous_bernoulli(logits, x), strict=True):
        parameter = t(logits, dtype=torch.float64, requires_grad=True)
        got = getattr(dist.ContinuousBernoulli(logits=parameter), name)(value)
        (derivative,) = torch.autograd.grad(got, parameter)
        assert got.item() == pytest.approx(number, rel=1e-10, abs=1e-12), name
        assert derivative.item() == pytest.approx(slope, rel=1e-9, abs=1e-12), name


@pytest.mark.parametrize("logits", [0.0, 0.002, 0.05])
@pytest.mark.parametrize(
    "family",
    [
        dist.ContinuousBernoulli,
        td.ContinuousBernoulli,
        lambda logits: td.TransformedDistribution(
            td.ContinuousBernoulli(logits=logits), [td.AffineTransform(0.0, 1.0)]
        ),
        lambda logits: td.Independent(td.ContinuousBernoulli(logits=logits.expand(1)), 1),
    ],
)
def test_draws_of_a_continuous_bernoulli_carry_its_derivative(family, logits):
    """torch's own draws have none where the distribution is nearly uniform."""
    parameter = t(logits, dtype=torch.float64, requires_grad=True)
    value = Source(torch.Generator().manual_seed(0)).draw(family(logits=parameter), reparameterised=True)
    (derivative,) = torch.autograd.grad(value.sum(), parameter)
    # Of the inverse at F(x): the derivative by the logits of F at x, over the density there.
    (log_p, _), (_, slope), _ = continuous_bernoulli(logits, value.item())
    assert derivative.item() == pytest.approx(-slope / math.exp(log_p), rel=1e-9)


@pytest.mark.parametrize("name", [n for n in OWN if n.startswith("ZeroInflated")])
def test_zero_inflated(name):
    d = OWN[name]()
    k = torch.arange(0, 400.0)
    mass = d.log_prob(k).double().exp()
    base = d.base.log_prob(k).double().exp()
    gate = d.gate.double()
    assert torch.allclose(mass, (1 - gate) * base + gate * (k == 0), rtol=1e-4, atol=1e-8)
    assert abs(mass.sum() - 1) < 1e-5
    mean = (mass * k).sum()
    assert torch.allclose(d.mean.double(), mean, rtol=1e-4)
    assert torch.allclose(d.variance.double(), (mass * (k - mean) ** 2).sum(), rtol=1e-3)
    for gate in (0.0, 1.0):
        edge = dist.ZeroInflatedPoisson(t(2.0), gate=t(gate))
        assert not edge.log_prob(t([0.0, 1.0])).isnan().any()


def test_masked_gradients_are_nought_never_nan():
    loc = t([1.0, 2.0], requires_grad=True)
    d = dist.Normal(loc, 1.0).mask(t([True, False]))
    density = d.log_prob(t([0.0, torch.nan]))
    (gradient,) = torch.autograd.grad(density.sum(), loc)
    assert torch.equal(gradient, t([-1.0, 0.0]))
    assert torch.equal(d.entropy() != 0, t([True, False]))
    kl = td.kl_divergence(d, dist.Normal(t([0.0, 0.0]), 1.0).mask(t([True, True])))
    assert torch.equal(kl, t([0.5, 0.0]))
    with pytest.raises(TypeError, match="a mask is a bool tensor"):
        dist.Normal(loc, 1.0).mask(t([1.0, 0.0]))


@pytest.mark.parametrize("junk", [torch.nan, torch.inf, -1.0, 1e6])
@pytest.mark.parametrize("name", FAMILIES)
def test_masked_elements_may_hold_anything(name, junk):
    """Density and gradient are those of the other elements alone, whatever code a missing value has."""
    family = ours(name)
    if family.has_enumerate_support and not np.isfinite(junk) and name == "Categorical":
        junk = -1.0  # whole numbers know no NaN
    torch.manual_seed(0)
    value = drawn(name, (2,))
    value[1] = torch.full_like(value[1], junk)
    arguments = [a.clone().requires_grad_() if isinstance(a, torch.Tensor) else a for a in FAMILIES[name]]
    leaves = [a for a in arguments if isinstance(a, torch.Tensor)]
    d = getattr(dist, name)(*arguments).expand_by((2,)).mask(t([True, False]))
    density = d.to_event(1).log_prob(value)
    assert density.allclose(family.log_prob(value[0]))
    for gradient in torch.autograd.grad(density, leaves, allow_unused=True) if leaves else ():
        assert gradient is None or gradient.isfinite().all()


def test_score_only():
    d = dist.ScoreOnly(dist.Beta(t(2.0), t(1.0, requires_grad=True)))
    assert not d.has_rsample
    with pytest.raises(NotImplementedError):
        d.rsample()
    assert not d.sample().requires_grad
    assert d.log_prob(t(0.3)) == d.base.log_prob(t(0.3))


def test_rejection_gamma_is_a_gamma_whose_gradient_has_two_parts():
    """d E[log z] / d alpha by pathwise part + score part, 40 000 draws, against the digamma's; 5 sigma."""
    alpha, rate = t(2.5, dtype=torch.float64, requires_grad=True), t(0.5, dtype=torch.float64)
    d = dist.RejectionGamma(alpha, rate)
    x = torch.linspace(0.1, 20, 50, dtype=torch.float64)
    assert torch.allclose(d.log_prob(x), td.Gamma(alpha, rate).log_prob(x))
    torch.manual_seed(0)
    each = alpha.expand(40_000)
    wide = dist.RejectionGamma(each, rate)
    z = wide.rsample()
    parts = z.log() + z.log().detach() * wide.score_part(z.detach())
    (gradient,) = torch.autograd.grad(parts.sum(), each)
    exact = torch.polygamma(1, alpha)
    assert abs(gradient.mean() - exact) < 5 * gradient.std() / 40_000**0.5


def test_relatives_of_a_family_can_be_made_by_users():
    """A subclass of ours expands to itself and draws in its own way."""

    class Shifted(dist.Normal):
        def sample(self, sample_shape=torch.Size()):
            return super().sample(sample_shape) + 100

    d = Shifted(t(0.0), t(1.0)).expand_by((3,))
    assert type(d) is Shifted
    assert (Source(torch.Generator().manual_seed(0)).draw(d) > 50).all()


def test_subsets_are_uniform():
    source = Source(torch.Generator().manual_seed(0))
    for size, count in ((10, 4), (1000, 4)):
        draws = torch.stack([source.subset(size, count) for _ in range(2000)])
        assert all(len(set(row.tolist())) == count for row in draws)
        for column in draws.T:  # order is random too
            bins = np.bincount(column.numpy() * 10 // size, minlength=10)
            assert stats.chisquare(bins).pvalue > LEVEL
