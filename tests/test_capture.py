"""Recorded steps: the graph computes what Python computes, on every program, and what cannot be recorded says so.

No compiler runs here: a library is the recorded graph itself (`graph_harness.Uncompiled`).
"""

import copy
import functools
import inspect
import math
import warnings

import pytest
import torch
from families import FAMILIES, everything
from families import reparameterised as ways
from graph_harness import NEVER, assert_close, both, by_graph, by_python, same, specializations, steps, svi_of, taken
from laws import dependencies as leaks
from programs_for_svi import DATA, MixedGuide, mixed_model, normal_guide, normal_model
from registry import BRANCHING, ESTIMATORS, network
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR

import varigrad as vg
from varigrad import distributions as dist
from varigrad.compile.graph.errors import CaptureError
from varigrad.compile.graph.graph import reached
from varigrad.compile.step import step_compiler
from varigrad.compile.step.step_compiler import CaptureWarning
from varigrad.compile.trace.tracer import trace
from varigrad.distributions.counter_rng import Noise
from varigrad.errors import NonFiniteError, VarigradError
from varigrad.estimators import (
    Lax,
    LeaveOneOut,
    MovingAverage,
    NeuralBaseline,
    Pathwise,
    Relax,
    Rodeo,
    Score,
    ValueBaseline,
)
from varigrad.objectives.execute import perform
from varigrad.objectives.run_record import Vectorization
from varigrad.objectives.surrogate import terms_of
from varigrad.testing import PROGRAMS

t = torch.tensor
positive = dist.constraints.positive


# The registry


def _cases():
    for i, program in enumerate(PROGRAMS):
        for j, (estimator, entry) in enumerate(ESTIMATORS.items()):
            if program not in entry.serves:
                continue
            coupled = entry.make().drawing.coupling is not None  # particles that run one by one cannot be coupled
            for vectorize in (None,) if coupled else (None, False):
                if vectorize is False and (i + 2 * j) % 3 != 1:
                    continue  # in a loop, a third of them
                often = (i + j) % 3 == 0 if vectorize is None else (i + 2 * j) % 9 == 4
                marks = [] if often else [pytest.mark.slow]
                yield pytest.param(program, estimator, vectorize, marks=marks, id=f"{estimator}-{program}-{vectorize}")


@pytest.mark.parametrize(("program", "estimator", "vectorize"), list(_cases()))
def test_the_graph_is_the_program(program, estimator, vectorize):
    case, entry = PROGRAMS[program], ESTIMATORS[estimator]
    go = steps(9, *case.args)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        expected, found, svi = both(lambda: svi_of(case.model, case.guide, entry.elbo(vectorize=vectorize)), go)
    assert_close(found, expected)
    if program in BRANCHING:
        assert {w.category for w in seen} == {CaptureWarning}
        assert specializations(svi)[0].refusal
        assert not sum(f.graph_steps for f in specializations(svi))
    else:
        assert not seen
        assert taken(svi) == 7


MIXED = {
    "plain": {},
    "particles": {"particles": 3},
    "one by one": {"particles": 2, "vectorize": False},
    "analytic": {"analytic_kl": ["shift"]},
    "weights": {"weights": {"group": 0.3, "shift": lambda step: min(1.0, 0.1 + 0.2 * step)}},
    "leave one out": {"particles": 3, "estimators": {"group": LeaveOneOut()}},
    "landing": {"estimators": {"shift": Pathwise(sticking_the_landing=True)}},
}


@pytest.mark.parametrize("options", MIXED.values(), ids=MIXED.keys())
def test_objectives(options):
    """A minibatch, a continuous site above a discrete one, a network, two baselines with state."""
    make = lambda: svi_of(mixed_model, MixedGuide(), vg.ELBO(**options))  # noqa: E731
    expected, found, svi = both(make, steps(14, DATA))
    assert_close(found, expected, rtol=2e-5, atol=2e-6)
    assert taken(svi) == 12


def _coin(logit):
    return dist.Bernoulli(logits=logit)


@pytest.mark.parametrize(
    ("estimator", "family", "sizes"),
    [
        (Relax, _coin, (1, 5, 1)),
        (Lax, lambda loc: dist.Normal(loc, 1.0), (1, 5, 1)),
        (lambda net: Rodeo(2, network=net), _coin, (2, 5, 2)),
    ],
    ids=("relax", "lax", "rodeo"),
)
def test_networks_for_control_variates(estimator, family, sizes):
    def make():
        chosen = estimator(network(*sizes).float())

        def model(data):
            with vg.plate("data", 6):
                z = vg.sample("z", family(torch.tensor(0.4)))
                vg.sample("x", dist.Normal(2 * z, 1.0), obs=data)

        def guide(data):
            with vg.plate("data", 6):
                vg.sample("z", family(vg.param("t", torch.zeros(6), event_dim=0)), estimator=chosen)

        return svi_of(model, guide)

    expected, found, svi = both(make, steps(10, DATA))
    assert_close(found, expected, rtol=2e-5, atol=2e-6)
    assert taken(svi) == 8


