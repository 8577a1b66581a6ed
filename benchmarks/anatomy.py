"""Where a compiled step's time goes: the same pieces, each timed alone, and the rates that bound them.

    python -m benchmarks.anatomy [coin gaussian_mixture vae] [--threads 1] [--seconds 2]

`make bench` writes what it finds into docs/performance.md.
"""

from __future__ import annotations

import argparse
import ctypes
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.profiler import ProfilerActivity, profile

from benchmarks.systems import svi_of
from benchmarks.workloads import WORKLOADS
from varigrad.compile.backends import inductor, worker
from varigrad.compile.backends.c.codegen import emit
from varigrad.compile.backends.c.fusion import LoopWriter
from varigrad.compile.backends.c.library import CLibrary
from varigrad.compile.step.compiled_step import ROWS, CompiledStep
from varigrad.compile.trace.traced_function import TracedFunction

NAMES = ("coin", "gaussian_mixture", "vae", "belief_net")
KERNELS = 4
_CLOCK = """
#include <time.h>
static double spent[100000];
static double now(void)
{ struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1e6 + t.tv_nsec * 1e-3; }
double spent_on(int i) { return spent[i]; }
"""
PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default)


@dataclass(frozen=True)
class Anatomy:
    """Microseconds a step.

    Attributes:
        step: all of it, in `svi.run`.
        numbers: drawing its random numbers.
        graph: the compiled graph, which consists of
        call: what a compiled graph costs that does nothing, with as many inputs, by as many steps a call,
        products: its matrix products, alone,
        optimiser: Adam on as many parameters, compiled alone, without its call,
        and the rest.
        flop: operations in matrix products.
        inputs, parameters: how many tensors go in; how many numbers are learnt.
        maker: the compiler.
        kernels: `name -> microseconds` of the graph's functions, the slowest ones, from a build with marks in it; in C,
            of its loops, by how many turns they take. (Marks take 0.05 us each.)
    """

    workload: str
    threads: int
    step: float
    numbers: float
    graph: float
    call: float
    products: float
    optimiser: float
    flop: int
    inputs: int
    parameters: int
    maker: str
    kernels: Mapping[str, float]

    @property
    def others(self) -> float:
        """Densities and their gradients, and everything else in the graph."""
        return self.graph - self.call - self.products - self.optimiser

    @property
    def python(self) -> float:
        """What is neither graph nor random numbers: losses to Python, the loop, the checks by Python."""
        return self.step - self.graph - self.numbers


def dissect(name: str, threads: int, seconds: float) -> Anatomy:
    """Take the step of a workload apart, in this process."""
    torch.set_num_threads(threads)
    svi, step, args = _compiled_step(name)
    noise, inputs = svi._step_compiler.noise, len(step.traced.inputs)
    products, flop = _products(step.traced)
    whole = (
        20 * step.capacity if step.capacity == ROWS else step.capacity
    )  # small steps: so many that a call costs nothing
    library = step.traced.compile().library
    assert library is not None
    call = _timed(_nothing(inputs, step.capacity), seconds) / step.capacity
    return Anatomy(
        name,
        threads,
        _timed(lambda: svi.run(whole, *args, progress=False), seconds) / whole,
        _timed(lambda: noise.rows(step.demand, step.capacity), seconds) / step.capacity,
        _timed(lambda: _all_rows(step), seconds) / step.capacity,
        call,
        _timed(products, seconds) if flop else 0.0,
        max(0.0, _timed(_optimiser(step), seconds) / step.capacity - call),
        flop,
        inputs,
        sum(p.numel() for p in step.flat_state.parameters),
        library.maker,
        _loops(step) if library.maker == "C" else _kernels(name),
    )


def peak_rate(threads: int) -> float:
    """Floating point operations a second in a large matrix product."""
    torch.set_num_threads(threads)
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return 2 * 1024**3 / (_timed(lambda: torch.mm(a, b), 1.0) * 1e-6)


def _compiled_step(name: str) -> tuple[Any, CompiledStep, tuple[Any, ...]]:
    """A workload's `SVI` after some steps, its captured step, and the arguments."""
    workload = WORKLOADS[name]
    programs = workload.varigrad()
    svi = svi_of(programs, workload.adam, 0, compile="wait")
    svi.run(400, *programs.args, progress=False)
    step = next(iter(svi._step_compiler.specializations.values())).step
    if step is None or step.traced.compilation.library is None:
        raise RuntimeError(f"{name} is not compiled:\n{svi.explain()}")
    return svi, step, programs.args


def _all_rows(step: CompiledStep) -> None:
    """The graph alone, for every row of its random numbers."""
    step._index.zero_()
    step.traced.run(step.capacity)


def _kernels(name: str) -> dict[str, float]:
    marks = {"cpp.enable_kernel_profile": True, "cpp.descriptive_names": "original_aten"}
    inductor.OPTIONS.update(marks)
    try:
        _, step, _ = _compiled_step(name)
    finally:
        for mark in marks:
            inductor.OPTIONS.pop(mark)
    _all_rows(step)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        _all_rows(step)
    times = {e.key: e.self_cpu_time_total / step.capacity for e in found.key_averages()}
    slowest = sorted(times, key=lambda key: -times[key])[:KERNELS]
    return {key.removeprefix("graph_0_cpp_"): round(times[key], 2) for key in slowest}


