"""`assert_step`: what it lets pass, what it finds, and that it leaves everything as it was."""

import random
import re

import numpy as np
import pytest
import torch
from step_programs import LAYOUTS, OPTIMIZERS, one, program
from torch import nn

import varigrad as vg
from varigrad import distributions as dist
from varigrad.compile.step.compiled_step import CompiledStep
from varigrad.errors import VarigradError
from varigrad.estimators import MovingAverage, Score
from varigrad.testing import assert_step

DATA = torch.tensor([0.3, -1.2, 2.0])


class Net(nn.Module):
    """With a buffer, dropout, and weights in the order of columns."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(3, 2)  # the norm takes the bias out again: its gradient is zero but for rounding
        self.layer.weight = nn.Parameter(self.layer.weight.detach().t().contiguous().t())
        self.norm = nn.BatchNorm1d(2)
        self.drop = nn.Dropout(0.3)

    def forward(self, x):
        return self.drop(self.norm(self.layer(x)))


def random_svi(optim=None, net=None, **options):
    net = Net() if net is None else net

    def model(data):
        z = vg.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        k = vg.sample("k", dist.Bernoulli(0.4))
        vg.sample("x", dist.Normal(z.sum(-1, keepdim=True) + k, 1.0).expand([3]).to_event(1), obs=data)

    def guide(data):
        vg.module("net", net)
        loc = net(torch.stack([data, data.flip(0), data * 2]))[0]
        vg.sample("z", dist.Normal(loc, vg.param("scale", torch.ones(2), dist.constraints.positive)).to_event(1))
        vg.sample("k", dist.Bernoulli(logits=vg.param("logit", 0.0)), estimator=Score(MovingAverage()))

    optim = vg.optim.Adam(lr=0.05, clip_norm=1.0) if optim is None else optim
    return vg.SVI(model, guide, optim, seed=0, **options)


def everything(svi):
    """All that may not change, as values."""
    copied = svi.state()
    buffers = [b.clone() for b in svi.bound.buffers()]
    grads = [None if p.grad is None else p.grad.clone() for p in svi.bound.parameters()]
    modes = [m.training for m in svi.bound.modules()]
    kept = torch.random.get_rng_state(), random.getstate(), str(np.random.get_state())
    return [copied, buffers, grads, modes, svi.metrics, *kept]


def assert_same(a, b):
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b or a is b


SCHEDULED = vg.optim.Optimizer(
    torch.optim.SGD, {"lr": 0.01, "momentum": 0.9}, schedule=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.7)
)


@pytest.mark.parametrize("optim", [None, SCHEDULED, *(o for o, _ in OPTIMIZERS.values())][:33])
def test_right_steps_pass(optim):
    svi = random_svi(optim) if optim is not OPTIMIZERS["Muon"][0] else None
    if svi is None:
        case = LAYOUTS["transposed parameter"]
        svi = vg.SVI(*program(case.loss, case.make(torch.float32)), optim, seed=0)
        assert_step(svi)
        return
    assert_step(svi, DATA)
    svi.run(3, DATA, progress=False)
    assert_step(svi, data=DATA)


class Normalized(nn.Module):
    """A bias whose gradient is zero but for rounding."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layer, self.norm = nn.Linear(3, 2), nn.BatchNorm1d(2)

    def forward(self, x):
        return self.norm(self.layer(x))


@pytest.mark.parametrize("compile", [False, "wait"])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_gradient_that_is_zero_but_for_rounding_passes(compile, clip_norm):
    """Adam divides it by its own size, and goes one way or the other."""
    svi = random_svi(vg.optim.Adam(lr=0.05, clip_norm=clip_norm), Normalized(), compile=compile)
    assert_step(svi, DATA, steps=8)


class Shrinking(torch.optim.Adam):
    """Its steps are one thousandth too short."""

    def step(self, closure=None):
        before = [p.detach().clone() for group in self.param_groups for p in group["params"]]
        super().step()
        with torch.no_grad():
            for p, old in zip((p for group in self.param_groups for p in group["params"]), before, strict=True):
                p.lerp_(old, 0.001)


@pytest.mark.parametrize("compile", [False, "wait"])
def test_rounding_hides_no_step_that_is_a_thousandth_too_short(compile):
    """The allowance for rounding is for entries whose gradient is rounding, and for no others."""
    svi = random_svi(vg.optim.Optimizer(Shrinking, {"lr": 0.05}), Normalized(), compile=compile)
    with pytest.raises(AssertionError, match="torch's plain Adam"):
        assert_step(svi, DATA)


