"""Plates: batch dimensions or loops whose elements the user declares conditionally independent."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import assert_never

import torch
from torch import Tensor

from varigrad.errors import PlateError, as_whole, is_whole
from varigrad.language.loop_position import LoopPosition
from varigrad.language.messages import (
    Chain,
    Extension,
    Factor,
    Forward,
    Indices,
    InUse,
    Message,
    Module,
    Param,
    Plate,
    Record,
    Sample,
    Subsample,
    evolve,
)
from varigrad.language.runtime import Entered, apply, enter, handlers_in_force, leave


class InPlate:
    """The handler of one plate: it marks sites with the plate, scales them, and cuts data to its minibatch."""

    __slots__ = ("entered", "factor", "loop", "plate")
    takes_modules = True

    def __init__(self, plate: Plate, entered: tuple[int, int] | None = None) -> None:
        self.plate: Plate = plate
        self.entered: tuple[int, int] | None = entered
        """The `with` statement that entered it, for `caught_errors`: the identity of its frame, and the instruction."""
        self.loop: LoopPosition | None = None
        """Of a sequential plate: the loop that it belongs to."""
        size, batch = plate.size, plate.batch
        self.factor: float = 1.0 if size is None or batch is None or plate.index is not None else size / batch

    @property
    def is_over(self) -> bool:
        """Whether it is a sequential plate's, whose loop has ended and is kept alive by a variable or a traceback."""
        return self.loop is not None and self.loop.is_over()

    def __call__(self, message: Message, forward: Forward) -> Message:
        if self.is_over:
            return forward(message)
        if isinstance(message, (Sample, Factor)):
            plates = (self.plate, *message.plates)
            if self.factor == 1.0:
                return forward(evolve(message, plates=plates))
            return forward(evolve(message, plates=plates, scale=message.scale * self.factor))
        if isinstance(message, Record):
            return forward(evolve(message, plates=(self.plate, *message.plates)))
        if isinstance(message, (Param, Subsample)):
            answer = forward(message)
            if isinstance(answer, (Param, Subsample)) and answer.event_dim is not None and answer.value is not None:
                return evolve(answer, value=self._cut(answer.value, answer.event_dim))
            return answer
        if isinstance(message, (Module, Indices, InUse, Chain, Extension)):
            return forward(message)
        assert_never(message)

    def _cut(self, value: Tensor, event_dim: int) -> Tensor:
        plate = self.plate
        if plate.subsample is None or plate.dim is None:
            return value
        dim = plate.dim - event_dim
        if value.dim() < -dim or value.shape[dim] == 1:
            return value
        if value.shape[dim] != plate.size:
            raise PlateError(
                f"data of shape {tuple(value.shape)} has size {value.shape[dim]} at dim {dim}, the plate {plate.size}",
                site=plate.name,
                try_="data of the plate's full size, or plate(..., subsample=indices) with your own indexing",
            )
        return value.index_select(dim, plate.subsample.to(value.device))


