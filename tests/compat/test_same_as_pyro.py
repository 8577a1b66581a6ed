"""Small things that programs which run on both see; every value is what Pyro 1.9.2 gives for the same program."""

import pytest
import torch
from torch import nn

import varigrad as vg
import varigrad.compat.pyro as pyro
import varigrad.compat.pyro.distributions as dist
from varigrad.compat.pyro import optim, poutine
from varigrad.compat.pyro.infer import SVI, Predictive, Trace_ELBO, TraceEnum_ELBO
from varigrad.compat.pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from varigrad.compat.pyro.nn import PyroModule, PyroParam
from varigrad.errors import ConstraintError, PlateError, SiteError

t = torch.tensor
C = dist.constraints


@pytest.fixture(autouse=True)
def empty_store():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    yield
    pyro.clear_param_store()


class Child(PyroModule):
    def __init__(self, x):
        super().__init__()
        self.a = PyroParam(t(x))
        self.lin = nn.Linear(1, 1)
        nn.init.constant_(self.lin.weight, x)

    def forward(self):
        return self.a * self.lin.weight


class Parent(PyroModule):
    def __init__(self):
        super().__init__()
        self.c = Child(1.0)
        self.other = Child(7.0)

    def forward(self):
        return self.c().sum() + 0 * self.other().sum()


def test_a_submodule_that_is_replaced_takes_its_entries_along():
    net = Parent()
    assert net().item() == 1.0
    names = set(pyro.get_param_store())
    same = net.c
    net.c = same  # nothing is replaced
    assert set(pyro.get_param_store()) == names
    net.c = Child(3.0)
    assert set(pyro.get_param_store()) == {n for n in names if n.startswith("other")}
    assert net().item() == 9.0
    assert set(pyro.get_param_store()) == names
    plain = PyroModule[nn.Sequential](nn.Linear(1, 1))
    plain.part = nn.Linear(1, 1)
    plain.part = nn.Linear(1, 1)
    assert [n for n, _ in plain.named_children()] == ["0", "part"]


PROJECTED = {
    "simplex": (C.simplex, t([1.0, 2.0, 1.0]), [0.25, 0.5, 0.25]),
    "lower_cholesky": (C.lower_cholesky, t([[1.0, 5.0], [2.0, 3.0]]), [[1.0, 0.0], [2.0, 3.0]]),
    "unit_lower_cholesky": (C.unit_lower_cholesky, t([[2.0, 5.0], [2.0, 3.0]]), [[1.0, 0.0], [2.0, 1.0]]),
    "sphere": (C.sphere, t([3.0, 4.0]), [0.6, 0.8]),
    "inside": (C.simplex, t([0.2, 0.3, 0.5]), [0.2, 0.3, 0.5]),
    "whole": (C.positive, t(3), 3.0),
}


@pytest.mark.parametrize("name", PROJECTED)
@pytest.mark.parametrize("how", ["value", "function", "module"])
def test_a_parameter_is_what_its_unconstrained_value_maps_to(name, how):
    constraint, value, expected = PROJECTED[name]
    if how == "module":
        module = PyroModule()
        module.p = PyroParam(value, constraint)
        found = module.p
    else:
        found = pyro.param("p", value if how == "value" else lambda: value, constraint=constraint)
    assert torch.allclose(found, t(expected)) and found.requires_grad


@pytest.mark.parametrize(
    ("constraint", "value"),
    [(C.positive, t(-1.0)), (C.unit_interval, t(2.0)), (C.simplex, t([-1.0, 2.0])), (C.ordered_vector, t([2.0, 1.0]))],
)
def test_a_value_that_no_unconstrained_one_maps_to_stays_an_error(constraint, value):
    with pytest.raises(ConstraintError, match="outside its constraint"):
        pyro.param("p", value, constraint=constraint)


def test_a_star_import_leaves_other_names_alone():
    space = {"torch": torch, "Any": None}
    exec("from varigrad.compat.pyro.distributions import *", space)
    assert space["torch"] is torch and space["Any"] is None
    assert space["Normal"] is dist.Normal and space["constraints"] is C and "LogNormal" in space


class Unclamped(dist.Bernoulli):
    """Densities of minus infinity."""

    def log_prob(self, value):
        return torch.where(value > 0, self.probs.log(), (1 - self.probs).log())


@pytest.mark.parametrize(("prior", "loss"), [([0.0, 0.5, 1.0], 0.0), ([0.2, 0.3, 0.6], 0.8211)])
def test_a_value_of_probability_zero_counts_nothing(prior, loss):
    def model():
        with pyro.plate("n", 3):
            pyro.sample("z", Unclamped(t(prior)))

    def guide():
        q = pyro.param("q", t([0.0, 0.5, 1.0]))
        with pyro.plate("n", 3):
            pyro.sample("z", Unclamped(q), infer={"enumerate": "parallel"})

    elbo = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    assert elbo.differentiable_loss(model, guide).item() == pytest.approx(loss, abs=1e-4)
    assert elbo.loss(model, guide) == pytest.approx(loss, abs=1e-4)


