"""Pyro's handlers. What is compared with constants was recorded from pyro-ppl 1.9.2 on the same seeds."""

import pickle
import warnings
from queue import Queue

import pytest
import torch

import varigrad as vg
import varigrad.compat.pyro as pyro
import varigrad.compat.pyro.distributions as dist
from varigrad.compat.pyro import infer, poutine
from varigrad.compat.pyro.infer.reparam import LocScaleReparam, TransformReparam
from varigrad.compat.pyro.ops.provenance import get_provenance
from varigrad.compat.pyro.poutine.messenger import Messenger, block_messengers, unwrap
from varigrad.compat.pyro.poutine.plate_messenger import block_plate
from varigrad.compat.pyro.poutine.runtime import apply_stack, effectful, get_plates
from varigrad.compat.pyro.poutine.trace_messenger import TraceMessenger
from varigrad.compat.pyro.poutine.util import prune_subsample_sites, site_is_factor, site_is_subsample

t = torch.tensor
pytestmark = pytest.mark.filterwarnings("ignore:.*outside of inference the value is just passed on:RuntimeWarning")


@pytest.fixture(autouse=True)
def _seeded():
    pyro.set_rng_seed(0)


def model(x=None):
    a = pyro.param("a", t(1.0))
    s = pyro.param("s", t(2.0), constraint=dist.constraints.positive)
    z = pyro.sample("z", dist.Normal(a, s))
    pyro.deterministic("d", z * 2)
    pyro.factor("f", z * 0.5)
    with pyro.plate("data", 4, subsample_size=2) as i:
        y = pyro.sample("y", dist.Normal(z, 1.0).mask(t([True, False])))
        pyro.sample("x", dist.Normal(y, 1.0), obs=torch.arange(4.0)[i], infer={"foo": 1})
    for j in pyro.plate("seq", 2):
        pyro.sample(f"q{j}", dist.Normal(0.0, 1.0))
    return z


def small():
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    x = pyro.sample("x", dist.Normal(z, 1.0), obs=t(1.0))
    return z, x


def sites(program, *args):
    return {n: s for n, s in poutine.trace(program).get_trace(*args).nodes.items() if n[0] != "_"}


# Traces


def test_a_trace_has_pyros_nodes_values_and_densities():
    """Recorded from Pyro: the same numbers, from the same seed."""
    trace = poutine.trace(model).get_trace()
    assert list(trace.nodes) == ["_INPUT", "a", "s", "z", "d", "f", "data", "y", "x", "q0", "q1", "_RETURN"]
    assert trace.nodes["z"]["value"].item() == pytest.approx(4.0820, abs=1e-4)
    assert trace.log_prob_sum().item() == pytest.approx(-19.4245, abs=1e-3)
    trace.compute_log_prob()
    wanted = {
        "z": -2.7994,
        "d": 0.0,
        "f": 2.0410,
        "data": 0.0,
        "y": -1.9240,
        "x": -14.8355,
        "q0": -0.9657,
        "q1": -0.9410,
    }
    found = {n: s["log_prob_sum"].item() for n, s in trace.nodes.items() if s["type"] == "sample"}
    assert found == pytest.approx(wanted, abs=1e-3)
    assert trace.nodes["y"]["log_prob"].tolist() == pytest.approx([-1.9240, 0.0], abs=1e-3)
    assert trace.nodes["x"]["unscaled_log_prob"].tolist() == pytest.approx([-1.2299, -6.1879], abs=1e-3)
    assert trace.stochastic_nodes == ["z", "data", "y", "q0", "q1"]
    assert trace.observation_nodes == ["d", "f", "x"] and trace.param_nodes == ["a", "s"]
    assert trace.reparameterized_nodes == ["z", "y", "q0", "q1"] and trace.nonreparam_stochastic_nodes == ["data"]
    x = trace.nodes["x"]
    assert (x["type"], x["scale"], x["is_observed"], x["infer"], x["args"], x["done"]) == (
        "sample",
        2.0,
        True,
        {"foo": 1},
        (),
        True,
    )
    assert x["cond_indep_stack"] == (("data", -1, 2, 0, 4),) and x["cond_indep_stack"][0].vectorized
    assert x["fn"].batch_shape == (2,)
    assert trace.nodes["q1"]["cond_indep_stack"] == (("seq", None, 2, 2, 2),)
    assert trace.nodes["d"]["infer"] == {"_deterministic": True}
    assert trace.nodes["_RETURN"]["value"] is trace.nodes["z"]["value"]
    assert trace.nodes["s"]["kwargs"]["constraint"] is dist.constraints.positive
    assert {n for n, s in trace.nodes.items() if site_is_subsample(s)} == {"data"}
    assert {n for n, s in trace.nodes.items() if site_is_factor(s)} == {"f"}
    assert "data" not in prune_subsample_sites(trace) and "data" in trace


