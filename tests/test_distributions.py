"""Distributions: torch's densities under our methods, and draws that follow them from a generator of their own."""

import copy
import math
import pickle
import warnings

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats
from torch import distributions as td

from varigrad import distributions as dist
from varigrad.distributions import Source

t = torch.tensor
MATRIX = t([[1.0, 0.3], [0.3, 2.0]])
PROBS = t([0.2, 0.5, 0.3])

# Every family of torch, with arguments of batch shape (): name -> arguments.
FAMILIES = {
    "Bernoulli": (t(0.3),),
    "Beta": (t(2.0), t(0.7)),
    "Binomial": (5, t(0.4)),
    "Categorical": (PROBS,),
    "Cauchy": (t(1.0), t(2.0)),
    "Chi2": (t(3.0),),
    "ContinuousBernoulli": (t(0.2),),
    "Dirichlet": (t([0.5, 2.0, 1.0]),),
    "Exponential": (t(2.0),),
    "FisherSnedecor": (t(4.0), t(6.0)),
    "Gamma": (t(1.5), t(2.0)),
    "GeneralizedPareto": (t(0.0), t(1.0), t(0.2)),
    "Geometric": (t(0.3),),
    "Gumbel": (t(1.0), t(2.0)),
    "HalfCauchy": (t(2.0),),
    "HalfNormal": (t(2.0),),
    "InverseGamma": (t(3.0), t(2.0)),
    "Kumaraswamy": (t(2.0), t(3.0)),
    "LKJCholesky": (3, t(1.5)),
    "Laplace": (t(1.0), t(2.0)),
    "LogNormal": (t(0.1), t(0.5)),
    "LogisticNormal": (t([0.0, 0.5]), t([1.0, 0.5])),
    "LowRankMultivariateNormal": (t([0.0, 1.0]), t([[1.0], [0.5]]), t([0.5, 1.0])),
    "MixtureSameFamily": (td.Categorical(t([0.4, 0.6])), td.Normal(t([-1.0, 2.0]), t([0.5, 1.0]))),
    "Multinomial": (4, PROBS),
    "MultivariateNormal": (t([0.0, 1.0]), MATRIX),
    "NegativeBinomial": (t(3.0), t(0.4)),
    "Normal": (t(1.0), t(2.0)),
    "OneHotCategorical": (PROBS,),
    "OneHotCategoricalStraightThrough": (PROBS,),
    "Pareto": (t(1.0), t(3.0)),
    "Poisson": (t(2.5),),
    "RelaxedBernoulli": (t(0.7), t(0.3)),
    "RelaxedOneHotCategorical": (t(0.7), PROBS),
    "StudentT": (t(4.0), t(1.0), t(2.0)),
    "TransformedDistribution": (td.Normal(t(0.0), t(1.0)), [td.transforms.ExpTransform()]),
    "Uniform": (t(-1.0), t(2.0)),
    "VonMises": (t(0.5), t(2.0)),
    "Weibull": (t(1.0), t(1.5)),
    "Wishart": (t(4.0), MATRIX),
}
MIXTURE = t([[-1.0, 0.0], [2.0, 1.0]]), t([[0.5, 1.0], [1.0, 0.3]]), t([0.4, 0.0])


class Negative:
    """Accepts what is below zero."""

    def __call__(self, value):
        return torch.where(value < 0, 0.0, -torch.inf)


def half_normal():
    return dist.Rejector(dist.Normal(t(0.0), t(2.0)), Negative(), t(0.5).log())


