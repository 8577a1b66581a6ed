"""Compiled steps: Python's numbers, found again by the next process, and everything a run can do on the way.

Two libraries are made once for the file; what needs more of them is slow.
"""

import copy
import functools
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch
from families import everything
from families import reparameterised as ways
from graph_harness import assert_close, by_python, same, specializations, taken
from programs_for_svi import DATA, MixedGuide, mixed_model, normal_guide, normal_model
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR

import varigrad as vg
from varigrad import distributions as dist
from varigrad.compile.backends.c import library
from varigrad.compile.backends.compilation import Compilation
from varigrad.compile.step import step_compiler
from varigrad.compile.trace.tracer import trace
from varigrad.distributions.counter_rng import Noise
from varigrad.errors import NonFiniteError
from varigrad.estimators import LeaveOneOut, MovingAverage, Score
from varigrad.testing import PROGRAMS

t = torch.tensor
positive = dist.constraints.positive


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """One folder for the whole run, for both of its processes."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "varigrad-cache"
    before = os.environ.get("VARIGRAD_CACHE")
    os.environ["VARIGRAD_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["VARIGRAD_CACHE"]
    else:
        os.environ["VARIGRAD_CACHE"] = before


def coin(compile="wait", optim=None, **options):
    optim = vg.optim.Adam(lr=0.05) if optim is None else optim
    return vg.SVI(normal_model, normal_guide, optim, seed=0, compile=compile, **options)


LOCS = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)  # in single precision rounding may tip a choice


def mixture_model(data, temper):
    """Categorical choices in a minibatch, a number that changes from call to call."""
    locs = vg.sample("locs", dist.Normal(0 * LOCS, 3.0).to_event(1))
    with vg.plate("data", len(data), subsample_size=20), vg.handlers.scale(scale=temper):
        x = vg.subsample(data)
        z = vg.sample("z", dist.Categorical(LOCS.softmax(-1)))
        vg.sample("x", dist.Normal(locs[z], 1.0), obs=x)


def mixture_guide(data, temper):
    loc = vg.param("loc", lambda: LOCS * 0.5)
    vg.sample("locs", dist.Normal(loc, vg.param("scale", 0.3 + 0 * LOCS, positive)).to_event(1))
    with vg.plate("data", len(data), subsample_size=20), vg.handlers.scale(scale=temper):
        logits = vg.param("logits", lambda: data.new_zeros(len(data), 3), event_dim=1)
        vg.sample("z", dist.Categorical(logits=logits))


def mixture_data():
    generator = torch.Generator().manual_seed(5)
    return torch.randn(60, generator=generator) + LOCS[torch.randint(3, (60,), generator=generator)]


def mixture(compile="wait"):
    """Weights that anneal, a rate that decays, clipping, an average for each element."""
    optim = vg.optim.Adam(lr=0.05, clip_norm=50.0, schedule=functools.partial(ExponentialLR, gamma=0.99))
    weights = {"locs": lambda step: min(1.0, 0.02 * step)}
    config = vg.ELBO(2, {"z": LeaveOneOut(2)}, weights=weights)
    return vg.SVI(mixture_model, mixture_guide, optim, config, seed=0, compile=compile)


def mixture_run(svi):
    data = mixture_data()
    losses = [svi.step(data, 0.1 + 0.01 * i) for i in range(20)]
    return [*losses, svi.run(60, data, 1.0).losses, svi.state()]


def of_python(make, go):
    with by_python():
        return go(make(True))


# One library of each


def test_compiled_is_python():
    go = lambda svi: [svi.run(80, DATA).losses, svi.state()]  # noqa: E731
    svi = coin()
    found = go(svi)
    assert_close(found, of_python(coin, go), rtol=1e-4, atol=1e-5)
    assert taken(svi) == 78
    assert " kernels" in svi.explain() and ("compiled in" in svi.explain() or "found in the cache" in svi.explain())


def test_numbers_that_change_are_inputs():
    """An argument, weights, a learning rate: none of them is a constant of the library, and losses are Python's."""
    svi = mixture()
    found = mixture_run(svi)
    assert_close(found, of_python(mixture, mixture_run), rtol=1e-6, atol=1e-6)
    assert taken(svi) > 70
    assert len({form.step.traced.compilation.entry for form in specializations(svi) if form.step}) == 1


