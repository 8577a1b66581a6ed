"""Where tensors lie in memory, and the words of C for their elements."""

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
"""How numbers are kept,"""
VALUES = {**TYPES, torch.bool: "int"}
"""and how they are computed with: compilers make no vectors of truth values beside doubles."""


@dataclass(frozen=True)
class Place:
    """Where a tensor lies.

    Attributes:
        memory: the name of an input, or of one of the program's own buffers.
        offset, stride: in elements.
        kind: of an element.
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

    def to(self, shape: Sequence[int]) -> Place:
        """Broadcast to a shape."""
        missing = len(shape) - len(self.shape)
        stride = (0,) * missing + tuple(0 if own == 1 else s for own, s in zip(self.shape, self.stride, strict=True))
        return replace(self, shape=tuple(shape), stride=stride)

    def part(self, dim: int, start: int, length: int, step: int = 1) -> Place:
        """`length` entries along a dimension."""
        shape, stride = list(self.shape), list(self.stride)
        offset = self.offset + start * stride[dim]
        shape[dim], stride[dim] = length, stride[dim] * step
        return replace(self, offset=offset, shape=tuple(shape), stride=tuple(stride))

    def entry(self, dim: int, i: int) -> Place:
        """One entry along a dimension, without it."""
        return self.part(dim, i, 1).without(dim)

    def without(self, *dims: int) -> Place:
        """Its first entries along some dimensions, without these."""
        kept = [d for d in range(len(self.shape)) if d not in dims]
        return replace(self, shape=tuple(self.shape[d] for d in kept), stride=tuple(self.stride[d] for d in kept))


def head(name: str, count: int, shared: bool = False, start: int = 0) -> str:
    """Of a loop; of a shared one, over those numbers that fall to `part`."""
    first, last = (f"FIRST({count}, part)", f"FIRST({count}, part + 1)") if shared else (start, count)
    return f"for (int64_t {name} = {first}; {name} < {last}; {name}++)"


def element(place: Place, *names: str) -> str:
    """An entry, by the names of its indices."""
    terms = [f"{n} * {s}" if s != 1 else n for n, s in zip(names, place.stride, strict=True) if s]
    return f"{place.memory}[{' + '.join([str(place.offset), *terms] if place.offset or not terms else terms)}]"


def column(x: Place) -> Place:
    """With a dimension of one more at the end."""
    return Place(x.memory, x.offset, (*x.shape, 1), (*x.stride, 1), x.kind)


def row(x: Place) -> Place:
    """With a dimension of one more at the beginning."""
    return Place(x.memory, x.offset, (1, *x.shape), (1, *x.stride), x.kind)


def trailing(x: Place, dims: int) -> Place:
    """With so many dimensions of one more at the end."""
    ones = (1,) * dims
    return Place(x.memory, x.offset, (*x.shape, *ones), (*x.stride, *ones), x.kind)


def but(stride: Sequence[int], dim: int) -> tuple[int, ...]:
    """Strides that stay where they are along a dimension."""
    return tuple(0 if d == dim else s for d, s in enumerate(stride))


def suffix(x: Place) -> str:
    """With which C's functions for such numbers end."""
    return "f" if x.kind == torch.float32 else ""
