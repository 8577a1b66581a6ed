"""What could make a compiled step wrong: each time right numbers or a clear error, one warning, never stale numbers.

A stand-in for the compiler is enough for nearly all of it: the recorded graph (`graph_harness.by_graph`), or a process
that hangs, fails, is killed, or hands out a library that was made before.
"""

import collections
import contextlib
import contextvars
import copy
import dataclasses
import functools
import itertools
import json
import math
import os
import pickle
import random
import socket
import subprocess
import sys
import threading
import time
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from graph_harness import (
    Uncompiled,
    assert_close,
    by_graph,
    by_python,
    heard,
    same,
    specializations,
    svi_of,
    taken,
    worker,
)
from programs_for_svi import DATA, normal_guide, normal_model
from torch import nn

import varigrad as vg
from varigrad import distributions as dist
from varigrad.compile.backends import inductor
from varigrad.compile.backends.c import library
from varigrad.compile.backends.cache import cache_folder
from varigrad.compile.step import stages, step_compiler
from varigrad.compile.step.step_compiler import CaptureWarning
from varigrad.compile.trace.tracer import trace
from varigrad.errors import ParameterError, VarigradError

t = torch.tensor
positive = dist.constraints.positive


def guide(*args, **kwargs):
    vg.sample("z", dist.Normal(vg.param("loc", 0.5), vg.param("s", 0.7, positive)))


def observe(scale, data=DATA):
    z = vg.sample("z", dist.Normal(0.0, 1.0))
    with vg.plate("data", len(data)):
        vg.sample("x", dist.Normal(z, scale), obs=data)


def of_schedule(name, **options):
    return functools.partial(getattr(torch.optim.lr_scheduler, name), **options)


def compared(make, go):
    """Python's numbers, the graph's, and what was said; `make` makes everything anew."""
    with by_python(), heard():
        expected = go(make())
    with by_graph(), heard() as said:
        svi = make()
        found = go(svi)
    return expected, found, said, svi


# Python state that a graph would freeze, and that changes between two steps

SCALE = 1.0
TENSOR = t(1.0)
NUMBERS = np.array([1.0])
settings = types.ModuleType("settings")
exec("scale = 1.0\ndef helper():\n    return scale\n", settings.__dict__)


class Config:
    scale = 1.0


@dataclasses.dataclass
class Box:
    scale: object = 1.0


class Slots:
    __slots__ = ("scale",)

    def __init__(self):
        self.scale = 1.0


class Hidden:
    inherited = 1.0

    def __init__(self):
        self._scale = 1.0

    @property
    def scale(self):
        return self._scale

    def __call__(self):
        observe(self.helper())

    def helper(self):
        return self.scale * self.inherited


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.buffer, self.inner = 1.0, t(1.0), nn.Identity()
        self.inner.scale, self.layer = 1.0, nn.Linear(1, 1)
        nn.init.ones_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self):
        observe(self.scale * self.inner.scale * self.buffer * self.helper())

    def helper(self):
        return self.layer(torch.ones(1))[0].exp()


def more(owner, name):
    return lambda: setattr(owner, name, getattr(owner, name) + 1.0)


def in_global(name):
    return lambda: globals().__setitem__(name, globals()[name] + 1.0)


def in_closure():
    scale = 1.0

    def change():
        nonlocal scale
        scale += 1.0

    return lambda: observe(scale), change


def of_element(container, key):
    def change():
        container[key] = container[key] + 1.0

    return lambda: observe(container[key]), change


def of_attribute(owner, name="scale"):
    return lambda: observe(getattr(owner, name) if name in ("scale", "inherited") else owner.scale), more(owner, name)


def of_method():
    box = Box()
    box.model = types.MethodType(lambda self: observe(self.scale), box)
    return box.model, more(box, "scale")


def of_partial():
    box = Box()
    return functools.partial(lambda b: observe(b.scale), box), more(box, "scale")


def of_default(keyword):
    values = [1.0]
    if keyword:

        def model(*, values=values):
            observe(values[0])
    else:

        def model(values=values):
            observe(values[0])

    return model, of_element(values, 0)[1]


def of_the_function():
    def model():
        observe(model.scale)

    model.scale = 1.0
    return model, more(model, "scale")


def of_a_helper():
    helpers = {"now": lambda: 1.0}
    return lambda: observe(helpers["now"]()), lambda: helpers.update(now=lambda: 3.0)


def of_wrapping():
    box = Box()

    def bare():
        observe(box.scale)

    @functools.wraps(bare)
    def model():
        bare()

    return vg.handlers.scale(model, scale=1.0), more(box, "scale")


def of_length():
    entries = [1.0]
    return lambda: observe(float(len(entries))), lambda: entries.append(1.0)


def of_module(change):
    net = Net()
    return net, lambda: change(net)


def of_training():
    net = nn.Dropout(0.5)
    return lambda: observe(1.0 if net.training else 2.0), lambda: net.train(not net.training)


def of_private_state():
    net = nn.Module()
    net._scale = 1.0
    return lambda: observe(net._scale), more(net, "_scale")


def of_code():
    """What a notebook does that reloads its modules."""

    def helper():
        return 1.0

    return lambda: observe(helper()), lambda: setattr(helper, "__code__", (lambda: 3.0).__code__)


def of_an_import():
    sys.modules["settings_of_a_test"] = settings

    def model():
        from settings_of_a_test import scale

        observe(scale)

    return model, more(settings, "scale")


def of_the_environment():
    os.environ["SCALE_OF_A_TEST"] = "1.0"
    return lambda: observe(float(os.environ["SCALE_OF_A_TEST"])), lambda: os.environ.update(SCALE_OF_A_TEST="3.0")


def of_a_set():
    entries = {1.0}
    return lambda: observe(sum(entries)), lambda: (entries.clear(), entries.add(3.0))


def of_a_queue():
    entries = collections.deque([1.0, 3.0])
    return lambda: observe(entries[0]), entries.rotate


def of_a_context():
    variable = contextvars.ContextVar("scale", default=1.0)
    return lambda: observe(variable.get()), lambda: variable.set(3.0)


