"""Pyro's automatic guides. Numbers marked as Pyro's were recorded from pyro-ppl 1.9.2."""

import copy
import functools
from functools import partial

import pytest
import torch

import varigrad.compat.pyro as pyro
import varigrad.compat.pyro.distributions as dist
from varigrad.compat.pyro import infer, poutine
from varigrad.compat.pyro.infer import autoguide
from varigrad.compat.pyro.infer.autoguide import (
    AutoCallable,
    AutoContinuous,
    AutoDelta,
    AutoDiagonalNormal,
    AutoDiscreteParallel,
    AutoGuideList,
    AutoIAFNormal,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    AutoNormalizingFlow,
    initialization,
)
from varigrad.compat.pyro.nn import PyroParam

t = torch.tensor
ALL = pytest.mark.parametrize(
    "kind",
    [AutoNormal, AutoDelta, AutoDiagonalNormal, AutoMultivariateNormal, AutoLowRankMultivariateNormal],
)
JOINT = pytest.mark.parametrize("kind", [AutoDiagonalNormal, AutoMultivariateNormal, AutoLowRankMultivariateNormal])
pytestmark = pytest.mark.filterwarnings("ignore:.*outside of inference the value is just passed on:RuntimeWarning")


@pytest.fixture(autouse=True)
def _seeded():
    pyro.set_rng_seed(0)


