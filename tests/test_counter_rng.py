"""Draws as functions of numbers drawn beforehand: torch's laws and torch's gradients, from rows that can be replayed.

Each family is held to a sampler that shares nothing with `Noise` (torch's own, scipy's where torch has none) by
Kolmogorov-Smirnov, or chi-square where it is discrete, on each coordinate, with one fixed seed: level 1e-6 a
coordinate, below 5e-4 for the whole file.
"""

import math

import numpy as np
import pytest
import torch
from families import DRAWS, FAMILIES, LEVEL, assert_same_law, everything, ours, reference_draws, theirs
from families import reparameterised as ways
from scipy import special, stats
from torch import distributions as td

from varigrad import distributions as dist
from varigrad.distributions import rejection_kernels
from varigrad.distributions.counter_rng import Noise

t = torch.tensor
ALL = everything()
WAYS = [(name, pathwise) for name in ALL for pathwise in ways(ALL[name]())]
VARYING = {"Rejector"}  # proposes until something is accepted


def pairs(cases):
    return pytest.mark.parametrize(("name", "pathwise"), cases, ids=[f"{n}-{'r' * p}sample" for n, p in cases])


# Laws


@pairs(WAYS)
def test_draws_follow_the_law(name, pathwise):
    d = ALL[name]()
    found = Noise(5).draw(d.expand((DRAWS, *d.batch_shape)), reparameterised=pathwise)
    assert found.shape == (DRAWS, *d.batch_shape, *d.event_shape)
    assert_same_law(found.detach(), reference_draws(name, d))


@pytest.mark.parametrize("name", FAMILIES)
def test_torchs_objects_are_drawn_as_ours(name):
    for pathwise in ways(ours(name)):
        one, other = (
            Noise(3).draw(d.expand((7, *d.batch_shape)), reparameterised=pathwise) for d in (theirs(name), ours(name))
        )
        torch.testing.assert_close(one, other)  # some of ours are written with fewer operations


# Corners, where the law is known in closed form. In double precision unless a row says otherwise.

TINY, LARGE = 0.01, 100.0


def of(law):
    return lambda draws: stats.kstest(draws.double().numpy().ravel(), law.cdf).pvalue


def counts(probabilities):
    """Chi-square against the probabilities of 0, 1, 2 …; what has none must not be drawn."""

    def p(draws):
        found = np.bincount(draws.long().numpy().ravel(), minlength=len(probabilities)).astype(float)
        assert len(found) == len(probabilities)
        expected = np.array(probabilities) / sum(probabilities) * draws.numel()
        assert not found[expected == 0].any()
        rare = expected < 10
        found, expected = (np.append(x[~rare], x[rare].sum()) for x in (found, expected))
        return stats.chisquare(found[expected > 0], expected[expected > 0]).pvalue if (expected > 0).sum() > 1 else 1.0

    return p


def log_gamma(concentration):
    """The logarithm of a draw: for small concentrations the draw itself is zero in any precision."""
    law = stats.loggamma(concentration)
    return lambda draws: stats.kstest(draws.log().numpy(), law.cdf).pvalue


def double(*values):
    return t(values[0] if len(values) == 1 else values, dtype=torch.float64)


def angle(loc, kappa):
    law = stats.vonmises(kappa)

    def p(draws):
        x = draws.double().numpy()
        assert ((x >= -math.pi) & (x <= math.pi)).all()
        return stats.kstest(np.remainder(x - loc + math.pi, 2 * math.pi) - math.pi, law.cdf).pvalue

    return p


def geometric(p):
    return counts([p * (1 - p) ** k for k in range(3000)])