@pytest.mark.parametrize("alpha", [0.0, 0.5, 2.0])
def test_renyi(alpha):
    def model(data):
        vg.sample("shift", dist.Normal(0.0, 2.0))
        with vg.plate("data", 6):
            group = vg.sample("group", dist.Bernoulli(0.4))
            vg.sample("x", dist.Normal(2 * group, 1.0), obs=data)

    def own(data):
        vg.sample("shift", dist.Normal(vg.param("m", 0.0), vg.param("s", 1.0, positive)))
        with vg.plate("data", 6):
            vg.sample("group", dist.Bernoulli(logits=vg.param("t", torch.zeros(6), event_dim=0)))

    config = vg.Renyi(alpha, 4, {"group": Score()})
    expected, found, svi = both(lambda: svi_of(model, own, config), steps(10, DATA))
    assert_close(found, expected, rtol=2e-5, atol=2e-6)
    assert taken(svi) == 8


GUIDES = ("AutoNormal", "AutoMultivariateNormal", "AutoLowRankMultivariateNormal", "AutoDelta", "AutoDiagonalNormal")


@pytest.mark.parametrize("kind", [k for k in GUIDES if hasattr(vg.guides, k)])
def test_automatic_guides(kind):
    def model(data):
        scale = vg.sample("scale", dist.LogNormal(0.0, 1.0))
        loc = vg.sample("loc", dist.Normal(torch.zeros(2), 3.0).to_event(1))
        with vg.plate("data", len(data)):
            vg.sample("x", dist.Normal(loc.sum(), scale), obs=data)

    def make():
        torch.manual_seed(1)
        return svi_of(model, getattr(vg.guides, kind)(model))

    expected, found, svi = both(make, steps(10, DATA))
    assert_close(found, expected, rtol=2e-5, atol=2e-6)
    assert taken(svi) == 8


# Many steps in a row


OPTIMS = {
    "Adam": vg.optim.Adam(lr=0.05),
    "clipped": vg.optim.Adam(lr=0.05, clip_norm=0.5),
    "schedule": vg.optim.Adam(lr=0.1, schedule=functools.partial(ExponentialLR, gamma=0.97)),
    "SGD": vg.optim.SGD(lr=0.01),
    "momentum": vg.optim.SGD(
        lr=0.01, momentum=0.9, clip_norm=2.0, schedule=functools.partial(ExponentialLR, gamma=0.9)
    ),
    "nesterov": vg.optim.Optimizer(
        torch.optim.SGD, {"lr": 0.01, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1}
    ),
    "dampening": vg.optim.Optimizer(torch.optim.SGD, {"lr": 0.01, "momentum": 0.8, "dampening": 0.3}),
    "decay": vg.optim.Optimizer(torch.optim.Adam, {"lr": 0.02, "weight_decay": 0.1}),
    "AdamW": vg.optim.Optimizer(torch.optim.AdamW, {"lr": 0.02, "betas": (0.8, 0.99), "eps": 1e-6}),
    "groups": vg.optim.Adam(
        lr=0.05, options=lambda name: {"lr": 0.2, "betas": (0.5, 0.9)} if name in ("m", "loc") else {}
    ),
    "callable": lambda parameters: torch.optim.Adam(parameters, lr=0.03),
    # As they are, on gradients from the graph.
    "amsgrad": vg.optim.Optimizer(torch.optim.Adam, {"lr": 0.02, "amsgrad": True}),
    "RMSprop": vg.optim.Optimizer(torch.optim.RMSprop, {"lr": 0.01}, clip_norm=1.0),
    "Adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.1),
    "tensor rate": vg.optim.Optimizer(torch.optim.Adam, {"lr": t(0.02)}),
}


@pytest.mark.parametrize("name", OPTIMS)
def test_optimisers(name):
    make = lambda: svi_of(mixed_model, MixedGuide(), optim=OPTIMS[name])  # noqa: E731
    expected, found, svi = both(make, lambda svi: svi.run(40, DATA).losses)
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert taken(svi) == 38
    with by_graph():
        alone = make()
        losses = [alone.step(DATA) for _ in range(40)]
    assert losses == found[0].tolist()
    assert same(alone.state(), svi.state())


