"""Indexing that reads no values: writes `x[i]`, `x[i] = value` and `one_hot` as operations on tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor

from varigrad.compile.graph.errors import CaptureError, capture_error


@dataclass(eq=False)
class _Copy:
    """A result of `x[i]` that a graph copies.

    Attributes:
        source, memory: where `x` and the copy lie.
        index: the very object `i`.
        tensor: the copy.
        written: whether the program has written into it since, and not back to `x[i]`.
        stale: whether the program has written into `x` since.
    """

    source: int
    memory: int
    index: object
    tensor: Tensor
    written: bool = False
    stale: bool = False


class IndexCopies:
    """The results of `x[i]` in a trace that are copies there and views of `x` in torch; refuses what would tell.

    A write into the copy has to be put back by `x[i] = copy`, as `x[i] += 1` does, before `x` is read; after any other
    write into `x` the copy must not be read.

    Args:
        memory_of: gives the address of a tensor's memory.
    """

    def __init__(self, memory_of: Callable[[Tensor], int]) -> None:
        self._memory_of = memory_of
        self._copies: list[_Copy] = []

    def __bool__(self) -> bool:
        return bool(self._copies)

    def add(self, source: Tensor, index: object, copy: Tensor) -> None:
        """Note that `copy` stands for `source[index]`."""
        self._copies.append(_Copy(self._memory_of(source), self._memory_of(copy), index, copy))

    def note_reads(self, tensors: Iterable[Tensor]) -> None:
        """Check tensors that an operation reads.

        Raises:
            CaptureError: one of them has other numbers in torch than in the graph.
        """
        memories = {self._memory_of(tensor) for tensor in tensors}
        if any(c.memory in memories if c.stale else c.written and c.source in memories for c in self._copies):
            raise _tells_a_view()

    def note_write(self, tensor: Tensor) -> None:
        """Note that an operation writes into a tensor."""
        memory = self._memory_of(tensor)
        for copy in self._copies:
            copy.written = copy.written or copy.memory == memory
            copy.stale = copy.stale or copy.source == memory

    def put_back(self, tensor: Tensor, index: object, value: object) -> _Copy | None:
        """Before `tensor[index] = value`: the copy of `tensor[index]` that is being put back, if it is one."""
        source = self._memory_of(tensor)
        for copy in self._copies:
            if copy.tensor is value and copy.index is index and copy.source == source and not copy.stale:
                copy.written = False
                return copy
        return None

    def finish(self) -> None:
        """Check that nothing is left to be put back.

        Raises:
            CaptureError: the program has written into a copy.
        """
        if any(copy.written for copy in self._copies):
            raise _tells_a_view()


def _tells_a_view() -> CaptureError:
    return capture_error(
        "the program writes into x[i], or into x while x[i] is in use, where i is an index tensor without dimensions: "
        "that is a view in torch and a copy in a graph",
        "x[i] += value or x[i] = value, or x[i].clone()",
    )


def get_item(tensor: Tensor, index: Any, copies: IndexCopies) -> Tensor:
    """`tensor[index]`, also for index tensors without dimensions, whose values torch would read.

    Args:
        copies: told where the result is a copy, and a view in torch.
    """
    source = tensor
    entries = index if isinstance(index, tuple) else (index,)
    if not any(_is_scalar(i) for i in entries):
        return tensor[index]
    if any(isinstance(i, (list, range)) or (isinstance(i, Tensor) and i.dim()) for i in entries):
        # Beside other tensors an index of one element broadcasts as one of no dimensions would.
        return tensor[tuple(i.reshape(1) if _is_scalar(i) else i for i in entries)]
    dim = 0
    for i in _without_ellipsis(entries, tensor.dim()):
        if _is_scalar(i):
            place = torch.where(i < 0, i + tensor.shape[dim], i).reshape(1)
            tensor = tensor.index_select(dim, place).squeeze(dim)
        elif i is None:
            tensor = tensor.unsqueeze(dim)
            dim += 1
        elif isinstance(i, slice):
            tensor = tensor[(slice(None),) * dim + (i,)]
            dim += 1
        else:
            tensor = tensor.select(dim, i)
    copies.add(source, index, tensor)
    return tensor


def _without_ellipsis(entries: tuple[Any, ...], dims: int) -> list[Any]:
    """The entries of an index for `dims` dimensions, with slices in the place of `...`."""
    found: list[Any] = []
    for i in entries:
        if i is Ellipsis:
            found += [slice(None)] * (dims - sum(p is not None and p is not Ellipsis for p in entries))
        else:
            found.append(i)
    return found


def set_item(tensor: Tensor, index: Any, value: Tensor | float, copies: IndexCopies) -> None:
    """`tensor[index] = value`, also for index tensors without dimensions.

    Args:
        copies: told where a copy of `tensor[index]` is put back.
    """
    copy = copies.put_back(tensor, index, value)
    _write(tensor, index, value)
    if copy is not None:
        copy.stale = False


def _write(tensor: Tensor, index: Any, value: Tensor | float) -> None:
    if isinstance(index, Tensor) and index.dim() == 0 and index.dtype == torch.bool:
        tensor.copy_(torch.where(index, value, tensor))
        return
    entries = index if isinstance(index, tuple) else (index,)
    if all(_is_scalar(i) for i in entries):
        index = tuple(i.reshape(1) for i in entries)
    tensor[index] = value


def _is_scalar(index: object) -> TypeGuard[Tensor]:
    """Whether an entry of an index is a whole number in a tensor."""
    integers = (torch.int64, torch.int32, torch.int16, torch.int8)
    return isinstance(index, Tensor) and index.dim() == 0 and index.dtype in integers


def one_hot(index: Tensor, num_classes: int = -1) -> Tensor:
    """`torch.nn.functional.one_hot` without its look at the values, which checks that they are classes."""
    if num_classes < 0:
        raise capture_error("one_hot without num_classes looks for the largest value")
    return (index.unsqueeze(-1) == torch.arange(num_classes, device=index.device)).to(torch.int64)