OWN = {
    "Delta": lambda: dist.Delta(t([1.0, 2.0]), event_dim=1),
    "Unit": lambda: dist.Unit(t(0.7)),
    "Logistic": lambda: dist.Logistic(t(1.0), t(2.0)),
    "ZeroInflated": lambda: dist.ZeroInflated(dist.Geometric(t(0.3)), gate=t(0.4)),
    "ZeroInflatedPoisson": lambda: dist.ZeroInflatedPoisson(t(2.0), gate=t(0.3)),
    "ZeroInflatedNegativeBinomial": lambda: dist.ZeroInflatedNegativeBinomial(t(3.0), probs=t(0.4), gate_logits=t(0.1)),
    "Masked": lambda: dist.Normal(t(0.0), t(1.0)).mask(t(True)),
    "ScoreOnly": lambda: dist.ScoreOnly(dist.Beta(t(2.0), t(1.0))),
    "RejectionGamma": lambda: dist.RejectionGamma(t(2.5), t(0.5)),
    "Independent": lambda: dist.Normal(torch.zeros(3), t(1.0)).to_event(1),
    "AffineBeta": lambda: dist.AffineBeta(t(2.0), t(3.0), t(-1.0), t(4.0)),
    "AsymmetricLaplace": lambda: dist.AsymmetricLaplace(t(1.0), t(2.0), t(0.5)),
    "BetaBinomial": lambda: dist.BetaBinomial(t(2.0), t(3.0), t(5.0)),
    "DirichletMultinomial": lambda: dist.DirichletMultinomial(t([0.5, 2.0, 1.0]), t(4)),
    "Empirical": lambda: dist.Empirical(t([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), t([0.0, 1.0, 0.5])),
    "Expanded": lambda: dist.Expanded(dist.Normal(t([[0.0], [1.0]]), t(2.0)), (2, 3)).to_event(2),
    "FoldedDistribution": lambda: dist.FoldedDistribution(dist.Normal(t(1.0), t(2.0))),
    "GammaPoisson": lambda: dist.GammaPoisson(t(3.0), t(0.5)),
    "LKJ": lambda: dist.LKJ(3, t(1.5)),
    "LogNormalNegativeBinomial": lambda: dist.LogNormalNegativeBinomial(t(3.0), t(0.5), t(0.7)),
    "MaskedMixture": lambda: dist.MaskedMixture(t(True), dist.Gamma(t(2.0), t(1.0)), dist.Beta(t(2.0), t(1.0))),
    "MixtureOfNormals": lambda: dist.MixtureOfNormals(*MIXTURE),
    "MultivariateStudentT": lambda: dist.MultivariateStudentT(t(4.0), t([0.0, 1.0]), torch.linalg.cholesky(MATRIX)),
    "NanMaskedNormal": lambda: dist.NanMaskedNormal(t(1.0), t(2.0)),
    "NanMaskedMultivariateNormal": lambda: dist.NanMaskedMultivariateNormal(t([0.0, 1.0]), MATRIX),
    "OrderedLogistic": lambda: dist.OrderedLogistic(t(0.3), t([-1.0, 0.0, 1.5])),
    "ProjectedNormal": lambda: dist.ProjectedNormal(t([0.5, -1.0, 1.0])),
    "Rejector": half_normal,
    "SkewLogistic": lambda: dist.SkewLogistic(t(1.0), t(2.0), t(0.5)),
    "SoftAsymmetricLaplace": lambda: dist.SoftAsymmetricLaplace(t(1.0), t(2.0), t(0.5), t(0.7)),
    "SoftLaplace": lambda: dist.SoftLaplace(t(1.0), t(2.0)),
    "TruncatedPolyaGamma": lambda: dist.TruncatedPolyaGamma(t(1.0)),
    "VonMises3D": lambda: dist.VonMises3D(t([1.0, -2.0, 0.5])),
}


def ours(name):
    return getattr(dist, name)(*FAMILIES[name])


def theirs(name):
    return getattr(td, name)(*FAMILIES[name])


def drawn(name, shape):
    """From torch's sampler, which warns of its Wishart's good draws."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Singular sample detected")
        return theirs(name).sample(shape)


def everything():
    return {**{n: lambda n=n: ours(n) for n in FAMILIES}, **OWN}


def test_every_family_of_torch_is_here():
    bases = {"Distribution", "ExponentialFamily", "Independent"}
    families = {n for n, c in vars(td).items() if isinstance(c, type) and issubclass(c, td.Distribution)} - bases
    assert families == FAMILIES.keys()


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


# Draws. Each family is compared with torch's own sampler (scipy's law where torch has no sampler): Kolmogorov-Smirnov
# if continuous, chi-square if discrete, on each coordinate of the event. One fixed seed; level 1e-6 a coordinate,
# below 1e-4 for the file.
DRAWS, LEVEL = 20_000, 1e-6


def polya_gamma(rng):
    k = np.arange(0.5, 400)[:, None]
    return (rng.exponential(size=(400, DRAWS)) / (2 * np.pi**2 * k**2)).sum(0)


def skewed(rng, left, right):
    return 1 + right * rng.exponential(size=DRAWS) - left * rng.exponential(size=DRAWS)


def student(rng):
    normal = rng.multivariate_normal([0, 0], MATRIX.numpy(), DRAWS)
    return normal / np.sqrt(rng.chisquare(4, (DRAWS, 1)) / 4) + [0, 1]


def ordered(rng):
    ends = 1 / (1 + np.exp(-(np.array([-1.0, 0.0, 1.5]) - 0.3)))
    return (rng.uniform(size=(DRAWS, 1)) > ends).sum(1)


def projected(rng):
    vector = rng.normal([0.5, -1.0, 1.0], size=(DRAWS, 3))
    return vector / np.linalg.norm(vector, axis=1, keepdims=True)


def two_normals(rng):
    locs, scales, logits = (m.numpy() for m in MIXTURE)
    which = rng.choice(2, DRAWS, p=np.exp(logits) / np.exp(logits).sum())
    return rng.normal(locs[which], scales[which])


def spherical(rng):
    direction = np.array([1.0, -2.0, 0.5])
    length = np.linalg.norm(direction)
    return stats.vonmises_fisher(direction / length, length).rvs(DRAWS, random_state=rng)


def correlated(rng):
    """By rejection: correlations uniform in the cube, kept with probability det^(1.5 - 1). torch's draws are wrong."""
    matrix = np.broadcast_to(np.eye(3), (20 * DRAWS, 3, 3)).copy()
    for i, j in ((1, 0), (2, 0), (2, 1)):
        matrix[:, i, j] = matrix[:, j, i] = rng.uniform(-1, 1, 20 * DRAWS)
    determinant = np.linalg.det(matrix)
    kept = matrix[(determinant > 0) & (rng.uniform(size=20 * DRAWS) < np.sqrt(np.maximum(determinant, 0)))]
    return kept[:DRAWS]


def noisy_counts(rng):
    odds = np.exp(rng.normal(0.5, 0.7, DRAWS))
    return rng.poisson(rng.gamma(3.0, odds))


# Samplers that share nothing with ours.
LAWS = {
    "AffineBeta": lambda rng: rng.beta(2, 3, DRAWS) * 4 - 1,
    "AsymmetricLaplace": lambda rng: skewed(rng, 1.0, 4.0),
    "BetaBinomial": lambda rng: stats.betabinom(5, 2, 3).rvs(DRAWS, random_state=rng),
    "DirichletMultinomial": lambda rng: rng.multinomial(4, rng.dirichlet([0.5, 2.0, 1.0], DRAWS)),
    "Expanded": lambda rng: rng.normal([[0.0] * 3, [1.0] * 3], 2.0, (DRAWS, 2, 3)),
    "FoldedDistribution": lambda rng: np.abs(rng.normal(1, 2, DRAWS)),
    "GammaPoisson": lambda rng: stats.nbinom(3, 1 / 3).rvs(DRAWS, random_state=rng),
    "LKJ": correlated,
    "LogNormalNegativeBinomial": noisy_counts,
    "MaskedMixture": lambda rng: rng.beta(2, 1, DRAWS),
    "MixtureOfNormals": two_normals,
    "MultivariateStudentT": student,
    "NanMaskedNormal": lambda rng: rng.normal(1, 2, DRAWS),
    "NanMaskedMultivariateNormal": lambda rng: rng.multivariate_normal([0, 1], MATRIX.numpy(), DRAWS),
    "OrderedLogistic": ordered,
    "ProjectedNormal": projected,
    "Rejector": lambda rng: -np.abs(rng.normal(0, 2, DRAWS)),
    "SkewLogistic": lambda rng: stats.genlogistic(0.5, 1, 2).rvs(DRAWS, random_state=rng),
    "SoftAsymmetricLaplace": lambda rng: skewed(rng, 1.0, 4.0) + rng.normal(0, 1.4, DRAWS),
    "SoftLaplace": lambda rng: stats.hypsecant(1, 2).rvs(DRAWS, random_state=rng),
    "TruncatedPolyaGamma": polya_gamma,
    "VonMises3D": spherical,
}


def reference_draws(name, d):
    torch.manual_seed(1)
    if name == "LKJCholesky":
        return torch.linalg.cholesky(torch.as_tensor(correlated(np.random.default_rng(2))))
    if name in FAMILIES:
        return drawn(name, (DRAWS,))
    uniform = torch.rand(DRAWS)
    if name == "Logistic":
        return 1 + 2 * torch.logit(uniform)
    if name == "RejectionGamma":
        return td.Gamma(t(2.5), t(0.5)).sample((DRAWS,))
    if name == "ScoreOnly":
        return td.Beta(t(2.0), t(1.0)).sample((DRAWS,))
    if isinstance(d, dist.ZeroInflated):
        return torch.where(uniform < d.gate, 0.0, getattr(td, type(d.base).__name__).sample(d.base, (DRAWS,)))
    if name in LAWS:
        return torch.as_tensor(LAWS[name](np.random.default_rng(1))).float()
    if name in ("Delta", "Unit", "Empirical"):
        return d.sample((DRAWS,))
    return td.Normal(torch.zeros(d.event_shape), 1.0).sample((DRAWS,))


def assert_same_law(found, expected):
    found, expected = found.reshape(DRAWS, -1).double().numpy(), expected.reshape(DRAWS, -1).double().numpy()
    for x, y in zip(found.T, expected.T, strict=True):
        values = np.unique(np.concatenate([x, y]))
        if values[-1] - values[0] < 1e-5:
            continue  # the diagonal of a correlation matrix, up to rounding
        if len(values) > 200:
            p = stats.ks_2samp(x, y).pvalue
        else:
            edges = [*values, np.inf]
            counts = np.stack([np.histogram(v, edges)[0] for v in (x, y)])
            rare = counts.sum(0) < 20
            counts = np.concatenate([counts[:, ~rare], counts[:, rare].sum(1, keepdims=True)], 1)
            p = stats.chi2_contingency(counts[:, counts.sum(0) > 0]).pvalue
        assert p > LEVEL


def reparameterised(d):
    return [False, True] if d.has_rsample and "StraightThrough" not in type(d).__name__ else [False]


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