def of_many_entries():
    entries = [float(i) for i in range(6000)]
    return lambda: observe(entries[5500]), of_element(entries, 5500)[1]


def of_a_distribution():
    prior = dist.Normal(t(0.0), t(1.0))
    return lambda: observe(prior.scale), lambda: setattr(prior, "scale", t(3.0))


def of_a_large_array():
    array = np.ones(2000)
    return lambda: observe(float(array.mean())), lambda: array.fill(3.0)


def by_hand(reading):
    """A tensor that Python looks at, written in place."""
    tensor = t([1.0, 1.0])
    return lambda: observe(reading(tensor)), lambda: tensor.add_(1.0)


def by_hand_through(alias):
    """Likewise, where torch does not count it."""
    tensor = t([1.0, 1.0])
    return lambda: observe(float(tensor[0])), lambda: alias(tensor).fill(3.0)


def of_a_mask():
    mask = t([True, False, True, True, False, True])

    def model():
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        with vg.plate("data", int(mask.sum())):
            vg.sample("x", dist.Normal(z, 1.0), obs=DATA[mask])

    return model, lambda: mask.logical_not_()


CHANGES = {
    "a global number": lambda: (lambda: observe(SCALE), in_global("SCALE")),
    "a global tensor": lambda: (lambda: observe(TENSOR), in_global("TENSOR")),
    "a closure": in_closure,
    "an entry of a list": lambda: of_element([1.0], 0),
    "an entry of a dictionary": lambda: of_element({"scale": 1.0}, "scale"),
    "a tensor in a list": lambda: of_element([t(1.0)], 0),
    "the length of a list": of_length,
    "a class": lambda: of_attribute(Config),
    "an object": lambda: of_attribute(Box()),
    "a tensor of an object": lambda: of_attribute(Box(t(1.0))),
    "a slot": lambda: of_attribute(Slots()),
    "what a property reads": lambda: of_attribute(Hidden(), "_scale"),
    "what a class hands down": lambda: (Hidden(), more(Hidden, "inherited")),
    "a Python module": lambda: (lambda: observe(settings.scale), more(settings, "scale")),
    "a Python module's helper": lambda: (lambda: observe(settings.helper()), more(settings, "scale")),
    "self of a method": of_method,
    "an argument of a partial": of_partial,
    "a default": lambda: of_default(False),
    "a keyword's default": lambda: of_default(True),
    "an attribute of the function": of_the_function,
    "a function that it calls": of_a_helper,
    "behind a decorator and a handler": of_wrapping,
    "an attribute of a module": lambda: of_module(lambda net: more(net, "scale")()),
    "an attribute of a module inside": lambda: of_module(lambda net: more(net.inner, "scale")()),
    "a tensor of a module": lambda: of_module(lambda net: more(net, "buffer")()),
    "another parameter": lambda: of_module(lambda net: setattr(net.layer, "weight", nn.Parameter(t([[0.5]])))),
    "another layer": lambda: of_module(lambda net: setattr(net, "layer", nn.Linear(1, 1, bias=False))),
    "eval mode": of_training,
    "a small array": lambda: (lambda: observe(float(NUMBERS[0])), lambda: NUMBERS.__iadd__(1.0)),
    "a module's own": of_private_state,
    "a hook": lambda: of_module(lambda net: net.layer.register_forward_hook(lambda module, given, found: found + 1.0)),
    "a gradient's hook": lambda: of_module(lambda net: net.layer.weight.register_hook(lambda grad: grad * 0.5)),
    "a function's code": of_code,
    "an import": of_an_import,
    "the environment": of_the_environment,
    "an element of a set": of_a_set,
    "the order of a queue": of_a_queue,
    "a context variable": of_a_context,
    "one of many entries": of_many_entries,
    "a distribution": of_a_distribution,
    "a large array": of_a_large_array,
    "memory": lambda: of_module(lambda net: setattr(net.buffer, "data", t(3.0))),
    "a tensor written behind torch's back": lambda: by_hand_through(lambda x: x.numpy()),
    "a tensor read as a number": lambda: by_hand(lambda x: float(x[0])),
    "a tensor that is asked": lambda: by_hand(lambda x: 1.0 if x.sum() < 3 else 2.0),
    "a mask's size": of_a_mask,
}


@pytest.fixture(autouse=True)
def _as_before():
    yield
    globals().update(SCALE=1.0, TENSOR=t(1.0))
    NUMBERS[:] = 1.0
    settings.scale = Config.scale = Hidden.inherited = 1.0


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_is_noticed(name):
    def run(context):
        model, change = CHANGES[name]()
        torch.manual_seed(1)
        with context, heard() as said:
            svi = svi_of(model, guide)
            losses = [svi.run(25).losses]
            change()
            losses += [svi.run(25).losses, svi.state()]
        _restore()
        return losses, said, svi

    def _restore():
        globals().update(SCALE=1.0, TENSOR=t(1.0))
        NUMBERS[:] = 1.0
        settings.scale = Config.scale = Hidden.inherited = 1.0

    if name in ("another layer", "another parameter"):
        for context in (by_python, by_graph):
            with pytest.raises(ParameterError, match="another one was put in its place in a module"):
                run(context())
        return
    expected, _, _ = run(by_python())
    found, said, svi = run(by_graph())
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not said
    assert specializations(svi)[0].eager_steps <= 5 and taken(svi) > 10  # recorded before, and again after


def test_what_changes_again_and_again_runs_eagerly():
    def run(context):
        box = Box()
        with context, heard() as said:
            svi = svi_of(lambda: observe(box.scale), guide)
            losses = []
            for _ in range(8):
                losses.append(svi.run(6).losses)
                box.scale += 0.5
        return losses, said, svi

    expected, _, _ = run(by_python())
    found, said, svi = run(by_graph())
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert len(said) == 1
    assert "what the program reads changes again and again" in said[0] and "scale was " in said[0]
    assert specializations(svi)[0].refusal in svi.explain()


# State that the program itself changes


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self):
        self.calls += 1
        observe(1.0 + 0.1 * self.calls)


