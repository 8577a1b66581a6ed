"""Automatic guides: their parameters exist at once, they respect plates and supports, and they find what is exact."""

import copy
from functools import partial

import pytest
import torch
from torch import distributions as td

import varigrad as vg
from varigrad import distributions as dist
from varigrad.errors import ConstraintError, PlateError, ShapeError, SiteError
from varigrad.estimators import Pathwise
from varigrad.guides import AutoDelta, AutoNormal

GUIDES = pytest.mark.parametrize("kind", [AutoNormal, AutoDelta])
EXACT = vg.ELBO(estimators={"*": Pathwise(sticking_the_landing=True)})  # no noise where the guide is the posterior
DATA = torch.tensor([[0.5, 1.0, 3.0, -2.0], [2.0, 2.5, 1.0, 0.0], [4.0, 5.0, 6.0, 5.5]])
DECAY = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.998)
t = torch.tensor


def conjugate(data=DATA):
    """Every row has a mean of its own: posterior Normal(sum(x) / (n + 1), 1 / sqrt(n + 1))."""
    rows, columns = vg.plate("rows", data.shape[0], dim=-2), vg.plate("columns", data.shape[1], dim=-1)
    with rows:
        mean = vg.sample("mean", dist.Normal(0.0, 1.0))
        with columns:
            vg.sample("x", dist.Normal(mean, 1.0), obs=data)


def names(guide):
    return set(dict(guide.named_parameters()))


# Parameters


def test_parameters_exist_at_once():
    assert names(AutoNormal(conjugate, DATA)) == {"loc.mean", "log_scale.mean"}
    assert names(AutoDelta(conjugate, DATA)) == {"value.mean"}
    assert names(AutoNormal(lambda: conjugate())) == {"loc.mean", "log_scale.mean"}  # takes no arguments
    late = AutoNormal(conjugate)
    assert names(late) == set()
    svi = vg.SVI(conjugate, late, vg.optim.Adam(), seed=0).init(DATA)
    assert names(svi.bound) == {"guide.loc.mean", "guide.log_scale.mean"}
    assert late.loc.mean.shape == (3, 1)
    model = lambda: conjugate()  # noqa: E731
    assert names(vg.SVI(model, AutoDelta(model), vg.optim.Adam()).bound) == {"guide.value.mean"}


@GUIDES
def test_building_is_reproducible_and_leaves_torchs_generator_alone(kind):
    before = torch.random.get_rng_state()
    first, second = kind(conjugate, DATA), kind(conjugate, DATA)
    assert torch.equal(torch.random.get_rng_state(), before)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


@GUIDES
def test_it_is_a_module(kind):
    guide = kind(conjugate, DATA)
    twin = kind(conjugate, DATA, init=lambda site, draws: torch.full_like(draws[0], 3.0))
    twin.load_state_dict(guide.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(guide.parameters(), twin.parameters(), strict=True))
    with vg.handlers.seed(seed=0):
        values = guide.to(torch.float64)(DATA)
    assert values["mean"].dtype == torch.float64
    assert values["mean"].shape == (3, 1)


@GUIDES
def test_the_models_parameters_are_not_the_guides(kind):
    net = torch.nn.Linear(1, 1)

    def model():
        vg.module("net", net)
        z = vg.sample("z.a", dist.Normal(vg.param("m", 0.0), 1.0))
        vg.sample("x", dist.Normal(net(z.reshape(1)).squeeze(), 1.0), obs=t(0.0))

    guide = kind(model)
    assert all("net" not in n and n.endswith("z__a") for n in names(guide))
    assert {"m", "net.weight"} < names(vg.SVI(model, guide, vg.optim.Adam(), seed=0).bound)


# Fits


@pytest.mark.parametrize("size", [None, 2])
def test_auto_normal_reaches_the_exact_posterior(size):
    """Whole, or on minibatches of the columns."""

    def model(data):
        with vg.plate("rows", 3, dim=-2):
            mean = vg.sample("mean", dist.Normal(0.0, 1.0))
            with vg.plate("columns", 4, size, dim=-1):
                vg.sample("x", dist.Normal(mean, 1.0), obs=vg.subsample(data))

    guide = AutoNormal(model, DATA, init_scale=0.5)
    vg.SVI(model, guide, vg.optim.Adam(lr=0.1, schedule=DECAY), EXACT, seed=0).run(1500, DATA)
    noise = 0.01 if size is None else 0.15
    assert torch.allclose(guide.loc.mean.squeeze(), DATA.sum(1) / 5, atol=noise)
    assert torch.allclose(guide.log_scale.mean.exp(), t(5.0**-0.5), atol=noise)


