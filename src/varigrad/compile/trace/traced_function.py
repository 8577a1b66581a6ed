"""`TracedFunction`: traces a function, runs its graph or its compiled library, and compares either with Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, fx

from varigrad.compile.backends.compilation import Compilation
from varigrad.compile.backends.cuda_graphs import CudaGraph
from varigrad.compile.graph.errors import CaptureError
from varigrad.compile.graph.graph import Graph
from varigrad.compile.graph.memory_layout import GEOMETRY
from varigrad.compile.trace.tracer import trace
from varigrad.distributions.rng import GlobalState, global_state, set_global_state

_aten = torch.ops.aten

FlatSlice = tuple[Tensor, int]
"""A flat tensor, and the element at which a parameter begins in it."""


class Difference(NamedTuple):
    """The first result in which a graph and Python differ.

    Attributes:
        target: the number of the tensor: of the targets first, then of those that are written in place.
        element: the element in which they differ most.
        found, expected: its value by graph and by Python.
        steady: whether Python gives the same value when it runs again.
    """

    target: int
    element: int
    found: float
    expected: float
    steady: bool


class Snapshot(NamedTuple):
    """The targets and the tensors that are written in place, and the states of torch's global generators."""

    tensors: list[Tensor]
    generators: GlobalState


class TracedFunction:
    """A traced function whose results overwrite tensors.

    Args:
        function: computes new values for `targets`, in order, from the very tensors in `inputs`; changes nothing.
        inputs: everything that may be another tensor or have another value at the next call.
        targets: those of the inputs that the results overwrite.
        slices: inputs that are slices of a flat target, by their id.
        mutated: inputs that the function does write in place, such as a module's running averages.
        loose: targets that rounding may move by more than rounding, and that are not compared: parameters after a
            step that divides a small gradient by its own size.

    Raises:
        CaptureError: the function cannot be traced.
    """

    def __init__(
        self,
        function: Callable[[], list[Tensor]],
        inputs: Sequence[Tensor],
        targets: Sequence[Tensor],
        slices: Mapping[int, FlatSlice],
        mutated: Sequence[Tensor] = (),
        loose: Sequence[Tensor] = (),
    ) -> None:
        self.function = function
        self.targets: list[Tensor] = list(targets)
        self.mutated: list[Tensor] = list(mutated)
        self._loose = {id(t) for t in loose}
        self._parameters = [i for i in inputs if isinstance(i, torch.nn.Parameter) and i.is_floating_point()]
        before = [w.detach().clone() for w in mutated]
        try:
            self.graph: Graph = trace(function, inputs, self.mutated)
        finally:
            _restore(self.mutated, before)
        kept = _overwrite(self.graph, list(inputs), self.targets, slices)
        self.inputs: list[Tensor] = [i.detach() for i, keep in zip(inputs, kept, strict=True) if keep]
        self._index = {id(i): n for n, i in enumerate(i for i, keep in zip(inputs, kept, strict=True) if keep)}
        constants = [c.detach() for c in self.graph.constants]
        others = [i for i, keep in zip(inputs, kept, strict=True) if keep and not any(i is t for t in targets)]
        _refuse_shared_memory([*others, *constants], self.targets)
        self.inputs += constants
        self.compilation: Compilation | CudaGraph | None = None

    def compile(self) -> Compilation | CudaGraph:
        """The compilation, begun at the first call; on a GPU there is a CUDA graph in its place."""
        if self.compilation is None:
            kind = CudaGraph if any(i.is_cuda for i in self.inputs) else Compilation
            self.compilation = kind(self.graph, self.inputs)
        return self.compilation

    def position(self, tensor: Tensor) -> int | None:
        """The position of a tensor in `inputs`; None if it was no input of its own."""
        return self._index.get(id(tensor))

    def run(self, count: int = 1) -> None:
        """Compute, and overwrite the targets, `count` times in a row."""
        library = None if self.compilation is None else self.compilation.library
        if library is not None:
            library.run(self.inputs, count)
        else:
            for _ in range(count):
                self.graph.module(*self.inputs)

    def snapshot(self) -> Snapshot:
        """Copies of all that `run` changes."""
        return Snapshot([t.detach().clone() for t in self.targets + self.mutated], global_state())

    def restore(self, before: Snapshot) -> None:
        """Go back to where the snapshot was taken."""
        _restore(self.targets + self.mutated, before.tensors)
        set_global_state(before.generators)

    def agrees(self) -> Difference | None:
        """Compute in Python, then by the graph, and compare. The targets keep the results: Python's if they differ.

        Returns:
            The first difference, if there is one.

        Raises:
            Exception: what the function, or the graph, raises; everything is then as it was before.
        """
        found = self.targets + self.mutated
        before = [f.detach().clone() for f in found]
        generators = global_state() if self.graph.random else None

        def by_python() -> list[Tensor]:
            if generators is not None:
                set_global_state(generators)
            try:
                return [r.detach().clone() for r in (*self.function(), *self.mutated)]
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
        """Measure how far results move when the parameters move by a rounding error: much where differences cancel.

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
    """The element in which two tensors differ most, and its value in each."""
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
    """Whether two tensors are equal up to rounding, relative to the largest number in them, or up to `noise`."""
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


def _overwrite(
    graph: Graph, inputs: list[Tensor], targets: list[Tensor], slices: Mapping[int, FlatSlice]
) -> list[bool]:
    """Let the graph write its results into the targets, and read slices of flat targets there.

    Returns:
        For each input whether it is left as an input of its own.
    """
    nodes = graph.operations
    placeholders = [n for n in nodes.nodes if n.op == "placeholder"][: len(inputs)]
    by_tensor = {id(tensor): node for tensor, node in zip(inputs, placeholders, strict=True)}
    first = next(n for n in nodes.nodes if n.op != "placeholder")
    kept = []
    for tensor, node in zip(inputs, placeholders, strict=True):
        own_slice = slices.get(id(tensor))
        kept.append(own_slice is None)
        if own_slice is not None:
            flat, start = own_slice
            with nodes.inserting_before(first):
                part = nodes.call_function(_aten.slice.Tensor, (by_tensor[id(flat)], 0, start, start + tensor.numel()))
                view = nodes.call_function(_aten.view.default, (part, list(tensor.shape)))
            lies = node.meta[GEOMETRY]
            part.meta[GEOMETRY] = replace(lies, shape=(tensor.numel(),), stride=(1,))
            view.meta[GEOMETRY] = lies
            node.replace_all_uses_with(view)
            nodes.erase_node(node)
    end = next(n for n in nodes.nodes if n.op == "output")
    results = end.args[0]
    assert isinstance(results, (list, tuple))
    with nodes.inserting_before(end):
        for target, result in zip(targets, results, strict=True):
            if isinstance(result, fx.Node):
                written = nodes.call_function(_aten.copy_.default, (by_tensor[id(target)], result))
                written.meta[GEOMETRY] = by_tensor[id(target)].meta[GEOMETRY]
        end.args = ([],)
    return kept


def _refuse_shared_memory(inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    """Refuse inputs that share memory with a target: the graph would read them while it overwrites them.

    Raises:
        CaptureError: there is one.
    """
    overwritten = {t.untyped_storage().data_ptr() for t in targets if t.numel()}
    for tensor in inputs:
        if tensor.numel() and tensor.untyped_storage().data_ptr() in overwritten:
            raise CaptureError(
                "an argument, or a tensor the program reads, is a view of a parameter",
                try_="hand it over as a copy (.clone()), or declare it with param()",
            )