def test_a_program_that_counts():
    expected, found, said, _ = compared(lambda: svi_of(Counting(), guide), lambda svi: svi.run(30).losses)
    assert torch.equal(found[:2], expected[:2])  # recording ran it once more, and it counted that
    assert found.isfinite().all()
    assert len(said) == 1 and "the program changes what it reads: Counting.calls was " in said[0]


def test_a_guide_that_appends_to_a_list():
    def make():
        seen = []

        def own():
            guide()
            seen.append(len(seen))

        svi = svi_of(lambda: observe(1.0), own)
        svi.seen = seen
        return svi

    expected, found, said, svi = compared(make, lambda svi: svi.run(30).losses)
    assert_close(found, expected)
    assert len(said) == 1 and "'seen' had " in said[0]
    assert len(svi.seen) >= 30  # every step went through Python


@pytest.mark.parametrize("draw", [np.random.standard_normal, random.random, lambda: np.random.randn(1)[0]])
def test_pythons_and_numpys_generators(draw):
    def model():
        observe(1.0 + float(abs(draw())))

    def go(svi):
        np.random.seed(0)
        random.seed(0)
        return svi.run(30).losses

    _, found, said, svi = compared(lambda: svi_of(model, guide).init(), go)
    assert len(said) == 1 and "the program draws from " in said[0]
    assert found.diff().abs().min() > 1e-6  # other numbers at every step
    assert not sum(f.graph_steps for f in specializations(svi))


@pytest.mark.parametrize("kind", ["generator", "iterator", "clock"])
def test_what_nobody_can_watch(kind):
    """A generator of numpy's own, an iterator, a clock: the first steps are checked against Python."""
    rng, numbers, clock = np.random.default_rng(0), itertools.count(1), [0.0]

    class Clock:
        def __getattribute__(self, name):
            clock[0] += 1.0
            return clock[0]

    tick = Clock()
    reading = {"generator": lambda: rng.gamma(2.0), "iterator": lambda: float(next(numbers)), "clock": lambda: tick.now}

    def model():
        observe(1.0 + 0.1 * reading[kind]())

    with by_graph(), heard() as said:
        svi = svi_of(model, guide)
        losses = svi.run(40).losses
    assert len(said) == 1
    assert sum(f.graph_steps for f in specializations(svi)) <= stages.CHECKS
    assert losses.isfinite().all()


def test_a_draw_that_is_rarely_seen():
    """The checks would see nothing; the generator's own state tells."""
    numbers = random.Random(0)

    def model():
        observe(5.0 if numbers.random() < 0.001 else 1.0)

    with by_graph(), heard() as said:
        svi = svi_of(model, guide)
        svi.run(30)
    assert len(said) == 1 and "the program draws from 'numbers'" in said[0]


def test_a_choice_that_is_rarely_made_is_not_frozen():
    """The checks would see nothing: the value is zero nearly always."""

    def model(leak):
        a = vg.sample("a", dist.Bernoulli(0.01))
        with vg.plate("data", 6):
            vg.sample("x", dist.Normal(leak(a), 1.0), obs=DATA)

    def own(leak):
        vg.sample("a", dist.Bernoulli(logits=vg.param("t", -3.0)))

    for leak in (lambda a: torch.tensor([a, 1.0])[0] * 5, lambda a: a.data * 5, lambda a: float(a) * 5 + a):
        expected, found, _, _ = compared(
            lambda leak=leak: svi_of(functools.partial(model, leak), functools.partial(own, leak)),
            lambda svi: svi.run(200).losses,
        )
        assert found.max() > found.median() + 5
        assert_close(found, expected, rtol=1e-4, atol=1e-5)


# Arguments


def test_shapes_that_vary_every_call():
    data = torch.randn(60, generator=torch.Generator().manual_seed(0))
    go = lambda svi: [svi.step(data[: 1 + i % 40]) for i in range(160)]  # noqa: E731
    expected, found, said, svi = compared(lambda: svi_of(normal_model, normal_guide), go)
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert len(specializations(svi)) <= step_compiler.MOST
    assert len(said) == 1
    assert "forms of arguments" in said[0] and "Try: batches of one size" in said[0]


def test_an_object_as_argument():
    def model(batch):
        observe(batch.scale)

    def go(svi):
        kept = Box(1.0)
        losses = [svi.step(kept) for _ in range(12)]
        kept.scale = 2.0
        losses += [svi.step(kept) for _ in range(12)]
        kept.scale = t(3.0)
        losses += [svi.step(kept) for _ in range(12)]
        return losses + [svi.step(Box(1.0 + i)) for i in range(40)]  # a new one each time, at the same address

    expected, found, _, svi = compared(lambda: svi_of(model, guide), go)
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert len(specializations(svi)) <= step_compiler.MOST


@pytest.mark.parametrize("convert", [torch.tensor, torch.as_tensor, torch.from_numpy], ids=lambda f: f.__name__)
def test_arrays_as_arguments(convert):
    def model(array):
        observe(1.0, convert(array).float())

    def go(svi):
        kept = DATA.numpy().copy()
        losses = [svi.step(kept) for _ in range(10)]
        for _ in range(20):
            kept[0] += 1.0
            losses.append(svi.step(kept))
        return losses + [svi.step(DATA.numpy() + i) for i in range(40)]

    expected, found, _, _ = compared(lambda: svi_of(model, guide), go)
    assert_close(found, expected, rtol=1e-4, atol=1e-5)


@dataclasses.dataclass(frozen=True)
class Batch:
    name: str
    data: torch.Tensor = dataclasses.field(compare=False)


def in_other_memory(svi):
    data = DATA.clone()
    losses = [svi.step(data) for _ in range(12)]
    data.data = torch.arange(3.0)
    return [*losses, *(svi.step(data) for _ in range(12))]


def conjugates(svi):
    data = torch.complex(DATA, DATA + 1)
    return [svi.step(d.clone() if i < 6 else d.conj()) for i in range(12) for d in [data]]