@pytest.mark.parametrize(
    ("prior", "likelihood", "data", "mode"),
    [
        (dist.Beta(2.0, 2.0), dist.Bernoulli, [1.0, 1.0, 0.0], 3 / 5),
        (dist.Gamma(2.0, 1.0), dist.Poisson, [3.0, 4.0], 8 / 3),
        (dist.Normal(0.0, 1.0), lambda z: dist.Normal(z, 1.0), [3.0, 0.0], 1.0),
    ],
    ids=["Beta", "Gamma", "Normal"],
)
def test_auto_delta_reaches_the_mode(prior, likelihood, data, mode):
    def model():
        z = vg.sample("z", prior)
        with vg.plate("data", len(data)):
            vg.sample("x", likelihood(z), obs=t(data))

    guide = AutoDelta(model)
    fit = vg.SVI(model, guide, vg.optim.Adam(lr=0.05), seed=0).run(500)
    assert fit.sample(1)["z"].item() == pytest.approx(mode, abs=2e-3)


# Plates


@GUIDES
def test_local_sites_of_a_minibatch(kind):
    """One parameter an element; only those of the minibatch move; the draw has the minibatch's shape."""
    seen = []

    def model(data):
        with vg.plate("data", 6, subsample_size=2) as indices:
            seen.append(indices)
            z = vg.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            vg.sample("x", dist.Normal(z.sum(-1), 1.0), obs=vg.subsample(data))

    data = torch.arange(6.0)
    guide = kind(model, data)
    name = "value" if kind is AutoDelta else "loc"
    before = guide.get_submodule(name)["z"].detach().clone()
    assert before.shape == (6, 2)
    svi = vg.SVI(model, guide, vg.optim.SGD(lr=0.1), seed=0)
    svi.step(data)
    moved = (guide.get_submodule(name)["z"] != before).any(-1).nonzero().flatten()
    assert moved.tolist() == sorted(seen[-1].tolist())
    assert svi.run(3, data).sample(2)["z"].shape == (2, 2, 2)


@GUIDES
def test_a_minibatch_that_the_model_is_given(kind):
    def model(data, indices):
        with vg.plate("data", 6, subsample=indices):
            z = vg.sample("z", dist.Normal(0.0, 1.0))
            vg.sample("x", dist.Normal(z, 0.1), obs=data[indices])

    data, first = torch.arange(6.0), t([1, 4])
    with pytest.raises(PlateError, match=r"'data': is given its minibatch by the model .*Try: plates=lambda"):
        kind(model, data, first)
    guide = kind(model, data, first, plates=lambda data, indices: vg.plate("data", 6, subsample=indices))
    svi = vg.SVI(model, guide, vg.optim.Adam(lr=0.1), seed=0)
    for step in range(600):
        svi.step(data, t([step % 6, (step + 1) % 6]))
    found = guide.value.z if kind is AutoDelta else guide.loc.z
    assert torch.allclose(found, data / 1.01, atol=0.2)


def test_another_minibatch_in_the_guide_is_an_error():
    def program(indices):
        with vg.plate("data", 6, subsample=indices):
            vg.sample("z", dist.Normal(vg.param("m", 0.0), 1.0))

    with pytest.raises(PlateError, match="'data': has another minibatch at site 'z' than before"):
        vg.SVI(lambda: program(t([0, 1])), lambda: program(t([2, 3])), vg.optim.Adam())


# Supports

SUPPORTS = {
    "real": dist.Normal(1.0, 2.0),
    "positive": dist.Gamma(2.0, 1.0),
    "unit": dist.Beta(2.0, 3.0),
    "interval": dist.Uniform(2.0, 5.0),
    "greater": dist.Pareto(1.0, 3.0),
    "simplex": dist.Dirichlet(torch.ones(3)),
    "vector": dist.MultivariateNormal(torch.zeros(2), torch.eye(2)),
    "event": dist.Gamma(torch.ones(2, 3), 1.0).to_event(2),
    "event in plate": dist.Gamma(torch.ones(2, 3), 1.0).to_event(1),
    "cholesky": dist.LKJCholesky(3, 1.0),
    "mixture": dist.MixtureSameFamily(td.Categorical(torch.ones(2)), td.Gamma(t([1.0, 5.0]), 1.0)),
    "on the edge": dist.Gamma(1e-4, 1.0),
}


