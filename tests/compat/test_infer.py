"""Objectives and SVI under Pyro's names: right gradients, Pyro's ways of calling, and what is said of mistakes."""

import gc
import math
import warnings

import pytest
import torch
from tests.compat.programs import SGD, assert_exact, coins_guide, coins_model, t
from torch import nn

import varigrad as vg
import varigrad.compat.pyro as pyro
from varigrad.compat.pyro import distributions as dist
from varigrad.compat.pyro.infer import (
    ELBO,
    SVI,
    JitTrace_ELBO,
    JitTraceEnum_ELBO,
    JitTraceGraph_ELBO,
    JitTraceMeanField_ELBO,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
    util,
)
from varigrad.compat.pyro.infer.inspect import get_dependencies, get_model_relations, render_model
from varigrad.compat.pyro.infer.tracegraph_elbo import TrackNonReparam
from varigrad.errors import PlateError, VarigradError
from varigrad.language import handlers
from varigrad.objectives import BiasWarning
from varigrad.testing import exact_gradient

EXACT = [Trace_ELBO, TraceGraph_ELBO, JitTrace_ELBO, JitTraceGraph_ELBO]
ENUMERATED = [TraceEnum_ELBO, JitTraceEnum_ELBO]
EVERY = [*EXACT, *ENUMERATED, TraceMeanField_ELBO, JitTraceMeanField_ELBO, RenyiELBO]
parallel, sequential = {"enumerate": "parallel"}, {"enumerate": "sequential"}


def model(data):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(data)):
        pyro.sample("x", dist.Normal(z, 1.0), obs=data)


def guide(data):
    loc = pyro.param("loc", t(0.3))
    pyro.sample("z", dist.Normal(loc, pyro.param("scale", t(0.7), constraint=dist.constraints.positive)))


DATA = t([1.0, 2.0, 1.5])


# Objectives


@pytest.mark.parametrize("objective", EXACT)
@pytest.mark.parametrize("options", [{}, {"num_particles": 2}, {"num_particles": 2, "vectorize_particles": True}])
def test_the_gradient_is_exact_for_choices_without_rsample(objective, options):
    assert_exact(objective(**options).bound(coins_model, coins_guide()))


@pytest.mark.parametrize("objective", ENUMERATED)
@pytest.mark.parametrize("mark", [parallel, sequential])
def test_enumeration_is_exact(objective, mark):
    moments = assert_exact(objective().bound(coins_model, coins_guide(a=mark, b=mark)))
    one = assert_exact(objective().bound(coins_model, coins_guide(b=mark)))
    assert (
        one.variance["other"].max()
        < assert_exact(Trace_ELBO().bound(coins_model, coins_guide())).variance["other"].max()
    )
    assert max(v.max() for v in moments.variance.values()) < 1


def test_one_enumerated_site_has_an_exact_loss():
    def single():
        z = pyro.sample("z", dist.Bernoulli(t(0.3)))
        pyro.sample("x", dist.Normal(z, 1.0), obs=t(1.0))

    def its_guide():
        pyro.sample("z", dist.Bernoulli(logits=pyro.param("logit", t(0.2))), infer=parallel)

    objective = TraceEnum_ELBO()
    losses = {round(objective.loss(single, its_guide), 9) for _ in range(20)}
    exact, _ = exact_gradient(objective.bound(single, its_guide))
    assert losses == {round(-exact, 9)}


def test_several_samples_at_a_site():
    marked = config_enumerate(coins_guide(), default="parallel", num_samples=3)
    bound = TraceEnum_ELBO().bound(coins_model, marked)
    assert_exact(bound)
    assert "LeaveOneOut(k=3)" in str(bound.plan())
    assert "Score()" in str(TraceEnum_ELBO().bound(coins_model, coins_guide(a={**parallel, "num_samples": 1})).plan())