CORNERS = {
    **{f"Gamma({a})": (dist.Gamma(double(a), double(1.0)), of(stats.gamma(a))) for a in (0.3, 1 - 1e-9, 1.0, 2.5, 100)},
    "Gamma(0.1), logarithm": (dist.Gamma(double(0.1), double(1.0)), log_gamma(0.1)),
    "Gamma(1e4)": (dist.Gamma(double(1e4), double(3.0)), of(stats.gamma(1e4, scale=1 / 3))),
    "Chi2(0.5)": (dist.Chi2(double(0.5)), of(stats.chi2(0.5))),
    **{
        f"Beta({a}, {b})": (dist.Beta(double(a), double(b)), of(stats.beta(a, b)))
        for a, b in ((0.3, 0.2), (1.0, 1.0), (LARGE, LARGE), (0.2, LARGE), (LARGE, 0.3))
    },
    "StudentT(0.5)": (dist.StudentT(double(0.5)), of(stats.t(0.5))),
    "StudentT(100)": (dist.StudentT(double(LARGE)), of(stats.t(LARGE))),
    **{
        f"VonMises({k})": (dist.VonMises(double(3.1), double(k)), angle(3.1, k)) for k in (1e-6, 1e-3, 0.5, 10.0, LARGE)
    },
    **{f"VonMises({k}), float": (dist.VonMises(t(-2.0), t(k)), angle(-2.0, k)) for k in (1e-6, 1e-3, 1.0, LARGE)},
    **{f"Geometric({p})": (dist.Geometric(t(p)), geometric(p)) for p in (0.02, 0.5, 0.999)},
    "Geometric(1)": (dist.Geometric(t(1.0)), counts([1.0])),
    "Bernoulli(0)": (dist.Bernoulli(t(0.0)), counts([1.0, 0.0])),
    "Bernoulli(1)": (dist.Bernoulli(t(1.0)), counts([0.0, 1.0])),
    "Bernoulli, logits 200": (dist.Bernoulli(logits=t(200.0)), counts([0.0, 1.0])),
    "Bernoulli, logits -200": (dist.Bernoulli(logits=t(-200.0)), counts([1.0, 0.0])),
    "torch's Bernoulli(1)": (td.Bernoulli(t(1.0)), counts([0.0, 1.0])),
    "Categorical": (dist.Categorical(t([0.0, 0.3, 0.0, 0.7, 0.0])), counts([0, 0.3, 0, 0.7, 0])),
    "Categorical, logits": (
        dist.Categorical(logits=t([-torch.inf, 0.0, -torch.inf, 1.0])),
        counts([0, 1, 0, math.e]),
    ),
    "Categorical, one of a thousand": (
        dist.Categorical(torch.eye(1000)[999]),
        counts([0.0] * 999 + [1.0]),
    ),
    "Categorical, a thousand": (dist.Categorical(torch.arange(1000.0)), counts(np.arange(1000.0))),
    "Binomial(0)": (dist.Binomial(5, t(0.0)), counts([1.0] + [0.0] * 5)),
    "Binomial(1)": (dist.Binomial(5, t(1.0)), counts([0.0] * 5 + [1.0])),
    "Poisson(1e-3)": (dist.Poisson(t(1e-3)), counts(stats.poisson(1e-3).pmf(np.arange(20)))),
    "Poisson(50)": (dist.Poisson(t(50.0)), counts(stats.poisson(50).pmf(np.arange(200)))),
    "Uniform, far away": (dist.Uniform(double(1e6), double(1e6 + 1)), of(stats.uniform(1e6, 1))),
}