def test_draws_and_densities_carry_gradients():
    """A loss of one's own, written with traces, has the gradient of the objective."""

    def program():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=t(2.0))

    def guide():
        pyro.sample("z", dist.Normal(pyro.param("m", t(0.5)), pyro.param("s", t(0.7), dist.constraints.positive)))

    def simple_elbo(model, guide):
        q = poutine.trace(guide).get_trace()
        p = poutine.trace(poutine.replay(model, trace=q)).get_trace()
        return -(p.log_prob_sum() - q.log_prob_sum())

    grads = {}
    for name, loss in (("own", simple_elbo), ("ours", infer.Trace_ELBO().differentiable_loss)):
        loss(program, guide)  # the engine's first look at the programs draws, too
        pyro.set_rng_seed(1)
        value = loss(program, guide)
        leaves = [p for _, p in pyro.get_param_store().named_parameters()]
        grads[name] = [value.detach(), *torch.autograd.grad(value, leaves)]
    assert torch.allclose(torch.stack(grads["own"]), torch.stack(grads["ours"]))


def test_trace_is_a_program_a_block_and_a_decorator():
    traced = poutine.trace(small)
    assert traced()[1] == 1.0 and set(traced.trace.nodes) == {"_INPUT", "z", "x", "_RETURN"}
    with poutine.trace() as block:
        small()
    assert list(block.trace.nodes) == ["z", "x"] and list(block.get_trace().nodes) == ["z", "x"]

    @poutine.trace(param_only=True)
    def decorated():
        pyro.param("b", t(0.0))
        return small()

    assert list(decorated.get_trace().nodes) == ["b"]
    dense = poutine.trace(graph_type="dense")(small).get_trace()
    assert list(dense.edges) == [("z", "x")] and dense.predecessors("x") == {"z"} and dense.successors("z") == {"x"}
    assert dense.topological_sort().index("z") < dense.topological_sort(reverse=True).index("z")
    assert isinstance(TraceMessenger()(small).get_trace(), poutine.Trace)
    with pytest.raises(ValueError, match="graph_type must be 'flat' or 'dense'"):
        poutine.trace(graph_type="round")


def test_traces_are_copied_and_detached():
    trace = poutine.trace(model).get_trace()
    twin = trace.copy()
    twin.remove_node("q1")
    assert "q1" in trace and len(twin) == len(trace) - 1
    twin.detach_()
    assert not twin.nodes["z"]["value"].requires_grad
    assert len(list(trace.iter_stochastic_nodes())) == 5
    trace.compute_score_parts()
    parts = trace.nodes["z"]["score_parts"]
    assert parts.score_function == 0 and torch.equal(parts.entropy_term, parts.log_prob)
    trace.pack_tensors()
    assert trace.nodes["y"]["packed"]["log_prob"].shape == (2,)


def test_shapes_are_a_table():
    trace = poutine.trace(model).get_trace()
    table = trace.format_shapes()
    words = [line.split() for line in table.splitlines()]
    for row in ("Trace Shapes:", "Param Sites:", "a", "Sample Sites:", "f dist | 0", "y dist 2 |", "value 2 |"):
        assert row.split() in words
    trace.compute_log_prob()
    assert "log_prob 2 |" in trace.format_shapes()
    assert "q0" not in trace.format_shapes(last_site="y")


def test_mistakes_in_traces():
    with pytest.raises(RuntimeError, match=r"Multiple sample sites named 'z'(.|\n)*Trace Shapes"):
        poutine.trace(lambda: (small(), small())).get_trace()

    def wrong():
        pyro.sample("x", dist.Normal(torch.zeros(3), 1.0).to_event(1), obs=torch.zeros(2))

    with pytest.raises(ValueError, match=r"'x': its log-density cannot be computed(.|\n)*Trace Shapes"):
        poutine.trace(wrong).get_trace().log_prob_sum()

    def broken():
        small()
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no") as caught:
        poutine.trace(broken).get_trace()
    assert "Trace Shapes" in caught.value.__notes__[0]
    with pytest.warns(UserWarning, match="Encountered NaN: log_prob_sum at site 'x'"):
        poutine.trace(lambda: pyro.sample("x", dist.Normal(0.0, 1.0), obs=t(torch.nan))).get_trace().log_prob_sum()