def model(x=None):
    a = pyro.sample("a", dist.Normal(0.0, 10.0))
    s = pyro.sample("s", dist.Gamma(2.0, 1.0))
    pyro.sample("w", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("data", 4):
        z = pyro.sample("z", dist.Normal(a, s))
        pyro.sample("x", dist.Normal(z, 1.0), obs=torch.arange(4.0))


def small():
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    s = pyro.sample("s", dist.Gamma(3.0, 1.0))
    with pyro.plate("d", 3):
        pyro.sample("x", dist.Normal(a, s), obs=t([0.0, 1.0, 3.0]))


def fitted(program, guide, steps=600, lr=0.02, particles=10):
    svi = infer.SVI(
        program, guide, pyro.optim.Adam({"lr": lr}), infer.Trace_ELBO(num_particles=particles, vectorize_particles=True)
    )
    for _ in range(steps):
        svi.step()
    return guide


# Names


@pytest.mark.parametrize(
    ("kind", "stored", "own"),
    [
        (AutoNormal, ["locs.a", "scales.a", "locs.s", "scales.s"], ["locs.a_unconstrained", "scales.s_unconstrained"]),
        (AutoDelta, ["a", "s", "w", "z"], ["a_unconstrained", "w_unconstrained"]),
        (AutoDiagonalNormal, ["loc", "scale"], ["loc", "scale_unconstrained"]),
        (AutoMultivariateNormal, ["loc", "scale", "scale_tril"], ["loc", "scale_tril_unconstrained"]),
        (AutoLowRankMultivariateNormal, ["loc", "scale", "cov_factor"], ["loc", "cov_factor"]),
        (AutoLaplaceApproximation, ["loc"], ["loc"]),
    ],
)
def test_parameters_have_pyros_names(kind, stored, own):
    guide = kind(model)
    assert not list(guide.parameters()) and not list(pyro.get_param_store())  # Pyro's are made at the first call, too
    values = guide()
    assert {n: v.shape for n, v in values.items()} == {"a": (), "s": (), "w": (3,), "z": (4,)}
    store = pyro.get_param_store()
    name = kind.__name__
    assert {f"{name}.{n}" for n in stored} <= set(store) and len(store) == (8 if kind is AutoNormal else len(stored))
    assert set(own) <= set(dict(guide.named_parameters()))
    leaves = {id(p) for p in guide.parameters()}
    assert all(id(store[n].unconstrained()) in leaves for n in store)
    traced = poutine.trace(guide).get_trace()
    assert set(traced.param_nodes) == set(store)


def test_where_they_begin_is_where_pyros_do():
    """Pyro's numbers."""
    guide = AutoNormal(model)
    guide()
    assert guide.locs.s == 0 and guide.scales.z.tolist() == pytest.approx([0.1] * 4)
    assert guide.median()["s"] == 1 and guide.median()["w"].tolist() == pytest.approx([1 / 3] * 3)
    pyro.set_rng_seed(0)
    delta = AutoDelta(model)
    delta()
    assert delta.a.item() == pytest.approx(-4.0334, abs=1e-3) and delta.s.item() == pytest.approx(2.0180, abs=1e-3)
    assert delta.median()["w"].tolist() == pytest.approx([1 / 3] * 3)
    pyro.set_rng_seed(0)
    joint = AutoMultivariateNormal(model)
    joint()
    assert joint.loc[:4].tolist() == pytest.approx([-4.0334, 0.7021, 0.0, 0.0], abs=1e-3)
    assert joint.scale.tolist() == pytest.approx([0.1] * 8) and torch.equal(joint.scale_tril, torch.eye(8))
    assert joint.latent_dim == 8
    low = AutoLowRankMultivariateNormal(model)
    low()
    assert low.rank == 3 and low.cov_factor.shape == (8, 3) and low.scale[0].item() == pytest.approx(0.0707, abs=1e-4)


def test_attributes_and_sites():
    guide = AutoDiagonalNormal(model)
    guide()
    trace = poutine.trace(guide).get_trace()
    latent = trace.nodes["_AutoDiagonalNormal_latent"]
    assert latent["infer"] == {"is_auxiliary": True} and latent["value"].shape == (8,)
    assert guide.model is model and guide.get_posterior().base_dist.loc.shape == (8,)
    assert guide.sample_latent().shape == (8,)
    assert set(guide.prototype_trace.stochastic_nodes) == {"a", "s", "w", "z"}
    assert len(AutoNormal(model).call()) == 4
    dotted = AutoNormal(lambda: pyro.sample("net.weight", dist.Normal(0.0, 1.0)))
    dotted()
    assert "AutoNormal.locs.net.weight" in pyro.get_param_store() and dotted.locs.net.weight == 0


# Fits


@pytest.mark.parametrize(
    ("kind", "median", "low", "high"),
    [
        (AutoNormal, (0.599, 2.108), (-0.323, 1.275), (1.520, 3.486)),
        (AutoDiagonalNormal, (0.662, 2.077), (-0.271, 1.284), (1.596, 3.359)),
        (AutoMultivariateNormal, (0.601, 2.070), (-0.360, 1.262), (1.563, 3.395)),
    ],
)
def test_fits_agree_with_pyros(kind, median, low, high):
    """Pyro's medians and quantiles after as many steps with as many particles."""
    guide = fitted(small, kind(small), steps=800)
    found = guide.median()
    assert (found["a"].item(), found["s"].item()) == pytest.approx(median, abs=0.12)
    quantiles = guide.quantiles([0.1, 0.9])
    for i, wanted in enumerate((low, high)):
        assert (quantiles["a"][i].item(), quantiles["s"][i].item()) == pytest.approx(wanted, abs=0.25)


def test_the_full_covariance_of_a_linear_model():
    inputs, outputs = torch.randn(20, 2), torch.randn(20)
    covariance = torch.linalg.inv(inputs.T @ inputs + torch.eye(2))

    def linear():
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", 20):
            pyro.sample("y", dist.Normal((inputs * w).sum(-1), 1.0), obs=outputs)

    guide = AutoMultivariateNormal(linear, init_scale=0.3)
    fitted(linear, guide, steps=500, lr=0.02)
    fitted(linear, guide, steps=300, lr=0.002, particles=30)
    assert torch.allclose(guide.loc, covariance @ inputs.T @ outputs, atol=0.02)
    assert torch.allclose(guide.get_posterior().covariance_matrix, covariance, atol=0.01)


def test_the_laplace_approximation():
    """Pyro's numbers."""
    guide = fitted(small, AutoLaplaceApproximation(small), particles=1, lr=0.05)
    normal = guide.laplace_approximation()
    assert normal.loc.tolist() == pytest.approx([0.6291, 0.6057], abs=2e-3)
    wanted = [0.6229, -0.1426, -0.1426, 0.2145]
    assert normal.get_posterior().covariance_matrix.flatten().tolist() == pytest.approx(wanted, abs=2e-3)
    assert normal.median()["s"].item() == pytest.approx(1.8325, abs=5e-3)


@ALL
def test_losses_are_of_one_value_with_pyro_like_objectives(kind):
    guide = kind(model)
    for elbo in (infer.Trace_ELBO(), infer.TraceGraph_ELBO(), infer.TraceMeanField_ELBO()):
        svi = infer.SVI(model, guide, pyro.optim.ClippedAdam({"lr": 0.01}), elbo)
        assert all(torch.tensor(svi.step()).isfinite() for _ in range(3))
        assert torch.tensor(svi.evaluate_loss()).isfinite()


def test_own_losses_have_the_same_gradients():
    """The density of values and jacobians, by traces."""
    guide = AutoMultivariateNormal(model)
    guide()

    def own():
        q = poutine.trace(guide).get_trace()
        p = poutine.trace(poutine.replay(model, trace=q)).get_trace()
        return q.log_prob_sum() - p.log_prob_sum()

    elbo = infer.Trace_ELBO()
    elbo.differentiable_loss(model, guide)
    grads = []
    for loss in (own, partial(elbo.differentiable_loss, model, guide)):
        pyro.set_rng_seed(3)
        value = loss()
        grads.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, list(guide.parameters()))]))
        grads[-1] = torch.cat([value.detach().reshape(1), grads[-1]])
    assert torch.allclose(*grads, atol=1e-4)


