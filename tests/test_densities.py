"""Densities of the families that torch lacks, against closed forms and scipy; and gradients of their draws."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import distributions as td

from varigrad import distributions as dist
from varigrad.distributions import constraints, transforms
from varigrad.distributions.transforms import biject_to, transform_to

t = torch.tensor
X = np.linspace(-6, 7, 27)
COUNTS = np.arange(30)
MATRIX = np.array([[1.0, 0.3], [0.3, 2.0]])
POINTS = np.array([[0.0, 0.0], [1.0, -1.0], [3.0, 2.0]])
DIRECTIONS = np.array([[1.0, 0, 0], [0, -1, 0], [0.6, 0, 0.8]])


def f(*values):
    return [t(v, dtype=torch.float64) for v in values]


def two_normals(x):
    weights = np.exp([0.4, 0]) / np.exp([0.4, 0]).sum()
    parts = [stats.norm([-1, 0], [0.5, 1]), stats.norm([2, 1], [1, 0.3])]
    return np.log(sum(w * p.pdf(x).prod(-1) for w, p in zip(weights, parts, strict=True)))


def integrated(inside, low, high):
    """The integral over a grid, fine enough for smooth functions, of `inside(grid)`, `[points, grid]`."""
    grid = np.linspace(low, high, 20_001)
    return np.log(integrate.simpson(inside(grid), x=grid, axis=-1))


def soft_asymmetric(x):
    """The Normal's density at what an asymmetric Laplace leaves, averaged over both of its tails."""
    left = np.exp(integrated(lambda g: np.exp(g) / 5 * stats.norm(0, 1.4).pdf(x[:, None] - 1 - g), -40, 0))
    right = np.exp(integrated(lambda g: np.exp(-g / 4) / 5 * stats.norm(0, 1.4).pdf(x[:, None] - 1 - g), 0, 80))
    return np.log(left + right)


def noisy_counts(k):
    def inside(e):
        return stats.nbinom.pmf(k[:, None], 3, 1 / (1 + np.exp(0.5 + e))) * stats.norm(0, 0.3).pdf(e)

    return integrated(inside, -3, 3)


def polya_gamma(x):
    n = np.arange(200)[:, None]
    series = (-1.0) ** n * (2 * n + 1) / np.sqrt(2 * np.pi * x**3) * np.exp(-((2 * n + 1) ** 2) / (8 * x))
    return np.log(series.sum(0))


def projected(d, c, z):
    def density(at):
        inside = lambda r: r ** (d - 1) * np.exp(-((r * at - c) ** 2).sum() / 2) / (2 * np.pi) ** (d / 2)  # noqa: E731
        return integrate.quad(inside, 0, 40)[0]

    return np.log([density(at) for at in z])


def ordered(k):
    ends = np.concatenate([[0], 1 / (1 + np.exp(-(np.array([-1, 0, 1.5]) - 0.3))), [1]])
    return np.log(np.diff(ends))[k]