# Handlers


def test_replay():
    trace = poutine.trace(small).get_trace()
    again = sites(poutine.replay(small, trace=trace))
    assert again["z"]["value"] is trace.nodes["z"]["value"] and not again["z"]["is_observed"]
    with poutine.replay(trace=trace):
        assert torch.equal(small()[0], trace.nodes["z"]["value"])
    observed = poutine.trace(poutine.condition(small, data={"z": t(1.0)})).get_trace()
    with pytest.raises(RuntimeError, match="site z must be sampled in trace"):
        poutine.replay(small, trace=observed)()
    with pytest.raises(ValueError, match="must provide trace or params"):
        poutine.replay(small)
    params = poutine.replay(lambda: pyro.param("a", t(1.0)), params={"a": t(5.0)})
    assert params() == 5.0
    minibatches = poutine.trace(model).get_trace()
    assert torch.equal(
        sites(poutine.replay(model, trace=minibatches))["data"]["value"], minibatches.nodes["data"]["value"]
    )


def test_condition_uncondition_do_substitute():
    data = {"z": t(3.0)}
    assert sites(poutine.condition(small, data=data))["z"]["is_observed"]
    assert sites(poutine.condition(small, poutine.trace(small).get_trace()))["z"]["is_observed"]
    drawn = sites(poutine.uncondition(small))["x"]
    assert not drawn["is_observed"] and drawn["infer"] == {"was_observed": True, "obs": t(1.0)}
    for value in (t(3.0), 3.0):
        done = poutine.do(small, data={"z": value})
        assert done()[0] == 3.0 and sites(done)["z"]["value"] != 3.0
        assert poutine.trace(done).get_trace().nodes["x"]["fn"].loc == 3.0
    with pytest.raises(NotImplementedError, match="an intervention is a tensor or a number"):
        poutine.do(small, data={"z": "three"})()
    assert poutine.substitute(lambda: pyro.param("a", t(1.0)), data={"a": t(9.0)})() == 9.0
    assert sites(poutine.substitute(small, data=data))["z"]["value"] != 3.0  # parameters only


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({}, []),
        ({"hide": ["z"]}, ["x"]),
        ({"expose": ["z"]}, ["z"]),
        ({"hide_types": ["sample"]}, ["x"]),
        ({"expose_types": ["sample"]}, ["z"]),
        ({"hide_fn": lambda site: site["is_observed"]}, ["z"]),
        ({"expose_fn": lambda site: site["name"] == "z"}, ["z"]),
        ({"hide_all": False}, ["z", "x"]),
        ({"expose_all": True, "hide": ["x"]}, ["z"]),
    ],
)
def test_block(options, seen):
    assert list(sites(poutine.block(small, **options))) == seen
    with poutine.trace() as outer, poutine.block(**options):
        small()
    assert list(outer.trace.nodes) == seen


def test_block_refuses_contradictions():
    with pytest.raises(ValueError, match="Only specify one of hide_fn or expose_fn"):
        poutine.block(small, hide_fn=bool, expose_fn=bool)
    with pytest.raises(ValueError, match="cannot hide and expose a site"):
        poutine.block(small, hide=["z"], expose=["z"])


def test_mask_and_scale():
    found = sites(poutine.mask(poutine.scale(small, scale=2.0), mask=False))
    assert found["z"]["scale"] == 2.0 and not found["z"]["mask"]
    with poutine.scale(scale=3.0), poutine.scale(scale=t(2.0)), poutine.trace() as inner:
        small()
    assert inner.trace.nodes["z"]["scale"] == 6.0
    with poutine.mask(mask=t([True, False])):
        assert poutine.get_mask().tolist() == [True, False]
        with poutine.mask(mask=False):
            assert poutine.get_mask().tolist() == [False, False]
    assert poutine.get_mask() is None
    with pytest.raises(ValueError, match=r"Expected mask to be a BoolTensor but got torch.float32"):
        poutine.mask(small, mask=torch.ones(2))
    with pytest.raises(ValueError, match="Expected mask to be a bool"):
        poutine.mask(small, mask=1)
    for wrong in (-1.0, 0.0, t(-1.0)):
        with pytest.raises(ValueError, match="Expected scale > 0"):
            poutine.scale(small, scale=wrong)