def test_the_next_process_finds_it(tmp_path):
    """And needs no compiler; nor SymPy, whose import takes longer than all of ours."""
    losses = coin().run(50, DATA).losses
    done = in_another_process(
        "assert 'found in the cache' in svi.explain(), svi.explain()\n"
        "import sys; assert not {'torch._inductor.compile_fx', 'sympy'} & sys.modules.keys()\n",
        PATH=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == losses.numpy().tobytes().hex()


def in_another_process(then, **environment):
    script = (
        "import torch; torch.set_num_threads(1)\n"
        "import programs_for_svi as p, varigrad as vg\n"
        "svi = vg.SVI(p.normal_model, p.normal_guide, vg.optim.Adam(lr=0.05), seed=0, compile='wait')\n"
        "print(svi.run(50, p.DATA).losses.numpy().tobytes().hex())\n"
    )
    return subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", script + then],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=300, cwd=os.path.dirname(__file__),
    )  # fmt: skip


def test_steps_one_by_one_are_steps_together():
    one, many = coin(), coin()
    losses = [one.step(DATA) for _ in range(70)]
    assert losses == many.run(70, DATA).losses.tolist()
    assert same(one.state(), many.state())


def test_states_come_back():
    svi = coin()
    svi.run(20, DATA)
    state = copy.deepcopy(svi.state())
    first = svi.run(40, DATA).losses
    end = svi.state()
    svi.load_state(state)
    assert torch.equal(svi.run(40, DATA).losses, first)
    assert same(svi.state(), end)
    other = vg.SVI(normal_model, normal_guide, vg.optim.Adam(lr=0.05), seed=7, compile="wait")
    other.init(DATA).load_state(state)
    assert_close(other.run(40, DATA).losses, first, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["ExponentialLR", "OneCycleLR", "CosineAnnealingLR", "LambdaLR"])
def test_schedulers(kind):
    settings = {
        "ExponentialLR": {"gamma": 0.98},
        "OneCycleLR": {"max_lr": 0.2, "total_steps": 200},  # moves the betas, too
        "CosineAnnealingLR": {"T_max": 30},
        "LambdaLR": {"lr_lambda": lambda step: 1.0 / (1 + step)},
    }[kind]
    schedule = functools.partial(getattr(torch.optim.lr_scheduler, kind), **settings)
    make = functools.partial(coin, optim=vg.optim.Adam(lr=0.1, schedule=schedule))
    go = lambda svi: [svi.run(60, DATA).losses, svi.state(), svi.optimizer.param_groups[0]["lr"]]  # noqa: E731
    svi = make()
    found = go(svi)
    assert_close(found, of_python(make, go), rtol=1e-4, atol=1e-5)
    assert "found in the cache" in svi.explain() or kind == "ExponentialLR"  # rates are inputs
    assert taken(svi) == 58


def test_callbacks():
    seen, svi = [], coin()
    fit = svi.run(100, DATA, callback=lambda m: seen.append((m.step, m.loss)), every=25)
    assert [n for n, _ in seen] == [25, 50, 75, 100]
    assert all(loss == fit.losses[n - 1] for n, loss in seen)
    assert len(coin().run(100, DATA, callback=lambda m: m.step == 50, every=25).losses) == 50