def test_config_enumerate_marks_what_has_no_mark():
    @config_enumerate
    def both():
        pyro.sample("a", dist.Bernoulli(0.5))
        pyro.sample("b", dist.Bernoulli(0.5), infer=sequential)
        pyro.sample("c", dist.Normal(0.0, 1.0))

    found = handlers.trace(both)()
    assert [found[n].notes.get("enumerate") for n in "abc"] == ["parallel", "sequential", None]
    found = handlers.trace(config_enumerate(default="sequential")(coins_guide()))()
    assert found["a"].notes["enumerate"] == "sequential"
    found = handlers.trace(config_enumerate(coins_guide(), default=None))()
    assert "enumerate" not in found["a"].notes
    for wrong in ({"default": "both"}, {"num_samples": 0}, {"default": "sequential", "num_samples": 2}, {"tmc": "no"}):
        with pytest.raises(ValueError, match=r"must be|goes with"):
            config_enumerate(coins_guide(), **wrong)


def test_nothing_to_enumerate_is_told():
    with pytest.warns(UserWarning, match="no site asks for enumeration"):
        TraceEnum_ELBO().loss(coins_model, coins_guide())
    TraceEnum_ELBO(strict_enumeration_warning=False).loss(coins_model, coins_guide())


def test_a_divergence_in_closed_form():
    def plain():
        pyro.sample("z", dist.Normal(0.0, 1.0))

    def its_guide():
        pyro.sample("z", dist.Normal(pyro.param("loc", t(0.5)), 2.0))

    kl = torch.distributions.kl_divergence(dist.Normal(t(0.5), 2.0), dist.Normal(0.0, 1.0))
    assert TraceMeanField_ELBO().loss(plain, its_guide) == pytest.approx(kl.item())


def test_renyi_bounds():
    tight, loose = (
        sum(RenyiELBO(0.0, k, vectorize_particles=True).loss(model, guide, DATA) for _ in range(200)) / 200
        for k in (1000, 2)
    )
    evidence = torch.distributions.MultivariateNormal(torch.zeros(3), torch.eye(3) + 1).log_prob(DATA.float()).item()
    assert tight == pytest.approx(-evidence, abs=0.02) and loose > tight
    assert RenyiELBO(num_particles=1).bound(model, guide).config == vg.ELBO(strict=False)
    with pytest.raises(ValueError, match="alpha must not be 1"):
        RenyiELBO(alpha=1)


@pytest.mark.parametrize("objective", EVERY)
def test_every_objective_is_a_module_with_a_differentiable_loss(objective):
    programs = (coins_model, coins_guide(a=parallel, b=parallel)) if objective in ENUMERATED else (model, guide)
    args = () if objective in ENUMERATED else (DATA,)
    module = objective()(*programs)
    assert isinstance(module, nn.Module)
    pyro.set_rng_seed(0)
    module(*args)  # parameters come into being
    pyro.set_rng_seed(1)
    loss = module(*args)
    loss.backward()
    named = dict(module.named_parameters())
    assert set(named) == ({"logit", "other"} if objective in ENUMERATED else {"loc", "scale"})
    first = {n: p.grad.clone() for n, p in named.items()}
    module.zero_grad()
    pyro.set_rng_seed(1)
    again = module.elbo.loss_and_grads(*programs, *args)
    if objective.compiles:  # a compiled step draws other numbers
        assert math.isfinite(again) and all(p.grad is not None for p in named.values())
        return
    assert again == pytest.approx(loss.item())
    assert all(torch.allclose(p.grad, first[n]) for n, p in named.items())
    with torch.no_grad():
        pyro.set_rng_seed(1)
        assert module.elbo.loss(*programs, *args) == pytest.approx(again)


def test_a_module_with_torchs_optimiser():
    loss = Trace_ELBO(num_particles=20, vectorize_particles=True)(model, guide)
    loss(DATA)
    optimiser = torch.optim.Adam(loss.parameters(), lr=0.02)
    for _ in range(200):
        optimiser.zero_grad()
        loss(DATA).backward()
        optimiser.step()
    assert pyro.param("loc").item() == pytest.approx(DATA.sum().item() / 4, abs=0.1)
    assert pyro.param("scale").item() == pytest.approx(0.5, abs=0.1)


