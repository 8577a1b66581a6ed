"""Steps by graph without a compiler: what is tested here is the recording, not the library made of it."""

import contextlib
import subprocess
import sys
import types
import warnings

import torch
from torch.utils import _pytree as pytree

import varigrad as vg
from varigrad.compile.backends import compilation, compiler_process
from varigrad.compile.backends.c import library
from varigrad.compile.step import step_compiler
from varigrad.compile.trace import traced_function

NEVER = 10**9


class Uncompiled:
    """Stands in for a compilation that is done at once: the library is the recorded graph itself."""

    kernels, calls, found, seconds, maker = 0, (), False, 0.0, "nobody"
    failure = elsewhere = fallback = ""

    def __init__(self, graph, inputs):
        self.library = self
        self.module = graph.module

    def run(self, values, count=1):
        return [self.module(*values) for _ in range(count)][-1]

    def ready(self, wait=False):
        return True


class InC(Uncompiled):
    """In C, at once, where C can say it; else the recorded graph."""

    def __init__(self, graph, inputs):
        super().__init__(graph, inputs)
        if library.translate(graph) is not None:
            own = compilation.Compilation(graph, inputs)
            assert own.ready(wait=True)
            assert own.library.maker == "C", own.failure
            self.library = own.library


@contextlib.contextmanager
def by_graph(patience=2, kind=Uncompiled):
    """Programs are recorded after `patience` steps; their graphs are run as they are."""
    before = step_compiler.PATIENCE, traced_function.Compilation
    step_compiler.PATIENCE, traced_function.Compilation = patience, kind
    try:
        yield
    finally:
        step_compiler.PATIENCE, traced_function.Compilation = before


@contextlib.contextmanager
def by_python():
    """All steps eagerly, on the random numbers that a graph would have seen."""
    with by_graph(NEVER):
        yield


def svi_of(model, guide, config=None, optim=None, seed=0, **options):
    optim = vg.optim.Adam(lr=0.05) if optim is None else optim
    return vg.SVI(model, guide, optim, vg.ELBO() if config is None else config, seed=seed, compile=True, **options)


def both(make, go, **options):
    """What `go` answers, and the state after it: in Python, by graph, and the second's `SVI`."""
    with by_python():
        svi = make()
        expected = go(svi), svi.state()
    with by_graph(**options):
        svi = make()
        found = go(svi), svi.state()
    return expected, found, svi


def steps(count, *args, **kwargs):
    return lambda svi: [svi.step(*args, **kwargs) for _ in range(count)]


def specializations(svi):
    return list(svi._step_compiler.specializations.values())


def taken(svi):
    """How many steps were taken by graph, after making sure that all checks agreed and nothing was refused."""
    assert all(not f.progress.disagreed and not f.refusal for f in specializations(svi)), [
        (f.progress.disagreed, f.refusal) for f in specializations(svi)
    ]
    return sum(f.graph_steps for f in specializations(svi))


def quietly():
    return warnings.catch_warnings(action="ignore", category=step_compiler.CaptureWarning)


def leaves(tree):
    """The numbers in a tree, without how many steps were taken by which means."""
    found = pytree.tree_flatten_with_path(tree)[0]
    return [
        leaf
        for path, leaf in found
        if isinstance(leaf, (torch.Tensor, int, float)) and all(getattr(k, "key", None) != "compiled" for k in path)
    ]


def assert_close(one, other, rtol=1e-7, atol=1e-9):
    """Two trees of tensors and numbers."""
    a, b = leaves(one), leaves(other)
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(torch.as_tensor(x), torch.as_tensor(y), rtol=rtol, atol=atol, equal_nan=True)


def same(one, other):
    """Bit for bit; what is not a number in one is none in the other."""
    a, b = ([torch.as_tensor(leaf) for leaf in leaves(tree)] for tree in (one, other))
    return len(a) == len(b) and all(
        x.shape == y.shape and bool(((x == y) | ((x != x) & (y != y))).all()) for x, y in zip(a, b, strict=True)
    )


@contextlib.contextmanager
def worker(script):
    """The compiling process runs this instead; `sys.argv[1]` is its folder."""

    def begin(command, **options):
        return subprocess.Popen([sys.executable, "-S", "-c", script, *command[3:]], **options)

    before = compiler_process.subprocess
    compiler_process.subprocess = types.SimpleNamespace(Popen=begin, DEVNULL=subprocess.DEVNULL)
    try:
        yield
    finally:
        compiler_process.subprocess = before


@contextlib.contextmanager
def heard():
    """All warnings that are about compiling."""
    found = []
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield found
    found += [str(w.message) for w in seen if issubclass(w.category, step_compiler.CaptureWarning)]
    assert len(seen) == len(found), [str(w.message) for w in seen]