ARGUMENTS = {
    "a tensor that is a global too": (
        lambda data: observe(1.0 + DATA.std(), data),
        lambda svi: [svi.step(DATA if i < 10 else 2 * DATA) for i in range(20)],
    ),
    "a tensor in other memory": (lambda data: observe(1.0, data), in_other_memory),
    "objects that are equal and differ": (
        lambda batch: observe(1.0, batch.data),
        lambda svi: [svi.step(Batch("same", DATA + i)) for i in range(20)],
    ),
    "numbers of numpy": (
        lambda x: observe(1.0 + x),
        lambda svi: [svi.step(kind(i)) for kind in (np.float64, np.int64) for i in range(20)],
    ),
    "numbers that a tensor cannot hold": (
        lambda x, y: observe(1.0 + 0.001 * (x - y) + x % 7),
        lambda svi: [svi.step(*((1.7e9 + 100 * i, 1.7e9) if i < 10 else (2**64 + i, 2**64))) for i in range(20)],
    ),
    "conjugates": (lambda data: observe(1.0, torch.view_as_real(data.resolve_conj())[:, 1]), conjugates),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_in_disguise(name):
    model, go = ARGUMENTS[name]
    with warnings.catch_warnings(action="ignore", category=CaptureWarning):
        with by_python():
            expected = go(svi_of(model, guide))
        with by_graph():
            found = go(svi_of(model, guide))
    assert_close(found, expected, rtol=1e-4, atol=1e-5)


SPARSE = torch.eye(6).to_sparse()


@pytest.mark.parametrize(
    ("model", "argument", "text"),
    [
        (lambda m: observe(1.0, (m @ DATA.unsqueeze(1)).squeeze(1)), lambda: SPARSE, "an argument is torch.sparse_coo"),
        (lambda m: observe(1.0, (SPARSE @ DATA.unsqueeze(1)).squeeze(1)), lambda: None, "and this tensor is sparse"),
        (
            lambda m: observe(1.0 + m.detach()),
            lambda: torch.ones((), requires_grad=True).exp(),
            "an argument has been computed from what requires a gradient",
        ),
    ],
    ids=["sparse", "sparse global", "with a history"],
)
def test_tensors_that_no_library_reads(model, argument, text):
    expected, found, said, _ = compared(
        lambda: svi_of(model, guide), lambda svi: [svi.step(argument()) for _ in range(9)]
    )
    assert_close(found, expected)
    assert len(said) == 1 and text in said[0]


def test_a_number_that_python_needs_says_so():
    with by_graph(), heard() as said:
        svi = svi_of(lambda x: observe(1.0 + math.exp(-x)), guide)
        for i in range(40):
            svi.step(0.1 * i)
    assert len(said) == 1 and "A number among them stays one: " in said[0] and f"{Path(__file__).name}:" in said[0]


def grouped(kind, **settings):
    return lambda parameters: kind([{"params": [p]} for p in parameters], lr=0.01, **settings)


@pytest.mark.parametrize(
    ("optim", "change"),
    [
        (grouped(torch.optim.Adam), {"weight_decay": 0.5}),
        (grouped(torch.optim.Adam), {"maximize": True}),
        (grouped(torch.optim.SGD), {"momentum": 0.9}),
        (grouped(torch.optim.SGD, momentum=0.5), {"nesterov": True}),
    ],
    ids=lambda x: next(iter(x), None) if isinstance(x, dict) else "",
)
@pytest.mark.parametrize("groups", [1, 2])
def test_an_optimiser_that_becomes_another(optim, change, groups):
    def go(svi):
        losses = [svi.run(8, DATA).losses]
        for group in svi.optimizer.param_groups[:groups]:
            group.update(change)
        return [*losses, svi.run(12, DATA).losses]

    expected, found, said, svi = compared(lambda: svi_of(normal_model, normal_guide, optim=optim), go)
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not said and taken(svi) > 8


@pytest.mark.parametrize("often", ["once", "in every run", "on an intermediate value", "removed"])
def test_hooks_that_a_program_registers_in_a_loop_of_ones_own(often):
    """They are run once by `backward()`, as they are without a graph."""
    noise = torch.tensor(0.0)

    def gradients(compiled):
        net = torch.nn.Module()
        net.p, handles = torch.nn.Parameter(torch.tensor(0.5)), []

        def model():
            vg.factor("f", -(vg.param("q", noise) * 0 + net.p * 1.0 - 3.0).square())

        def guide():
            vg.module("net", net)
            if often == "removed" and handles:
                handles.pop().remove()
            if often == "on an intermediate value" or (often == "once" and handles):
                value = net.p * 1.0
                value.register_hook(lambda g: g)
            else:
                handles.append(net.p.register_hook(lambda g: 2 * g))
            vg.sample("z", dist.Normal(net.p.detach(), 1.0))

        bound = vg.ELBO()(lambda: (vg.sample("z", dist.Normal(0.0, 1.0)), model()), guide)
        loss = vg.compiled(bound, wait=True, seed=0) if compiled else bound
        found = []
        for _ in range(6):
            net.p.grad = None
            loss().backward()
            found.append(net.p.grad.item())
        return found, len(net.p._backward_hooks or ())

    with warnings.catch_warnings(action="ignore", category=CaptureWarning):
        assert gradients(True) == gradients(False)


def test_an_optimisers_hooks():
    def go(svi):
        svi.run(8, DATA)
        calls = []
        svi.optimizer.register_step_post_hook(lambda *_: calls.append(1))
        svi.run(12, DATA)
        return [len(calls)]

    expected, found, _, _ = compared(lambda: svi_of(normal_model, normal_guide), go)
    assert found == expected == [12]


def test_skipping_from_now_on():
    def model(limit):
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        vg.factor("poison", torch.where(z > limit, torch.inf, 0.0 * z))

    def go(svi):
        losses = [svi.run(10, t(100.0)).losses]
        svi.skip_nonfinite = True
        fit = svi.run(40, t(1.3))
        assert 0 < fit.skipped < 40
        return [*losses, fit.losses]

    expected, found, said, _ = compared(lambda: svi_of(model, guide), go)
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not said


SCHEDULED = {
    "of another optimiser": (
        {
            "optim": vg.optim.Optimizer(
                torch.optim.RMSprop, {"lr": 0.05}, schedule=of_schedule("ExponentialLR", gamma=0.8)
            )
        },
        lambda svi: svi.run(20, DATA).losses,
    ),
    "that ends": (
        {"optim": vg.optim.Adam(lr=0.05, schedule=of_schedule("OneCycleLR", max_lr=0.1, total_steps=15))},
        lambda svi: [ends(ValueError, svi), svi.state()],
    ),
    "that fails": (
        {"config": vg.ELBO(weights={"x": [1.0 + 0.1 * i for i in range(15)].__getitem__})},
        lambda svi: [ends(IndexError, svi), svi.state()["bound"]],
    ),
    "beside steps that are skipped": (
        {"config": vg.ELBO(weights={"x": lambda step: math.nan if step == 15 else 1.0}), "skip_nonfinite": True},
        lambda svi: svi.run(30, DATA).losses,
    ),
}


def ends(error, svi):
    with pytest.raises(error):
        svi.run(40, DATA)
    return svi.metrics.step


@pytest.mark.parametrize("name", SCHEDULED)
def test_a_schedule(name):
    options, go = SCHEDULED[name]
    expected, found, said, _ = compared(lambda: svi_of(normal_model, normal_guide, **options), go)
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not said


def test_a_parameter_of_the_objective_that_is_another():
    for context in (by_python, by_graph):
        with context():
            svi = svi_of(normal_model, normal_guide)
            svi.run(10, DATA)
            svi.bound.loc = nn.Parameter(svi.bound.loc.detach() + 1.0)
            with pytest.raises(ParameterError, match="another one was put in its place in a module"):
                svi.run(10, DATA)


def test_large_arrays_read_by_reference():
    data = np.zeros(2000, dtype=np.float32)

    def model():
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        with vg.plate("data", 2000):
            vg.sample("x", dist.Normal(z, 1.0), obs=torch.from_numpy(data))

    def go(svi):
        data[:] = 0.0
        losses = []
        for _ in range(30):
            data[:] += 0.1
            losses.append(svi.step())
        return losses

    expected, found, _, svi = compared(lambda: svi_of(model, guide), go)
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert taken(svi) == 28


def test_data_that_are_a_view_of_a_parameter():
    net = nn.Linear(6, 1, bias=False)

    def own(data):
        vg.module("net", net)
        guide()

    def model(data):
        observe(net.weight.square().mean() + 1.0, data)

    def go(svi):
        with torch.no_grad():
            net.weight.fill_(1.0)
        return [svi.step(net.weight.detach()[0]) for _ in range(30)]

    expected, found, said, svi = compared(lambda: svi_of(model, own), go)
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not said and taken(svi) == 28


def over(*parameters):
    """A `go` to compare, and a maker of SVIs whose guide uses these parameters."""
    net = nn.Module()
    for i, parameter in enumerate(parameters):
        net.register_parameter(f"p{i}", parameter)

    def own():
        vg.module("net", net)
        loc = sum((i + 1) * p.square().mean() for i, p in enumerate(net.parameters()))
        vg.sample("z", dist.Normal(loc, vg.param("s", 0.7, positive)))

    return lambda: svi_of(lambda: observe(1.0), own)


def looked_at_by_torch(p):
    return p.detach()


def looked_at_by_numpy(p):
    return p.detach().numpy()


def looked_at_in_part(p):
    return p.data[1:]


LOOKS = [looked_at_by_torch, looked_at_by_numpy, looked_at_in_part]


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("when", ["before", "between"])
def test_another_tensor_over_a_parameters_memory(look, when):
    """It shows the parameter as it is now, as it does without a graph."""

    def run(context):
        p, q = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
        with context, heard() as said:
            svi = over(p, q)()
            found = look(p) if when == "before" else None
            seen = []
            for _ in range(4):
                svi.run(7)
                found = look(p) if found is None else found
                seen.append(t(found.tolist()))
                svi.step()
                assert found.tolist() == look(p).tolist()
        assert not said
        return seen, svi

    expected, _ = run(by_python())
    found, svi = run(by_graph())
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert taken(svi) == 30 and not torch.equal(found[0], found[1])
    # Only what somebody looks at is kept apart from the rest.
    assert len(specializations(svi)[0].flat_state.buckets) == (2 if when == "before" else 1)


def test_a_parameter_that_is_given_a_users_memory():
    """`p.data = mine`: both go on as one."""

    def run(context):
        p, q, mine = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2)), torch.full((3,), 2.0)
        with context, heard() as said:
            svi = over(p, q)()
            losses = [svi.run(10).losses]
            p.data = mine
            losses.append(svi.run(10).losses)
            assert torch.equal(mine, p.detach()) and mine.data_ptr() == p.data_ptr()
            q.data = q.data * 2.0  # nobody else holds that
            losses.append(svi.run(10).losses)
        assert not said
        return [*losses, mine], svi

    expected, _ = run(by_python())
    found, svi = run(by_graph())
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert sorted(len(b.parameters) for b in specializations(svi)[0].flat_state.buckets) == [1, 2]