def test_the_optimisers_state_is_torchs():
    """What a compiled run leaves in the optimiser is what torch would go on from."""
    with by_graph():
        svi = svi_of(normal_model, normal_guide)
        svi.run(30, DATA)
        state = svi.optimizer.state_dict()["state"]
        assert all(float(s["step"]) == 30 for s in state.values())
        twin = torch.optim.Adam([p.detach().clone().requires_grad_() for p in svi.bound.parameters()], lr=0.05)
        twin.load_state_dict(copy.deepcopy(svi.optimizer.state_dict()))


@pytest.mark.parametrize("every", [1, 7, 13])
def test_callbacks_see_every_nth(every):
    with by_graph():
        seen, svi = [], svi_of(mixed_model, MixedGuide())
        fit = svi.run(50, DATA, callback=lambda m: seen.append((m.step, m.loss)) or m.step == 42, every=every)
        assert [n for n, _ in seen] == [n for n in range(every, 51, every) if n <= 42 or 42 % every]
        assert all(loss == fit.losses[n - 1] for n, loss in seen)
        assert len(fit.losses) == (42 if 42 % every == 0 else 50)
        plain = svi_of(mixed_model, MixedGuide()).run(50, DATA)
    assert torch.equal(plain.losses[: len(fit.losses)], fit.losses)


def test_changes_between_steps_are_seen():
    """A user who looks at the parameters, or writes to them, between two runs."""

    def go(svi):
        losses = [svi.run(20, DATA).losses]
        with torch.no_grad():
            svi.bound.get_parameter("loc").fill_(3.0)
        losses.append(svi.run(5, DATA).losses)
        svi.bound.get_parameter("loc").data = t(-1.0)
        losses.append(svi.run(5, DATA).losses)
        svi.optimizer.param_groups[0]["lr"] = 0.5
        losses.append(svi.run(5, DATA).losses)
        losses.append([svi.evaluate(DATA), float(svi.bound.get_parameter("loc").detach())])
        svi.optimizer.state[svi.bound.get_parameter("loc")]["exp_avg"].zero_()
        losses.append(svi.run(5, DATA).losses)
        return losses

    expected, found, svi = both(lambda: svi_of(normal_model, normal_guide), go)
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert taken(svi)


def test_states_come_back():
    with by_graph():
        svi = svi_of(mixed_model, MixedGuide())
        svi.run(15, DATA)
        state = copy.deepcopy(svi.state())
        first = svi.run(25, DATA).losses
        end = svi.state()
        svi.load_state(state)
        assert torch.equal(svi.run(25, DATA).losses, first)
        assert same(svi.state(), end)
        other = svi_of(mixed_model, MixedGuide(), seed=99)
        other.init(DATA).load_state(state)
        assert_close(other.run(25, DATA).losses, first, rtol=1e-5)  # its first steps are Python's


def test_a_run_that_is_compiled_half_way():
    def make(compile):
        return vg.SVI(normal_model, normal_guide, vg.optim.Adam(lr=0.05), seed=0, compile=compile)

    with by_graph():
        svi = make(False)
        svi.run(10, DATA)
        assert svi.explain() == "steps are not compiled: SVI(..., compile=True)"
        before = copy.deepcopy(svi.optimizer.state_dict())
        svi.run(1, DATA, compile=True)
        assert float(before["state"][0]["step"]) == 10 and float(svi.optimizer.state_dict()["state"][0]["step"]) == 11
        svi.run(30, DATA)
        assert taken(svi) == 29
        number = svi.metrics.step
        svi.run(10, DATA, compile=False)
        assert svi.metrics.step == number + 10
        assert svi._step_compiler is None
        with pytest.raises(VarigradError, match="compile must be"):
            svi.run(1, DATA, compile="now")


# Not finite


def poisoned(data, poison):
    z = vg.sample("z", dist.Normal(0.0, 1.0))
    with vg.plate("data", len(data)):
        vg.sample("x", dist.Normal(z, 1.0), obs=data)
    vg.factor("poison", torch.where(z > poison, torch.inf, 0.0 * z))


def guide(*args):
    vg.sample("z", dist.Normal(vg.param("loc", 0.5), vg.param("scale", 0.7, positive)))


@pytest.mark.parametrize("schedule", [None, functools.partial(ExponentialLR, gamma=0.9)])
def test_steps_that_are_not_finite_are_skipped(schedule):
    optim = vg.optim.Adam(lr=0.01, schedule=schedule)
    make = lambda: svi_of(poisoned, guide, optim=optim, skip_nonfinite=True)  # noqa: E731
    expected, found, svi = both(make, lambda svi: [(f := svi.run(60, DATA, t(1.3))).losses, f.skipped])
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert 3 < found[0][1] < 40
    assert found[0][1] == found[0][0].isnan().sum()
    assert taken(svi) == 58
    with by_graph():
        alone = make()
        losses = [alone.step(DATA, t(1.3)) for _ in range(60)]
    assert [x for x in losses if math.isfinite(x)] == [x for x in found[0][0].tolist() if not math.isnan(x)]
    assert same(alone.state(), svi.state())