@pytest.mark.parametrize("name", CORNERS)
def test_corners(name):
    d, p_of = CORNERS[name]
    draws = Noise(11).draw(d.expand((DRAWS,)))
    assert draws.isfinite().all()
    assert p_of(draws) > LEVEL


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("concentration", [TINY, 0.1, 1.0, LARGE])
def test_concentrations(concentration, dtype):
    """Gamma, Beta and Dirichlet against torch's, which has atoms where a draw is less than the smallest number."""
    torch.manual_seed(4)
    like = torch.full((DRAWS, 3), concentration, dtype=dtype)
    for kind in (dist.Gamma, dist.Beta):
        d = kind(like[:, 0], torch.ones_like(like[:, 0]) if kind is dist.Gamma else like[:, 1])
        for pathwise in (False, True):
            found = Noise(2).draw(d, reparameterised=pathwise)
            assert d.log_prob(found).isfinite().all()  # never on the border of the support
            assert_same_law(found, d.sample())
    d = dist.Dirichlet(like * double(1.0, 2.0, 0.5).to(dtype))
    found = Noise(2).draw(d)
    assert (found.sum(-1) - 1).abs().max() < 1e-5 and (found > 0).all() and (found < 1).all()
    assert_same_law(found, d.sample())


@pytest.mark.parametrize("family", ["OneHotCategorical", "Multinomial", "MixtureSameFamily", "OneHotStraightThrough"])
def test_no_mass_no_draw(family):
    probs = t([0.0, 0.6, 0.0, 0.4, 0.0])
    if family == "MixtureSameFamily":
        parts = dist.MixtureSameFamily(td.Categorical(probs), td.Normal(torch.arange(5.0), t(1e-4)))
        share = torch.nn.functional.one_hot(Noise(1).draw(parts.expand((DRAWS,))).round().long(), 5)
    elif family == "Multinomial":
        share = Noise(1).draw(dist.Multinomial(3, probs).expand((DRAWS,)))
        assert (share.sum(-1) == 3).all()
    else:
        kind = dist.OneHotCategorical if family == "OneHotCategorical" else dist.OneHotCategoricalStraightThrough
        share = Noise(1).draw(kind(probs).expand((DRAWS,)))
        assert (share.sum(-1) == 1).all()
    total = share.double().sum(0)
    assert not total[probs == 0].any()
    n = float(total.sum())
    assert stats.chisquare(total[probs > 0].numpy(), (n * probs[probs > 0]).double().numpy()).pvalue > LEVEL


@pairs([(n, p) for n, p in WAYS if n not in ("Kumaraswamy", "TruncatedPolyaGamma")])
@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
def test_the_ends_of_the_unit_interval(name, pathwise, uniform):
    """Each comes once in sixteen million numbers. (torch's own Kumaraswamy draws its border then, and so does ours.)"""
    d, noise = ALL[name](), Noise(0)
    noise.draw(d, reparameterised=pathwise)
    noise.use({k: torch.full((n,), uniform if k[0] == "uniform" else 0.3, dtype=k[1]) for k, n in noise.demand.items()})
    value = noise.draw(d, reparameterised=pathwise)
    assert (
        value.isfinite().all() and d.log_prob(value).isfinite().all() and torch.as_tensor(d.support.check(value)).all()
    )


# Nothing is proposed in vain: the limits that the samplers' documentation states.


def test_as_many_proposals_as_are_needed():
    """The probability that none is accepted is below 4e-16: acceptance is worst where the module says it is."""
    n = 400_000
    generator = torch.Generator().manual_seed(0)
    for concentration in (1.0, 1.3, 3.0, 50.0):
        normal = torch.randn(n, generator=generator, dtype=torch.float64)
        uniform = torch.rand(n, generator=generator, dtype=torch.float64)
        d = concentration - 1 / 3
        root = 1 + normal / math.sqrt(9 * d)
        log_v = 3 * root.clamp_min(1e-10).log()
        accepted = (root > 1e-10) & ((1 - uniform).log() < 0.5 * normal**2 + d * (1 - root**3 + log_v))
        rate = float(accepted.double().mean())
        assert rate > 0.951 - 4 * math.sqrt(0.05 / n)
        assert (1 - rate) ** rejection_kernels.GAMMA_ROUNDS < 4e-16
    assert (1 - 0.657) ** rejection_kernels.VON_MISES_ROUNDS < 2.3e-16


# Gradients