def test_the_first_result_comes_at_once():
    """In the background: Python until the library is there, and the same numbers on both sides."""
    svi = coin(True)
    losses = [svi.run(step_compiler.PATIENCE, DATA).losses]
    assert specializations(svi)[0].step is None
    deadline = time.monotonic() + 120
    while not taken(svi) > 20 and time.monotonic() < deadline:
        losses.append(svi.run(20, DATA).losses)
    assert taken(svi) > 20
    found = torch.cat(losses)
    assert_close(found, of_python(coin, lambda svi: svi.run(len(found), DATA).losses), rtol=1e-3, atol=1e-3)


def test_data_of_other_values_and_shapes():
    """The library reads what it is given: other numbers, written in place, not contiguous."""
    wide = torch.stack([DATA, DATA + 1], 1)

    def go(svi):
        data = DATA.clone()
        losses = []
        for i in range(30):
            data[i % 6] += 0.5
            losses.append(svi.step(data))
            losses.append(svi.step(data + i))
        return losses + [svi.step(wide[:, 1].clone()) for _ in range(3)]

    svi = coin()
    assert_close(go(svi), of_python(coin, go), rtol=1e-4, atol=1e-4)
    assert taken(svi) > 50


# More libraries


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(12, 8), nn.Softplus(), nn.Linear(8, 4))
        self.decoder = nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Linear(8, 12))
        for i, p in enumerate(self.parameters()):
            nn.init.normal_(p, 0.0, 0.3, generator=torch.Generator().manual_seed(i))

    def model(self, x):
        with vg.plate("data", 100, subsample_size=len(x)):
            z = vg.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            vg.sample("x", dist.Bernoulli(logits=vg.module("decoder", self.decoder)(z)).to_event(1), obs=x)

    def guide(self, x):
        with vg.plate("data", 100, subsample_size=len(x)):
            loc, scale = vg.module("encoder", self.encoder)(x).chunk(2, -1)
            vg.sample("z", dist.Normal(loc, scale.exp()).to_event(1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "optim", [None, vg.optim.Optimizer(torch.optim.RMSprop, {"lr": 0.01})], ids=["Adam", "RMSprop"]
)
def test_loaders_with_a_smaller_last_batch(optim):
    images = (torch.rand(50, 12, generator=torch.Generator().manual_seed(2)) < 0.4).float()

    def make(compile):
        net = VAE()
        chosen = vg.optim.Adam(lr=0.01) if optim is None else optim
        return vg.SVI(net.model, net.guide, chosen, vg.ELBO(analytic_kl=True), seed=0, compile=compile)

    def go(svi):
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), batch_size=20)
        return [svi.run(60, loader).losses, {k: v for k, v in svi.state().items() if k != "optimizer"}]

    svi = make("wait")
    assert_close(go(svi), of_python(make, go), rtol=2e-3, atol=2e-3)
    assert len(specializations(svi)) == 2 and taken(svi) == 56


@pytest.mark.slow
@pytest.mark.parametrize("maker", ["C", "Inductor"])
def test_a_mixed_program(maker, monkeypatch):
    if maker == "Inductor":
        monkeypatch.setattr(library, "ROOM", 0)

    def make(compile):
        return vg.SVI(mixed_model, MixedGuide(), vg.optim.Adam(lr=0.02), seed=0, compile=compile)

    go = lambda svi: [svi.run(80, DATA).losses, svi.state()]  # noqa: E731
    svi = make("wait")
    assert_close(go(svi), of_python(make, go), rtol=1e-3, atol=1e-3)
    assert taken(svi) == 78 and specializations(svi)[0].step.traced.compilation.library.maker == maker


def poisoned(data, limit):
    z = vg.sample("z", dist.Normal(0.0, 1.0))
    with vg.plate("data", len(data)):
        vg.sample("x", dist.Normal(z, 1.0), obs=data)
    vg.factor("poison", torch.where(z > limit, torch.inf, 0.0 * z))


def poisoned_svi(compile, **options):
    return vg.SVI(
        poisoned, lambda data, limit: normal_guide(), vg.optim.Adam(lr=0.01), seed=0, compile=compile, **options
    )