def test_seed():
    """Pyro's numbers from Pyro's seed, and the generator as it was."""
    state = torch.get_rng_state()
    seeded = poutine.seed(small, rng_seed=3)
    assert seeded()[0].item() == seeded()[0].item() == pytest.approx(0.8033, abs=1e-4)
    assert torch.equal(torch.get_rng_state(), state)


def test_lift():
    net = torch.nn.Linear(2, 1)

    def program():
        pyro.module("net", net, update_module_params=True)
        return pyro.param("a", torch.zeros(2))

    wide = dist.Normal(0.0, 1.0).expand([2]).to_event(1)
    found = sites(poutine.lift(program, prior={"a": wide, "bias": dist.Normal(torch.zeros(1), 1.0).to_event(1)}))
    assert {n: s["type"] for n, s in found.items()} == {
        "net$$$weight": "param",
        "net$$$bias": "sample",
        "a": "sample",
    }
    assert poutine.lift(lambda: pyro.param("a", torch.zeros(2)), prior=wide)().shape == (2,)
    drawn = sites(
        poutine.lift(lambda: pyro.param("b", t(4.0)), prior=lambda init, **k: pyro.sample("q", dist.Delta(init)))
    )
    assert drawn["q"]["value"] == 4.0
    with pytest.warns(UserWarning, match="did not find params {'c'}"):
        poutine.lift(lambda: pyro.param("a", torch.zeros(2)), prior={"a": wide, "c": wide})()


def test_infer_config_and_enum():
    found = sites(poutine.infer_config(small, config_fn=lambda site: {"k": site["name"]}))
    assert found["z"]["infer"] == {"k": "z"} and found["x"]["infer"] == {"k": "x"}

    def discrete():
        k = pyro.sample("k", dist.Categorical(torch.ones(3) / 3), infer={"enumerate": "parallel"})
        with pyro.plate("p", 2):
            probs = t([0.1, 0.2])[k.clamp(max=1)]
            pyro.sample("b", dist.Bernoulli(probs), infer={"enumerate": "parallel"})

    trace = poutine.trace(poutine.enum(discrete, first_available_dim=-2)).get_trace()
    trace.compute_log_prob()
    assert trace.nodes["k"]["value"].shape == (3, 1) and trace.nodes["b"]["value"].shape == (2, 1, 1)
    assert trace.nodes["b"]["log_prob"].shape == (2, 3, 2)
    total = sum(trace.nodes[n]["log_prob"] for n in "kb").sum(-1).exp()
    assert trace.nodes["b"]["infer"]["_enumerate_dim"] == -3 and total.shape == (2, 3)
    with pytest.raises(ValueError, match="first_available_dim must be negative"):
        poutine.enum(discrete, first_available_dim=0)
    with pytest.raises(ValueError, match="is too high"):
        poutine.enum(
            lambda: pyro.sample(
                "k", dist.Categorical(torch.ones(2, 3)), infer={"enumerate": "parallel", "expand": True}
            ),
            first_available_dim=-1,
        )()


def test_queue_and_escape():
    def coins():
        return [pyro.sample(n, dist.Bernoulli(0.3)).item() for n in "ab"]

    waiting = Queue()
    waiting.put(poutine.Trace())
    run = poutine.queue(coins, waiting)
    found = []
    while not waiting.empty():
        found.append(run())
    assert found == [[0, 0], [0, 1], [1, 0], [1, 1]]
    with pytest.raises(poutine.NonlocalExit) as left:
        poutine.escape(coins, escape_fn=lambda site: site["name"] == "b")()
    assert left.value.site["name"] == "b"
    assert not poutine.runtime.am_i_wrapped()
    waiting.put(poutine.Trace())
    with pytest.raises(ValueError, match=r"max tries \(1\) exceeded"):
        poutine.queue(coins, waiting, max_tries=1)()


def test_what_does_nothing_or_is_not_there():
    assert list(sites(poutine.broadcast(small))) == ["z", "x"]
    assert list(poutine.markov(range(3))) == [0, 1, 2]
    with pytest.raises(NotImplementedError, match=r"collapse.*Try"):
        poutine.collapse(small)
    with pytest.raises(NotImplementedError, match=r"equalize.*Try"):
        poutine.equalize(small)
    with pytest.raises(ValueError, match="is not callable, did you mean to pass it as a keyword"):
        poutine.condition({"z": t(1.0)}, data={})


# Reparametrisation


