"""What C leaves to torch: operations that are called back, on views of the program's memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Spot:
    """Where a tensor lies when a program runs.

    Attributes:
        input: the number of the input that it is a part of; None for one in the program's own memory.
        offset: of its first element: in bytes in the program's memory, in elements in an input.
    """

    input: int | None
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    kind: torch.dtype

    def within(self, memory: Tensor) -> Tensor:
        """The tensor, in the program's own memory (bytes) or the input."""
        start = self.offset
        if self.input is None:
            memory, start = memory[start:].view(self.kind), 0
        elif not start and memory.shape == self.shape and memory.stride() == self.stride:
            return memory
        return memory.as_strided(self.shape, self.stride, memory.storage_offset() + start)


@dataclass(frozen=True)
class Call:
    """An operation of torch's.

    Attributes:
        args, kwargs: with a `Spot` for each tensor.
        outs: where its results go; None for one that nobody wants.
    """

    operation: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outs: tuple[Spot | None, ...]


class Caller:
    """Makes a program's calls.

    Args:
        own: the program's memory, bytes; a whole number of the longest elements.

    Attributes:
        inputs: of the run that is going on.
        error: what a call has raised.
    """

    def __init__(self, calls: Sequence[Call], own: Tensor) -> None:
        self.inputs: Sequence[Tensor] = ()
        self.error: BaseException | None = None
        self._calls = [_Ready(call, own) for call in calls]

    def __call__(self, number: int) -> int:
        """Make one; returns whether it failed."""
        try:
            self._calls[number].make(self.inputs)
        except BaseException as error:  # a callback cannot raise: whoever runs the program does
            self.error = error
            return 1
        return 0


class _Ready:
    def __init__(self, call: Call, own: Tensor) -> None:
        self._operation = call.operation
        leaves, self._tree = pytree.tree_flatten((call.args, dict(call.kwargs)))
        self._inputs = [(i, leaf) for i, leaf in enumerate(leaves) if isinstance(leaf, Spot) and leaf.input is not None]
        self._leaves = [x.within(own) if isinstance(x, Spot) and x.input is None else x for x in leaves]
        self._outs = [None if out is None else out.within(own) for out in call.outs]
        self._last: list[Tensor] = []
        self._arguments: Any = None

    def make(self, inputs: Sequence[Tensor]) -> None:
        given = [inputs[spot.input] for _, spot in self._inputs if spot.input is not None]
        if self._arguments is None or any(a is not b for a, b in zip(given, self._last, strict=True)):
            leaves, self._last = list(self._leaves), given
            for (i, spot), tensor in zip(self._inputs, given, strict=True):
                leaves[i] = spot.within(tensor)
            self._arguments = pytree.tree_unflatten(leaves, self._tree)
        args, kwargs = self._arguments
        results = self._operation(*args, **kwargs)
        if isinstance(results, Tensor):
            results = (results,)
        for out, result in zip(self._outs, results or (), strict=False):
            if out is not None:
                out.copy_(result)
