"""Pyro's distributions: its methods on torch's families, and what programs do with them."""

import copy
import pickle

import pytest
import torch
from torch import distributions as td

import varigrad as vg
import varigrad.compat.pyro as pyro
import varigrad.compat.pyro.distributions as dist
from varigrad import distributions as native
from varigrad.compat.pyro.distributions import constraints, transforms, util
from varigrad.compat.pyro.distributions.testing import fakes
from varigrad.compat.pyro.distributions.testing.rejection_gamma import RejectionGamma
from varigrad.compat.pyro.infer import SVI, Trace_ELBO
from varigrad.compat.pyro.optim import Adam
from varigrad.distributions.tensor_walk import is_known
from varigrad.errors import SupportError
from varigrad.objectives.bound import Bound

t = torch.tensor


def test_names():
    """Every family of torch, and all that Pyro 1.9.2 adds but those that docs/pyro-programs.md lists."""
    names = {n for n, c in vars(td).items() if isinstance(c, type) and issubclass(c, td.Distribution)}
    added = [
        "AffineBeta",
        "AsymmetricLaplace",
        "BetaBinomial",
        "Delta",
        "DirichletMultinomial",
        "DiscreteHMM",
        "Distribution",
        "Empirical",
        "ExpandedDistribution",
        "FoldedDistribution",
        "GammaGaussianHMM",
        "GammaPoisson",
        "GaussianHMM",
        "GaussianScaleMixture",
        "ImproperUniform",
        "IndependentHMM",
        "InverseGamma",
        "LKJ",
        "LKJCorrCholesky",
        "LinearHMM",
        "LogNormalNegativeBinomial",
        "Logistic",
        "MaskedDistribution",
        "MaskedMixture",
        "MixtureOfDiagNormals",
        "MixtureOfDiagNormalsSharedCovariance",
        "MultivariateStudentT",
        "NanMaskedMultivariateNormal",
        "NanMaskedNormal",
        "OrderedLogistic",
        "ProjectedNormal",
        "Rejector",
        "RelaxedBernoulliStraightThrough",
        "RelaxedOneHotCategoricalStraightThrough",
        "SkewLogistic",
        "SoftAsymmetricLaplace",
        "SoftLaplace",
        "TorchDistribution",
        "TruncatedPolyaGamma",
        "Unit",
        "VonMises3D",
        "ZeroInflatedDistribution",
        "ZeroInflatedNegativeBinomial",
        "ZeroInflatedPoisson",
        "constraints",
        "transforms",
        "kl",
        "kl_divergence",
        "util",
    ]
    for name in (*names, *added):
        assert hasattr(dist, name), name


