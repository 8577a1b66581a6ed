"""`vindex`: indexing by several tensors at once whose batch dimensions, on the left, broadcast."""

from __future__ import annotations

from collections.abc import Iterator
from types import EllipsisType
from typing import TypeAlias

import torch
from torch import Tensor

Entry = Tensor | int | slice | EllipsisType | None
Nested: TypeAlias = "Entry | tuple[Nested, ...]"


def index(tensor: Tensor, args: Nested) -> Tensor:
    """`tensor[args]` for indices that may be tuples of indices themselves: `(..., (..., None))` means `(..., None)`."""
    if not isinstance(args, tuple):
        return tensor[args]
    flat: list[Entry] = []
    for arg in _flat(args):
        if arg is not Ellipsis or not flat or flat[-1] is not Ellipsis:
            flat.append(arg)
    return tensor[tuple(flat)]


def vindex(tensor: Tensor, args: Entry | tuple[Entry, ...]) -> Tensor:
    r"""`tensor[args]`, with the results of all tensors among the indices on the left, broadcast.

    If the first index is `...`, the dimensions of `tensor` left of the other indices broadcast with the results,
    element by element, instead of being put in front of them. Dimensions that are kept by a slice, by `None` or by a
    `...` elsewhere end up on the right, in their order.

    Raises:
        IndexError: there are more indices than dimensions, more than one `...`, or a mask.

    Example:
        >>> import torch
        >>> table, row, column = torch.arange(12).reshape(2, 3, 2), torch.tensor([0, 1]), torch.tensor([[2], [0]])
        >>> vindex(table, (row, column, slice(None))).shape  # table[row[j], column[i, 0], :]
        torch.Size([2, 2, 2])
        >>> vindex(table, (..., 0)).shape
        torch.Size([2, 3])
    """
    if not isinstance(args, tuple):
        return tensor[args]
    if not args:
        return tensor
    batched = args[0] is Ellipsis
    args = _without_ellipsis(args[1:] if batched else args, tensor.dim(), batched)
    batch = tensor.dim() - sum(a is not None for a in args) if batched else 0
    indices: list[Tensor | int | None] = []  # one for each dimension right of the batch; None keeps it
    for arg in args:
        dim = batch + len(indices)
        if arg is None:
            tensor = tensor.unsqueeze(dim)
        elif isinstance(arg, slice) and arg != slice(None):
            tensor = tensor[(slice(None),) * dim + (arg,)]
        if isinstance(arg, Tensor) and arg.dtype == torch.bool:
            raise IndexError("vindex takes whole numbers, not masks. Try: tensor[mask], or torch.where")
        indices.append(arg if isinstance(arg, (Tensor, int)) else None)
    indices += [None] * (tensor.dim() - batch - len(indices))
    indexed = [i for i, a in enumerate(indices) if a is not None]
    kept = [i for i, a in enumerate(indices) if a is None]
    # Indices along the batch dimensions that broadcast with the others, element by element.
    own = [
        torch.arange(tensor.shape[d], device=tensor.device).reshape(-1, *(1,) * (batch - 1 - d)) for d in range(batch)
    ]
    moved = tensor.permute(*range(batch), *(batch + i for i in indexed), *(batch + i for i in kept))
    return moved[(*own, *(indices[i] for i in indexed))]


def _flat(args: Nested) -> Iterator[Entry]:
    if isinstance(args, tuple):
        for arg in args:
            yield from _flat(arg)
    else:
        yield args


def _without_ellipsis(args: tuple[Entry, ...], dims: int, batched: bool) -> tuple[Entry, ...]:
    """Indices in which whole slices stand for `...`.

    Raises:
        IndexError: there are more indices than dimensions, or more than one `...`.
    """
    dots = [i for i, a in enumerate(args) if a is Ellipsis]
    missing = dims - sum(a is not None and a is not Ellipsis for a in args)
    if missing < 0 or len(dots) + batched > 1:
        what = "more than one ..." if missing >= 0 else f"too many indices for {dims} dimensions"
        raise IndexError(f"vindex: {what} in {args}")
    if not dots:
        return args
    return (*args[: dots[0]], *(slice(None),) * missing, *args[dots[0] + 1 :])


class Index:
    """`Index(tensor)[args]` is `index(tensor, args)`, under Pyro's name."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def __getitem__(self, args: Nested) -> Tensor:
        return index(self._tensor, args)


class Vindex:
    """`Vindex(tensor)[args]` is `vindex(tensor, args)`."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def __getitem__(self, args: Entry | tuple[Entry, ...]) -> Tensor:
        return vindex(self._tensor, args)
