"""Indexing that reads no values: writes `x[i]`, `x[i] = value` and `one_hot` as operations on tensors."""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor

from varigrad.compile.graph.errors import capture_error


def get_item(tensor: Tensor, index: Any) -> Tensor:
    """`tensor[index]`, also for index tensors without dimensions, whose values torch would read."""
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


def set_item(tensor: Tensor, index: Any, value: Tensor | float) -> None:
    """`tensor[index] = value`, also for index tensors without dimensions."""
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