@pytest.mark.parametrize("schedule", [None, functools.partial(ExponentialLR, gamma=0.9)])
def test_a_step_that_is_not_finite_raises_and_stops_there(schedule):
    optim = vg.optim.Adam(lr=0.01, schedule=schedule)

    def go(how):
        svi = svi_of(poisoned, guide, optim=optim)
        with pytest.raises(NonFiniteError) as error:
            how(svi)
        svi.run(3, DATA, t(100.0))  # and goes on
        return str(error.value).split(";")[0], svi.metrics, svi.state()

    def one_by_one(svi):
        for _ in range(500):
            svi.step(DATA, t(2.0))

    with by_python():
        expected = go(one_by_one)
    with by_graph():
        alone, together = go(one_by_one), go(lambda svi: svi.run(500, DATA, t(2.0)))
    assert expected[0] == alone[0] == together[0]
    assert int(expected[0].split()[1].rstrip(":")) >= 10
    assert alone[1] == together[1] and same(alone[2], together[2])
    assert_close(together[2], expected[2], rtol=1e-4, atol=1e-5)


def test_nothing_goes_on_after_a_step_that_is_not_finite():
    """Not a module's averages either, and not the generator that dropout draws from."""

    def run(how):
        net = nn.Sequential(nn.BatchNorm1d(1), nn.Dropout(0.5))

        def own(data, limit):
            vg.module("net", net)
            guide()

        def model(data, limit):
            poisoned(data + 0.1 * net(data.unsqueeze(-1)).squeeze(-1), limit)

        svi = svi_of(model, own, optim=vg.optim.Adam(lr=0.01))
        with pytest.raises(NonFiniteError) as error:
            how(svi)
        return str(error.value).split(";")[0], svi.state()

    def one_by_one(svi):
        for _ in range(500):
            svi.step(DATA, t(2.0))

    with by_python():
        expected = run(one_by_one)
    with by_graph():
        alone, together = run(one_by_one), run(lambda svi: svi.run(500, DATA, t(2.0)))
    assert expected[0] == alone[0] == together[0]
    assert int(expected[0].split()[1].rstrip(":")) >= 10
    assert same(alone[1], together[1])
    assert_close(together[1], expected[1], rtol=1e-4, atol=1e-5)


# Arguments


def any_guide(*args, **kwargs):
    guide()


def scaled(data, weight=1.0, flag=True, power=2):
    z = vg.sample("z", dist.Normal(0.0, 1.0))
    with vg.plate("data", len(data)), vg.handlers.scale(scale=weight):
        vg.sample("x", dist.Normal(z**power if flag else z, 1.0), obs=data)


def test_numbers_that_change_become_inputs():
    weights = [0.1 * i for i in range(40)]
    go = lambda svi: [svi.step(DATA, weight=w) for w in weights]  # noqa: E731
    expected, found, svi = both(lambda: svi_of(scaled, any_guide), go)
    assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert len(specializations(svi)) <= 3
    assert taken(svi) > 30


def test_numbers_that_python_needs_are_recorded_one_by_one():
    """`range(n)` cannot be an input: every `n` is a form of its own."""

    def model(data, n):
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        for i in range(n):
            vg.sample(f"x{i}", dist.Normal(z, 1.0), obs=data[i])

    go = lambda svi: [svi.step(DATA, 1 + i % 3) for i in range(40)]  # noqa: E731
    expected, found, svi = both(lambda: svi_of(model, guide), go)
    assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert taken(svi) > 20


def test_flags_and_shapes_are_forms():
    calls = [(DATA, 1.0, True), (DATA[:3], 1.0, True), (DATA, 1.0, False), (DATA.double(), 1.0, True)]
    go = lambda svi: [svi.step(*calls[i % 4]) for i in range(40)]  # noqa: E731
    expected, found, svi = both(lambda: svi_of(scaled, any_guide), go)
    assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert len(specializations(svi)) == 4
    assert taken(svi) == 32