def test_retaining_the_graph():
    weight = t(2.0).requires_grad_()
    shared = weight * 3  # made outside: the second backward pass goes through it again

    def its_guide(data):
        pyro.sample("z", dist.Normal(shared, 1.0))

    objective = Trace_ELBO(retain_graph=True)
    objective.loss_and_grads(model, its_guide, DATA)
    objective.loss_and_grads(model, its_guide, DATA)
    plain = Trace_ELBO()
    plain.loss_and_grads(model, its_guide, DATA)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        plain.loss_and_grads(model, its_guide, DATA)


def test_the_nesting_of_plates_is_checked():
    Trace_ELBO(max_plate_nesting=1).loss(model, guide, DATA)
    with pytest.raises(PlateError, match="plates take 1 dimensions, and max_plate_nesting is 0"):
        Trace_ELBO(max_plate_nesting=0).loss(model, guide, DATA)
    with pytest.warns(FutureWarning, match="max_iarange_nesting is deprecated"):
        assert Trace_ELBO(max_iarange_nesting=2).max_plate_nesting == 2
    with pytest.raises(VarigradError, match="particles must be a whole number"):
        Trace_ELBO(num_particles=0)
    with pytest.raises(NotImplementedError, match="ELBO says neither what to estimate"):
        ELBO().loss(model, guide, DATA)


def test_undeclared_dimensions_are_an_error_of_pyros_type():
    def careless(data):
        pyro.sample("z", dist.Normal(torch.zeros(3), 1.0))

    with pytest.raises(
        ValueError, match=r"'z': log-density has shape \(3,\), and dim -1 \(size 3\) belongs to no plate"
    ):
        Trace_ELBO().loss(careless, lambda data: pyro.sample("z", dist.Normal(torch.zeros(3), 1.0)), DATA)


# Model and guide that do not match


def test_a_site_that_the_guide_lacks_is_drawn_as_the_model_does():
    def short_guide():
        pyro.sample("a", dist.Bernoulli(logits=pyro.param("logit", t(0.2))))

    def completed():
        a = pyro.sample("a", dist.Bernoulli(logits=pyro.param("logit", t(0.2))))
        pyro.sample("b", dist.Bernoulli(torch.sigmoid(2 * a - 1)))

    objective = TraceGraph_ELBO()
    with pytest.warns(UserWarning, match=r"\['b'\] are sites of the model and not of the guide: they are drawn from"):
        objective.loss(coins_model, short_guide)
    _, exact = exact_gradient(objective.bound(coins_model, completed))
    moments = vg.testing.expected_gradient(objective.bound(coins_model, short_guide))
    assert torch.allclose(moments.mean["logit"], exact["logit"])


def test_a_site_that_the_model_lacks_is_told():
    def long_guide():
        coins_guide()()
        pyro.sample("c", dist.Normal(0.0, 1.0))

    with pytest.warns(UserWarning, match=r"\['c'\] are sites of the guide and not of the model: they count as auxil"):
        Trace_ELBO().loss(coins_model, long_guide)

    def auxiliary():
        coins_guide()()
        pyro.sample("c", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})

    Trace_ELBO().loss(coins_model, auxiliary)


def test_a_slip_in_a_name_is_guessed():
    def slip():
        pyro.sample("a", dist.Bernoulli(0.5))
        pyro.sample("bb", dist.Bernoulli(0.5))

    with pytest.warns(UserWarning, match=r"did you mean 'bb'\?|count as auxiliary"):
        Trace_ELBO().loss(coins_model, slip)


def test_a_jump_is_not_differentiated_through():
    def jumpy():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal((z > 0).float(), 1.0), obs=t(1.0))

    def its_guide():
        pyro.sample("z", dist.Normal(pyro.param("loc", t(0.1)), 1.0))

    with pytest.warns(BiasWarning, match="'z': its value goes through a comparison, rounding or conversion"):
        TraceGraph_ELBO().loss(jumpy, its_guide)