def test_a_root_of_an_exponential_has_a_derivative():
    shape = t(2.0, requires_grad=True)
    noise = Noise(0)
    noise.use({("uniform", torch.float32): torch.zeros(1)})
    value = noise.draw(dist.Weibull(t(1.0), shape), reparameterised=True)
    assert torch.autograd.grad(value, shape)[0].isfinite()


def quantile_slope(law, argument, value, step=1e-5):
    """d value / d argument along which the distribution function stays as it is: -F'(argument) / density."""
    cdf, density = law
    up, down = cdf(argument * (1 + step), value), cdf(argument * (1 - step), value)
    return -(up - down) / (2 * step * argument) / density(argument, value)


IMPLICIT = {
    "Gamma": (
        lambda a: dist.Gamma(a, torch.ones_like(a)),
        special.gammainc,
        lambda a, x: stats.gamma.pdf(x, a),
    ),
    "Beta, first": (
        lambda a: dist.Beta(a, torch.full_like(a, 1.7)),
        lambda a, x: special.betainc(a, 1.7, x),
        lambda a, x: stats.beta.pdf(x, a, 1.7),
    ),
    "Beta, second": (
        lambda b: dist.Beta(torch.full_like(b, 0.8), b),
        lambda b, x: special.betainc(0.8, b, x),
        lambda b, x: stats.beta.pdf(x, 0.8, b),
    ),
    "Chi2": (dist.Chi2, lambda k, x: special.gammainc(k / 2, x / 2), lambda k, x: stats.chi2.pdf(x, k)),
    "InverseGamma": (
        lambda a: dist.InverseGamma(a, torch.ones_like(a)),
        lambda a, x: special.gammaincc(a, 1 / x),
        lambda a, x: stats.invgamma.pdf(x, a),
    ),
}


@pytest.mark.parametrize("name", IMPLICIT)
@pytest.mark.parametrize("argument", [0.3, 1.0, 2.5, 40.0])
def test_implicit_gradients_keep_the_quantile(name, argument):
    """Pointwise, against differences of the distribution function."""
    make, cdf, density = IMPLICIT[name]
    leaf = torch.full((200,), argument, dtype=torch.float64, requires_grad=True)
    value = Noise(4).draw(make(leaf), reparameterised=True)
    (slope,) = torch.autograd.grad(value.sum(), leaf)
    x = value.detach().numpy()
    wanted = quantile_slope((cdf, density), argument, x)
    well = (density(argument, x) > 1e-3) & (x > 1e-3) & np.isfinite(wanted)
    assert well.sum() > 40
    assert np.allclose(slope.numpy()[well], wanted[well], rtol=2e-3, atol=1e-4)


def leaves_of(name):
    """Arguments that are floating-point tensors, with gradients."""
    arguments = [a.double() if isinstance(a, torch.Tensor) else a for a in FAMILIES[name]]
    if name == "TransformedDistribution":
        leaf = double(0.3).requires_grad_()
        return [leaf], lambda n: td.TransformedDistribution(td.Normal(leaf.expand(n), 1.0), [td.ExpTransform()])
    leaves = [a.requires_grad_() for a in arguments if isinstance(a, torch.Tensor)]
    return leaves, lambda n: getattr(dist, name)(*arguments).expand((n,))