def test_reparam():
    def program():
        m = pyro.sample("m", dist.Normal(3.0, 1.0))
        with pyro.plate("p", 4):
            return pyro.sample("z", dist.Normal(m, 2.0))

    found = sites(poutine.reparam(program, config={"z": LocScaleReparam(0.0)}))
    assert found["z_decentered"]["fn"].loc.abs().max() == 0 and found["z_decentered"]["value"].shape == (4,)
    assert torch.allclose(found["z"]["value"], found["m"]["value"] + 2 * found["z_decentered"]["value"])
    assert found["z"]["infer"] == {"_deterministic": True}
    assert torch.equal(
        sites(poutine.reparam(program, config={"z": LocScaleReparam(1.0)}))["z"]["value"].shape and t(1), t(1)
    )
    learnt = sites(poutine.reparam(program, config=lambda site: LocScaleReparam() if site["name"] == "z" else None))
    assert learnt["z_centered"]["value"] == 0.5

    def transformed():
        base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        return pyro.sample("z", dist.TransformedDistribution(base, [dist.transforms.ExpTransform()]))

    found = sites(poutine.reparam(transformed, config={"z": TransformReparam()}))
    assert torch.allclose(found["z_base"]["value"].exp(), found["z"]["value"])
    with pytest.raises(ValueError, match="has no loc and scale"):
        poutine.reparam(lambda: pyro.sample("z", dist.Gamma(1.0, 1.0)), config={"z": LocScaleReparam(0.0)})()
    with pytest.raises(NotImplementedError, match="observed, or has a value"):
        poutine.reparam(small, config={"x": LocScaleReparam(0.0)})()


# Handlers of one's own