# Modules and the store


@ALL
def test_guides_are_modules_of_torch(kind):
    guide = kind(model)
    loss = infer.Trace_ELBO()(model, guide)
    loss()
    optimiser = torch.optim.Adam(loss.parameters(), lr=0.01)
    before = {n: p.detach().clone() for n, p in guide.named_parameters()}
    loss().backward()
    optimiser.step()
    assert any(not torch.equal(p, before[n]) for n, p in guide.named_parameters())
    twin = copy.deepcopy(guide)
    twin.load_state_dict(guide.state_dict())
    assert all(torch.equal(twin.median()[n], guide.median()[n]) for n in "asw")


def test_what_the_store_has_wins():
    guide = AutoNormal(small)
    guide()
    store = pyro.get_param_store()
    saved = copy.deepcopy(store.get_state())
    fitted(small, guide, steps=5)
    moved = guide.median()["a"].item()
    store.set_state(saved)
    guide()
    assert guide.median()["a"].item() == 0 != moved
    pyro.clear_param_store()
    guide()
    assert len(store) == 4
    fitted(small, guide, steps=5)
    assert guide.median()["a"].item() != 0


# Plates


@pytest.mark.parametrize("kind", [AutoNormal, AutoDelta])
def test_minibatches(kind):
    data = torch.arange(6.0)

    def program():
        with pyro.plate("data", 6, subsample_size=2) as i:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.1), obs=data[i])

    guide = kind(program)
    assert guide()["z"].shape == (2,)
    fitted(program, guide, steps=900, lr=0.05, particles=1)
    assert torch.allclose(guide.median()["z"], data / 1.01, atol=0.3)


def test_minibatches_that_the_model_is_given():
    def program(data, i):
        with pyro.plate("data", 6, subsample=i):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 0.1), obs=data[i])

    data = torch.arange(6.0)
    plates = lambda data, i: pyro.plate("data", 6, subsample=i)  # noqa: E731
    guide = AutoNormal(program, create_plates=plates)
    svi = infer.SVI(program, guide, pyro.optim.Adam({"lr": 0.05}), infer.Trace_ELBO())
    for step in range(600):
        svi.step(data, t([step % 6, (step + 1) % 6]))
    assert torch.allclose(guide.median()["z"], data / 1.01, atol=0.3)
    unaware = AutoNormal(program)
    with pytest.raises(ValueError, match="'data': has another minibatch at site"):
        infer.SVI(program, unaware, pyro.optim.Adam({"lr": 0.05}), infer.Trace_ELBO()).step(data, t([0, 1]))


@JOINT
def test_joint_guides_refuse_minibatches(kind):
    def program():
        with pyro.plate("data", 6, subsample_size=2):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match=rf"'data': is subsampled; because {kind.__name__} draws all elements"):
        kind(program)()


# Composed


def test_lists():
    """Pyro's names."""
    guide = AutoGuideList(small)
    guide.append(AutoDelta(poutine.block(small, expose=["a"])))
    guide.append(AutoDiagonalNormal(poutine.block(small, hide=["a"])))
    assert guide().keys() == {"a", "s"}
    assert list(pyro.get_param_store()) == ["AutoGuideList.0.a", "AutoGuideList.1.loc", "AutoGuideList.1.scale"]
    assert [n for n, _ in guide.named_parameters()] == ["0.a_unconstrained", "1.loc", "1.scale_unconstrained"]
    fitted(small, guide, steps=300)
    assert guide.median().keys() == {"a", "s"} and guide.quantiles([0.2, 0.8])["s"].shape == (2,)
    assert guide.median()["a"].item() == pytest.approx(0.6, abs=0.3)
    assert len(guide) == 2 and isinstance(guide[0], AutoDelta)
    guide.append(AutoDelta(poutine.block(small, expose=["a"])))
    with pytest.raises(ValueError, match="'a': is covered by two parts"):
        guide()