# SVI


def test_a_step_learns_what_it_asks_for():
    optim = SGD(0.05)
    svi = SVI(model, guide, optim, loss=Trace_ELBO(num_particles=5))
    losses = [svi.step(DATA) for _ in range(200)]
    assert all(isinstance(loss, float) for loss in losses) and optim.seen[0] == ["loc", "scale"]
    assert sum(losses[-50:]) < sum(losses[:50])
    assert pyro.param("loc").item() == pytest.approx(DATA.sum().item() / 4, abs=0.25)
    before = pyro.param("loc").item()
    assert isinstance(svi.evaluate_loss(DATA), float) and pyro.param("loc").item() == before
    assert all(p.grad is None for _, p in pyro.get_param_store().named_parameters())


def test_hidden_parameters_are_left_alone():
    svi = SVI(model, handlers.block(guide, hide=["loc"]), optim := SGD(), loss=Trace_ELBO())
    pyro.param("loc", t(3.0))
    svi.step(DATA)
    assert optim.seen == [["scale"]] and pyro.param("loc") == 3.0


def test_a_cleared_store_is_filled_again():
    svi = SVI(model, guide, optim := SGD(), loss=Trace_ELBO())
    svi.step(DATA)
    leaf = pyro.param("loc").unconstrained()
    pyro.clear_param_store()
    svi.step(DATA)
    assert pyro.param("loc").unconstrained() is not leaf and optim.seen == [["loc", "scale"]] * 2


def test_two_svis_share_the_store():
    SVI(model, guide, SGD(), loss=Trace_ELBO()).step(DATA)
    after = pyro.param("loc").item()
    SVI(model, guide, SGD(0.0), loss=Trace_ELBO()).step(DATA)
    assert pyro.param("loc").item() == after != pytest.approx(0.3)


def test_a_loss_of_ones_own():
    def simple_elbo(model, guide, *args):
        guided = handlers.trace(guide)(*args)
        modelled = handlers.trace(handlers.replay(model, guided))(*args)
        terms = [m.distribution.log_prob(m.value).sum() for m in modelled.samples.values()]
        return sum(m.distribution.log_prob(m.value).sum() for m in guided.samples.values()) - sum(terms)

    svi = SVI(model, guide, optim := SGD(0.02), loss=simple_elbo)
    losses = [svi.step(DATA) for _ in range(100)]
    assert sum(losses[-30:]) < sum(losses[:30]) and optim.seen[0] == ["loc", "scale"]
    assert isinstance(svi.evaluate_loss(DATA), float)


def test_an_objective_of_ones_own():
    class Tempered(ELBO):
        def loss(self, model, guide, *args, **kwargs):
            return self.loss_and_grads(model, guide, *args, **kwargs)

        def loss_and_grads(self, model, guide, *args, **kwargs):
            total = 0.0
            for modelled, guided in self._get_traces(model, guide, args, kwargs):
                total = total + (0.5 * guided.log_prob_sum() - modelled.log_prob_sum()) / self.num_particles
            total.backward()
            return total.item()

    svi = SVI(model, guide, optim := SGD(0.02), loss=Tempered(num_particles=3))
    losses = [svi.step(DATA) for _ in range(60)]
    assert sum(losses[-20:]) < sum(losses[:20]) and optim.seen[0] == ["loc", "scale"]


def test_a_loss_may_be_a_tuple():
    def loss_and_grads(model, guide, *args):
        loss = Trace_ELBO().differentiable_loss(model, guide, *args)
        loss.backward()
        return loss, t(1.0)

    svi = SVI(model, guide, SGD(), loss=Trace_ELBO(), loss_and_grads=loss_and_grads)
    loss, one = svi.step(DATA)
    assert isinstance(loss, float) and one == 1.0
    svi = SVI(model, guide, SGD(), loss=lambda *args: (t(1.0), t(2.0)))
    assert svi.evaluate_loss(DATA) == (1.0, 2.0)
    with pytest.raises(VarigradError, match="loss returns a tuple, and it is not said what of it"):
        svi.step(DATA)