@GUIDES
@pytest.mark.parametrize("name", SUPPORTS)
def test_draws_stay_in_the_support_and_gradients_arrive(name, kind):
    prior = SUPPORTS[name]

    def model():
        if prior.batch_shape:
            with vg.plate("p", prior.batch_shape[-1]):
                z = vg.sample("z", prior)
        else:
            with vg.plate("p", 4, subsample_size=2):
                z = vg.sample("z", prior)
        vg.factor("f", z.clamp(max=3).sum() if name != "real" else z.sum())

    guide = kind(model)
    svi = vg.SVI(model, guide, vg.optim.SGD(lr=1e-4), seed=0)
    for _ in range(5):
        svi.step()
        assert all(p.isfinite().all() for p in guide.parameters())
    value = svi.bound.trace_guide()["z"].value
    assert prior.support.check(value).all()
    assert value.shape[-len(prior.event_shape) :] == prior.event_shape or not prior.event_shape
    assert copy.deepcopy(guide).latents[0].name == "z"


def test_auto_normal_is_a_normal_pushed_through():
    """log q of a positive site, by change of variables."""
    guide = AutoNormal(lambda: vg.sample("z", dist.Gamma(2.0, 1.0)))
    message = vg.handlers.trace(guide)()["z"]
    wanted = td.LogNormal(guide.loc.z, guide.log_scale.z.exp()).log_prob(message.value)
    assert torch.allclose(message.distribution.log_prob(message.value), wanted)


@GUIDES
def test_where_it_starts(kind):
    model = lambda: vg.sample("z", dist.Gamma(2.0, 1.0))  # noqa: E731
    start = lambda guide: (guide.value if kind is AutoDelta else guide.loc)["z"].exp()  # noqa: E731
    assert 0.5 < start(kind(model)) < 4
    assert torch.allclose(start(kind(model, init=lambda site, draws: t(7.0))), t(7.0))
    with pytest.raises(ShapeError, match=r"'z': init gives shape \(2,\), the site has \(\)"):
        kind(model, init=lambda site, draws: torch.ones(2))
    with pytest.raises(ConstraintError, match="'z': init gives a value outside the support"):
        kind(model, init=lambda site, draws: t(-1.0))


# Missing data: the guide masks what the model masks


@GUIDES
def test_masked_sites_do_not_spread(kind):
    data, known = t([1.0, torch.nan, 3.0]), t([True, False, True])

    def model():
        with vg.plate("data", 3):
            vg.sample("x", dist.Normal(vg.param("m", 0.0), 1.0), obs=data, obs_mask=known)

    guide = kind(model)
    fit = vg.SVI(model, guide, vg.optim.Adam(lr=0.05, schedule=DECAY), EXACT, seed=0).run(1500)
    assert fit.parameters["m"] == pytest.approx(2.0, abs=0.1)
    if kind is AutoNormal:
        scale = guide.log_scale["x_unobserved"].detach().exp()
        assert scale[1] == pytest.approx(1.0, abs=0.1)  # the prior's
        assert (scale[known] - 0.1).abs().max() < 1e-6  # as it began


# Errors


@GUIDES
@pytest.mark.parametrize("prior", [dist.Bernoulli(0.3), dist.Poisson(2.0), dist.Categorical(torch.ones(3))], ids=repr)
def test_a_discrete_site_is_an_error(kind, prior):
    with pytest.raises(SiteError, match=r"'z': Auto\w+ has no distribution for a discrete site.*LeaveOneOut"):
        kind(lambda: vg.sample("z", prior))


@GUIDES
def test_what_it_cannot_serve_is_an_error(kind):
    with pytest.raises(SiteError, match="the model has no latent sites"):
        kind(lambda: vg.sample("x", dist.Normal(0.0, 1.0), obs=t(0.0)))

    def sometimes():
        if vg.sample("z", dist.Normal(0.0, 1.0)) > 0:
            vg.sample("y", dist.Normal(0.0, 1.0))

    with pytest.raises(SiteError, match="'y': is a latent site in some runs of the model and not in others"):
        kind(sometimes)

    def endless():
        with vg.plate("p"):
            vg.sample("z", dist.Normal(torch.zeros(3), 1.0))

    with pytest.raises(PlateError, match="'p': has no size; because site 'z' needs one parameter per element"):
        kind(endless)
    definite = dist.Wishart(t(4.0), torch.eye(2))
    with pytest.raises(SiteError, match=r"'z': Auto\w+ knows no map to its support, PositiveDefinite"):
        kind(lambda: vg.sample("z", definite))
    with pytest.raises(ValueError, match="init_scale must be positive, got 0"):
        AutoNormal(endless, init_scale=0)
