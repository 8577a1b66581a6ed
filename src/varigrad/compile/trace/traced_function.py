"""One function of tensors, recorded, compiled in the background or replayed, and held to what Python computes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from varigrad.compile.backends.compiler import Compilation
from varigrad.compile.backends.cuda_graphs import Replayed
from varigrad.compile.graph.errors import CaptureError
from varigrad.compile.graph.geometry import GEOMETRY
from varigrad.compile.graph.graph import Graph
from varigrad.compile.trace.tracer import record
from varigrad.distributions.rng import global_state, set_global_state

_aten = torch.ops.aten

Place = tuple[Tensor, int]
"""A flat tensor, and where in it a parameter begins."""


class Difference(NamedTuple):
    """What a graph and Python do not agree in.

    Attributes:
        place: the tensor, counted over the targets and those that are written in place.
        element: where in it they differ most.
        found, expected: what the graph gives there, and what Python does.
        steady: whether Python gives the same when it is asked again.
    """

    place: int
    element: int
    found: float
    expected: float
    steady: bool


class Recorded:
    """A function whose results overwrite tensors.

    Args:
        function: computes new values for `targets`, in order, from the very tensors in `inputs`; changes nothing.
        inputs: everything that may be another tensor or have another value at the next call.
        targets: those of the inputs that the results overwrite.
        places: inputs that are parts of a flat target, `id -> place`.
        written: inputs that the function does write in place, such as a module's running averages.
        loose: targets that rounding may move by more than rounding, and that are not compared: parameters after a
            step that divides a small gradient by its own size.

    Raises:
        CaptureError: it cannot be recorded.
    """

    def __init__(
        self,
        function: Callable[[], list[Tensor]],
        inputs: Sequence[Tensor],
        targets: Sequence[Tensor],
        places: Mapping[int, Place],
        written: Sequence[Tensor] = (),
        loose: Sequence[Tensor] = (),
    ) -> None:
        self.function, self.targets, self.written = function, list(targets), list(written)
        self._loose = {id(t) for t in loose}
        self._parameters = [i for i in inputs if isinstance(i, torch.nn.Parameter) and i.is_floating_point()]
        before = [w.detach().clone() for w in written]
        try:
            self.graph: Graph = record(function, inputs, self.written)
        finally:
            _restore(self.written, before)
        kept = _overwrite(self.graph, list(inputs), self.targets, places)
        self.inputs = [i.detach() for i, keep in zip(inputs, kept, strict=True) if keep]
        self._index = {id(i): n for n, i in enumerate(i for i, keep in zip(inputs, kept, strict=True) if keep)}
        constants = [c.detach() for c in self.graph.constants]
        others = [i for i, keep in zip(inputs, kept, strict=True) if keep and not any(i is t for t in targets)]
        _refuse_shared_memory([*others, *constants], self.targets)
        self.inputs += constants
        self.compilation: Compilation | Replayed | None = None

    def compile(self) -> Compilation | Replayed:
        """Begin to compile, if that has not begun; on a GPU graphs are replayed."""
        if self.compilation is None:
            kind = Replayed if any(i.is_cuda for i in self.inputs) else Compilation
            self.compilation = kind(self.graph, self.inputs)
        return self.compilation

    def position(self, tensor: Tensor) -> int | None:
        """Where one of the inputs stands in `inputs`; None if it was no input of its own."""
        return self._index.get(id(tensor))

    def run(self, count: int = 1) -> None:
        """Compute, and overwrite the targets; so many times in a row."""
        library = None if self.compilation is None else self.compilation.library
        if library is not None:
            library.run(self.inputs, count)
        else:
            for _ in range(count):
                self.graph.module(*self.inputs)

    def state(self) -> list[Any]:
        """Copies of all that `run` changes, torch's global generators included."""
        changed = [t.detach().clone() for t in self.targets + self.written]
        return [*changed, global_state()]

    def go_back(self, state: Sequence[Any]) -> None:
        """To where `state()` was called."""
        *changed, generators = state
        _restore(self.targets + self.written, changed)
        set_global_state(generators)

    def agrees(self) -> Difference | None:
        """Run, after the same in Python. The targets then hold the results: Python's where the two differ.

        Returns:
            The first difference, if there is one.

        Raises:
            Exception: what the function, or the graph, raises; everything is then as it was before.
        """
        found = self.targets + self.written
        before = [f.detach().clone() for f in found]
        generators = global_state() if self.graph.random else None

        def by_python() -> list[Tensor]:
            if generators is not None:
                set_global_state(generators)
            try:
                return [r.detach().clone() for r in (*self.function(), *self.written)]
            finally:
                _restore(found, before)

        expected = by_python()
        if generators is not None:
            set_global_state(generators)
        try:
            self.run()
        except BaseException:
            _restore(found, before)
            if generators is not None:
                set_global_state(generators)
            raise
        got = [f.detach().clone() for f in found]
        compared = [i for i, f in enumerate(found) if id(f) not in self._loose]
        different = [i for i in compared if not _close(got[i], expected[i], 0.0)]
        steady = True
        if different:
            _restore(found, before)
            again = by_python()
            steady = all(_close(again[i], expected[i], 0.0) for i in different)
            if steady:
                noise = self._rounding(by_python, expected)
                different = [i for i in different if not _close(got[i], expected[i], noise[i])]
            _restore(found, expected if different else got)
        if not different:
            return None
        first = different[0]
        return Difference(first, *_apart(got[first], expected[first]), steady)

    def _rounding(self, by_python: Callable[[], list[Tensor]], expected: Sequence[Tensor]) -> list[float]:
        """How far results move when the parameters do by a rounding error: large where differences cancel.

        A gradient near an optimum is such a difference, and nothing but rounding is left of it.
        """
        noise = [0.0] * len(expected)
        originals = [p.detach().clone() for p in self._parameters]
        for step in (2.0, -2.0, 4.0, -4.0):
            for p, original in zip(self._parameters, originals, strict=True):
                p.data.copy_(original * (1 + step * torch.finfo(p.dtype).eps))
            moved = by_python()
            for p, original in zip(self._parameters, originals, strict=True):
                p.data.copy_(original)
            for i, (m, e) in enumerate(zip(moved, expected, strict=True)):
                if e.is_floating_point() and e.numel():
                    gap = (m.double() - e.double()).abs()
                    noise[i] = max(noise[i], 50 * gap[gap.isfinite()].max().item() if gap.isfinite().any() else 0.0)
        return noise