def test_another_tensor_of_the_same_form():
    """The last batch's numbers are never served for this one's: strided, expanded, the same one twice, a new object."""

    def model(data, other):
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        with vg.plate("data", len(data)):
            vg.sample("x", dist.Normal(z, 1.0), obs=data)
            vg.sample("y", dist.Normal(-z, 1.0), obs=other)

    wide = torch.randn(6, 2)
    kinds = [(DATA, DATA), (DATA + 1, DATA - 1), (wide[:, 0], wide[:, 1]), (t(2.0).expand(6), DATA.clone())]

    def go(svi):
        moved = [svi.step(*(x + 0.01 * i * x[:1] for x in kinds[i % 4])) for i in range(24)]
        return moved + [svi.step(*kinds[i % 4]) for i in range(24)]

    expected, found, svi = both(lambda: svi_of(model, guide), go)
    assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert taken(svi) > 30


def test_data_written_in_place_are_read_anew():
    data, inside = DATA.clone(), DATA.clone()

    def model(data):
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        with vg.plate("data", 6):
            vg.sample("x", dist.Normal(z, 1.0), obs=data)
            vg.sample("y", dist.Normal(z, 1.0), obs=inside)

    def go(svi):
        data.copy_(DATA), inside.copy_(DATA)
        found = []
        for i in range(30):
            data[i % 6] += 1.0
            inside[i % 5] -= 1.0
            found.append(svi.step(data))
        return found

    expected, found, svi = both(lambda: svi_of(model, guide), go)
    assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert taken(svi) == 28


def test_trees_of_arguments():
    def model(batch, *, names):
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        for name in names:
            with vg.plate(f"p_{name}", 6):
                vg.sample(name, dist.Normal(z, batch["scale"]), obs=batch["data"][name])

    def tree(i):
        return {"scale": 1.0 + i, "data": {"a": DATA + i, "b": DATA - i}}

    go = lambda svi: [svi.step(tree(i), names=("a", "b")) for i in range(20)]  # noqa: E731
    expected, found, svi = both(lambda: svi_of(model, lambda batch, names: guide()), go)
    assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert taken(svi) > 10


def test_loaders():
    pairs = torch.utils.data.TensorDataset(torch.randn(20, generator=torch.Generator().manual_seed(1)))

    def go(svi):
        return svi.run(60, torch.utils.data.DataLoader(pairs, batch_size=8)).losses

    expected, found, svi = both(lambda: svi_of(normal_model, normal_guide), go)
    assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert len(specializations(svi)) == 2  # the last batch is smaller
    assert taken(svi) == 56


def test_modules_with_buffers():
    """Batch normalisation keeps running averages: the graph writes them too."""

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

    expected, found, svi = both(lambda: svi_of(model, Net(), optim=vg.optim.SGD(lr=0.001)), steps(25, DATA))
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert int(svi.bound.state_dict()["guide.layers.1.num_batches_tracked"]) >= 25
    assert taken(svi) == 23


# A loop of one's own


def test_compiled_objectives():
    def go():
        loss = vg.compiled(vg.ELBO()(mixed_model, MixedGuide()), seed=3)
        loss(DATA)
        optimiser = torch.optim.Adam(loss.parameters(), lr=0.05)
        seen = []
        for i in range(20):
            optimiser.zero_grad()
            value = loss(DATA)
            (value * (1 + i % 3)).backward()
            seen.append([float(value.detach()), *[p.grad.clone() for p in loss.parameters()]])
            optimiser.step()
        return seen, loss

    with by_python():
        expected, _ = go()
    with by_graph():
        found, loss = go()
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert sum(f.graph_steps for f in loss._step_compiler.specializations.values()) > 15


# What is captured of torch, and what is not


@pytest.mark.parametrize("name", [n for n in everything() if n != "Rejector"])
def test_families_are_captured(name):
    """A draw, its density and the gradient with respect to the arguments, on numbers other than the recording's."""
    arguments = [a.clone() if isinstance(a, torch.Tensor) else a for a in FAMILIES.get(name, ())]
    leaves = [a.requires_grad_() for a in arguments if isinstance(a, torch.Tensor)]
    noise = Noise(3)

    def draw():
        d = getattr(dist, name)(*arguments) if arguments else everything()[name]()
        results = []
        for pathwise in ways(d):
            value = noise.draw(d, reparameterised=pathwise)
            density = d.log_prob(value)
            results += [value, density]
            if leaves and density.requires_grad:
                results += [
                    g
                    for g in torch.autograd.grad(density.sum(), leaves, retain_graph=True, allow_unused=True)
                    if g is not None
                ]
        return [r.detach() for r in results]

    noise.measure()
    draw()
    rows = {kind: row[0].clone() for kind, row in noise.rows(noise.demand, 1).items()}
    noise.use(rows)
    graph = trace(draw, [*leaves, *rows.values()])
    for kind, row in noise.rows(noise.demand, 1).items():
        rows[kind].copy_(row[0])
    noise.use(rows)
    with noise.lent():
        state = torch.get_rng_state()
        expected = draw()
        torch.set_rng_state(state)
        found = graph.module(*leaves, *rows.values(), *graph.constants)
    assert graph.random == bool(name in ("Poisson", "Binomial") or "Poisson" in name or "NegativeBin" in name
                                or name == "BetaBinomial")  # fmt: skip
    assert_close([f.detach() for f in found], expected, rtol=1e-5, atol=1e-6)