class plate:  # noqa: N801 - a word of the language, like sample and param
    """Declares independence: `with plate("data", n):` for a batch dimension, `for i in plate("data", n):` for a loop.

    Args:
        name: unique among the program's plates.
        size: number of elements; None leaves it to the sites inside (vectorised only, no subsampling).
        subsample_size: draw that many elements afresh each run; log-densities inside count `size / subsample_size`.
        subsample: use these indices instead, `[batch]`.
        dim: the negative batch dimension to occupy; default: the rightmost free one.

    Raises:
        PlateError: a size that is not a positive whole number, a subsample larger than the plate or out of range, a
            dimension that is not negative or taken already.

    Example:
        >>> import torch
        >>> import varigrad as vg
        >>> from varigrad import distributions as dist
        >>> with vg.plate("rows", 3), vg.plate("columns", 2):
        ...     vg.sample("x", dist.Normal(0.0, 1.0)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        name: str,
        size: int | None = None,
        subsample_size: int | None = None,
        subsample: Tensor | None = None,
        dim: int | None = None,
    ) -> None:
        size = size if type(size) is int else _number(size)
        subsample_size = None if subsample_size is None else _number(subsample_size)
        dim = None if dim is None else _number(dim)
        _check(name, size, subsample_size, subsample, dim)
        self.name: str = name
        self.size: int | None = size
        self.dim: int | None = dim
        self.subsample_size = subsample_size
        self.indices: Tensor | None = subsample
        self._entered: list[Entered] = []

    def _subsample(self) -> Tensor | None:
        """The minibatch: given, or drawn once per plate object and run, and shared between model and guide."""
        size, batch = self.size, self.subsample_size
        if self.indices is None and size is not None and batch is not None and batch < size:
            self.indices = apply(Indices(self.name, size, batch)).value
        return self.indices

    def __enter__(self) -> Tensor | range | None:
        taken = {h.plate.dim: h.plate for h in handlers_in_force() if isinstance(h, InPlate) and not h.is_over}
        if taken and any(p.name == self.name for p in taken.values()):
            raise PlateError("is entered twice at once", site=self.name, try_="another plate for the inner block")
        if not taken:
            dim = -1 if self.dim is None else self.dim
        elif self.dim is None:
            dim = next(d for d in range(-1, -len(taken) - 2, -1) if d not in taken)
        elif self.dim in taken:
            raise PlateError(
                f"dim {self.dim} is taken by plate {taken[self.dim].name!r}",
                site=self.name,
                try_="another dim, or none: the rightmost free one is chosen",
            )
        else:
            dim = self.dim
        subsample = self._subsample()
        frame = sys._getframe(1)
        scope = InPlate(Plate(self.name, self.size, dim, subsample), (id(frame), frame.f_lasti))
        self._entered.append(enter(scope))
        return subsample if subsample is not None or self.size is None else range(self.size)

    def __exit__(self, *error: object) -> None:
        leave(self._entered.pop())

    def __iter__(self) -> Iterator[int]:
        if self.size is None:
            raise PlateError("a sequential plate needs a size", site=self.name, try_=f"plate({self.name!r}, len(data))")
        subsample = self._subsample()
        indices = range(self.size) if subsample is None else subsample.tolist()
        scale = self.size / len(indices)
        for index in indices:
            scope = InPlate(Plate(self.name, self.size, None, subsample, index))
            scope.factor, scope.loop = scale, LoopPosition(sys._getframe(1))
            entered = enter(scope)
            try:
                yield index
            finally:
                leave(entered)


def same_minibatch(message: Indices, known: Tensor) -> Tensor:
    """The minibatch that a plate of this name has drawn in this run, for a plate that asks for one.

    Raises:
        PlateError: it asks for another number of elements.
    """
    if len(known) != message.batch:
        raise PlateError(
            f"draws a minibatch of {message.batch} elements, and drew one of {len(known)} before",
            site=message.name,
            because="model and guide share the minibatch of a plate",
            try_="the same subsample_size in both, or another name for another plate",
        )
    return known


def _number(value: int | None) -> int | None:
    """A whole number of numpy or torch as one of Python; anything else as it is."""
    if value is None:
        return None
    number = as_whole(value)
    return value if number is None else number


def _check(name: str, size: object, subsample_size: object, subsample: object, dim: object) -> None:
    if not isinstance(name, str) or not name:
        raise PlateError(f"a plate's name is a non-empty string, got {name!r}")
    for what, number in (("size", size), ("subsample_size", subsample_size)):
        if number is not None and not is_whole(number):
            raise PlateError(f"{what} must be a positive whole number, got {number!r}", site=name)
    if isinstance(size, int) and isinstance(subsample_size, int) and subsample_size > size:
        raise PlateError(f"subsample_size {subsample_size} is larger than size {size}", site=name)
    if subsample_size is not None and size is None:
        raise PlateError("subsample_size needs a size", site=name)
    if dim is not None and (isinstance(dim, bool) or not isinstance(dim, int) or dim >= 0):
        raise PlateError(f"dim must be a negative whole number, got {dim!r}", site=name)
    if subsample is None:
        return
    if (
        not isinstance(subsample, Tensor)
        or subsample.dim() != 1
        or subsample.dtype != torch.int64
        or not len(subsample)
    ):
        raise PlateError("subsample must be a non-empty 1-d int64 tensor of indices", site=name)
    if not isinstance(size, int):
        raise PlateError("subsample needs a size", site=name)
    if isinstance(subsample_size, int) and subsample_size != len(subsample):
        raise PlateError(f"subsample has {len(subsample)} indices, subsample_size says {subsample_size}", site=name)
    low, high = int(subsample.min()), int(subsample.max())
    if low < 0 or high >= size:
        raise PlateError(f"subsample index {low if low < 0 else high} is out of range for size {size}", site=name)
