"""GPUs: the laws again on one, where there is one; and on any machine that nothing mixes devices (`fake_device.py`)."""

import io
import math
from dataclasses import replace

import pytest
import torch
from fake_device import PLACE, elsewhere, moved
from graph_harness import assert_close, by_graph, by_python, same, specializations, svi_of, taken
from registry import BRANCHING, ESTIMATORS

import varigrad as vg
from varigrad import distributions as dist
from varigrad.compat import pyro
from varigrad.compile.backends import cuda_graphs
from varigrad.compile.backends.cuda_graphs import CudaGraph
from varigrad.compile.step import compiled_step, step_compiler
from varigrad.compile.step.step_compiler import CaptureWarning
from varigrad.compile.trace import traced_function
from varigrad.distributions.counter_rng import Noise
from varigrad.distributions.rng import Source, global_state
from varigrad.guides import AutoLowRankMultivariateNormal, AutoMultivariateNormal, AutoNormal
from varigrad.testing import PROGRAMS, check_case
from varigrad.testing.conformance import _warm

FEW = {"bernoulli", "normal"}


def _told(plan):
    """A plan's text without what is unproven or divided: operations on the stand-in are no torch's."""
    return str(replace(plan, unproven=(), poles=()))


def _there(entry):
    """An ELBO with a new estimator; networks that it holds are moved, as torch makes them where the CPU is."""
    config = entry.elbo()
    for estimator in config.estimators.values():
        for network in estimator.parameters_of_baselines().values():
            for module in network.modules():
                for name, parameter in module.named_parameters(recurse=False):
                    module._parameters[name] = moved(parameter)
    return config


def _cases(often=("score",)):
    for i, (name, entry) in enumerate(ESTIMATORS.items()):
        for j, program in enumerate(PROGRAMS):
            if program not in entry.serves:
                continue
            quick = name in often or program in FEW
            marks = [] if quick else [pytest.mark.slow]
            if quick or (i + j) % 4 == 0:
                yield pytest.param(name, program, marks=marks, id=f"{name}-{program}")


@pytest.mark.parametrize(("name", "program"), list(_cases(("score", "pathwise"))))
def test_nothing_mixes_devices(name, program):
    """Every estimator on every program, with all that the program makes elsewhere; the plan is that of the CPU."""
    entry, case = ESTIMATORS[name], PROGRAMS[program]
    plan = _told(_warm(entry.elbo(), case, 0).plan(*case.args))
    with elsewhere():
        there = _warm(_there(entry), case, 0)
        assert all(p.device == PLACE for p in there.parameters())
        found = there.estimate(*case.args)
        assert found.surrogate.device == PLACE
        torch.autograd.grad(found.surrogate, list(there.parameters()), allow_unused=True)
        if program not in BRANCHING:  # their plans depend on what they draw, and they draw something else there
            assert _told(there.plan(*case.args)) == plan


@pytest.mark.parametrize(("name", "program"), [("score", "chain"), ("enumerate", "one_hot"), ("disarm", "bernoulli")])
def test_the_mean_elsewhere_is_the_exact_gradient(name, program):
    with elsewhere():
        verdict = check_case(ESTIMATORS[name].make(), program, PROGRAMS[program])
    assert verdict.how == "exact"
    assert verdict.passed, verdict


def _regression():
    x, y = torch.randn(20, 3), torch.randn(20)

    def model(x, y):
        w = vg.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        s = vg.sample("s", dist.HalfNormal(torch.ones(())))
        with vg.plate("n", 20, 5):
            vg.sample("y", dist.Normal(vg.subsample(x @ w, 0), s), obs=vg.subsample(y, 0))

    return model, x, y


@pytest.mark.parametrize("guide", [AutoNormal, AutoMultivariateNormal, AutoLowRankMultivariateNormal])
def test_a_run_elsewhere_goes_on_bit_for_bit(guide):
    with elsewhere():
        model, x, y = _regression()
        svi = vg.SVI(model, guide(model), vg.optim.Adam(lr=0.1, clip_norm=1.0), seed=0)
        svi.step(x, y)
        assert all(p.device == PLACE for p in svi.bound.parameters())
        state = svi.state()
        assert set(state["generator"]) == {"root", str(PLACE)}
        after = [svi.step(x, y) for _ in range(3)]
        svi.load_state(state)
        assert [svi.step(x, y) for _ in range(3)] == after
        other = vg.SVI(model, guide(model), vg.optim.Adam(lr=0.1, clip_norm=1.0), seed=5)
        other.init(x, y)
        other.load_state(state)
        assert [other.step(x, y) for _ in range(3)] == after