@pytest.mark.slow
def test_steps_that_are_not_finite():
    make = functools.partial(poisoned_svi, skip_nonfinite=True)
    go = lambda svi: [(f := svi.run(80, DATA, t(1.3))).losses, f.skipped, svi.state()]  # noqa: E731
    svi = make("wait")
    found = go(svi)
    assert_close(found, of_python(make, go), rtol=1e-4, atol=1e-4)
    assert 3 < found[1] < 60 and taken(svi) == 78


@pytest.mark.slow
def test_a_step_that_is_not_finite_raises():
    def go(svi):
        with pytest.raises(NonFiniteError) as error:
            svi.run(400, DATA, t(2.0))
        svi.run(3, DATA, t(100.0))
        return str(error.value).split(";")[0], svi.metrics.step, svi.state()

    found, expected = go(poisoned_svi("wait")), of_python(poisoned_svi, go)
    assert found[:2] == expected[:2] and found[1] > 12
    assert_close(found[2], expected[2], rtol=1e-4, atol=1e-4)


def counting(data):
    z = vg.sample("z", dist.Poisson(3.0).expand((3,)).to_event(1))
    n = vg.sample("n", dist.Binomial(10, t(0.3)))
    vg.sample("x", dist.Normal(z.sum() + n + torch.rand(()), 1.0), obs=data[0])


def counting_guide(data):
    vg.sample("z", dist.Poisson(vg.param("rate", torch.full((3,), 2.0), positive)).to_event(1))
    vg.sample("n", dist.Binomial(10, logits=vg.param("logit", 0.0)))


@pytest.mark.slow
def test_draws_of_torchs_own_generator():
    def make(compile):
        return vg.SVI(counting, counting_guide, vg.optim.Adam(lr=0.01), seed=0, compile=compile).init(DATA)

    go = lambda svi: svi.run(80, DATA).losses  # noqa: E731
    svi = make("wait")
    assert_close(go(svi), of_python(make, go), rtol=1e-4, atol=1e-4)
    assert taken(svi) == 78


@pytest.mark.slow
def test_memory_that_a_program_makes():
    """New at every call, however often it is written into; dropout, which torch writes in place."""
    net = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    start = [p.detach().clone() for p in net.parameters()]

    def model(data):
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        total, literal = torch.zeros(2), torch.tensor([0.0, 1.0])
        for i in range(3):
            total[0] += z.detach() * i
            literal += 0.5
        vg.sample("x", dist.Normal(z + total.sum() + literal.sum() + net(data)[0], 1.0), obs=data[0])

    def own(data):
        vg.module("net", net)
        normal_guide()

    def make(compile):
        with torch.no_grad():
            for p, value in zip(net.parameters(), start, strict=True):
                p.copy_(value)
        return vg.SVI(model, own, vg.optim.Adam(lr=0.01), seed=0, compile=compile).init(DATA)

    go = lambda svi: svi.run(60, DATA).losses  # noqa: E731
    svi = make("wait")
    assert_close(go(svi), of_python(make, go), rtol=1e-4, atol=1e-4)
    assert taken(svi) == 58


@pytest.mark.slow
def test_running_averages():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))
            for i, p in enumerate(self.parameters()):
                nn.init.normal_(p, generator=torch.Generator().manual_seed(i))

        def forward(self, data):
            loc, scale = self.layers(data.unsqueeze(-1)).unbind(-1)
            with vg.plate("data", len(data)):
                vg.sample("z", dist.Normal(loc, scale.exp()))

    def model(data):
        with vg.plate("data", len(data)):
            z = vg.sample("z", dist.Normal(0.0, 1.0))
            vg.sample("x", dist.Normal(z, 0.5), obs=data)

    def make(compile):
        return vg.SVI(model, Net(), vg.optim.SGD(lr=0.001, momentum=0.5), seed=0, compile=compile)

    go = lambda svi: [svi.run(60, DATA).losses, svi.state()]  # noqa: E731
    svi = make("wait")
    assert_close(go(svi), of_python(make, go), rtol=1e-3, atol=1e-4)
    assert taken(svi) == 58