def test_what_is_no_optimiser_or_loss_is_refused():
    with pytest.raises(ValueError, match=r"optim must be an optimiser of pyro\.optim"):
        SVI(model, guide, torch.optim.Adam([nn.Parameter(t(1.0))]), loss=Trace_ELBO())
    with pytest.raises(ValueError, match=r"loss must be an objective or a function, got <class"):
        SVI(model, guide, SGD(), loss=Trace_ELBO)
    with pytest.warns(FutureWarning, match="num_samples and num_steps do nothing"):
        SVI(model, guide, SGD(), loss=Trace_ELBO(), num_samples=3)


def test_a_gradient_that_is_none_changes_nothing():
    def bad_model(data):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("f", z * (float("nan") if svi_steps else 1.0))

    svi_steps = []
    svi = SVI(bad_model, guide, SGD(), loss=Trace_ELBO())
    svi.step(DATA)
    svi_steps.append(1)
    before = pyro.param("loc").item()
    with pytest.warns(UserWarning, match=r"Encountered NaN") as told:
        assert math.isnan(svi.step(DATA))
    texts = [str(w.message) for w in told]
    assert any("Encountered NaN: loss" in x for x in texts) and any("left as they were" in x for x in texts)
    assert pyro.param("loc").item() == before


def test_programs_made_anew_in_every_step():
    objective = TraceGraph_ELBO()
    average = {"baseline": {"use_decaying_avg_baseline": True}}
    for _ in range(5):
        objective.loss_and_grads(lambda: coins_model(), coins_guide(a=average))
    assert next(reversed(objective._bounds.values()))[0].estimator_states["a"] != 0
    for _ in range(20):
        objective.loss_and_grads(lambda: coins_model(), coins_guide(a=average))
    assert len(objective._bounds) <= 8


def test_nothing_is_left_behind_by_a_step():
    svi = SVI(coins_model, coins_guide(a={"baseline": {"use_decaying_avg_baseline": True}}), SGD(), TraceGraph_ELBO())

    def alive():
        gc.collect()
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    svi.step()
    before = alive()
    for _ in range(20):
        svi.step()
    assert alive() <= before + 1


def test_methods_are_programs():
    class Both:
        def model(self, data):
            model(data)

        def guide(self, data):
            guide(data)

    both, objective = Both(), Trace_ELBO()
    for _ in range(3):
        objective.loss(both.model, both.guide, DATA)
    assert len(objective._bounds) == 1


# What is upstream of what


def chain():
    a = pyro.sample("a", dist.Categorical(t([0.3, 0.7])))
    b = pyro.sample("b", dist.Categorical(t([[0.1, 0.9], [0.8, 0.2]])[a]))
    pyro.sample("c", dist.Categorical(t([[0.5, 0.5], [0.6, 0.4]])[b]), obs=torch.tensor(0))


def test_a_block_in_which_choices_mark_what_is_made_of_them():
    for traced in (lambda: handlers.trace(chain)(), handlers.trace(TrackNonReparam()(chain))):
        with TrackNonReparam():
            found = traced()
        upstream = {n: vg.get_provenance(m.distribution.log_prob(m.value)) for n, m in found.samples.items()}
        assert upstream == {"a": {"a"}, "b": {"a", "b"}, "c": {"a", "b"}}


def scattered():
    plate = pyro.plate("p", 3)
    with plate:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
    s = pyro.sample("s", dist.Normal(a.sum(), pyro.param("width", t(1.0), constraint=dist.constraints.positive)))
    with plate:
        k = pyro.sample("k", dist.Delta(a + s))
        pyro.deterministic("d", k * 2)
        pyro.sample("x", dist.Normal(k, 1.0), obs=torch.zeros(3))