class Loud(Messenger):
    """Doubles every latent value on the way out, and notes what it saw."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def _pyro_sample(self, msg):
        self.seen.append((msg["name"], msg["is_observed"], msg["fn"].batch_shape))
        if msg["name"] == "z":
            msg["infer"]["mark"] = 1
            msg["scale"] = msg["scale"] * 2

    def _pyro_post_sample(self, msg):
        if not msg["is_observed"]:
            assert msg["done"] and msg["value"] is not None
            msg["value"] = msg["value"] * 2

    def _pyro_param(self, msg):
        if msg["name"] == "a":
            msg["value"] = t(100.0)


def test_a_handler_of_ones_own():
    loud = Loud()
    with poutine.trace() as outer, loud, poutine.trace() as inner:
        with pyro.plate("p", 2):
            z = pyro.sample("z", dist.Normal(pyro.param("a", t(1.0)), 1.0))
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=t(0.0))
    assert loud.seen == [("z", False, (2,)), ("x", True, ())]
    assert torch.equal(z, 2 * outer.trace.nodes["z"]["value"]) and torch.equal(z, inner.trace.nodes["z"]["value"])
    assert outer.trace.nodes["z"]["scale"] == 2 and outer.trace.nodes["z"]["infer"] == {"mark": 1}
    assert z.mean() > 150


def test_it_can_decide_values_observe_and_hide():
    class Fix(Messenger):
        def _pyro_sample(self, msg):
            if msg["name"] == "z":
                msg["value"], msg["is_observed"] = t(7.0), True
            if msg["name"] == "y":
                msg["stop"] = True
            if msg["name"] == "k":
                msg["fn"] = dist.Delta(t(5.0))

    def program():
        return [pyro.sample(n, dist.Normal(0.0, 1.0)) for n in "zyk"]

    found = sites(Fix()(program))
    assert list(found) == ["z", "k"] and found["z"]["is_observed"] and found["z"]["value"] == 7.0
    assert found["k"]["value"] == 5.0

    @Fix()
    def decorated():
        return program()

    assert decorated()[0] == 7.0 and unwrap(Fix()(program)) is program


def test_it_can_override_processing_itself():
    class Count(Messenger):
        count = 0

        def _process_message(self, msg):
            self.count += 1
            super()._process_message(msg)

    with Count() as counter:
        small()
    assert counter.count == 2

    class Scaling(poutine.scale_messenger.ScaleMessenger):
        def _pyro_post_sample(self, msg):
            self.last = msg["scale"]

    with Scaling(3.0) as scaling:
        small()
    assert scaling.last == 3.0


def test_messages_of_ones_own():
    class Sees(Messenger):
        def _pyro_greet(self, msg):
            msg["args"] = ("you",)

        def _pyro_post_greet(self, msg):
            msg["value"] = msg["value"] + "!"

    @effectful(type="greet")
    def greet(whom):
        return f"hello {whom}"

    assert greet("me") == "hello me"
    with poutine.trace(), Sees(), poutine.scale(scale=2.0):
        assert greet("me", name="g") == "hello you!"
    with pytest.raises(ValueError, match="effectful needs the kind"):
        effectful(lambda: None, type="message")
    with poutine.condition(data={"z": t(2.0)}):
        answer = apply_stack({"type": "sample", "name": "z", "fn": dist.Normal(0.0, 1.0)})
    assert answer["value"] == 2.0 and answer["is_observed"]


def test_the_stack():
    with poutine.scale(scale=2.0) as scaling, pyro.plate("p", 3):
        assert poutine.runtime._PYRO_STACK[0] is scaling and len(poutine.runtime._PYRO_STACK) == 2
        assert [f.name for f in get_plates()] == ["p"]
        with block_plate("p"):
            assert not get_plates()
        with pytest.raises(ValueError, match="matched no plate"), block_plate(dim=-4):
            pass
        with block_messengers(lambda m: m is scaling) as blocked:
            assert blocked == [scaling] and len(poutine.runtime._PYRO_STACK) == 1
    with pytest.raises(KeyError), poutine.trace(), Loud():
        raise KeyError
    assert not poutine.runtime.am_i_wrapped()


def test_handlers_wrap_methods_and_modules():
    class Program:
        @poutine.scale(scale=2.0)
        def model(self, x=1.0):
            """What it does."""
            return pyro.sample("z", dist.Normal(x, 1.0))

    found = sites(Program().model)
    assert found["z"]["scale"] == 2.0 and Program.model.__doc__ == "What it does."

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(t(1.0))

        def forward(self):
            return pyro.sample("z", dist.Normal(self.weight, 1.0))

    net = Net()
    bound = vg.ELBO()(poutine.mask(net, mask=True), lambda: pyro.sample("z", dist.Normal(0.0, 1.0)))
    assert bound.model_program() is not None and "model.weight" in dict(bound.named_parameters())
    assert pickle.loads(pickle.dumps(poutine.scale(scale=2.0))).scale == 2.0


# Together with the engine


def test_handlers_inside_of_inference():
    """Scaled and masked densities are what a step sees, dependencies go through, and what is hidden is not learnt."""

    def guide(x):
        k = pyro.sample("k", dist.Bernoulli(logits=pyro.param("l", t(0.3))))
        with poutine.block():
            pyro.sample("hidden", dist.Normal(pyro.param("h", t(0.0)), 1.0))
        pyro.sample("z", dist.Normal(pyro.param("m", t(0.1)) + k, 1.0))

    def program(x):
        k = pyro.sample("k", dist.Bernoulli(0.5))
        with poutine.scale(scale=0.5), Loud() as loud:
            pyro.sample("y", dist.Normal(0.0, 1.0), obs=x)
        assert loud.seen
        z = pyro.sample("z", dist.Normal(k, 1.0))
        with pyro.plate("data", 2), poutine.mask(mask=t([True, False])):
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0), obs=t([1.0, torch.nan]))

    elbo = infer.TraceGraph_ELBO()
    loss = elbo.differentiable_loss(program, guide, t(0.0))
    assert loss.isfinite()
    seen = []

    class Watch(Messenger):
        def _pyro_post_sample(self, msg):
            seen.append((msg["name"], get_provenance(msg["value"])))

    with Watch():  # outside of the engine's own handlers: it sees what they answer
        elbo.differentiable_loss(program, guide, t(0.0)).backward()
    assert ("k", frozenset()) in seen or any(name == "k" for name, _ in seen)
    store = pyro.get_param_store()
    assert store["m"].unconstrained().grad is not None


def test_provenance_survives_handlers():
    def program():
        x = pyro.sample("x", dist.Bernoulli(0.5))
        with Loud(), poutine.scale(scale=2.0):
            y = pyro.sample("y", dist.Normal(x, 1.0))
        pyro.sample("q", dist.Normal(y, 1.0), obs=t(0.0))

    def guide():
        x = pyro.sample("x", dist.Bernoulli(logits=pyro.param("l", t(0.3))))
        pyro.sample("y", dist.Normal(x + pyro.param("m", t(0.2)), 1.0))

    bound = infer.TraceGraph_ELBO().bound(program, guide)
    plan = bound.plan()
    assert set(plan["x"].downstream) == {"q(x)", "q(y)", "x", "y", "q"}


def test_warnings_are_pyros_kind():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        poutine.trace(poutine.lift(lambda: pyro.param("a", t(0.0)), prior=dist.Normal(0.0, 1.0))).get_trace()