EXAMPLES = {
    "Normal": lambda: dist.Normal(0.0, t([1.0, 2.0])),
    "Categorical": lambda: dist.Categorical(torch.ones(2, 3)),
    "MultivariateNormal": lambda: dist.MultivariateNormal(torch.zeros(3), scale_tril=torch.eye(3)),
    "LogNormal": lambda: dist.LogNormal(t(0.0), 1.0),
    "Delta": lambda: dist.Delta(t([1.0, 2.0]), t([0.0, 0.5])),
    "Unit": lambda: dist.Unit(t([1.0, 2.0])),
    "ZeroInflatedDistribution": lambda: dist.ZeroInflatedDistribution(dist.Poisson(t(2.0)), gate=0.3),
    "ZeroInflatedPoisson": lambda: dist.ZeroInflatedPoisson(t(2.0), gate=t([0.3, 0.4])),
    "ZeroInflatedNegativeBinomial": lambda: dist.ZeroInflatedNegativeBinomial(
        t(2.0), logits=t(0.1), gate_logits=t(0.3)
    ),
    "LKJ": lambda: dist.LKJ(3, t(1.5)),
    "OrderedLogistic": lambda: dist.OrderedLogistic(t([0.0, 1.0]), t([-1.0, 0.0, 1.0])),
    "MaskedMixture": lambda: dist.MaskedMixture(t([True, False]), dist.Normal(0.0, 1.0), dist.Normal(5.0, 1.0)),
    "MixtureOfDiagNormals": lambda: dist.MixtureOfDiagNormals(torch.zeros(3, 2), torch.ones(3, 2), torch.zeros(3)),
    "MixtureOfDiagNormalsSharedCovariance": lambda: dist.MixtureOfDiagNormalsSharedCovariance(
        torch.zeros(3, 2), torch.ones(2), torch.zeros(3)
    ),
    "GaussianScaleMixture": lambda: dist.GaussianScaleMixture(torch.ones(2), torch.zeros(3), torch.ones(3)),
    "Rejector": lambda: dist.Rejector(dist.Normal(0.0, t([1.0, 2.0])), torch.zeros_like, t(0.0)),
    "Empirical": lambda: dist.Empirical(torch.arange(3.0), torch.zeros(3)),
    "TransformedDistribution": lambda: dist.TransformedDistribution(dist.Normal(t(0.0), 1.0), [td.ExpTransform()]),
    "MultivariateStudentT": lambda: dist.MultivariateStudentT(t(5.0), torch.zeros(2), torch.eye(2)),
    "NonreparameterizedNormal": lambda: fakes.NonreparameterizedNormal(t(0.0), t(1.0)),
    "Wishart": lambda: dist.Wishart(t(4.0), torch.eye(2)),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_methods(name):
    d = EXAMPLES[name]()
    event = len(d.event_shape)
    assert isinstance(d, dist.Distribution)
    assert isinstance(d, dist.TorchDistributionMixin)
    assert isinstance(d, td.Distribution)
    assert type(d).__name__ == name
    assert is_known(d) == (name != "Rejector")
    assert d.event_dim == event
    assert d((4,)).shape == d.shape((4,)) == (4, *d.batch_shape, *d.event_shape)
    wide = d.expand_by((5,))
    assert type(wide) is type(d)
    value = wide()
    joint = wide.to_event(1) if not d.batch_shape else wide.to_event()
    assert isinstance(joint, dist.Independent)
    assert joint.batch_shape == ()
    assert joint.has_rsample == d.has_rsample
    density = wide.log_prob(value)
    assert torch.allclose(joint.log_prob(value), density.sum())
    mask = torch.arange(5) % 2 == 0
    mask = mask.reshape(5, *(1,) * len(d.batch_shape))
    hidden = wide.mask(mask)
    assert isinstance(hidden, dist.MaskedDistribution)
    assert hidden.base_dist is wide
    assert torch.allclose(hidden.log_prob(value), density * mask)
    assert torch.equal(wide.mask(mask.float()).log_prob(value), hidden.log_prob(value))
    assert d.to_event(0) is d
    assert wide.independent(1).event_dim == event + 1
    with pytest.raises(ValueError, match="to_event"):
        d.to_event(7)
    parts = d.score_parts(d())
    assert (parts.entropy_term is parts.log_prob) == d.has_rsample
    if name not in ("Rejector",):
        twin = pickle.loads(pickle.dumps(copy.deepcopy(d)))
        assert type(twin) is type(d)


def test_reparameterisation_can_be_switched():
    d = dist.Normal(t(0.0), t(1.0, requires_grad=True))
    assert d().requires_grad
    assert d.has_rsample_(False) is d
    assert not d().requires_grad
    assert not d.expand((3,)).has_rsample
    assert not d.expand((3,)).to_event(1).has_rsample
    assert not d.expand((3,)).to_event(1).mask(True).has_rsample
    inner = dist.Normal(t([0.0]), t([1.0]))
    assert not inner.to_event(1).has_rsample_(False).has_rsample
    assert not inner.to_event(1).mask(True).has_rsample_(False).has_rsample
    assert inner.has_rsample
    assert not dist.LogNormal(t(0.0), t(1.0)).has_rsample_(False).has_rsample
    with pytest.raises(ValueError, match="True or False"):
        d.has_rsample_(7)


def test_enumerable_families():
    assert torch.equal(dist.Bernoulli(0.3).enumerate_support(), t([0.0, 1.0]))
    assert dist.Categorical(torch.ones(3)).expand((4,)).enumerate_support(expand=False).shape == (3, 1)
    assert torch.equal(dist.BetaBinomial(2.0, 3.0, 5).enumerate_support(), torch.arange(6.0))


# Numbers of pyro-ppl 1.9.2.
PYRO = {
    "AffineBeta": (lambda: dist.AffineBeta(2.0, 3.0, -1.0, 4.0), 1.0, -0.9808),
    "AsymmetricLaplace": (lambda: dist.AsymmetricLaplace(1.0, 2.0, 0.5), 0.0, -2.6094),
    "BetaBinomial": (lambda: dist.BetaBinomial(2.0, 3.0, 5), 4.0, -2.1282),
    "DirichletMultinomial": (lambda: dist.DirichletMultinomial(torch.ones(3), 5), [1.0, 1.0, 1.0], -2.3026),
    "GammaPoisson": (lambda: dist.GammaPoisson(2.0, 3.0), 5.0, -5.7151),
    "GaussianScaleMixture": (
        lambda: dist.GaussianScaleMixture(t([1.0, 2.0]), t([0.0, 0.5, 1.0]), t([1.0, 2.0, 3.0])), [0.3, 0.4], -3.7151,
    ),
    "LKJ": (lambda: dist.LKJ(3, t(1.5)), torch.eye(3).tolist(), -1.0269),
    "LogNormalNegativeBinomial": (lambda: dist.LogNormalNegativeBinomial(t(3.0), t(0.5), t(0.7)), 3.0, -2.2284),
    "MultivariateStudentT": (
        lambda: dist.MultivariateStudentT(t(5.0), torch.zeros(2), torch.eye(2)), [1.0, 1.0], -3.0155,
    ),
    "NanMaskedMultivariateNormal": (
        lambda: dist.NanMaskedMultivariateNormal(torch.zeros(3), torch.eye(3)), [0.0, torch.nan, 1.0], -2.3379,
    ),
    "OrderedLogistic": (lambda: dist.OrderedLogistic(t(1.0), t([-1.0, 0.0, 1.0])), 2, -1.4651),
    "ProjectedNormal": (lambda: dist.ProjectedNormal(t([1.0, 2.0, 3.0])), [1.0, 0.0, 0.0], -7.6831),
    "SkewLogistic": (lambda: dist.SkewLogistic(1.0, 2.0, 0.5), 5.0, -3.5767),
    "SoftAsymmetricLaplace": (lambda: dist.SoftAsymmetricLaplace(1.0, 2.0, 0.5, 0.7), 0.0, -2.4359),
    "SoftLaplace": (lambda: dist.SoftLaplace(1.0, 2.0), 5.0, -3.1629),
    "TruncatedPolyaGamma": (lambda: dist.TruncatedPolyaGamma(t(1.0)), 0.2, 0.8498),
    "VonMises3D": (lambda: dist.VonMises3D(t([1.0, 2.0, 3.0])), [1.0, 0.0, 0.0], -3.2594),
}  # fmt: skip


@pytest.mark.parametrize("name", PYRO)
def test_densities_are_pyros(name):
    make, value, expected = PYRO[name]
    assert make().log_prob(t(value)) == pytest.approx(expected, abs=1e-4)


def elbo(model, guide, **options):
    return vg.ELBO(**options)(model, guide)


class Squared(dist.TorchDistribution):
    """A family of the user's, as one writes it for Pyro: no expand, no gradients."""

    arg_constraints = {}
    support = constraints.real

    def __init__(self, centre):
        self.centre = centre
        super().__init__(centre.shape)

    def sample(self, sample_shape=torch.Size()):
        with torch.no_grad():
            return self.centre + torch.randn(torch.Size(sample_shape) + self.centre.shape)

    def log_prob(self, value):
        return -0.5 * (value - self.centre).square() - 0.9189385


def test_families_of_the_users():
    d = Squared(torch.zeros(2, 1))
    assert isinstance(d, dist.Distribution)
    assert isinstance(d.expand((5, 2, 3)), dist.ExpandedDistribution)
    assert d.expand((5, 2, 3))().shape == (5, 2, 3)
    assert d.to_event(1).mask(False).log_prob(torch.ones(2, 1)).tolist() == [0.0, 0.0]
    with pytest.raises(TypeError):
        dist.TorchDistribution(torch.Size(), torch.Size()).sample(1, 2, 3)


def test_the_users_families_run_in_programs():
    data = torch.arange(4.0)

    def model():
        z = vg.sample("z", Squared(t(0.0)))
        with vg.plate("data", 4):
            vg.sample("x", Squared(z), obs=data)

    def guide():
        vg.sample("z", Squared(vg.param("m", 0.3)))

    bound = elbo(model, guide, particles=4000)
    torch.manual_seed(0)
    loss = bound()
    (gradient,) = torch.autograd.grad(loss, list(bound.parameters()))
    # d/dm of  m^2 / 2 + sum (x - m)^2 / 2
    assert gradient == pytest.approx(0.3 + (0.3 - data).sum().item(), abs=0.5)


def test_raw_torch_families_run_in_programs():
    def model():
        vg.sample("z", td.Normal(0.0, 1.0, validate_args=False))

    def guide():
        vg.sample("z", td.Normal(vg.param("m", 0.3), 1.0, validate_args=False))

    assert isinstance(elbo(model, guide), Bound)


def test_rejection_sampled_sites_get_their_score_part():
    """Gamma by rejection against the divergence in closed form; Pyro's TraceGraph_ELBO drops half of it."""
    prior = native.Gamma(t(3.0, dtype=torch.float64), t(1.0, dtype=torch.float64))

    def model():
        vg.sample("z", prior)

    def guide():
        a = vg.param("a", t(2.0, dtype=torch.float64))
        vg.sample("z", RejectionGamma(a, vg.param("b", t(1.5, dtype=torch.float64))))

    torch.manual_seed(0)
    bound = elbo(model, guide, particles=40_000)
    gradient = torch.stack(torch.autograd.grad(bound(), list(bound.parameters())))
    a, b = (p.detach().requires_grad_() for p in bound.parameters())
    exact = torch.stack(torch.autograd.grad(td.kl_divergence(td.Gamma(a, b), prior), [a, b]))
    assert torch.allclose(gradient, exact, atol=0.03)


def test_rejectors_run_in_programs():
    """A Normal kept with probability exp(-z^2 / 2) is a narrower Normal: the gradient is known."""

    def tilted(loc, scale):
        return dist.Rejector(
            dist.Normal(loc, scale),
            lambda z: -z.square() / 2,
            td.Normal(0.0, (1 + scale.square()).sqrt()).log_prob(loc) + 0.9189385332,
        )

    def model():
        vg.sample("z", dist.Normal(torch.zeros(()), 1.0))

    def guide():
        vg.sample("z", tilted(vg.param("m", t(0.5)), vg.param("s", t(1.2), constraints.positive)))

    torch.manual_seed(0)
    bound = elbo(model, guide, particles=40_000)
    gradient = torch.stack(torch.autograd.grad(bound(), list(bound.parameters())))
    m, s = t(0.5, requires_grad=True), t(1.2).log().requires_grad_()
    variance = 1 / (1 + (-2 * s).exp())
    q = td.Normal(m * (-2 * s).exp() * variance, variance.sqrt())
    exact = torch.stack(torch.autograd.grad(td.kl_divergence(q, td.Normal(0.0, 1.0)), [m, s]))
    assert torch.allclose(gradient, exact, atol=0.02)


class Parted(dist.Gamma):
    """A family of the user's that is partly reparameterised, in Pyro's way."""

    def rsample(self, sample_shape=torch.Size()):
        return native.RejectionGamma(self.concentration, self.rate).rsample(sample_shape)

    def score_parts(self, value):
        part = native.RejectionGamma(self.concentration, self.rate).score_part(value)
        return dist.ScoreParts(self.log_prob(value), part, self.log_prob(value))


def test_score_parts_of_the_users_are_used():
    assert torch.equal(
        Parted(t(2.0), t(1.0)).score_part(t(0.7)), native.RejectionGamma(t(2.0), t(1.0)).score_part(t(0.7))
    )


def test_constraints_reach_their_own_transforms():
    def model():
        vg.param("softplus", t([0.5, 1.0]), constraints.softplus_positive)
        vg.param("ordered", t([0.5, 1.0]), constraints.ordered_vector)
        vg.param("corr", torch.eye(2), constraints.corr_matrix)
        vg.param("unit", torch.eye(2), constraints.unit_lower_cholesky)
        vg.sample("x", dist.Normal(0.0, 1.0), obs=t(0.0))

    bound = elbo(model, lambda: None)
    leaves = dict(bound.named_parameters())
    assert torch.allclose(torch.nn.functional.softplus(leaves["softplus"]), t([0.5, 1.0]))
    assert torch.allclose(bound.constrained_values()["ordered"], t([0.5, 1.0]))
    assert torch.allclose(bound.constrained_values()["corr"], torch.eye(2))


TRANSFORMS = """
    AffineAutoregressive AffineCoupling BatchNorm CholeskyTransform ComposeTransform ComposeTransformModule
    CorrLCholeskyTransform CorrMatrixCholeskyTransform ELUTransform Householder LeakyReLUTransform
    LowerCholeskyAffine Normalize OrderedTransform Permute Planar PositivePowerTransform Radial
    SimplexToOrderedTransform SoftplusLowerCholeskyTransform SoftplusTransform Spline SplineAutoregressive
    SplineCoupling Sylvester UnitLowerCholeskyTransform affine_autoregressive affine_coupling batchnorm
    biject_to elu householder iterated leaky_relu permute planar radial spline spline_autoregressive
    spline_coupling sylvester transform_to
"""


def test_flows():
    """A guide that is a flow, of the helper functions that programs use."""
    flow = transforms.iterated(2, transforms.affine_autoregressive, 2, hidden_dims=[8])
    order, last = transforms.permute(2, t([1, 0])), transforms.planar(2)

    def model():
        pyro.sample("z", dist.Normal(t([1.0, -1.0]), 0.5).to_event(1))

    def guide():
        pyro.module("flow", flow)
        pyro.module("last", last)
        base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        pyro.sample("z", dist.TransformedDistribution(base, [*flow.parts, order, last]))

    pyro.clear_param_store()
    svi = SVI(model, guide, Adam({"lr": 0.02}), Trace_ELBO())
    torch.manual_seed(0)
    losses = [svi.step() for _ in range(200)]
    assert sum(losses[-50:]) < sum(losses[:50]) / 2
    assert all(name.startswith(("flow$$$", "last$$$")) for name in pyro.get_param_store())
    pyro.clear_param_store()
    for name in TRANSFORMS.split():
        assert hasattr(transforms, name), name
    dist.TransformedDistribution(dist.Normal(torch.zeros(2), 1.0), [transforms.spline(2)]).clear_cache()
    assert isinstance(transforms.spline(2, count_bins=4, order="quadratic"), dist.TransformModule)


def test_util():
    assert util.broadcast_shape((3, 1), (4,)) == (3, 4)
    with pytest.raises(ValueError, match="broadcast"):
        util.broadcast_shape((3,), (4,))
    with pytest.raises(ValueError, match="differ"):
        util.broadcast_shape((1,), (4,), strict=True)
    x = torch.ones(2, 3, 4)
    assert util.sum_rightmost(x, 2).shape == (2,)
    assert util.sum_rightmost(x, -2).shape == (2, 3)
    assert util.sum_leftmost(x, 2).shape == (4,)
    assert util.sum_leftmost(x, -2).shape == (3, 4)
    assert torch.equal(util.scale_and_mask(t([1.0, 2.0]), 3.0, t([True, False])), t([3.0, 0.0]))
    assert util.scale_and_mask(t([1.0]), 2.0, False) == 0
    assert util.eye_like(x, 2, 3).shape == (2, 3)
    assert util.scalar_like(x.double(), 2.0).dtype == torch.float64
    d = util.detach(dist.Normal(t(0.0, requires_grad=True), 1.0))
    assert not d.loc.requires_grad
    moved = util.deep_to(dist.Normal(torch.zeros(3), 1.0).to_event(1), torch.float64)
    assert moved.base_dist.loc.dtype == util.deep_to(x, torch.float64).dtype == torch.float64
    assert moved.event_shape == (3,)
    with util.validation_enabled(False):
        assert not util.is_validation_enabled()
        td.Normal(0.0, -1.0)
    with pytest.raises(ValueError, match="scale"):
        td.Normal(0.0, -1.0)


GREY = t([0.2, 0.7])


@pytest.mark.parametrize("way", ["argument", "switch", "batch"])
def test_values_outside_of_a_support_can_be_allowed(way):
    """Grey pixels under a Bernoulli, as in autoencoders."""
    probs = torch.full((2,), 0.4)

    def model():
        if way == "switch":
            likelihood = dist.Bernoulli(probs)
        else:
            likelihood = dist.Bernoulli(probs if way == "argument" else t(0.4), validate_args=False)
        pyro.sample("x", (likelihood.expand((2,)) if way == "batch" else likelihood).to_event(1), obs=GREY)

    with util.validation_enabled(way != "switch"):
        loss = Trace_ELBO().loss(model, lambda: None)
    assert loss == pytest.approx(-(GREY * t(0.4).log() + (1 - GREY) * t(0.6).log()).sum().item())
    with pytest.raises(SupportError, match="outside the support"):
        Trace_ELBO().loss(lambda: pyro.sample("x", dist.Bernoulli(probs).to_event(1), obs=GREY), lambda: None)