@pytest.mark.parametrize("name", [n for n in FAMILIES if True in ways(ours(n))])
def test_gradients_have_torchs_mean(name):
    """Of a bounded function of the draw, with respect to every argument: mean of `n` against torch's mean of `n`."""
    torch.manual_seed(8)
    leaves, make = leaves_of(name)
    n, batches = 500, 40
    noise = Noise(6)

    def gradients(draw):
        seen = []
        for _ in range(batches):
            value = draw(make(n))
            weight = torch.linspace(0.5, 1.5, value[0].numel(), dtype=value.dtype).reshape(value.shape[1:])
            total = ((0.3 * value * weight).tanh() + 0.1 * (value * weight - 0.2).sin()).sum() / n
            found = torch.autograd.grad(total, leaves, allow_unused=True)
            flat = [(torch.zeros_like(x) if g is None else g).reshape(-1) for g, x in zip(found, leaves, strict=True)]
            seen.append(torch.cat(flat))
        rows = torch.stack(seen)
        return rows.mean(0), rows.var(0) / batches

    mean, variance = gradients(lambda d: noise.draw(d, reparameterised=True))
    wanted, spread = gradients(lambda d: torchs(d))
    error = (mean - wanted).abs()
    assert mean.abs().max() > 0
    # Student's t with 78 degrees of freedom: 6.2 is 2.5e-8, at most 12 coordinates.
    assert (error <= 6.2 * (variance + spread).sqrt() + 1e-12).all(), (mean, wanted)


def torchs(d):
    if isinstance(d, td.Wishart):  # torch's own redraws what is right
        return d._bartlett_sampling(torch.Size())
    return d.rsample()


# Rows


def values(noise, d, rows, state):
    """What the family draws from each step's rows, all ways."""
    found = []
    noise.set_state(state)  # Poisson and Binomial have no rows
    for i in range(len(next(iter(rows.values()))) if rows else 3):
        noise.use({kind: block[i] for kind, block in rows.items()})
        found += [noise.draw(d, reparameterised=pathwise).detach() for pathwise in ways(d)]
        assert not noise.overdrawn
    return found