def test_under_a_default_device():
    """As after `torch.set_default_device("cuda")`: what no device is named for is there, the library's own too."""
    with elsewhere(), PLACE:
        model, x, y = _regression()
        vg.SVI(model, AutoNormal(model), vg.optim.Adam(lr=0.1), seed=0).run(3, x, y)


def test_minibatches_index_tensors_anywhere():
    """Indices are drawn on the CPU: torch takes these into tensors of any device, and no others into the CPU's."""
    with elsewhere():
        there, here = torch.randn(10), torch.randn(10, device="cpu")

        def model():
            m = vg.sample("m", dist.Normal(torch.zeros(()), 1.0))
            with vg.plate("n", 10, 4) as chosen:
                vg.sample("x", dist.Normal(m, 1.0), obs=there[chosen])
                vg.sample("y", dist.Normal(m, 1.0), obs=here[chosen].to(PLACE))

        def guide():
            vg.sample("m", dist.Normal(vg.param("loc", lambda: torch.zeros(())), 1.0))

        vg.SVI(model, guide, vg.optim.Adam(lr=0.1), seed=0).run(3)


def test_each_device_has_a_generator_of_its_own():
    here = torch.zeros(())
    alone = Source(torch.Generator().manual_seed(3))
    numbers = alone.normal((5,), here)
    assert isinstance(alone.get_state(), torch.Tensor)
    with elsewhere():
        there = torch.zeros(())
        source = Source(torch.Generator().manual_seed(3))
        start = source.get_state()
        assert torch.equal(source.normal((5,), here), numbers)  # others change nothing here
        source.set_state(start)
        first = source.normal((5,), there)
        middle = source.get_state()
        second = source.normal((5,), there)
        assert not torch.equal(first, second)
        source.set_state(middle)
        assert torch.equal(source.normal((5,), there), second)
        source.set_state(start)
        assert torch.equal(source.normal((5,), there), first)  # it comes into being again, with the same seed


def test_rows_elsewhere_are_the_same_however_many_are_drawn():
    with elsewhere():
        like = torch.zeros((), dtype=torch.float64)
        noise = Noise(0)
        start = noise.get_state()
        noise.measure()
        pieces = [noise.normal((3, 2), like).reshape(-1), noise.normal((5000,), like), noise.uniform((7,), like)]
        demand = noise.demand
        assert demand == {("normal", torch.float64, "meta"): 8192, ("uniform", torch.float64, "meta"): 4096}
        noise.set_state(start)
        blocks = noise.rows(demand, 3)
        noise.set_state(start)
        singly = [noise.rows(demand, 1) for _ in range(3)]
        for kind, block in blocks.items():
            assert torch.equal(block, torch.cat([row[kind] for row in singly]))
        normal, uniform = blocks.values()
        assert torch.equal(normal[0, :5006], torch.cat(pieces[:2]))
        assert torch.equal(uniform[0, :7], pieces[2])


# Captured steps, without a GPU: a CUDA graph is stood in for by what it would run, on the very tensors that it would


@pytest.fixture
def captures(monkeypatch):
    """How often there was a capture, and a replay."""
    counts = {"captures": 0, "replays": 0}

    def captured(run):
        def replay():
            counts["replays"] += 1
            run()

        counts["captures"] += 1
        return replay

    monkeypatch.setattr(cuda_graphs, "aside", lambda run: run())
    monkeypatch.setattr(cuda_graphs, "captured", captured)
    return counts