INDICES = {
    "scalar": lambda x, i: x[i],
    "twice": lambda x, i: x[i][i],
    "pair": lambda x, i: x[i, i],
    "after a slice": lambda x, i: x[:, i],
    "between": lambda x, i: x[1:, i, ::2],
    "with a number": lambda x, i: x[0, i],
    "negative": lambda x, i: x[-1, :, i],
    "none": lambda x, i: x[None, i],
    "ellipsis": lambda x, i: x[..., i],
    "beside a tensor": lambda x, i: x[i, torch.tensor([0, 1])],
    "list": lambda x, i: x[i, [0, 1]],
    "of a row": lambda x, i: x[i.reshape(1)],
    "minus": lambda x, i: x[i - 2],
    "int32": lambda x, i: x[i.int()],
}


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES.keys())
def test_an_index_without_dimensions(index):
    x, i = torch.arange(27.0).reshape(3, 3, 3), t(0)
    graph = trace(lambda: [index(x, i)], [x, i])
    for number in (0, 1, 2):
        i.fill_(number)
        (found,) = graph.module(x, i, *graph.constants)
        assert torch.equal(found, index(x, i)), index(x, i)


FROZEN = {
    "tensor of a list": lambda z: torch.tensor([z, 1.0]),
    "as_tensor": lambda z: torch.as_tensor([1.0, z]),
    "new_tensor": lambda z: torch.zeros(()).new_tensor([z]),
    "item": lambda z: torch.tensor(z.item()),
    "float": lambda z: torch.tensor(float(z)),
    "if": lambda z: z * 2 if z > 0 else z,
    "range": lambda z: sum(z for _ in range(int(z) + 1)),
    "numpy": lambda z: torch.from_numpy(z.numpy() + 1),
    "tolist": lambda z: torch.tensor(z.reshape(1).tolist()),
    "dlpack": lambda z: torch.from_dlpack(z) * 2,
    "deepcopy": lambda z: copy.deepcopy(z) * 2,
    "string": lambda z: torch.tensor(float(f"{z}")),
    "a mask's size": lambda z: torch.arange(3.0)[torch.arange(3) < z],
    "nonzero": lambda z: z.reshape(1).nonzero(),
    "unique": lambda z: torch.stack([z, z]).unique(),
    "generator": lambda z: z * torch.rand((), generator=torch.Generator()),
    "one_hot": lambda z: torch.nn.functional.one_hot(z.long()),
    "cond": lambda z: torch.cond(z > 0, lambda x: x * 2, lambda x: x - 1, (z,)),
}
FOLLOWED = {
    "where": lambda z: torch.where(z > 0, z, 2.0),
    "data": lambda z: z.data * 2,
    "Parameter": lambda z: nn.Parameter(z, requires_grad=False) * 2,
    "detach": lambda z: z.detach() + 1,
    "written": lambda z: torch.zeros(3).index_fill_(0, z.long().reshape(1), 5.0),
    "setitem": lambda z: leaks.LEAKS["setitem"](z),
    "out": lambda z: leaks.LEAKS["out"](z),
    "a literal written into": lambda z: torch.tensor([0.0, 1.0]).index_fill_(0, torch.tensor([0]), 2.0) * z,
    "a literal added to": lambda z: torch.tensor(1.0).add_(z),
    "vmap": lambda z: torch.vmap(lambda i: i * z)(torch.ones(3)),
    "vmap argument": lambda z: torch.vmap(lambda i: i + 1)(z.expand(3)),
    "grad": lambda z: torch.func.grad(lambda x: (x * z).sin())(t(2.0)),
    "jacobian": lambda z: torch.func.jacrev(lambda x: x * z * x)(torch.ones(2)),
    "scripted": lambda z: leaks.LEAKS["scripted"](z),
    "scatter": lambda z: torch.zeros(3).scatter(0, z.long().reshape(1), 1.0),
    "einsum": lambda z: torch.einsum("i,->i", torch.ones(2), z),
    "one_hot": lambda z: torch.nn.functional.one_hot(z.long(), 3),
    "checkpoint": lambda z: torch.utils.checkpoint.checkpoint(lambda x: x * 2, z, use_reentrant=False),
    "a mask that stays": lambda z: (torch.arange(3.0) * z)[t([True, False, True])],
    "a row of a matrix": lambda z: torch.eye(2)[z.long()],
}