def test_dependencies():
    nobody = set()
    assert get_dependencies(scattered) == {
        "prior_dependencies": {
            "a": {"a": nobody},
            "s": {"s": nobody, "a": nobody},
            "x": {"x": nobody, "a": nobody, "s": nobody},
        },
        "posterior_dependencies": {
            "a": {"a": {"p"}, "s": nobody, "x": nobody},
            "s": {"s": nobody, "x": nobody},
        },
    }
    assert get_dependencies(scattered, include_deterministic=True)["prior_dependencies"]["d"] == {
        "d": nobody,
        "a": nobody,
        "s": nobody,
    }


def test_dependencies_through_python():
    def branching(threshold, *, scale):
        a = pyro.sample("a", dist.Bernoulli(0.5))
        b = pyro.sample("b", dist.Normal(threshold if a.item() else 0.0, scale))
        pyro.sample("x", dist.Normal(b, 1.0).mask(False), obs=t(0.0))

    found = get_dependencies(branching, (3.0,), {"scale": 2.0})
    assert found["prior_dependencies"] == {"a": {"a": set()}, "b": {"b": set(), "a": set()}, "x": {"x": set()}}


def test_relations_for_a_picture():
    found = get_model_relations(scattered)
    assert found == {
        "sample_sample": {"a": [], "s": ["a"], "x": ["a", "s"]},
        "sample_param": {"a": [], "s": ["width"], "x": []},
        "sample_dist": {"a": "Normal", "s": "Normal", "x": "Normal"},
        "param_constraint": {"width": "GreaterThan(lower_bound=0.0)"},
        "plate_sample": {"p": ["a", "x"]},
        "observed": ["x"],
    }


class Digraph:
    """As much of graphviz's as a picture needs."""

    def __init__(self, name=None):
        self.name, self.lines, self.rendered = name, [], None

    def attr(self, **attributes):
        self.lines.append(attributes["label"])

    def node(self, name, **attributes):
        self.lines.append(name)

    def edge(self, above, below):
        self.lines.append((above, below))

    def subgraph(self, inner):
        self.lines.append((inner.name, inner.lines))

    def render(self, path, format, **options):
        self.rendered = str(path), format


def test_a_picture(monkeypatch):
    import sys
    import types

    package = types.ModuleType("graphviz")
    package.Digraph = Digraph
    monkeypatch.setitem(sys.modules, "graphviz", package)
    graph = render_model(scattered, filename="model.pdf", render_params=True, render_distributions=True)
    assert graph.rendered == ("model", "pdf")
    assert graph.lines[:3] == ["s", "width", ("cluster_p", ["p", "a", "x"])]
    assert ("a", "s") in graph.lines and ("width", "s") in graph.lines and graph.lines[-1] == "_distributions"
    with pytest.raises(VarigradError, match="has no suffix"):
        render_model(scattered, filename="model")
    monkeypatch.setitem(sys.modules, "graphviz", None)
    with pytest.raises(ImportError, match="a picture of a model needs the package graphviz"):
        pyro.render_model(scattered)


# Helpers


def test_helpers():
    x = t(2.0).requires_grad_()
    util.torch_backward(x * 3)
    util.torch_backward(3.0)
    assert x.grad == 3 and util.torch_item(x) == 2.0 == util.torch_item(2.0)
    util.zero_grads([x])
    assert x.grad is None
    assert util.torch_exp(0.0) == 1.0 and util.torch_exp(t(0.0)) == 1.0
    assert util.torch_sum(torch.ones(2, 3), [-1]).shape == (2,) and util.torch_sum(torch.ones(2), []).shape == (2,)
    with pytest.raises(NotImplementedError, match="'z': every distribution in the guide has to have rsample here"):
        util.check_fully_reparametrized({"name": "z", "fn": dist.Bernoulli(0.5)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        util.check_fully_reparametrized({"name": "z", "fn": dist.Normal(0.0, 1.0)})


def test_what_is_not_there_says_so_when_it_is_used():
    from varigrad.compat.pyro.infer import MCMC, NUTS  # a program may import them and use SVI

    with pytest.raises(NotImplementedError, match=r"pyro\.infer\.NUTS is not there\. Try: SVI with a guide"):
        NUTS(model)
    assert issubclass(MCMC, object)
