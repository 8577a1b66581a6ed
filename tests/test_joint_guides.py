"""Guides of several sites at once: the full covariance of a linear model is found, parts join, starting points."""

import copy
from functools import partial

import pytest
import torch
from torch import distributions as td

import varigrad as vg
from varigrad import distributions as dist
from varigrad import guides
from varigrad.errors import ConstraintError, GuideMismatchError, PlateError, SiteError, VarigradError
from varigrad.estimators import Pathwise, Score
from varigrad.guides import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)

JOINT = pytest.mark.parametrize("kind", [AutoDiagonalNormal, AutoMultivariateNormal, AutoLowRankMultivariateNormal])
EXACT = vg.ELBO(estimators={"*": Pathwise(sticking_the_landing=True)})  # no noise where the guide is the posterior
DECAY = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.99)
INPUTS = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
OUTPUTS = torch.randn(20, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
COVARIANCE = torch.linalg.inv(INPUTS.T @ INPUTS + torch.eye(3))
MEAN = COVARIANCE @ INPUTS.T @ OUTPUTS
zero = torch.zeros((), dtype=torch.float64)
t = torch.tensor


def linear():
    """A linear model with an intercept alone and two slopes in a plate: posterior Normal(MEAN, COVARIANCE)."""
    a = vg.sample("a", dist.Normal(zero, 1.0))
    with vg.plate("slopes", 2, dim=-2):
        b = vg.sample("b", dist.Normal(zero, 1.0))
    with vg.plate("data", 20, dim=-1):
        mean = INPUTS[:, 0] * a + (INPUTS[:, 1:].T * b).sum(-2, keepdim=b.dim() > 2)
        vg.sample("y", dist.Normal(mean, 1.0), obs=OUTPUTS)


def positive():
    scale = vg.sample("scale", dist.Gamma(t(2.0).double(), 1.0))
    weights = vg.sample("weights", dist.Dirichlet(torch.ones(3).double()))
    vg.sample("y", dist.Normal(weights, scale.unsqueeze(-1)).to_event(1), obs=t([0.2, 0.5, 0.3]).double())


def fitted(model, guide, steps=1100):
    vg.SVI(model, guide, vg.optim.Adam(lr=0.1, schedule=DECAY), EXACT, seed=0).run(steps)
    return guide


# Fits


@pytest.mark.parametrize("kind", [AutoMultivariateNormal, partial(AutoLowRankMultivariateNormal, rank=2)])
def test_the_full_covariance_is_found(kind):
    guide = fitted(linear, kind(linear))
    assert torch.allclose(guide.loc, MEAN, atol=1e-4)
    assert torch.allclose(guide.normal().covariance_matrix, COVARIANCE, atol=1e-4)
    assert torch.allclose(guide.deviations(), COVARIANCE.diag().sqrt(), atol=1e-4)
    assert torch.allclose(guide.median()["b"].squeeze(-1), MEAN[1:], atol=1e-4)
    wanted = td.Normal(MEAN[0], COVARIANCE[0, 0].sqrt()).icdf(t([0.1, 0.9]).double())
    assert torch.allclose(guide.quantiles([0.1, 0.9])["a"], wanted, atol=1e-4)


def test_a_diagonal_normal_finds_what_independent_normals_find():
    """Means of the posterior, and the deviations given all others."""
    guide = fitted(linear, AutoDiagonalNormal(linear), 1000)
    assert torch.allclose(guide.loc, MEAN, atol=2e-2)
    assert torch.allclose(guide.deviations(), torch.linalg.inv(COVARIANCE).diag().rsqrt(), atol=2e-2)


@JOINT
@pytest.mark.parametrize("model", [linear, positive])
def test_its_density_is_that_of_the_values(kind, model):
    """log q(values), by a change of variables of one's own."""
    guide = kind(model)
    trace = vg.handlers.trace(guide)()
    density = sum(m.distribution.log_prob(m.value).sum() for m in trace.samples.values())
    vector = trace[guide.name].value
    wanted = guide.normal().log_prob(vector)
    if model is positive:
        scale, weights = trace["scale"].value, trace["weights"].value
        jacobian = torch.autograd.functional.jacobian(
            lambda u: torch.cat([u[:1].exp(), td.StickBreakingTransform()(u[1:])[:2]]), vector
        )
        assert torch.allclose(scale, vector[0].exp()) and torch.allclose(weights.sum(), t(1.0).double())
        wanted = wanted - torch.linalg.slogdet(jacobian).logabsdet
    assert torch.allclose(density, wanted)


@JOINT
def test_gradients_agree_with_the_score_function(kind):
    """Pathwise through the auxiliary site, and its score with the whole cost, have one mean."""
    guide = kind(positive, init_scale=0.5)
    found = {}
    for name, estimator, particles in (("path", Pathwise(), 4000), ("score", Score(), 40_000)):
        config = vg.ELBO(particles, {guide.name: estimator}, vectorize=True)
        torch.manual_seed(0)
        bound = config(positive, guide).init()
        grads = torch.autograd.grad(bound(), list(guide.parameters()))
        found[name] = torch.cat([g.reshape(-1) for g in grads])
    assert torch.allclose(found["path"], found["score"], atol=0.15)


@JOINT
def test_particles_run_side_by_side(kind):
    bound = vg.ELBO(3, vectorize=True)(linear, kind(linear))
    assert bound().isfinite()
    assert bound.trace_guide().latents["b"].shape == (2, 1)
    assert set(bound.trace_guide().latents) == {"a", "b"}  # the auxiliary site is no latent of the model's


@JOINT
def test_it_is_a_module(kind):
    guide = kind(positive)
    twin = kind(positive, init_scale=0.7, init=guides.init_to_feasible)
    twin.load_state_dict(guide.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(guide.parameters(), twin.parameters(), strict=True))
    assert torch.equal(copy.deepcopy(guide).median()["weights"], guide.median()["weights"])
    late = kind(lambda data: positive())
    with pytest.raises(SiteError, match=r"has not been built yet.*Try: Auto\w+\(model, \*args\)"):
        late.median()
    late(None)
    assert late.median().keys() == {"scale", "weights"}


def test_auxiliary_sites_are_checked():
    def guide():
        u = vg.sample("u", dist.Normal(vg.param("m", 0.0), 1.0), auxiliary=True)
        vg.sample("z", dist.Delta(u))

    def model():
        vg.sample("z", dist.Normal(0.0, 1.0))

    assert vg.ELBO()(model, guide)().isfinite()
    with pytest.raises(GuideMismatchError, match=r"'u': is a site of the guide and not of the model.*auxiliary=True"):
        vg.ELBO()(model, lambda: vg.sample("z", dist.Delta(vg.sample("u", dist.Normal(0.0, 1.0)))))
    with pytest.raises(SiteError, match="'u': is auxiliary and observed"):
        vg.sample("u", dist.Normal(0.0, 1.0), obs=t(0.0), auxiliary=True)


# What joint guides cannot serve


@JOINT
def test_a_minibatch_is_an_error(kind):
    def model():
        with vg.plate("data", 6, subsample_size=2):
            vg.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(PlateError, match=r"'data': is subsampled; because Auto\w+ draws all elements.*AutoGuideList"):
        kind(model)


@JOINT
def test_a_mask_is_an_error(kind):
    def model():
        with vg.plate("data", 2), vg.handlers.mask(mask=t([True, False])):
            vg.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(SiteError, match=r"'z': is masked; because .*AutoGuideList"):
        kind(model)


def test_options_are_checked():
    for wrong in (0, -1, True, 1.5):
        with pytest.raises(VarigradError, match="rank must be a whole number"):
            AutoLowRankMultivariateNormal(linear, rank=wrong)
    with pytest.raises(VarigradError, match="init_scale must be positive, got -1"):
        AutoMultivariateNormal(linear, init_scale=-1)
    with pytest.raises(SiteError, match=r"no latent sites that match \('nothing',\)"):
        AutoNormal(linear, sites="nothing")
    with pytest.raises(SiteError, match="probabilities must be numbers between 0 and 1"):
        AutoNormal(linear).quantiles([0.5, 1.0])


# Guides that compose


def test_parts_cover_a_model_together():
    """Globals jointly, the sites of a minibatch one by one, a discrete one by hand."""

    def model(data):
        a = vg.sample("a", dist.Normal(0.0, 1.0))
        b = vg.sample("b", dist.Gamma(2.0, 1.0))
        with vg.plate("data", 6, subsample_size=2):
            z = vg.sample("z", dist.Normal(a, 1.0))
            k = vg.sample("k", dist.Bernoulli(0.5))
            vg.sample("x", dist.Normal(z + k, b), obs=vg.subsample(data))

    def by_hand(data):
        with vg.plate("data", 6, subsample_size=2):
            vg.sample("k", dist.Bernoulli(logits=vg.subsample(vg.param("logits", torch.zeros(6)))))

    data = torch.arange(6.0)
    guide = AutoGuideList(
        AutoMultivariateNormal(model, data, sites=["a", "b"]), AutoNormal(model, data, sites="z*"), by_hand
    )
    svi = vg.SVI(model, guide, vg.optim.Adam(lr=0.01), seed=0)
    losses = svi.run(30, data).losses
    assert losses.isfinite().all()
    assert {"guide.parts.0.loc", "guide.parts.1.loc.z", "logits"} < set(dict(svi.bound.named_parameters()))
    assert guide.median()["z"].shape == (6,)
    assert guide.quantiles([0.1, 0.5, 0.9])["b"].shape == (3,)


def test_parts_are_checked():
    with pytest.raises(SiteError, match="'a': is covered by two parts of the guide"):
        AutoGuideList(AutoNormal(linear), AutoDelta(linear, sites="a"))
    late = AutoGuideList(AutoNormal(lambda n: linear()), AutoDelta(lambda n: linear()))
    with pytest.raises(ValueError, match=r"twice|two parts"):
        vg.SVI(lambda n: linear(), late, vg.optim.Adam()).step(1)
    with pytest.raises(VarigradError, match="AutoGuideList has no parts"):
        AutoGuideList()
    with pytest.raises(VarigradError, match="must be a callable program, got int"):
        AutoGuideList(3)


# Starting points

INITS = {
    "median": guides.init_to_median,
    "mean": guides.init_to_mean,
    "sample": guides.init_to_sample,
    "feasible": guides.init_to_feasible,
    "uniform": guides.init_to_uniform,
    "narrow": partial(guides.init_to_uniform, radius=1e-3),
    "value": guides.init_to_value({"scale": 3.0}, fallback=guides.init_to_mean),
    "generated": guides.init_to_generated(lambda: guides.init_to_median),
}


@pytest.mark.parametrize("name", INITS)
@pytest.mark.parametrize("kind", [AutoNormal, AutoDelta, AutoMultivariateNormal])
def test_where_guides_start(kind, name):
    found = kind(positive, init=INITS[name]).median()
    assert found["weights"].sum().item() == pytest.approx(1.0)
    again = kind(positive, init=INITS[name]).median()
    assert all(torch.equal(found[n], again[n]) for n in found)
    if name == "mean":
        assert found["scale"].item() == pytest.approx(2.0)
        assert torch.allclose(found["weights"], t(1 / 3).double())
    if name == "value":
        assert found["scale"].item() == pytest.approx(3.0)
    if name in ("feasible", "narrow"):
        assert found["scale"].item() == pytest.approx(1.0, abs=2e-3)


def test_means_that_do_not_exist_or_do_not_fit():
    def model():
        vg.sample("cauchy", dist.Cauchy(0.0, 1.0))
        with vg.plate("p", 6, subsample_size=2):
            vg.sample("z", dist.Normal(torch.arange(2.0), 1.0))
            vg.sample("m", dist.Normal(2.0, 1.0))

    found = AutoDelta(model, init=guides.init_to_mean).median()
    assert found["cauchy"].isfinite()
    assert found["z"].shape == (6,) and torch.equal(found["m"], torch.full((6,), 2.0))


def test_starting_points_are_checked():
    with pytest.raises(SiteError, match=r"'weights': has no initial value.*fallback=init_to_median"):
        AutoNormal(positive, init=guides.init_to_value({"scale": 1.0}, fallback=None))
    with pytest.raises(ConstraintError, match="'scale': init gives a value outside the support"):
        AutoNormal(positive, init=guides.init_to_value({"scale": -1.0}))


def test_quantiles_turn_round_where_the_map_decreases():
    below = td.TransformedDistribution(td.Normal(0.0, 1.0), [td.ExpTransform(), td.AffineTransform(3.0, -1.0)])
    guide = AutoNormal(lambda: vg.sample("z", below), init_scale=0.5)
    low, middle, high = guide.quantiles([0.1, 0.5, 0.9])["z"]
    assert low < middle < high < 3
    assert middle == pytest.approx(guide.median()["z"].item())
    assert torch.equal(*AutoDelta(lambda: vg.sample("z", dist.Gamma(2.0, 1.0))).quantiles([0.1, 0.9])["z"])