REGISTRY = {
    "chain": Score(MovingAverage(0.7)),
    "categorical_chain": LeaveOneOut(2),
    "nested_plates": Score(),
    "masked": Score(MovingAverage(0.5, per_element=True)),
    "plate_entered_twice": Score(),
    "dirichlet": Score(),
    "rejection_gamma": Score(),
    "plate_of_normals_under_a_switch": Score(MovingAverage(0.9)),
}


@pytest.mark.slow
@pytest.mark.parametrize("program", REGISTRY)
def test_programs_of_the_registry(program):
    case = PROGRAMS[program]

    def make(compile):
        config = vg.ELBO(1, {"z*": REGISTRY[program]})
        return vg.SVI(case.model, case.guide, vg.optim.Adam(lr=0.02), config, seed=0, compile=compile)

    go = lambda svi: [svi.run(50, *case.args).losses, svi.state()]  # noqa: E731
    svi = make("wait")
    assert_close(go(svi), of_python(make, go), rtol=1e-6, atol=1e-7)
    assert taken(svi) == 48


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_families_in_one_library():
    """A draw of each and its density, compiled, on the numbers that Python sees."""
    noise = Noise(3)
    families = {name: d for name, make in everything().items() if name != "Rejector" for d in [make()]}

    def draw():
        results = []
        for d in families.values():
            for pathwise in ways(d):
                value = noise.draw(d, reparameterised=pathwise)
                results += [value.double(), d.log_prob(value).double()]
        return [r.detach() for r in results]

    noise.measure()
    draw()
    demand = noise.demand
    rows = {kind: row[0].clone() for kind, row in noise.rows(demand, 1).items()}
    noise.use(rows)
    with noise.lent():
        graph = trace(draw, list(rows.values()))
    inputs = [*rows.values(), *graph.constants]
    compilation = Compilation(graph, inputs)
    compilation.ready(wait=True)
    assert not compilation.failure, compilation.failure
    for _ in range(5):
        for kind, row in noise.rows(demand, 1).items():
            rows[kind].copy_(row[0])
        noise.use(rows)
        with noise.lent():
            state = torch.get_rng_state()
            expected = draw()
            torch.set_rng_state(state)
            found = compilation.library.run(inputs)
        assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_loop_of_ones_own():
    def go(wait):
        loss = vg.compiled(vg.ELBO()(normal_model, normal_guide), wait=wait, seed=3)
        loss(DATA)
        optimiser = torch.optim.Adam(loss.parameters(), lr=0.05)
        seen = []
        for _ in range(60):
            optimiser.zero_grad()
            value = loss(DATA)
            value.backward()
            seen.append([float(value.detach()), *[p.grad.clone() for p in loss.parameters()]])
            optimiser.step()
        return seen

    found = go(True)
    with by_python():
        expected = go(False)
    assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_damaged_library_is_built_again(cache, tmp_path, monkeypatch):
    """In another process, and in a cache that no other test builds in."""
    svi = coin()
    losses = svi.run(50, DATA).losses
    folder = specializations(svi)[0].step.traced.compilation.entry
    shutil.copytree(folder, tmp_path / folder.name)
    (tmp_path / folder.name / "step.so").write_bytes(b"rubbish")
    monkeypatch.setenv("VARIGRAD_CACHE", str(tmp_path))
    done = in_another_process("assert 'compiled in' in svi.explain(), svi.explain()\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == losses.numpy().tobytes().hex()
    assert not list(tmp_path.glob("building-*"))
    done = in_another_process("assert 'found in the cache' in svi.explain(), svi.explain()\n")
    assert done.returncode == 0, done.stderr