def tracked(function):
    """The value goes in as a choice that is followed, as in a step."""

    def inside(z):
        plain = vg.terms.provenance.track_provenance(z * 1, frozenset({"z"}), vg.terms.provenance.Escapes())
        return vg.terms.provenance.untracked(function(plain))

    return inside


@pytest.mark.parametrize("how", [lambda f: f, tracked], ids=["plain", "tracked"])
@pytest.mark.parametrize("name", [*FROZEN, *(f"followed {n}" for n in FOLLOWED)])
def test_nothing_is_frozen(name, how):
    """Either the graph follows the value or the recording is refused, with this file and a line."""
    z = t(1.0)
    function = how(FROZEN[name] if name in FROZEN else FOLLOWED[name.removeprefix("followed ")])
    if name in FROZEN:
        with pytest.raises(CaptureError) as error:
            trace(lambda: [function(z)], [z])
        assert "test_capture.py:" in str(error.value) or name == "deepcopy"
        assert "Try: " in str(error.value)
        return
    graph = trace(lambda: [function(z)], [z])
    for value in (1.0, 0.0, 1.0):
        z.fill_(value)
        assert torch.equal(graph.module(z, *graph.constants)[0], function(z))


def branching(data):
    z = vg.sample("z", dist.Normal(0.0, 1.0))
    loc = z if z > 0 else -z  # here
    with vg.plate("data", len(data)):
        vg.sample("x", dist.Normal(loc, 1.0), obs=data)


def converting(data):
    z = vg.sample("z", dist.Normal(0.0, 1.0))
    loc = z * float(z)  # here
    vg.sample("x", dist.Normal(loc, 1.0), obs=data[0])


def checking(data):
    z = vg.sample("z", dist.Normal(0.0, 1.0))
    d = torch.distributions.Normal(z, 1.0, validate_args=True)  # here
    vg.sample("x", d, obs=data[0])


def own_random(data):
    z = vg.sample("z", dist.Normal(0.0, 1.0))
    noise = torch.randn(2, generator=torch.Generator().manual_seed(0))  # here
    vg.sample("x", dist.Normal(z + noise.sum(), 1.0), obs=data[0])


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
@pytest.mark.parametrize("model", [branching, converting, checking, own_random])
def test_what_cannot_be_captured_says_where_and_runs_eagerly(model):
    lines, first = inspect.getsourcelines(model)
    line = first + next(i for i, text in enumerate(lines) if "# here" in text)
    with pytest.warns(CaptureWarning, match=f"test_capture.py:{line}: ") as seen:
        expected, found, svi = both(lambda: svi_of(model, guide), steps(12, DATA))
    (ours,) = (each for each in seen if each.category is CaptureWarning)  # torch's own comes once in a process
    assert ". Try: " in str(ours.message) and "; because " in str(ours.message)
    assert same(found, expected)
    assert f"test_capture.py:{line}" in svi.explain() and "eager" in svi.explain()


def test_a_family_that_proposes_until_it_accepts():
    def own(data):
        vg.sample("z", dist.Rejector(dist.Normal(vg.param("m", 0.0), 1.0), lambda z: torch.where(z < 2, 0.0, -math.inf),
                                     t(0.9772).log()))  # fmt: skip

    make = lambda: svi_of(normal_model, own, vg.ELBO(estimators={"z": Score()}))  # noqa: E731
    with pytest.warns(CaptureWarning, match="steps run eagerly"):
        expected, found, _ = both(make, steps(12, DATA))
    assert same(found, expected)


def test_explain_tells_what_there_is():
    with by_graph():
        svi = svi_of(mixed_model, MixedGuide())
        assert svi.explain() == "no step has been taken"
        svi.step(DATA)
        assert "eager so far (1 steps of 2 before it is recorded)" in svi.explain()
        svi.run(20, DATA)
    text = svi.explain()
    operations = specializations(svi)[0].step.traced.graph.size
    for words in ("kernels", f"{operations} operations in", "normal", "uniform", "subset", "2 + 19"):
        assert words in text, text
    latent = ", ".join(site.name for site in svi.plan(DATA).sites)
    assert text.endswith(f"form 0, drawn by our own functional samplers: {latent}"), text


def test_a_short_run_is_never_recorded():
    svi = svi_of(normal_model, normal_guide)
    svi.run(step_compiler.PATIENCE - 1, DATA)
    assert specializations(svi)[0].step is None and specializations(svi)[0].graph_steps == 0


# Reproducible


