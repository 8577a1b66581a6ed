"""`BufferView`: memory, offset, shape and strides of a tensor in a C program, and its elements as C text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.int64: "int64_t",
    torch.int32: "int32_t",
    torch.uint8: "uint8_t",
    torch.bool: "_Bool",
}
"""Types of C in which numbers are stored."""
VALUES = {**TYPES, torch.bool: "int"}
"""Types of C in which numbers are computed with: compilers make no vectors of `_Bool` beside doubles."""


@dataclass(frozen=True)
class BufferView:
    """A tensor in the program: a strided view of a buffer.

    Attributes:
        memory: the name of an input, or of one of the program's own buffers.
        offset, stride: in elements.
        kind: the type of an element.
    """

    memory: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    kind: torch.dtype

    @property
    def numel(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    def expand(self, shape: Sequence[int]) -> BufferView:
        """The view broadcast to a shape."""
        missing = len(shape) - len(self.shape)
        stride = (0,) * missing + tuple(0 if own == 1 else s for own, s in zip(self.shape, self.stride, strict=True))
        return replace(self, shape=tuple(shape), stride=stride)

    def narrow(self, dim: int, start: int, length: int, step: int = 1) -> BufferView:
        """A view of `length` entries along a dimension."""
        shape, stride = list(self.shape), list(self.stride)
        offset = self.offset + start * stride[dim]
        shape[dim], stride[dim] = length, stride[dim] * step
        return replace(self, offset=offset, shape=tuple(shape), stride=tuple(stride))

    def select(self, dim: int, i: int) -> BufferView:
        """A view of one entry along a dimension, without that dimension."""
        return self.narrow(dim, i, 1).without(dim)

    def without(self, *dims: int) -> BufferView:
        """A view of the first entries along some dimensions, without these dimensions."""
        kept = [d for d in range(len(self.shape)) if d not in dims]
        return replace(self, shape=tuple(self.shape[d] for d in kept), stride=tuple(self.stride[d] for d in kept))


def head(name: str, count: int, shared: bool = False, start: int = 0) -> str:
    """The head of a loop over numbers; of a shared loop, over those that fall to the thread `part`."""
    first, last = (f"FIRST({count}, part)", f"FIRST({count}, part + 1)") if shared else (start, count)
    return f"for (int64_t {name} = {first}; {name} < {last}; {name}++)"


def element(place: BufferView, *names: str) -> str:
    """An element as an expression of C.

    Args:
        names: of the indices along each dimension.
    """
    terms = [f"{n} * {s}" if s != 1 else n for n, s in zip(names, place.stride, strict=True) if s]
    return f"{place.memory}[{' + '.join([str(place.offset), *terms] if place.offset or not terms else terms)}]"


def column(x: BufferView) -> BufferView:
    """The view with one more dimension, of size one, at the end."""
    return BufferView(x.memory, x.offset, (*x.shape, 1), (*x.stride, 1), x.kind)


def row(x: BufferView) -> BufferView:
    """The view with one more dimension, of size one, at the beginning."""
    return BufferView(x.memory, x.offset, (1, *x.shape), (1, *x.stride), x.kind)


def trailing(x: BufferView, dims: int) -> BufferView:
    """The view with `dims` more dimensions, of size one, at the end."""
    ones = (1,) * dims
    return BufferView(x.memory, x.offset, (*x.shape, *ones), (*x.stride, *ones), x.kind)


def with_zero_stride(stride: Sequence[int], dim: int) -> tuple[int, ...]:
    """The strides with zero in the place of one dimension's."""
    return tuple(0 if d == dim else s for d, s in enumerate(stride))


def suffix(x: BufferView) -> str:
    """The suffix of C's mathematical functions for a view's numbers."""
    return "f" if x.kind == torch.float32 else ""