def test_lists_of_programs_of_ones_own():
    def own():
        pyro.sample("a", dist.Normal(pyro.param("m", t(0.3)), 0.1))

    guide = AutoGuideList(small)
    guide.append(AutoNormal(poutine.block(small, hide=["a"])))
    guide.append(own)
    guide.add(AutoCallable(small, dict, median=lambda: {"a": pyro.param("m").detach()}))
    fitted(small, guide, steps=50)
    assert {"m", "AutoGuideList.0.locs.s"} <= set(pyro.get_param_store())
    assert guide.median()["a"].item() == pytest.approx(pyro.param("m").item())


def test_lists_within_minibatches():
    def program():
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 6, subsample_size=2) as i:
            z = pyro.sample("z", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=torch.arange(6.0)[i])

    guide = AutoGuideList(program)
    guide.append(AutoMultivariateNormal(poutine.block(program, expose=["a"])))
    guide.append(AutoNormal(poutine.block(program, expose=["z"])))
    fitted(program, guide, steps=20, particles=1)
    assert guide.median()["z"].shape == (6,)


def test_discrete_sites():
    @infer.config_enumerate
    def program():
        k = pyro.sample("k", dist.Categorical(t([0.2, 0.8])))
        with pyro.plate("d", 3):
            b = pyro.sample("b", dist.Bernoulli(t([0.3, 0.6])[k]))
            pyro.sample("x", dist.Normal(b, 0.5), obs=t([0.0, 1.0, 1.0]))

    guide = AutoDiscreteParallel(program)
    guide()
    store = pyro.get_param_store()
    assert store["AutoDiscreteParallel.k_probs"].tolist() == pytest.approx([0.2, 0.8])
    svi = infer.SVI(program, guide, pyro.optim.Adam({"lr": 0.05}), infer.TraceEnum_ELBO(max_plate_nesting=1))
    for _ in range(200):
        svi.step()
    # By hand: q(b = 1) for the best independent posterior.
    assert store["AutoDiscreteParallel.b_probs"].tolist() == pytest.approx([0.15, 0.91, 0.91], abs=0.05)
    with pytest.raises(NotImplementedError, match="'a': expected to be discrete and marked"):
        AutoDiscreteParallel(small)()


def test_a_guide_of_ones_own_kind():
    class Student(AutoContinuous):
        def _setup_prototype(self, *args, **kwargs):
            super()._setup_prototype(*args, **kwargs)
            self.loc = torch.nn.Parameter(self._init_loc())
            self.scale = PyroParam(torch.full((self.latent_dim,), 0.2), dist.constraints.positive)

        def get_posterior(self, *args, **kwargs):
            return dist.StudentT(5.0, self.loc, self.scale).to_event(1)

    guide = Student(small)
    fitted(small, guide, steps=100)
    assert set(pyro.get_param_store()) == {"Student.loc", "Student.scale"}
    with pytest.raises(NotImplementedError, match="has no medians in closed form"):
        guide.median()


def test_flows():
    class Scale(torch.nn.Module, torch.distributions.Transform):
        domain = codomain = torch.distributions.constraints.real_vector
        bijective = True

        def __init__(self, size):
            torch.nn.Module.__init__(self)
            torch.distributions.Transform.__init__(self, cache_size=1)
            self.log = torch.nn.Parameter(torch.zeros(size))
            self.shift = torch.nn.Parameter(torch.zeros(size))

        __hash__ = torch.nn.Module.__hash__

        def forward(self, x):
            return torch.distributions.Transform.__call__(self, x)

        def _call(self, x):
            return x * self.log.exp() + self.shift

        def _inverse(self, y):
            return (y - self.shift) / self.log.exp()

        def log_abs_det_jacobian(self, x, y):
            return self.log.sum(-1).expand(x.shape[:-1])

    guide = fitted(small, AutoNormalizingFlow(small, Scale), steps=400)
    assert {"AutoNormalizingFlow.transform$$$log", "AutoNormalizingFlow.transform$$$shift"} == set(
        pyro.get_param_store()
    )
    assert guide.transform.shift[0].item() == pytest.approx(0.62, abs=0.3)