@pytest.mark.parametrize("name", [n for n in ALL if n not in VARYING])
def test_rows_at_once_are_rows_one_by_one(name):
    d = ALL[name]()
    many, single = Noise(9), Noise(9)
    for noise in (many, single):
        noise.measure()
        for pathwise in ways(d):
            noise.draw(d, reparameterised=pathwise)
    demand = many.demand
    assert demand == single.demand
    rows = many.rows(demand, 5)
    for i in range(5):
        alone = single.rows(demand, 1)
        assert alone.keys() == rows.keys()
        assert all(torch.equal(alone[kind][0], rows[kind][i]) for kind in rows)
    assert len({block[i].sum().item() for block in rows.values() for i in range(5)}) == 5 * len(rows)
    state = many.get_state()
    once, again = (values(many, d, rows, state) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


@pytest.mark.parametrize("length", [1, 3, 15, 16, 17, 31, 48, 1000])
@pytest.mark.parametrize("kind", ["normal", "uniform"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_rows_of_any_length(kind, dtype, length):
    def taken(noise):
        noise.measure()
        like = torch.empty(0, dtype=dtype)
        (noise.normal if kind == "normal" else noise.uniform)((length,), like)
        return noise.demand

    noise, other = Noise(1), Noise(1)
    demand = taken(noise)
    assert taken(other) == demand and length <= demand[kind, dtype] < length + 16
    blocks = noise.rows(demand, 4), other.rows(demand, 3), other.rows(demand, 1)
    together, first, last = (b[kind, dtype] for b in blocks)
    assert torch.equal(together, torch.cat([first, last]))


def test_minibatches_come_from_rows_too():
    noise, other = Noise(1), Noise(1)
    demand = {("subset", 50, 7): 7, ("subset", 9, 5): 10}
    rows = noise.rows(demand, 6)
    for i in range(6):
        alone = other.rows(demand, 1)
        for kind, block in rows.items():
            assert torch.equal(block[i], alone[kind][0])
            for part in block[i].split(kind[2]):
                assert len(set(part.tolist())) == kind[2] and part.min() >= 0 and part.max() < kind[1]
    noise.use({kind: block[0] for kind, block in rows.items()})
    assert torch.equal(noise.subset(9, 5), rows["subset", 9, 5][0][:5])
    assert torch.equal(noise.subset(9, 5), rows["subset", 9, 5][0][5:])


def test_minibatches_are_uniform():
    rows = Noise(3).rows({("subset", 12, 3): 3}, 20_000)["subset", 12, 3]
    found = np.bincount(rows.numpy().ravel(), minlength=12)
    # Without replacement counts vary less than a multinomial's: chi-square, scaled by (1 - 3 / 12) 12 / 11.
    scaled = ((found - 5000.0) ** 2 / 5000).sum() / (0.75 * 12 / 11)
    assert stats.chi2(11).sf(scaled) > LEVEL and stats.chi2(11).cdf(scaled) > LEVEL


def test_too_short_a_row_is_noticed():
    noise, like = Noise(0), torch.empty(0)
    noise.use({("uniform", torch.float32): torch.rand(4)})
    noise.uniform((4,), like)
    assert not noise.overdrawn
    noise.uniform((1,), like)
    assert noise.overdrawn
    noise.measure()
    assert not noise.overdrawn
    noise.use({})
    noise.normal((2,), like)
    assert noise.overdrawn


def test_a_family_that_proposes_until_it_accepts_is_noticed():
    d = ALL["Rejector"]().expand((50,))
    noise = Noise(0)
    noise.draw(d)
    demand = noise.demand
    seen = set()
    for _ in range(30):
        noise.use({kind: block[0] for kind, block in noise.rows(demand, 1).items()})
        assert (noise.draw(d) < 0).all()
        seen.add(noise.overdrawn)
    assert seen == {True, False}


# State


def everything_from(noise):
    d = dist.Gamma(t(0.7), t(1.0)).expand((4,))
    with noise.lent():
        free = torch.rand(3)
    rows = noise.rows({("normal", torch.float64): 16, ("subset", 8, 2): 4}, 2)
    counts, turn = dist.Poisson(t(3.0)).expand((5,)), dist.VonMises(double(0.0), double(1.0))
    return [noise.draw(d), noise.draw(counts), noise.draw(turn), free, noise.subset(10, 4), *rows.values()]


def test_the_state_brings_everything_back():
    noise = Noise(4)
    fresh = noise.get_state()
    first = everything_from(noise)
    later = noise.get_state()
    second = everything_from(noise)
    assert not torch.equal(first[0], second[0])
    noise.set_state(later)
    assert all(torch.equal(a, b) for a, b in zip(second, everything_from(noise), strict=True))
    noise.set_state(fresh)
    assert all(torch.equal(a, b) for a, b in zip(first, everything_from(noise), strict=True))
    other = Noise(4)
    other.set_state(later)
    assert all(torch.equal(a, b) for a, b in zip(second, everything_from(other), strict=True))


def test_a_seed_says_it_all():
    one, same, other = (everything_from(Noise(seed)) for seed in (4, 4, 5))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_nobodys_generator_is_touched():
    before, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()
    everything_from(Noise(4))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numbers)


def test_streams_differ():
    """No two kinds of numbers come from one stream, sizes with the same digits included."""
    noise = Noise(0)
    kinds = [
        ("normal", torch.float32),
        ("normal", torch.float64),
        ("uniform", torch.float32),
        ("uniform", torch.float64),
    ]
    kinds += [("subset", size, count) for size in range(2, 400, 3) for count in (1, 2, 10, 21)]
    seeds = [noise._stream(kind).initial_seed() % 2**32 for kind in kinds]  # torch takes the lower half
    assert len(set(seeds)) == len(kinds)


def test_one_precision_beside_another():
    noise = Noise(2)
    rows = noise.rows({("uniform", torch.float32): 50_000, ("uniform", torch.float64): 50_000}, 1)
    one, other = (block[0].double() for block in rows.values())
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 5 / math.sqrt(50_000)
    steps = noise.rows({("normal", torch.float32): 16}, 20_000)["normal", torch.float32]
    lagged = torch.corrcoef(torch.stack([steps[:-1, 0], steps[1:, 0]]))[0, 1]
    assert abs(float(lagged)) < 5 / math.sqrt(20_000)