def test_memory_that_only_parameters_hold_is_left():
    """Those of an earlier run lie side by side; the next one takes them all as one again."""
    p, q = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    make = over(p, q)
    with by_graph():
        make().run(10)
        svi = make()
        svi.run(10)
    assert taken(svi) == 8 and len(specializations(svi)[0].flat_state.buckets) == 1


def overlapping():
    base = torch.ones(5)
    return nn.Parameter(base[:3]), nn.Parameter(base[2:])


def with_gaps():
    base = torch.ones(3, 2)
    KEPT_ALIVE.append(base)
    return nn.Parameter(base[:, 0]), nn.Parameter(torch.ones(2))


KEPT_ALIVE = []


@pytest.mark.parametrize(
    ("parameters", "because"),
    [(overlapping, "two parameters overlap in memory"), (with_gaps, "a parameter is not contiguous, and another")],
)
def test_parameters_with_memory_that_cannot_be_moved(parameters, because):
    expected, found, said, _ = compared(lambda: over(*parameters())(), lambda svi: svi.run(20).losses)
    assert torch.equal(found, expected)
    assert len(said) == 1 and because in said[0]


def test_flags_that_choose_parameters():
    """The optimiser leaves a parameter alone that a gradient does not reach, momentum and all."""

    def own(flag):
        loc = vg.param("a", 0.5) if flag else vg.param("b", -0.5)
        vg.sample("z", dist.Normal(loc, vg.param("s", 0.7, positive)))

    def model(flag):
        observe(1.0)

    def go(svi):
        losses = [svi.step(i % 3 > 0) for i in range(40)]
        return [*losses, *(svi.step(True) for _ in range(20)), *(svi.step(False) for _ in range(20)), svi.state()]

    for optim in (None, vg.optim.SGD(lr=0.01, momentum=0.9), vg.optim.Optimizer(torch.optim.RMSprop, {"lr": 0.01})):
        expected, found, said, svi = compared(lambda optim=optim: svi_of(model, own, optim=optim), go)
        assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert not said and taken(svi) > 60


