"""Fallbacks to aten: the C program calls torch back for operations that it lacks, on views of its memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from varigrad._torch_internals import OpOverload, pytree


@dataclass(frozen=True)
class TensorLocation:
    """The location of a tensor while a program runs.

    Attributes:
        input: the number of the input that the tensor is a part of; None if it lies in the program's own memory.
        offset: of the first element: in bytes in the program's memory, in elements in an input.
    """

    input: int | None
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    kind: torch.dtype

    def view_in(self, memory: Tensor) -> Tensor:
        """The tensor, as a view of the program's own memory (bytes) or of the input."""
        start = self.offset
        if self.input is None:
            memory, start = memory[start:].view(self.kind), 0
        elif not start and memory.shape == self.shape and memory.stride() == self.stride:
            return memory
        return memory.as_strided(self.shape, self.stride, memory.storage_offset() + start)


@dataclass(frozen=True)
class Call:
    """A call of an operation of torch's.

    Attributes:
        operation: what is called.
        args, kwargs: with a `TensorLocation` for each tensor.
        outs: where the results go; None for a result that is not used, or that lies in an operand.
    """

    operation: OpOverload
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outs: tuple[TensorLocation | None, ...]


class Caller:
    """Makes a program's calls of torch's operations.

    Args:
        own: the program's memory, bytes; a whole number of the longest elements.

    Attributes:
        inputs: the inputs of the run that is going on.
        error: the error that a call has raised.
    """

    def __init__(self, calls: Sequence[Call], own: Tensor) -> None:
        self.inputs: Sequence[Tensor] = ()
        self.error: BaseException | None = None
        self._calls = [_Ready(call, own) for call in calls]

    def __call__(self, number: int) -> int:
        """Make the call of this number; returns 1 if it failed, else 0."""
        try:
            self._calls[number].make(self.inputs)
        except BaseException as error:  # a callback cannot raise: `CLibrary.run` does
            self.error = error
            return 1
        return 0


class _Ready:
    """A call of a torch operation, with the views of the program's memory that it reads and writes."""

    def __init__(self, call: Call, own: Tensor) -> None:
        self._operation = call.operation
        leaves, self._tree = pytree.tree_flatten((call.args, dict(call.kwargs)))
        self._inputs = [
            (i, leaf) for i, leaf in enumerate(leaves) if isinstance(leaf, TensorLocation) and leaf.input is not None
        ]
        self._leaves = [x.view_in(own) if isinstance(x, TensorLocation) and x.input is None else x for x in leaves]
        self._outs = [None if out is None else out.view_in(own) for out in call.outs]
        self._last: list[Tensor] = []
        self._arguments: tuple[tuple[object, ...], dict[str, object]] | None = None

    def make(self, inputs: Sequence[Tensor]) -> None:
        """Call the operation, and copy its results to where the program reads them."""
        given = [inputs[location.input] for _, location in self._inputs if location.input is not None]
        if self._arguments is None or any(a is not b for a, b in zip(given, self._last, strict=True)):
            leaves, self._last = list(self._leaves), given
            for (i, location), tensor in zip(self._inputs, given, strict=True):
                leaves[i] = location.view_in(tensor)
            self._arguments = pytree.tree_unflatten(leaves, self._tree)
        args, kwargs = self._arguments
        results = self._operation(*args, **kwargs)
        if isinstance(results, Tensor):
            results = (results,)
        for out, result in zip(self._outs, results or (), strict=False):
            if out is not None:
                out.copy_(result)