def _apart(found: Tensor, expected: Tensor) -> tuple[int, float, float]:
    """The element in which two tensors differ most, and what it is in each."""
    one, other = found.reshape(-1).double(), expected.reshape(-1).double()
    gap = torch.where(one == other, 0.0, (one - other).abs().nan_to_num(nan=math.inf))
    gap = torch.where(one.isnan() & other.isnan(), 0.0, gap)
    at = int(gap.argmax())
    return at, float(one[at]), float(other[at])


def _restore(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)


def _close(found: Tensor, expected: Tensor, noise: float) -> bool:
    """Equal up to rounding, measured against the largest number in the tensor, or up to `noise`."""
    if not expected.is_floating_point():
        return torch.equal(found, expected)
    nan = expected.isnan()
    if not torch.equal(nan, found.isnan()):
        return False
    found, expected = found[~nan].double(), expected[~nan].double()
    if not len(expected):
        return True
    scale = expected.abs()
    finite = scale[scale.isfinite()]
    tolerance = math.sqrt(torch.finfo(torch.float32).eps) * (finite.max().item() if len(finite) else 1.0)
    return bool(((found == expected) | ((found - expected).abs() <= max(tolerance, noise) + 1e-30)).all())


def _overwrite(graph: Graph, inputs: list[Tensor], targets: list[Tensor], places: Mapping[int, Place]) -> list[bool]:
    """Let the graph write its results into the targets; says which inputs are left as inputs of their own."""
    nodes = graph.operations
    placeholders = [n for n in nodes.nodes if n.op == "placeholder"][: len(inputs)]
    by_tensor = {id(tensor): node for tensor, node in zip(inputs, placeholders, strict=True)}
    first = next(n for n in nodes.nodes if n.op != "placeholder")
    kept = []
    for tensor, node in zip(inputs, placeholders, strict=True):
        place = places.get(id(tensor))
        kept.append(place is None)
        if place is not None:
            flat, start = place
            with nodes.inserting_before(first):
                part = nodes.call_function(_aten.slice.Tensor, (by_tensor[id(flat)], 0, start, start + tensor.numel()))
                view = nodes.call_function(_aten.view.default, (part, list(tensor.shape)))
            lies = node.meta[GEOMETRY]
            part.meta[GEOMETRY] = replace(lies, shape=(tensor.numel(),), stride=(1,))
            view.meta[GEOMETRY] = lies
            node.replace_all_uses_with(view)
            nodes.erase_node(node)
    end = next(n for n in nodes.nodes if n.op == "output")
    results: Any = end.args[0]
    with nodes.inserting_before(end):
        for target, result in zip(targets, results, strict=True):
            if isinstance(result, fx.Node):
                written = nodes.call_function(_aten.copy_.default, (by_tensor[id(target)], result))
                written.meta[GEOMETRY] = by_tensor[id(target)].meta[GEOMETRY]
        end.args = ([],)
    return kept


def _refuse_shared_memory(inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    """What is overwritten must not be read under another name as well."""
    written = {t.untyped_storage().data_ptr() for t in targets if t.numel()}
    for tensor in inputs:
        if tensor.numel() and tensor.untyped_storage().data_ptr() in written:
            raise CaptureError(
                "an argument, or a tensor the program reads, is a view of a parameter",
                try_="hand it over as a copy (.clone()), or declare it with param()",
            )