@pytest.mark.parametrize(("name", "program"), list(_cases()))
def test_captured_steps_mix_no_devices(name, program, captures, monkeypatch):
    monkeypatch.setattr(compiled_step, "_device_of", lambda tensors: tensors[0].device)
    entry, case = ESTIMATORS[name], PROGRAMS[program]
    if program in BRANCHING:
        return  # these run eagerly, here as there
    with elsewhere(), by_graph(2, CudaGraph):
        svi = svi_of(case.model, case.guide, _there(entry))
        svi.run(8, *case.args)
        assert taken(svi) == 6
        note = specializations(svi)[0].step.traced.compilation.note
    if program in ("poisson", "binomial", "negative_binomial"):
        assert note == "it draws from torch's global generator"
    else:
        assert (note, captures) == ("", {"captures": 1, "replays": 4})


def _mean(x):
    m = vg.sample("m", dist.Normal(0.0, 1.0))
    with vg.plate("n", 4):
        vg.sample("x", dist.Normal(m, 1.0), obs=x)


def test_another_tensor_is_copied_to_where_the_graph_reads(captures):
    first, second, third = torch.randn(3, 4)
    batches = [first] * 6 + [second, first, third, first, second, second]
    kept = torch.stack(batches)
    with by_python():
        svi = svi_of(_mean, AutoNormal(_mean))
        expected = [svi.step(x) for x in batches]
    with by_graph(2, CudaGraph):
        svi = svi_of(_mean, AutoNormal(_mean))
        found = [svi.step(x) for x in batches]
    assert_close(found, expected)
    assert taken(svi) == 10
    assert captures == {"captures": 2, "replays": 8}  # the data's own memory at first
    assert torch.equal(torch.stack(batches), kept)  # nobody's data are written into


def test_what_cannot_be_captured_runs_operation_by_operation(monkeypatch):
    def refuse(run):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(cuda_graphs, "aside", lambda run: run())
    monkeypatch.setattr(cuda_graphs, "captured", refuse)
    x = torch.randn(4)
    with by_graph(2, CudaGraph):
        svi = svi_of(_mean, AutoNormal(_mean))
        svi.run(10, x)
    assert taken(svi) == 8
    assert "run operation by operation: operation not permitted when stream is capturing" in svi.explain()


def test_a_graph_with_randomness_of_its_own_is_not_replayed(captures):
    def model():
        vg.sample("z", dist.Poisson(3.0))

    def guide():
        vg.sample("z", dist.Poisson(vg.param("rate", 2.0, dist.constraints.positive)))

    with by_graph(2, CudaGraph):
        svi = svi_of(model, guide)
        svi.run(8)
    assert taken(svi) == 6
    assert "run operation by operation: it draws from torch's global generator" in svi.explain()
    assert not captures["captures"]


def test_steps_on_two_devices_run_eagerly():
    def model():
        vg.sample("a", dist.Normal(0.0, 1.0))
        vg.sample("b", dist.Normal(torch.zeros(()), 1.0))

    def guide():
        vg.sample("a", dist.Normal(vg.param("here", 0.0), 1.0))
        vg.sample("b", dist.Normal(vg.param("there", lambda: torch.zeros(())), 1.0))

    with elsewhere(), by_graph(2, CudaGraph):
        svi = svi_of(model, guide)
        with pytest.warns(CaptureWarning, match="one parameter or argument lies on"):
            svi.run(4)
    assert "a captured step works on one device" in svi.explain()


# On a GPU, and on the other device for as much as it can say of the tests themselves

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
LAWS = [
    ("score", "chain"), ("moving_average_per_element", "nested_plates"), ("leave_one_out", "categorical"),
    ("enumerate", "mixture"), ("disarm", "bernoulli"), ("rebar", "bernoulli"), ("measure_valued", "poisson"),
    ("pathwise", "gamma"), ("pathwise", "plate_of_normals_under_a_switch"), ("sobol", "normal"),
]  # fmt: skip


@pytest.fixture(params=["elsewhere", pytest.param("cuda", marks=GPU)])
def place(request, monkeypatch):
    """The default device."""
    if request.param == "cuda":
        with torch.device("cuda"):
            yield request.param
        return
    monkeypatch.setattr(compiled_step, "_device_of", lambda tensors: tensors[0].device)
    monkeypatch.setattr(traced_function, "Compilation", CudaGraph)
    monkeypatch.setattr(cuda_graphs, "aside", lambda run: run())
    monkeypatch.setattr(cuda_graphs, "captured", lambda run: run)
    monkeypatch.setattr(step_compiler, "PATIENCE", 2)
    with elsewhere(), PLACE:
        yield request.param