def test_inverse_autoregressive_flows():
    """Pyro's names, and a density that integrates to one."""
    guide = AutoIAFNormal(small, hidden_dim=[8], num_transforms=2)
    guide()
    names = set(pyro.get_param_store())
    assert "AutoIAFNormal.transform$$$0.arn.layers.0.weight" in names and len(names) == 8
    fitted(small, guide, steps=500, particles=10)
    values = infer.Predictive(small, guide=guide, num_samples=300, return_sites=["a", "s"])()
    assert values["a"].mean().item() == pytest.approx(0.62, abs=0.3)
    assert values["s"].median().item() == pytest.approx(2.08, abs=0.4)
    with pytest.warns(FutureWarning, match="init_loc_fn does nothing"):
        AutoIAFNormal(small, init_loc_fn=autoguide.init_to_mean)


# Starting points


@pytest.mark.parametrize("kind", [AutoNormal, AutoDelta, AutoMultivariateNormal])
def test_initialisers(kind):
    def start(init):
        pyro.clear_param_store()  # else what it has wins
        guide = kind(model, init_loc_fn=init)
        guide()
        return guide.median()

    assert start(initialization.init_to_feasible)["s"].item() == pytest.approx(1.0)
    assert start(autoguide.init_to_mean)["s"].item() == pytest.approx(2.0)
    assert start(autoguide.init_to_mean())["w"].tolist() == pytest.approx([1 / 3] * 3)
    assert 0.3 < start(autoguide.init_to_median(num_samples=50))["s"].item() < 4
    assert start(autoguide.init_to_sample)["z"].shape == (4,)
    assert -1e-2 < start(autoguide.init_to_uniform(radius=1e-3))["a"].item() < 1e-2
    given = autoguide.init_to_value(values={"s": t(3.0)}, fallback=autoguide.init_to_mean)
    assert start(given)["s"].item() == pytest.approx(3.0) and start(given)["a"].item() == 0
    made = []
    generated = autoguide.init_to_generated(generate=lambda: made.append(1) or autoguide.init_to_mean)
    start(generated), start(generated)
    assert len(made) == 2
    assert start(functools.partial(autoguide.init_to_uniform, radius=0.0))["s"].item() == pytest.approx(1.0)
    assert start(lambda site: torch.ones(site["fn"].shape()) / (3 if site["name"] == "w" else 1))["a"] == 1
    with pytest.raises(ValueError, match="'a': has no initial value; because no value is given"):
        start(autoguide.init_to_value(values={}, fallback=None))


def test_later_sites_see_where_earlier_ones_start():
    """As in Pyro: the model is run once, on the starting values."""
    guide = AutoDelta(
        model, init_loc_fn=autoguide.init_to_value(values={"a": t(500.0)}, fallback=autoguide.init_to_mean)
    )
    guide()
    assert guide.median()["z"].tolist() == pytest.approx([500.0] * 4)


def test_means_and_medians_that_do_not_exist():
    site = {"name": "c", "fn": dist.Cauchy(0.0, 1.0)}
    assert initialization.init_to_mean(site).isfinite()
    site = {"name": "d", "fn": dist.Dirichlet(torch.ones(3))}
    assert initialization.init_to_median(site).tolist() == pytest.approx([1 / 3] * 3)
    with pytest.raises(ValueError, match="'d': has no initial value; because its median"):
        initialization.init_to_median(site, fallback=None)


# Mistakes


@ALL
def test_mistakes(kind):
    with pytest.raises(ValueError, match=rf"'k': {kind.__name__} has no distribution for a discrete site"):
        kind(lambda: pyro.sample("k", dist.Categorical(torch.ones(2))))()
    if kind not in (AutoNormal, AutoDelta):
        with pytest.raises(ValueError, match="the model has no latent sites"):
            kind(lambda: pyro.sample("x", dist.Normal(0.0, 1.0), obs=t(0.0)))()
    with pytest.raises(ValueError, match="init_loc_fn must be a function of a site"):
        kind(model, init_loc_fn=3)
    if kind is not AutoDelta:
        with pytest.raises(ValueError, match="init_scale"):
            kind(model, init_scale=-1.0)
    if kind is AutoLowRankMultivariateNormal:
        with pytest.raises(ValueError, match="Expected rank > 0 but got 0"):
            kind(model, rank=0)
    with pytest.raises(NotImplementedError, match="AutoGuide has no median"):
        autoguide.AutoGuide(model).median()


@ALL
def test_predictions(kind):
    guide = kind(model)
    guide()
    found = infer.Predictive(model, guide=guide, num_samples=7, return_sites=["z", "a"])()
    assert found["z"].shape == (7, 4) and found["a"].shape[0] == 7