def test_natively_too_a_value_of_probability_zero_counts_nothing():
    """Exact: the gradient of KL(q || p) at q = (1/2, 1/2, 0), whose third value is impossible."""

    def model():
        vg.sample("z", vg.distributions.Categorical(logits=t([0.1, 0.3, -torch.inf])))

    def guide():
        logits = torch.cat([vg.param("l", torch.zeros(2)), t([-torch.inf])])
        vg.sample("z", vg.distributions.Categorical(logits=logits), estimator=vg.estimators.Enumerate())

    bound = vg.ELBO()(model, guide)
    bound().backward()
    slope = 0.25 * (-0.1 + 0.3)
    assert torch.allclose(bound.l.grad, t([slope, -slope]), atol=1e-6)


@pytest.mark.parametrize(
    "guide", [AutoDiagonalNormal, AutoMultivariateNormal, AutoLowRankMultivariateNormal], ids=lambda g: g.__name__
)
def test_a_joint_guide_covers_a_masked_site(guide):
    def model():
        with pyro.plate("n", 3):
            pyro.sample("z", dist.Normal(0.0, 1.0).mask(t([True, False, True])))

    made = guide(model)
    svi = SVI(model, made, optim.Adam({"lr": 0.01}), Trace_ELBO())
    for _ in range(3):
        svi.step()
    assert made.latent_dim == 3 and made.median()["z"].shape == (3,)


def test_the_loss_of_a_masked_site_is_pyros():
    """Mean of -ELBO: E[-log p] of the two elements that count, and minus the entropy of all three."""

    def model():
        with pyro.plate("n", 3):
            pyro.sample("z", dist.Normal(0.0, 1.0).mask(t([True, False, True])))

    guide = AutoDiagonalNormal(model)
    svi = SVI(model, guide, optim.SGD({"lr": 0.0}), Trace_ELBO(num_particles=4000, vectorize_particles=True))
    loss = svi.step()
    log_p = dist.Normal(0.0, 1.0).log_prob(guide.loc.detach()[[0, 2]]) - 0.005
    entropy = dist.Normal(guide.loc, guide.scale).entropy().sum().item()
    assert loss == pytest.approx(-log_p.sum().item() - entropy, abs=0.15)


def minibatch(size):
    with pyro.plate("n", 100, subsample_size=size):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def test_minibatches_of_different_sizes_are_an_error():
    text = "'n': draws a minibatch of 20 elements, and drew one of 5 before; because model and guide share"
    for action in (
        lambda: Trace_ELBO().loss(lambda: minibatch(20), lambda: minibatch(5)),
        lambda: vg.ELBO()(lambda: minibatch(20), lambda: minibatch(5)),
        lambda: Predictive(lambda: minibatch(20), guide=lambda: minibatch(5), num_samples=2)(),
    ):
        with pytest.raises(PlateError, match=text):
            action()


@pytest.mark.parametrize(("guide", "losses"), [(AutoDelta, [1.4189, 1.3239]), (AutoNormal, [1.4189, 1.3239])])
def test_a_model_without_latent_sites_is_fitted(guide, losses):
    def model():
        pyro.sample("x", dist.Normal(pyro.param("p", t(0.0)), 1.0), obs=t(1.0))

    made = guide(model)
    assert made() == {}
    svi = SVI(model, made, optim.Adam({"lr": 0.1}), Trace_ELBO())
    assert [svi.step() for _ in range(2)] == pytest.approx(losses, abs=1e-4)
    with pytest.raises(SiteError, match="the model has no latent sites"):
        AutoDiagonalNormal(model)()


def test_both_parts_of_a_partly_observed_site_are_drawn_for_predictions():
    def model(y=None, mask=None):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("n", 2):
            return pyro.sample("x", dist.Normal(m, 1.0), obs=y, obs_mask=mask)

    mask = t([True, False])
    trace = poutine.trace(model).get_trace(None, mask)
    assert {"x", "x_observed", "x_unobserved"} <= set(trace.nodes)
    assert not trace.nodes["x_observed"]["is_observed"]
    parts = [trace.nodes[f"x_{part}"]["value"] for part in ("observed", "unobserved")]
    assert torch.equal(trace.nodes["x"]["value"], torch.where(mask, *parts))
    found = Predictive(model, {"m": torch.zeros(5)})(None, mask)
    assert found["x"].shape == (5, 2)
    with pytest.raises(SiteError, match="obs_mask needs obs"):
        vg.sample("x", vg.distributions.Normal(torch.zeros(2), 1.0), obs_mask=mask)


def test_a_trace_has_a_node_for_each_plate():
    def model(subsample=None):
        with pyro.plate("n", 3), pyro.plate("k", 4, subsample_size=2), pyro.plate("g", 5, subsample=subsample):
            pyro.sample("x", dist.Normal(0.0, 1.0))

    trace = poutine.trace(model).get_trace()
    assert set(trace.nodes) == {"_INPUT", "n", "k", "g", "x", "_RETURN"}
    node = trace.nodes["n"]
    assert node["type"] == "sample" and not node["is_observed"] and node["value"].tolist() == [0, 1, 2]
    assert "g" not in poutine.trace(model).get_trace(t([1, 2])).nodes
    assert "n" not in poutine.util.prune_subsample_sites(trace).nodes
    trace.compute_log_prob()
    assert trace.format_shapes().splitlines()[3].split() == ["k", "dist", "|"]
