"""Every family of distributions with arguments, samplers that share nothing with ours, and what compares the two."""

import warnings

import numpy as np
import torch
from scipy import stats
from torch import distributions as td

from varigrad import distributions as dist

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


def chain():
    """The parameters of a linear Gaussian chain: initial_dist, transition_matrix, and so on."""
    first, step, error = (dist.Normal(t(loc), t(scale)).to_event(1) for loc, scale in CHAIN_NOISE)
    return first, CHAIN_MOVE, step, CHAIN_LOOK, error


CHAIN_NOISE = ([0.5, -1.0], [1.0, 0.5]), ([0.1, 0.0], [0.3, 1.0]), ([0.2], [0.7])
CHAIN_MOVE, CHAIN_LOOK = t([[0.9, 0.2], [-0.3, 0.5]]), t([[1.0], [0.5]])
STATE_PROBS, STATE_LOCS = t([[0.7, 0.3], [0.2, 0.8]]), t([-1.0, 2.0])

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
    "DiscreteHMM": lambda: dist.DiscreteHMM(
        t([0.4, 0.6]).log(), STATE_PROBS.log(), dist.Normal(STATE_LOCS, t(0.5)), duration=3
    ),
    "GammaGaussianHMM": lambda: dist.GammaGaussianHMM(dist.Gamma(t(3.0), t(2.0)), *chain(), duration=3),
    "GaussianHMM": lambda: dist.GaussianHMM(*chain(), duration=3),
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


def discrete_chain(rng):
    state, seen = rng.binomial(1, 0.6, DRAWS), []
    for _ in range(3):
        state = rng.binomial(1, STATE_PROBS.numpy()[state, 1])
        seen.append(rng.normal(STATE_LOCS.numpy()[state], 0.5))
    return np.stack(seen, 1)[..., None]


def linear_chain(rng, factor=1.0):
    def noise(which):
        loc, scale = map(np.array, CHAIN_NOISE[which])
        return rng.normal(loc, scale / np.sqrt(factor), (DRAWS, len(loc)))

    state, seen = noise(0), []
    for _ in range(3):
        state = state @ CHAIN_MOVE.numpy() + noise(1)
        seen.append(state @ CHAIN_LOOK.numpy() + noise(2))
    return np.stack(seen, 1)


# Samplers that share nothing with ours.
SAMPLERS = {
    "AffineBeta": lambda rng: rng.beta(2, 3, DRAWS) * 4 - 1,
    "AsymmetricLaplace": lambda rng: skewed(rng, 1.0, 4.0),
    "BetaBinomial": lambda rng: stats.betabinom(5, 2, 3).rvs(DRAWS, random_state=rng),
    "DirichletMultinomial": lambda rng: rng.multinomial(4, rng.dirichlet([0.5, 2.0, 1.0], DRAWS)),
    "DiscreteHMM": discrete_chain,
    "GammaGaussianHMM": lambda rng: linear_chain(rng, rng.gamma(3.0, 1 / 2.0, (DRAWS, 1))),
    "GaussianHMM": linear_chain,
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
    if name in SAMPLERS:
        return torch.as_tensor(SAMPLERS[name](np.random.default_rng(1))).float()
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