@GPU
@pytest.mark.slow
@pytest.mark.parametrize(("name", "program"), LAWS)
def test_the_mean_on_a_gpu_is_the_exact_gradient(name, program):
    with torch.device("cuda"):
        verdict = check_case(ESTIMATORS[name].make(), program, PROGRAMS[program])
    assert verdict.how != "refused"
    assert verdict.passed, verdict


def _patient(monkeypatch, steps):
    monkeypatch.setattr(step_compiler, "PATIENCE", steps)


def test_captured_is_eager(place, monkeypatch):
    model, x, y = _regression()
    _patient(monkeypatch, 10**9)
    svi = svi_of(model, AutoNormal(model))
    expected = svi.run(40, x, y).losses
    _patient(monkeypatch, 2)
    svi = svi_of(model, AutoNormal(model))
    found = svi.run(40, x, y).losses
    assert_close(found, expected, 1e-4, 1e-4)
    assert taken(svi) == 38
    assert "replayed by a CUDA graph" in svi.explain()


def test_a_replay_is_the_recorded_graph(place, monkeypatch):
    model, x, y = _regression()
    _patient(monkeypatch, 2)
    batches = [(x + i % 3, y) for i in range(20)]
    kept = [b.clone() for b, _ in batches]
    svi = svi_of(model, AutoNormal(model))
    found = [svi.step(*b) for b in batches]
    assert "replayed by a CUDA graph" in svi.explain()
    assert all(torch.equal(b, k) for (b, _), k in zip(batches, kept, strict=True))

    def refuse(run):
        raise RuntimeError("not now")

    monkeypatch.setattr(cuda_graphs, "captured", refuse)
    svi = svi_of(model, AutoNormal(model))
    assert_close(found, [svi.step(*b) for b in batches], 1e-5, 1e-5)
    assert "run operation by operation: not now" in svi.explain()


@pytest.mark.parametrize("compile", [False, True])
def test_a_checkpoint_goes_on_bit_for_bit(compile, place, monkeypatch):
    _patient(monkeypatch, 10**9)
    model, x, y = _regression()

    def fresh(seed):
        return vg.SVI(model, AutoNormal(model), vg.optim.Adam(lr=0.1), seed=seed, compile=compile)

    svi = fresh(0)
    svi.run(5, x, y)
    state = svi.state()
    if place == "cuda":
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        state = torch.load(file, weights_only=False)
    after = svi.run(5, x, y).losses
    other = fresh(1)
    other.init(x, y)
    other.load_state(state)
    assert torch.equal(other.run(5, x, y).losses, after)


def test_draws_by_torch(place, monkeypatch):
    """Those without a functional form: from torch's global generators, lent the run's state and given back."""
    _patient(monkeypatch, 2)

    def model():
        vg.sample("z", dist.Poisson(torch.tensor(3.0)))

    def guide():
        vg.sample("z", dist.Poisson(vg.param("rate", lambda: torch.tensor(2.0), dist.constraints.positive)))

    one, other = svi_of(model, guide), svi_of(model, guide)
    before = global_state()
    assert torch.equal(one.run(10).losses, other.run(10).losses)
    assert same(before, global_state())


def test_programs_of_pyro(place):
    pyro.clear_param_store()

    def model(data):
        p = pyro.sample("p", pyro.distributions.Beta(torch.tensor(2.0), torch.tensor(2.0)))
        with pyro.plate("n", len(data), subsample_size=4) as chosen:
            pyro.sample("x", pyro.distributions.Bernoulli(p), obs=data[chosen])

    def guide(data):
        a = pyro.param("a", torch.tensor(1.0), constraint=pyro.distributions.constraints.positive)
        pyro.sample("p", pyro.distributions.Beta(a, torch.tensor(1.0)))

    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO())
    data = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    assert all(math.isfinite(svi.step(data)) for _ in range(5))
    assert pyro.param("a").device.type == torch.empty(0).device.type
    pyro.clear_param_store()