def _loops(step: CompiledStep) -> dict[str, float]:
    """What the loops of a step in C take, alike ones together."""
    graph = step.traced.graph.operations
    whole = LoopWriter.functions
    LoopWriter.functions = lambda self, kept: [b for p in self._pieces for b in p.emit(self, self.loaded | kept)]  # type: ignore[method-assign]
    try:
        program = emit(graph, threads=torch.get_num_threads())
    finally:
        LoopWriter.functions = whole  # type: ignore[method-assign]
    text = program.text.replace("int run(char *own", _CLOCK + "int run(char *own")
    text = re.sub(r"(f(\d+)\(own, x, &bad\)|share\(f(\d+), own, x\));", _clocked, text)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "step.c").write_text(text)
        library = CLibrary(folder / worker.build_c(folder)["library"], program)
        spent = ctypes.CDLL(str(folder / "step.so")).spent_on
        spent.restype = ctypes.c_double
        step._index.zero_()
        library.run(step.traced.inputs, step.capacity)
    found: dict[str, float] = {}
    for number, body in re.findall(r"void f(\d+)\(.*?\)\n\{\n(.*?)\n\}\nstatic|\Z", text, re.DOTALL):
        if number:
            label = _label(body)
            found[label] = found.get(label, 0.0) + spent(int(number)) / step.capacity
    slowest = sorted(found, key=lambda label: -found[label])[:KERNELS]
    return {label: round(found[label], 2) for label in slowest}


def _clocked(call: re.Match[str]) -> str:
    number = call[2] or call[3]
    return f"{{ double t = now(); {call[1]}; spent[{number}] += now() - t; }}"


def _label(body: str) -> str:
    if "product(" in body:
        return "products, by BLAS"
    sizes = re.findall(r"< (?:FIRST\()?(\d+)[^;]*; [im]", body)
    return f"loops over {' x '.join(dict.fromkeys(sizes))}" if sizes else "numbers by themselves"


def _timed(function: Callable[[], object], seconds: float) -> float:
    """Microseconds a call: the median over ten blocks."""
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds / 10:
        function()
        count += 1
    found = []
    for _ in range(10):
        start = time.perf_counter()
        for _ in range(count):
            function()
        found.append((time.perf_counter() - start) / count)
    return 1e6 * statistics.median(found)


def _compiled(function: Callable[[], list[Tensor]], inputs: list[Tensor], targets: list[Tensor]) -> TracedFunction:
    recorded = TracedFunction(function, inputs, targets, {})
    if not recorded.compile().ready(wait=True) or recorded.compile().library is None:
        raise RuntimeError(recorded.compile().failure)
    return recorded


def _nothing(inputs: int, rows: int) -> Callable[[], None]:
    """Compiled steps that count, and look at no other of their inputs."""
    count = torch.zeros((), dtype=torch.int64)
    others = [torch.zeros(16) for _ in range(inputs - 1)]
    recorded = _compiled(lambda: [count + 1], [count, *others], [count])
    return lambda: recorded.run(rows)


def _optimiser(step: CompiledStep) -> Callable[[], None]:
    """The optimiser's rule on a gradient that is there."""
    memory, rule = step.flat_state, step.flat_state.rule
    assert rule is not None
    functions = []
    for bucket in memory.buckets:
        kept = [t.detach().clone() for t in (bucket.flat, *bucket.moments, bucket.count)]
        numbers = torch.tensor(rule.numbers(memory.optimizer.param_groups[bucket.group]), dtype=torch.float64)
        grad = torch.randn_like(bucket.flat)

        def update(kept: Any = kept, numbers: Tensor = numbers, grad: Tensor = grad) -> list[Tensor]:
            value, moments = rule.update(kept[0], grad, kept[1:-1], kept[-1], numbers)
            return [value, *moments, kept[-1] + 1]

        functions.append(_compiled(update, [*kept, numbers, grad], kept))
    return lambda: [function.run(step.capacity) for function in functions]  # type: ignore[return-value]


class _Products(fx.Interpreter):
    """Runs a graph and notes the operands of its matrix products."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found: list[tuple[Any, tuple[Any, ...]]] = []

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in PRODUCTS:
            self.found.append((target, args))
        return super().call_function(target, args, kwargs)


def _products(recorded: TracedFunction) -> tuple[Callable[[], None], int]:
    """All matrix products of a graph, one after the other; and how many operations they are."""
    watching = _Products(recorded.graph.module)
    watching.run(*[i.clone() for i in recorded.inputs])
    flop = sum(2 * args[-2].numel() * args[-1].shape[-1] for _, args in watching.found)

    def run() -> None:
        for product, args in watching.found:
            product(*args)

    return run, flop


def main() -> None:
    """Print the pieces."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", default=NAMES, metavar="NAME")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    print(f"large matrix products: {peak_rate(options.threads) / 1e9:.0f} GFLOP/s")
    parts = ("step", "numbers", "graph", "call", "products", "optimiser", "others", "python")
    for name in options.workloads:
        found = dissect(name, options.threads, options.seconds)
        print(f"{name:18}" + "  ".join(f"{part} {getattr(found, part):.1f}" for part in parts) + f"  {found.flop} flop")
        for kernel, each in found.kernels.items():
            print(f"  {each:10.2f}  {kernel}")


if __name__ == "__main__":
    main()