def test_it_does_not_matter_when_the_compiler_is_done():
    """Every step sees the numbers that it would have seen anyway: in Python, soon, late."""
    runs = []
    for patience in (1, 2, 11, 30, NEVER):
        with by_graph(patience):
            svi = svi_of(mixed_model, MixedGuide())
            runs.append([svi.run(40, DATA).losses, svi.state()])
    for run in runs[1:]:
        assert_close(run, runs[0], rtol=1e-4, atol=1e-5)


def counting(data):
    z = vg.sample("z", dist.Poisson(3.0))
    vg.sample("x", dist.Normal(z + torch.rand(()), 1.0), obs=data[0])


def test_draws_of_torchs_own_generator():
    """Poisson, and what a user draws with torch: the same numbers by graph, and nobody else's generator is touched."""

    def own(data):
        vg.sample("z", dist.Poisson(vg.param("rate", 2.0, positive)))

    expected, found, svi = both(lambda: svi_of(counting, own).init(DATA), lambda svi: svi.run(40, DATA).losses)
    assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert taken(svi) == 38
    assert "torch's own" in svi.explain()
    assert svi.explain().endswith("form 0, drawn by torch.poisson, which has no functional form: z")


# Dependencies


def dependencies(model, guide, args=()):
    """`(site, sign) -> sites upstream`, by the tracker and by reachability in the graph."""
    noise = Noise(0)
    bound = vg.ELBO().bind(model, guide, noise).init(*args)
    plain = Vectorization(plates=bound.discovered.vectorization.plates, mixed=bound.discovered.vectorization.mixed)
    seen = {}

    def run():
        found = perform(bound.runs.settings(plain, track_all=True), model, guide, args, {}, {})
        terms = terms_of(found, plain, lambda run, terms: terms)
        seen.update(sites=list(found.draws), terms=terms)
        return [draw.value for draw in found.draws.values()] + [term.log_prob for term in terms]

    noise.measure()
    run()
    rows = {kind: row[0] for kind, row in noise.rows(noise.demand, 1).items()}
    noise.use(rows)
    graph = trace(run, [*bound.parameters(), *rows.values()]).operations
    outputs = list(graph.nodes)[-1].args[0]
    sites = seen["sites"]
    known = reached(graph, outputs[: len(sites)])
    tracker, reachable = {}, {}
    for term, node in zip(seen["terms"], outputs[len(sites) :], strict=True):
        own = {term.name} if term.sign < 0 else set()
        tracker[term.name, term.sign] = set(term.upstream) | own
        reachable[term.name, term.sign] = {sites[i] for i in known[node]} | own
    return tracker, reachable


# The density of a normal draw is a function of the numbers that it was made of: its place cancels, and what that is.
CANCELS = {"plate_of_normals_under_a_switch": ("z", -1)}


@pytest.mark.parametrize("program", [p for p in PROGRAMS if p not in BRANCHING])
def test_dependencies_are_reachability(program):
    case = PROGRAMS[program]
    tracker, graph = dependencies(case.model, case.guide, case.args)
    if program in CANCELS:
        assert graph.pop(CANCELS[program]) < tracker.pop(CANCELS[program])
    assert graph == tracker


@pytest.mark.parametrize("way", ["setitem", "add_", "out", "vmap closure", "scripted", "data"])
def test_dependencies_through_memory(way):
    tracker, graph = dependencies(*leaks.leaking(leaks.LEAKS[way], Score()))
    assert graph == tracker
    assert graph["x", 1] == {"a", "b"}


@pytest.mark.parametrize("where", ["mask", "scale", "obs", "factor"])
def test_dependencies_of_other_parts_of_a_statement(where):
    tracker, graph = dependencies(*leaks.by_other_ways(where))
    assert graph == tracker
    assert graph["x", 1] == {"a"}


def test_baselines_are_recorded():
    """Given values, networks and averages together: their state and their networks' gradients too."""
    net = nn.Linear(1, 1)
    for i, p in enumerate(net.parameters()):
        nn.init.constant_(p, 0.1 * i)

    def own(data):
        x = data.unsqueeze(-1)
        baseline = ValueBaseline(data * 0.1) + NeuralBaseline(net, x) + MovingAverage(0.8, per_element=True)
        with vg.plate("data", 6):
            vg.sample("z", dist.Bernoulli(logits=vg.param("t", torch.zeros(6), event_dim=0)), estimator=Score(baseline))

    def model(data):
        with vg.plate("data", 6):
            z = vg.sample("z", dist.Bernoulli(0.4))
            vg.sample("x", dist.Normal(3 * z, 1.0), obs=data)

    def make():
        with torch.no_grad():
            net.weight.fill_(0.0), net.bias.fill_(0.1)
        return svi_of(model, own)

    expected, found, svi = both(make, steps(15, DATA))
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert taken(svi) == 13