def test_programs_that_write_into_what_is_not_theirs():
    """A check would do it a second time."""

    def in_an_argument(data):
        data += 0.1
        observe(1.0, data)

    average = torch.zeros(())

    def in_a_global(data):
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        average.mul_(0.9).add_(0.1 * z.detach())
        vg.sample("x", dist.Normal(z + average, 1.0), obs=data[0])

    for model in (in_an_argument, in_a_global):
        data = DATA.clone()

        def make(model=model, data=data):
            svi = svi_of(model, guide).init(data)
            data.copy_(DATA), average.zero_()
            return svi

        expected, found, said, _ = compared(make, lambda svi, data=data: svi.run(30, data).losses)
        assert torch.equal(found, expected)
        assert len(said) == 1 and "it writes into a tensor that outlives the call" in said[0]
        assert f"{Path(__file__).name}:" in said[0]


def test_what_torch_does_otherwise():
    """Another precision: by autocast, by default."""
    net = nn.Linear(6, 1)

    def model():
        vg.module("net", net)
        observe(net(DATA)[0].float().exp() + torch.zeros(()))

    def go(svi):
        losses = [svi.run(12).losses]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses.append(svi.run(12).losses)
        torch.set_default_dtype(torch.float64)
        losses.append(svi.run(12).losses)
        torch.set_default_dtype(torch.float32)
        return [*losses, svi.run(12).losses]

    def make():
        with torch.no_grad():
            net.weight.fill_(0.11), net.bias.fill_(0.1)
        return svi_of(model, guide)

    try:
        expected, found, said, svi = compared(make, go)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not said and len(specializations(svi)) == 3 and taken(svi) > 35


# Copies, interruptions


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda svi: pickle.loads(pickle.dumps(svi))], ids=["copy", "pickle"])
def test_copies_go_on_alike(twin):
    with by_graph(), heard() as said:
        svi = svi_of(normal_model, normal_guide)
        svi.run(30, DATA)
        other = twin(svi)
        assert_close(other.run(30, DATA).losses, svi.run(30, DATA).losses, rtol=1e-5)
        assert taken(other) == 28
        svi.step(DATA)
        assert other.metrics.step == 60
    assert not said


def test_an_interruption():
    """Between two of many steps: those that were taken are on record, and the run can go on."""

    class Interrupted(Uncompiled):
        runs = 0

        def __init__(self, graph, inputs):
            super().__init__(graph, inputs)
            whole = self.module

            def module(*values):
                Interrupted.runs += 1
                if Interrupted.runs == 30:
                    raise KeyboardInterrupt
                whole(*values)

            self.module = module

    with by_graph(kind=Interrupted):
        svi = svi_of(normal_model, normal_guide)
        with pytest.warns(UserWarning, match=r"interrupted after (\d+) of 90 steps"):
            first = svi.run(90, DATA).losses
        assert len(first) == 31  # two in Python, 29 by graph
        assert svi.metrics.step == 31
        rest = svi.run(90 - 31, DATA).losses
        state = svi.state()
    with by_graph():
        svi = svi_of(normal_model, normal_guide)
        assert torch.equal(svi.run(90, DATA).losses, torch.cat([first, rest]))
        assert same(svi.state(), state)


# Two of them


def test_two_over_one_objective():
    """The second brings a source along that compiled steps cannot draw from."""
    one = svi_of(normal_model, normal_guide)
    one.step(DATA)
    vg.SVI(normal_model, normal_guide, vg.optim.Adam(), one.bound, seed=0).step(DATA)
    with pytest.raises(VarigradError, match="another SVI has been made of the same bound since"):
        one.step(DATA)


def test_two_over_the_same_modules():
    """Each moves the parameters of the other's graph."""

    def run(context):
        net = Net()

        def own():
            vg.module("net", net)
            guide()

        with context, heard() as said:
            one, two = svi_of(net, own, seed=1), svi_of(lambda: observe(net.helper()), own, seed=2)
            losses = []
            for _ in range(6):
                losses += [one.run(7).losses, two.run(5).losses, [one.step(), two.step()]]
        return losses, [one.state(), two.state()], said, (one, two)

    expected = run(by_python())
    found = run(by_graph())
    assert_close(found[:2], expected[:2], rtol=1e-3, atol=1e-4)
    assert not found[2]
    assert all(taken(svi) > 30 for svi in found[3])


def test_parameters_that_are_frozen_meanwhile():
    def go(svi):
        losses = [svi.run(20, DATA).losses]
        svi.bound.get_parameter("loc").requires_grad_(False)
        losses.append(svi.run(10, DATA).losses)
        frozen = svi.bound.get_parameter("loc").detach().clone()
        svi.bound.get_parameter("loc").requires_grad_(True)
        return [*losses, frozen, svi.run(10, DATA).losses, svi.bound.get_parameter("loc").detach().clone()]

    with warnings.catch_warnings(action="ignore"):
        with by_python():
            expected = _outcome(go)
        with by_graph():
            found = _outcome(go)
    if isinstance(expected, str):
        assert found == expected
    else:
        assert_close(found, expected, rtol=1e-4, atol=1e-5)


def _outcome(go):
    try:
        return go(svi_of(normal_model, normal_guide))
    except RuntimeError as error:  # torch's, for a gradient with respect to what is frozen
        return str(error)[:40]


