"""What becomes of a random graph: in C and by torch, twice in a row, in memory that holds nonsense at first."""

import re
import warnings
from dataclasses import replace

import torch

from random_graphs.graphs import RandomGraph, run
from random_graphs.rounding import expected, wrong
from varigrad.compile.backends.c import library
from varigrad.compile.graph.errors import CaptureError
from varigrad.compile.trace.traced_function import TracedFunction

FINE = ("equal", "refused", "not in C")
NONSENSE = 255
"""The byte that a program's memory is filled with: NaN, -1, or no truth value at all."""


def verdict(graph: RandomGraph) -> str:
    """One of `FINE`, or what is wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inputs = [i.make() for i in graph.inputs]
        expectation = expected(graph, inputs)
        targets = [torch.zeros(v.shape, dtype=v.dtype) for v in expectation.values]
        try:
            step = TracedFunction(lambda: run(graph, inputs), [*inputs, *targets], targets, {})
        except CaptureError:
            return "refused"
        if library.translate(step.graph) is None:
            return "not in C"
        compilation = step.compile()
        compilation.ready(wait=True)
        own = compilation.library
        if own is None or own.maker != "C":
            return f"not compiled: {compilation.failure or compilation._failures}"
        own._own.fill_(NONSENSE)
        step.run()
        found = wrong(expectation, targets)
        if not found:
            first = [t.clone() for t in targets]
            step.run(2)
            same = all(torch.equal(t.nan_to_num(0.5), f.nan_to_num(0.5)) for t, f in zip(targets, first, strict=True))
            found = "" if same else "the second run gives something else than the first"
        return found or "equal"


def kind_of(found: str) -> str:
    """A verdict without its numbers."""
    return found if found in FINE else re.sub(r"[\d(].*", "", found)


def smallest(graph: RandomGraph, attempts: int = 100) -> RandomGraph:
    """A graph that goes wrong in the same way, without steps, outputs and gradients that are not needed for it."""
    wanted = kind_of(verdict(graph))
    tried = set()

    def is_bad(other: RandomGraph) -> bool:
        nonlocal attempts
        attempts -= 1
        if attempts < 0 or other in tried or not other.outputs:
            return False
        tried.add(other)
        try:
            return kind_of(verdict(other)) == wanted
        except Exception:
            return False

    shrunk = True
    while shrunk and attempts > 0:
        shrunk = False
        for other in _smaller(graph):
            if is_bad(other):
                graph, shrunk = other, True
                break
    return graph


def _smaller(graph: RandomGraph):
    """Graphs with one thing less, the largest savings first."""
    for output in graph.outputs:
        if len(graph.outputs) > 1:
            yield _needed(replace(graph, outputs=(output,)))
    if graph.slopes:
        yield replace(graph, slopes=False)
    if _needed(graph) != graph:
        yield _needed(graph)
    for output in graph.outputs:
        if len(graph.outputs) > 1:
            yield replace(graph, outputs=tuple(o for o in graph.outputs if o != output))
    for output in graph.outputs:
        if output >= len(graph.inputs):
            for operand in graph.steps[output - len(graph.inputs)].operands:
                if operand >= len(graph.inputs):
                    yield _needed(replace(graph, outputs=(operand,)))
    for number in reversed(range(len(graph.steps))):
        yield from _without(graph, number)


def _needed(graph: RandomGraph) -> RandomGraph:
    """The graph without steps that write nothing, and that nothing which is looked at reads."""
    wanted = set(graph.outputs)
    count = len(graph.inputs)
    for number in reversed(range(len(graph.steps))):
        if graph.steps[number].writes or count + number in wanted:
            wanted.update(graph.steps[number].operands)
    gone = [n for n, s in enumerate(graph.steps) if count + n not in wanted and not s.writes]
    for number in reversed(gone):
        graph = _removed(graph, number, None)
    return graph


def _without(graph: RandomGraph, number: int):
    """The graph without a step: an operand of it, or an input, takes its place."""
    place = len(graph.inputs) + number
    read = any(place in s.operands for s in graph.steps)
    if not read:
        if graph.outputs != (place,):
            yield _removed(replace(graph, outputs=tuple(o for o in graph.outputs if o != place)), number, None)
        return
    for instead in dict.fromkeys((*graph.steps[number].operands, *range(len(graph.inputs)))):
        yield _removed(graph, number, instead)


def _removed(graph: RandomGraph, number: int, instead: int | None) -> RandomGraph:
    place = len(graph.inputs) + number

    def moved(i: int) -> int:
        if i == place:
            assert instead is not None
            return instead
        return i - (i > place)

    steps = [replace(s, operands=tuple(map(moved, s.operands))) for n, s in enumerate(graph.steps) if n != number]
    outputs = tuple(dict.fromkeys(moved(o) for o in graph.outputs if o != place or instead is not None))
    outputs = tuple(o for o in outputs if o >= len(graph.inputs))
    return replace(graph, steps=tuple(steps), outputs=outputs)