# name -> distribution, points, log-density there.
DENSITIES = {
    "AffineBeta": (lambda: dist.AffineBeta(*f(2, 3, -1, 4)), X[(X > -1) & (X < 3)], stats.beta(2, 3, -1, 4).logpdf),
    "AsymmetricLaplace": (lambda: dist.AsymmetricLaplace(*f(1, 2, 0.5)), X, stats.laplace_asymmetric(0.5, 1, 2).logpdf),
    "BetaBinomial": (lambda: dist.BetaBinomial(*f(2, 3, 5)), COUNTS[:6], stats.betabinom(5, 2, 3).logpmf),
    "DirichletMultinomial": (
        lambda: dist.DirichletMultinomial(t([0.5, 2.0, 1.0], dtype=torch.float64), 4),
        np.array([[4, 0, 0], [1, 2, 1], [0, 3, 1]]),
        stats.dirichlet_multinomial([0.5, 2, 1], 4).logpmf,
    ),
    "FoldedDistribution": (
        lambda: dist.FoldedDistribution(dist.Normal(*f(1, 2))), X[X > 0], stats.foldnorm(0.5, 0, 2).logpdf,
    ),
    "GammaPoisson": (lambda: dist.GammaPoisson(*f(3, 0.5)), COUNTS, stats.nbinom(3, 1 / 3).logpmf),
    "LogNormalNegativeBinomial": (
        lambda: dist.LogNormalNegativeBinomial(*f(3, 0.5, 0.3), num_quad_points=32), COUNTS, noisy_counts,
    ),
    "MixtureOfNormals": (
        lambda: dist.MixtureOfNormals(*f([[-1.0, 0.0], [2.0, 1.0]], [[0.5, 1.0], [1.0, 0.3]], [0.4, 0.0])),
        POINTS,
        two_normals,
    ),
    "MultivariateStudentT": (
        lambda: dist.MultivariateStudentT(*f(4, [0.0, 1.0]), torch.linalg.cholesky(t(MATRIX))),
        POINTS,
        stats.multivariate_t([0, 1], MATRIX, 4).logpdf,
    ),
    "OrderedLogistic": (lambda: dist.OrderedLogistic(*f(0.3, [-1, 0, 1.5])), COUNTS[:4], ordered),
    "ProjectedNormal2": (
        lambda: dist.ProjectedNormal(*f([0.5, -1])),
        DIRECTIONS[:, [0, 1]] / np.linalg.norm(DIRECTIONS[:, [0, 1]], axis=1, keepdims=True),
        lambda z: projected(2, np.array([0.5, -1]), z),
    ),
    "ProjectedNormal3": (
        lambda: dist.ProjectedNormal(*f([0.5, -1, 1])), DIRECTIONS, lambda z: projected(3, np.array([0.5, -1, 1]), z),
    ),
    "Rejector": (
        lambda: dist.Rejector(dist.Normal(*f(0, 2)), lambda x: torch.where(x < 0, 0.0, -torch.inf), t(0.5).log()),
        X[X < 0],
        lambda x: stats.halfnorm(0, 2).logpdf(-x),
    ),
    "SkewLogistic": (lambda: dist.SkewLogistic(*f(1, 2, 0.5)), X, stats.genlogistic(0.5, 1, 2).logpdf),
    "SoftAsymmetricLaplace": (lambda: dist.SoftAsymmetricLaplace(*f(1, 2, 0.5, 0.7)), X, soft_asymmetric),
    "SoftLaplace": (lambda: dist.SoftLaplace(*f(1, 2)), X, stats.hypsecant(1, 2).logpdf),
    "TruncatedPolyaGamma": (
        lambda: dist.TruncatedPolyaGamma(t(1.0, dtype=torch.float64)), np.linspace(0.02, 2.4, 20), polya_gamma,
    ),
    "VonMises3D": (
        lambda: dist.VonMises3D(*f([1, -2, 0.5])),
        DIRECTIONS,
        lambda z: stats.vonmises_fisher(np.array([1, -2, 0.5]) / 5.25**0.5, 5.25**0.5).logpdf(z),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DENSITIES)
def test_density(name):
    make, points, expected = DENSITIES[name]
    d, value = make(), t(points).double()
    if name in ("BetaBinomial", "GammaPoisson", "LogNormalNegativeBinomial", "DirichletMultinomial"):
        assert constraints.is_dependent(d.support) or d.support.check(value).all()
    else:
        assert d.support.check(value).all()
    np.testing.assert_allclose(d.log_prob(value), expected(points), rtol=2e-5, atol=1e-7)


MOMENTS = ["AffineBeta", "AsymmetricLaplace", "BetaBinomial", "DirichletMultinomial", "GammaPoisson",
           "LogNormalNegativeBinomial", "MixtureOfNormals", "SoftAsymmetricLaplace", "SoftLaplace"]  # fmt: skip


@pytest.mark.parametrize("name", MOMENTS)
def test_moments_are_those_of_draws(name):
    d = DENSITIES[name][0]()
    torch.manual_seed(0)
    draws = d.sample((40_000,))
    error = draws.std(0) / 200
    assert ((draws.mean(0) - d.mean).abs() < 5 * error).all()
    squares = (draws - d.mean).square()
    assert ((squares.mean(0) - d.variance).abs() < 5 * squares.std(0) / 200).all()


def test_lkj_is_proportional_to_a_power_of_the_determinant():
    d = dist.LKJ(3, t(1.5, dtype=torch.float64))
    c = d.sample((5,))
    assert constraints.corr_matrix.check(c).all()
    ratio = d.log_prob(c) - 0.5 * torch.linalg.det(c).log()
    assert torch.allclose(ratio, ratio[0])
    # The volume of 3 x 3 correlation matrices is pi^2 / 2 (Lewandowski, Kurowicka, Joe 2009).
    assert abs(dist.LKJ(3, t(1.0)).log_prob(torch.eye(3)) + np.log(np.pi**2 / 2)) < 1e-5


def test_empirical():
    d = dist.Empirical(t([1.0, 2.0, 2.0, 3.0]), t([0.0, 1.0, 0.0, 2.0]))
    w = torch.tensor([0.0, 1.0, 0.0, 2.0]).softmax(0)
    assert torch.allclose(d.log_prob(t(2.0)), (w[1] + w[2]).log())
    assert d.log_prob(t(9.0)) == -torch.inf
    assert torch.allclose(d.mean, (w * t([1.0, 2.0, 2.0, 3.0])).sum())
    assert torch.allclose(d.variance, (w * (t([1.0, 2.0, 2.0, 3.0]) - d.mean) ** 2).sum())
    batch = dist.Empirical(torch.randn(5, 4, 3), torch.zeros(5, 4))
    assert (batch.batch_shape, batch.event_shape, batch.sample_size) == ((5,), (3,), 20)
    assert batch.sample((2,)).shape == (2, 5, 3)
    assert batch.log_prob(batch.sample()).isfinite().all()
    with pytest.raises(ValueError, match="leading dimensions"):
        dist.Empirical(torch.zeros(3), torch.zeros(4))
    with pytest.raises(ValueError, match="the value has shape"):
        d.log_prob(torch.zeros(2))


def test_improper_uniform():
    d = dist.ImproperUniform(constraints.positive, (2,), (3,)).expand((4, 2))
    assert torch.equal(d.log_prob(torch.ones(4, 2, 3)), torch.zeros(4, 2))
    assert d.support is constraints.positive
    with pytest.raises(NotImplementedError, match="no draws"):
        d.sample()


def test_masked_mixture():
    d = dist.MaskedMixture(t([True, False]), dist.Gamma(t(2.0), t(1.0)), dist.Beta(t(2.0), t(1.0)))
    value = t([0.5, 7.0])
    expected = torch.stack([td.Beta(t(2.0), t(1.0)).log_prob(value[0]), td.Gamma(t(2.0), t(1.0)).log_prob(value[1])])
    assert torch.allclose(d.log_prob(value), expected)
    assert d.support.check(value).all()
    assert not d.support.check(value.flip(0)).all()
    assert d.rsample().shape == (2,)
    with pytest.raises(ValueError, match="bool"):
        dist.MaskedMixture(t([1.0]), dist.Normal(0.0, 1.0), dist.Normal(0.0, 1.0))


def test_missing_entries_count_nothing():
    value = t([0.5, torch.nan, -1.0])
    loc = torch.zeros(3, requires_grad=True)
    scale = torch.eye(3) + 0.3
    joint = dist.NanMaskedMultivariateNormal(loc, scale).log_prob(value)
    kept = t([0, 2])
    marginal = td.MultivariateNormal(loc[kept], scale[kept][:, kept]).log_prob(value[kept])
    assert torch.allclose(joint, marginal)
    each = dist.NanMaskedNormal(loc, 2.0).log_prob(value)
    assert torch.allclose(each, t([1.0, 0.0, 1.0]) * td.Normal(loc, 2.0).log_prob(value.nan_to_num()))
    for density in (joint, each.sum()):
        assert torch.autograd.grad(density, loc, retain_graph=True)[0].isfinite().all()


def test_straight_through_draws_are_rounded_and_remember():
    probs = t([0.3, 0.7], requires_grad=True)
    d = dist.RelaxedBernoulliStraightThrough(t(0.5), probs=probs)
    value = d.rsample()
    assert ((value == 0) | (value == 1)).all()
    assert d.log_prob(value).isfinite().all()
    (gradient,) = torch.autograd.grad(value.sum(), probs)
    assert (gradient != 0).all()
    with pytest.raises(ValueError, match="its own draws only"):
        d.log_prob(torch.ones(2))
    one_hot = dist.RelaxedOneHotCategoricalStraightThrough(t(0.5), logits=torch.zeros(3)).expand((4,))
    value = one_hot.sample()
    assert torch.equal(value.sum(-1), torch.ones(4))
    assert one_hot.log_prob(value).shape == (4,)


def test_expanded_draws_new_elements_independently():
    class Plain(td.Distribution):
        arg_constraints = {}

        def __init__(self, loc):
            self.loc = loc
            super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

        def sample(self, sample_shape=torch.Size()):
            return self.loc + torch.randn(torch.Size(sample_shape) + self.loc.shape)

        def log_prob(self, value):
            return -(value - self.loc).square().sum(-1)

    loc = torch.arange(6.0).reshape(3, 1, 2) * 100
    d = dist.Expanded(Plain(loc), (4, 3, 5))
    value = d.sample((7,))
    assert value.shape == (7, 4, 3, 5, 2)
    assert ((value - loc).abs() < 10).all()
    assert len(value.unique()) == value.numel()
    assert torch.equal(d.log_prob(value), -(value - loc).square().sum(-1))
    assert d.expand((2, 4, 3, 5)).sample().shape == (2, 4, 3, 5, 2)
    with pytest.raises(ValueError, match="does not expand"):
        dist.Expanded(Plain(loc), (2, 5))


# Gradients of draws. For any h, E[grad_z h dz/dphi] = E[h grad_phi log p(z)] (the score identity); a partly
# reparameterised family adds its own part. 40 000 draws, five standard errors of the difference.
def gradients():
    return {
        "AffineBeta": (dist.AffineBeta, f(2, 3, -1, 4)),
        "AsymmetricLaplace": (dist.AsymmetricLaplace, f(1, 2, 0.5)),
        "MixtureOfNormals": (
            dist.MixtureOfNormals,
            f([[-1.0, 0.0], [2.0, 1.0], [0, 2]], [[0.5, 1.0], [1.0, 0.6], [1, 1]], [0.4, 0.0, 0.3]),
        ),
        "MixtureOfNormals1": (dist.MixtureOfNormals, f([[-1.0], [2.0]], [[0.5], [1.0]], [0.4, 0.0])),
        "MultivariateStudentT": (dist.MultivariateStudentT, f(9, [0.0, 1.0], [[1, 0], [0.5, 0.7]])),
        "Rejector": (tilted, f(1, 2)),
        "RejectionGamma": (dist.RejectionGamma, f(2.5, 0.5)),
        "SkewLogistic": (dist.SkewLogistic, f(1, 2, 0.5)),
        "SoftAsymmetricLaplace": (dist.SoftAsymmetricLaplace, f(1, 2, 0.5, 0.7)),
        "SoftLaplace": (dist.SoftLaplace, f(1, 2)),
    }  # fmt: skip


def tilted(loc, scale):
    """A Normal whose draws are kept with probability exp(-z^2 / 2)."""
    normal = dist.Normal(loc, scale)
    kept = dist.Normal(torch.zeros_like(loc), (1 + scale.square()).sqrt())
    return dist.Rejector(normal, lambda z: -z.square() / 2, kept.log_prob(loc) + 0.5 * np.log(2 * np.pi))


@pytest.mark.parametrize("name", gradients())
def test_gradients_of_draws(name):
    make, parameters = gradients()[name]
    n = 40_000
    torch.manual_seed(0)
    each = [p.expand(n, *p.shape).clone().requires_grad_() for p in parameters]
    d = make(*each)
    z = d.rsample()
    h = (lambda z: z.sin() + z * 0.3) if z.dim() == 1 else (lambda z: (z.sin() + z * 0.3).prod(-1))
    pathwise = h(z)
    if hasattr(d, "score_part"):
        pathwise = pathwise + h(z).detach() * d.score_part(z)
    score = h(z).detach() * d.log_prob(z.detach())
    for p, g in zip(
        each,
        zip(
            torch.autograd.grad(pathwise.sum(), each, retain_graph=True),
            torch.autograd.grad(score.sum(), each),
            strict=True,
        ),
        strict=True,
    ):
        difference = (g[0] - g[1]).reshape(n, -1)
        if name == "MultivariateStudentT" and p.dim() == 3:
            difference = difference[:, [0, 2, 3]]  # what is above the diagonal is no parameter
        assert (difference.mean(0).abs() < 5 * difference.std(0) / n**0.5 + 1e-12).all()


# Constraints and transforms
SPACES = {
    "ordered_vector": (4,), "positive_ordered_vector": (4,), "corr_matrix": (6,), "softplus_positive": (3,),
    "softplus_lower_cholesky": (3, 3), "unit_lower_cholesky": (3, 3), "sphere": (3,),
}  # fmt: skip


@pytest.mark.parametrize("name", SPACES)
def test_unconstrained_spaces(name):
    constraint = getattr(constraints, name)
    torch.manual_seed(0)
    x = torch.randn(5, *SPACES[name], dtype=torch.float64)
    to = transform_to(constraint)
    y = to(x)
    assert constraint.check(y).all()
    assert torch.allclose(to(to.inv(y)), y)


TRANSFORMS = {
    "OrderedTransform": (transforms.OrderedTransform(), (4,)),
    "LowerCholeskyAffine": (transforms.LowerCholeskyAffine(*f([1.0, 2.0], [[1.0, 0.0], [0.5, 2.0]])), (2,)),
    "PositivePowerTransform": (transforms.PositivePowerTransform(1.5), ()),
    "Permute": (transforms.Permute(t([2, 0, 1])), (3,)),
    "ELUTransform": (transforms.ELUTransform(), ()),
    "LeakyReLUTransform": (transforms.LeakyReLUTransform(), ()),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(name):
    transform, shape = TRANSFORMS[name]
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64)
    y = transform(x)
    assert transform.codomain.check(y).all()
    assert torch.allclose(transform.with_cache(0).inv(y), x)
    jacobian = torch.autograd.functional.jacobian(transform, x)
    expected = jacobian.abs().log() if not shape else torch.linalg.slogdet(jacobian).logabsdet
    assert torch.allclose(transform.log_abs_det_jacobian(x, y), expected)


def test_simplex_to_ordered():
    transform = transforms.SimplexToOrderedTransform(t(0.5, dtype=torch.float64))
    x = t([0.2, 0.5, 0.3], dtype=torch.float64)
    y = transform(x)
    assert constraints.ordered_vector.check(y)
    assert torch.allclose(transform.inv(y), x)
    jacobian = torch.autograd.functional.jacobian(
        lambda free: transform(torch.cat([free, 1 - free.sum(-1, True)])), x[:2]
    )
    assert torch.allclose(transform.log_abs_det_jacobian(x, y), torch.linalg.slogdet(jacobian).logabsdet)


def test_cholesky_of_covariances():
    transform, matrix = transforms.CholeskyTransform(), t(MATRIX)
    tril = transform(matrix)
    rows, columns = torch.tril_indices(2, 2)

    def free(entries):
        lower = torch.zeros(2, 2, dtype=torch.float64).index_put((rows, columns), entries)
        return transform(lower + lower.tril(-1).mT)[rows, columns]

    jacobian = torch.autograd.functional.jacobian(free, matrix[rows, columns])
    assert torch.allclose(transform.log_abs_det_jacobian(matrix, tril), torch.linalg.slogdet(jacobian).logabsdet)
    assert torch.allclose(transform.inv(tril), matrix)
    assert biject_to(constraints.corr_matrix)(torch.zeros(3)).equal(torch.eye(3))