def test_a_parameter_that_comes_later():
    class Growing(nn.Module):
        grown = False

        def forward(self, data):
            scale = vg.param("late", 0.3, positive) if self.grown else 0.7
            vg.sample("z", dist.Normal(vg.param("loc", 0.5), scale))

    def run(context):
        own = Growing()
        with context, heard() as said:
            svi = svi_of(normal_model, own)
            losses = [svi.run(20, DATA).losses]
            own.grown = True
            losses += [svi.run(20, DATA).losses, svi.state()]
        return losses, said, svi

    expected, _, _ = run(by_python())
    found, said, svi = run(by_graph())
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not said and taken(svi) > 10


# The compiler and its cache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VARIGRAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def waiting(svi=None):
    return vg.SVI(normal_model, normal_guide, vg.optim.Adam(lr=0.05), seed=0, compile="wait")


def python_run(steps=20):
    with by_python():
        svi = svi_of(normal_model, normal_guide)
        return svi.run(steps, DATA).losses


FAILURES = {
    "fails": ("raise SystemExit(1)", "the compiler was killed"),
    "says why": (
        "import pathlib, sys; pathlib.Path(sys.argv[1], 'failed.txt').write_text('Traceback:\\n  x\\nOops: no\\n');"
        "raise SystemExit(1)",
        "Oops: no",
    ),
    "no compiler": (
        "import pathlib, sys; pathlib.Path(sys.argv[1], 'failed.txt').write_text('InvalidCxxCompiler: No working C++')"
        ";raise SystemExit(1)",
        "there is no C++ compiler (install g++)",
    ),
    "leaves nothing": ("", "the library cannot be loaded: "),
    "leaves rubbish": (
        "import pathlib, sys; f = pathlib.Path(sys.argv[1]); (f / 'step.so').write_bytes(b'rubbish');"
        '(f / \'done.json\').write_text(\'{"library": "step.so", "kernels": 1}\')',
        "the library cannot be loaded: ",
    ),
    "leaves half a report": (
        "import pathlib, sys; pathlib.Path(sys.argv[1], 'done.json').write_text('{\"libr')",
        "the library cannot be loaded: ",
    ),
    "dies": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "the compiler was killed"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_compiler_that_fails(name, cache):
    script, text = FAILURES[name]
    with worker(script), heard() as said:
        svi = waiting()
        losses = svi.run(20, DATA).losses
        again = waiting().run(20, DATA).losses
    assert_close(losses, python_run(), rtol=1e-4, atol=1e-5)
    assert torch.equal(losses, again)
    assert len(said) == 2 and said[0].startswith("steps run eagerly. ") and text in said[0]
    assert text in svi.explain()
    assert not list(cache.glob("building-*"))


def test_a_compiler_killed_half_way(cache):
    with worker("import time; time.sleep(600)"), heard() as said:
        svi = vg.SVI(normal_model, normal_guide, vg.optim.Adam(lr=0.05), seed=0, compile=True)
        svi.run(step_compiler.PATIENCE + 5, DATA)
        compilation = specializations(svi)[0].step.traced.compilation
        assert compilation._process.popen.poll() is None
        assert not said
        compilation._process.popen.kill()
        compilation._process.popen.wait()
        losses = svi.run(300, DATA).losses
    assert len(said) == 1 and "the compiler was killed" in said[0]
    assert losses.isfinite().all()
    assert not [f for f in cache.iterdir() if f.name != "inductor"]


def test_a_fork_while_it_compiles(cache):
    """The fork runs eagerly, and its end does not end the compiler."""
    script = (
        "import pathlib, sys, time; time.sleep(1.5);"
        "pathlib.Path(sys.argv[1], 'failed.txt').write_text('Oops: to the end'); sys.exit(1)"
    )
    with worker(script), heard() as said:
        svi = vg.SVI(normal_model, normal_guide, vg.optim.Adam(lr=0.05), seed=0, compile=True)
        svi.run(step_compiler.PATIENCE + 5, DATA)
        compilation = specializations(svi)[0].step.traced.compilation
        stop, fork = compilation._process.stop, os.fork()
        if not fork:
            forked = compilation.ready() and "forked" in compilation.failure
            stop()
            os._exit(not forked)
        assert os.waitpid(fork, 0)[1] == 0
        compilation.ready(wait=True)
        svi.run(300, DATA)
    assert len(said) == 1 and "Oops: to the end" in said[0]


def test_nobodys_home(monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("VARIGRAD_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setattr(Path, "home", home)
    with heard() as said:
        losses = waiting().run(20, DATA).losses
    assert_close(losses, python_run(), rtol=1e-4, atol=1e-5)
    assert len(said) == 1 and "set VARIGRAD_CACHE" in said[0]


def test_a_cache_relative_to_where_one_was(tmp_path, monkeypatch):
    monkeypatch.setenv("VARIGRAD_CACHE", "cache")
    monkeypatch.chdir(tmp_path)
    assert cache_folder() == tmp_path / "cache"


def test_validation_is_the_processs():
    """Two recordings at once in two threads: it comes back."""
    before = torch.distributions.Distribution._validate_args
    barrier = threading.Barrier(2)

    def function():
        with contextlib.suppress(threading.BrokenBarrierError):
            barrier.wait(0.2)
        return [torch.ones(()) + 1]

    threads = [threading.Thread(target=trace, args=(function, [])) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.distributions.Distribution._validate_args is before


@pytest.fixture
def slow(tmp_path, monkeypatch):
    """A C compiler that takes its time."""
    compiler = tmp_path / "slow"
    compiler.write_text("#!/bin/sh\nsleep 60\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))


def test_a_process_that_ends_while_it_compiles(cache, slow):
    """Its compiler ends with it, and what is left does nobody any harm."""
    script = (
        "import torch, programs_for_svi as p, varigrad as vg\n"
        "svi = vg.SVI(p.normal_model, p.normal_guide, vg.optim.Adam(lr=0.05), seed=0, compile=True)\n"
        "svi.run(150, p.DATA)\n"
        "print(list(svi._step_compiler.specializations.values())[0].step.traced.compilation._process.popen.pid)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parent, timeout=120
    )
    assert not done.stderr, done.stderr
    pid = int(done.stdout)
    for _ in range(200):
        if not _alive(pid):
            break
        time.sleep(0.05)
    else:
        raise AssertionError("the compiler goes on without its process")
    (cache / "building-left").mkdir()
    (cache / "building-left" / "step.so").write_bytes(b"half")
    with worker("raise SystemExit(1)"), heard() as said:
        assert_close(waiting().run(20, DATA).losses, python_run(), rtol=1e-4, atol=1e-5)
    assert len(said) == 1


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_compiles(cache, slow):
    """It can tell its compiler nothing; that one finds out, and leaves nothing."""
    script = (
        "import os, signal, torch, programs_for_svi as p, varigrad as vg\n"
        "svi = vg.SVI(p.normal_model, p.normal_guide, vg.optim.Adam(lr=0.05), seed=0, compile=True)\n"
        "svi.run(150, p.DATA)\n"
        "own = list(svi._step_compiler.specializations.values())[0]\n"
        "print(own.step.traced.compilation._process.popen.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parent, timeout=120
    )
    pid = int(done.stdout)
    assert list(cache.glob("building-*"))
    for _ in range(600):
        if not _alive(pid) and not list(cache.glob("building-*")):
            return
        time.sleep(0.05)
    raise AssertionError("the compiler goes on without its process, or leaves its folder")


def _alive(pid):
    path = Path(f"/proc/{pid}/cmdline")
    return path.exists() and bool(path.read_bytes())


def test_folders_that_were_abandoned(cache):
    """The next one clears away those of processes on this machine that are no more, and whatever is old."""
    here, day = socket.gethostname(), 86_400
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    folders = {
        f"building-{here}-{gone.pid}-a": 0,
        f"building-{here}-{os.getpid()}-b": 2 * day,
        "building-some-other-place-1-c": 2 * day,
        "building-left": 2 * day,
    }
    kept = {f"building-{here}-{os.getpid()}-d": 0, f"building-some-other-place-{gone.pid}-e": 0, "building-now": 0}
    for name, age in {**folders, **kept}.items():
        (cache / name).mkdir(parents=True)
        (cache / name / "step.so").write_bytes(b"half")
        os.utime(cache / name, (time.time() - age,) * 2)
    with worker("raise SystemExit(1)"), heard():
        waiting().run(20, DATA)
    assert {f.name for f in cache.glob("building-*")} == set(kept)


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("VARIGRAD_CACHE", str(tmp_path / "file" / "cache"))
    with heard() as said:
        losses = waiting().run(20, DATA).losses
    assert_close(losses, python_run(), rtol=1e-4, atol=1e-5)
    assert len(said) == 1 and "cannot be written" in said[0] and str(tmp_path) in said[0]


def test_a_full_disk(cache, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with heard() as said:
        losses = waiting().run(20, DATA).losses
    assert_close(losses, python_run(), rtol=1e-4, atol=1e-5)
    assert len(said) == 1 and "No space left on device" in said[0]
    assert not list(cache.glob("building-*"))


def test_a_graph_that_does_not_pickle(cache, monkeypatch):
    def impossible(*args):
        raise TypeError("cannot pickle 'thing'")

    monkeypatch.setattr(library, "translate", lambda graph: None)
    monkeypatch.setattr(inductor, "pickle", types.SimpleNamespace(dumps=impossible))
    with heard() as said:
        losses = waiting().run(20, DATA).losses
    monkeypatch.undo()
    assert_close(losses, python_run(), rtol=1e-4, atol=1e-5)
    assert len(said) == 1 and "cannot pickle" in said[0]


@pytest.mark.parametrize("damage", ["rubbish", "no report", "half a report", "no library", "a file", "another report"])
def test_a_damaged_entry_is_built_again(damage, cache):
    with worker("raise SystemExit(1)"), heard():
        svi = waiting()
        svi.run(3, DATA)
        with by_graph():
            recorded = _recorded()
    entry = cache / library.CRecipe(library.translate(recorded.graph)).key()
    if damage == "a file":
        entry.write_text("rubbish")
    else:
        entry.mkdir()
        (entry / "step.so").write_bytes(b"rubbish" * 1000)
        report = {"maker": "C", "library": "step.so", "kernels": 1, "bytes": 64, "calls": False}
        (entry / "done.json").write_text(json.dumps(report))
        if damage == "no report":
            (entry / "done.json").unlink()
        elif damage == "half a report":
            (entry / "done.json").write_text('{"libr')
        elif damage == "no library":
            (entry / "step.so").unlink()
        elif damage == "another report":
            (entry / "done.json").write_text("{}")
    script = "import pathlib, sys; pathlib.Path(sys.argv[1], 'failed.txt').write_text('Called: again'); sys.exit(1)"
    with worker(script), heard() as said:
        losses = waiting().run(20, DATA).losses
    assert_close(losses, python_run(), rtol=1e-4, atol=1e-5)
    assert len(said) == 1 and "Called: again" in said[0]
    assert not entry.exists()


def _recorded():
    svi = vg.SVI(normal_model, normal_guide, vg.optim.Adam(lr=0.05), seed=0, compile="wait")
    svi.run(3, DATA)
    return specializations(svi)[0].step.traced


def test_without_a_compiler(cache, tmp_path, monkeypatch):
    """The real worker, and neither cc nor g++ on the path."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.delenv("CXX", raising=False)
    with heard() as said:
        losses = waiting().run(20, DATA).losses
    assert_close(losses, python_run(), rtol=1e-4, atol=1e-5)
    assert len(said) == 1 and "there is no C++ compiler (install g++)" in said[0]
    assert not list(cache.glob("building-*"))


@pytest.mark.slow
def test_with_a_compiler_that_breaks(cache, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    for name in ("cc", "g++"):
        broken = tmp_path / "bin" / name
        broken.write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
        broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    with heard() as said:
        losses = waiting().run(20, DATA).losses
    assert_close(losses, python_run(), rtol=1e-4, atol=1e-5)
    assert len(said) == 1 and said[0].startswith("steps run eagerly. ")
    assert math.isfinite(losses[-1]) and same(losses, losses)