def test_a_program_that_draws_by_itself_is_allowed_nothing():
    """Its gradient differs from call to call, which is no rounding."""
    generator = torch.Generator().manual_seed(3)

    class Own(nn.Linear):
        def forward(self, x):
            return super().forward(x) * torch.rand((), generator=generator)

    torch.manual_seed(1)
    svi = random_svi(vg.optim.SGD(lr=0.1), Own(3, 2))
    with pytest.raises(AssertionError, match="torch's plain SGD"):
        assert_step(svi, DATA)


@pytest.mark.parametrize("compile", [False, "wait"])
@pytest.mark.parametrize("taken", [0, 5])
def test_it_changes_nothing(taken, compile):
    svi, twin = random_svi(compile=compile), random_svi(compile=compile)
    for one_of in (svi, twin):
        torch.manual_seed(7)
        one_of.init(DATA)
        for _ in range(taken):
            one_of.step(DATA)
    before = everything(svi)
    assert_step(svi, DATA, steps=5)
    assert_same(everything(svi), before)
    state = torch.random.get_rng_state()
    found = [svi.step(DATA) for _ in range(4)]
    torch.random.set_rng_state(state)
    expected = [twin.step(DATA) for _ in range(4)]
    if compile and not taken:  # it is compiled already, and rounds as a graph does
        assert found == pytest.approx(expected, rel=1e-5)
    else:
        assert found == expected
        assert_same(everything(svi)[0], everything(twin)[0])


def test_compiled_steps_are_compared(monkeypatch):
    by_graph, run = [], CompiledStep.run

    def counting(self, count, *args):
        by_graph.append(count)
        return run(self, count, *args)

    monkeypatch.setattr(CompiledStep, "run", counting)
    assert_step(random_svi(net=nn.Linear(3, 2), compile="wait"), DATA, steps=6)
    assert sum(by_graph) == 4


class ByMemory(torch.optim.SGD):
    """Reads gradients in the order of memory, and parameters by their indices."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                grad = p.grad.as_strided((p.numel(),), (1,)).view(p.shape)
                p -= group["lr"] * grad


class OwnByMemory(torch.optim.Optimizer):
    """The same, of no class of torch's."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    step = ByMemory.step


class Upwards(torch.optim.SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.neg_()
        super().step()


@pytest.mark.parametrize("kind", [ByMemory, OwnByMemory])
def test_an_optimizer_that_reads_by_memory_is_found(kind):
    case = LAYOUTS["transposed parameter"]
    settings = {} if kind is OwnByMemory else {"lr": 0.1}
    svi = vg.SVI(*program(case.loss, case.make(torch.float32)), vg.optim.Optimizer(kind, settings), seed=0)
    svi.init()
    before = everything(svi)
    text = r"step 1: the parameter 'net.all.0' of shape \(2, 3\) and strides \(1, 2\) is off by [\d.]+ at \[\d, \d\]: "
    with pytest.raises(AssertionError, match=text + r"[\d.-]+, and by (torch's plain SGD|OwnByMemory) "):
        assert_step(svi)
    assert_same(everything(svi), before)


def test_an_optimizer_that_climbs_is_found():
    svi = random_svi(vg.optim.Optimizer(Upwards, {"lr": 0.1}))
    with pytest.raises(AssertionError, match=re.escape("torch's plain SGD")):
        assert_step(svi, DATA)


def test_a_state_of_a_compiled_run_is_not_written_into():
    """Its averages were those of the graph, which overwrites them."""
    svi = random_svi(net=nn.Linear(3, 2), compile="wait")
    for _ in range(5):
        svi.step(DATA)
    state = svi.state()
    before = torch.utils._pytree.tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, state)
    svi.step(DATA)
    assert_same(state, before)


def test_an_error_leaves_everything_as_it_was():
    case = LAYOUTS["sum"]
    parameters = one(5)(torch.float32)
    broken = []

    def loss(w):
        if broken:
            raise ValueError("broken")
        return case.loss(w)

    svi = vg.SVI(*program(loss, parameters), vg.optim.Adam(lr=0.1), seed=0)
    svi.step()
    before = everything(svi)
    broken.append(1)
    with pytest.raises(ValueError, match="broken"):
        assert_step(svi)
    assert_same(everything(svi), before)


def test_a_number_of_steps_is_needed():
    with pytest.raises(VarigradError, match="steps must be a whole number of at least 1, got 0"):
        assert_step(random_svi(), DATA, steps=0)


def test_noise_of_the_program_is_no_rounding():
    """A program that counts its calls has another gradient each time, and no step agrees with that."""
    calls = []

    def model():
        calls.append(None)
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        vg.sample("x", dist.Normal(z + len(calls), 0.1), obs=torch.tensor(2.0))

    def guide():
        vg.sample("z", dist.Normal(vg.param("m", torch.tensor(0.3)), 0.5))

    svi = vg.SVI(model, guide, vg.optim.SGD(0.001), seed=0)
    with pytest.raises(AssertionError):
        assert_step(svi)
