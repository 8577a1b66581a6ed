"""Indexing for which torch would read the value of a tensor, as operations on tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from varigrad.compile.graph.errors import refusal


def indexed(tensor: Tensor, index: Any) -> Tensor:
    """`tensor[index]`, for which torch reads the value of an index without dimensions."""
    parts = index if isinstance(index, tuple) else (index,)
    if not any(_is_scalar(i) for i in parts):
        return tensor[index]
    if any(isinstance(i, (list, range)) or (isinstance(i, Tensor) and i.dim()) for i in parts):
        # Beside other tensors an index of one element broadcasts as one of no dimensions would.
        return tensor[tuple(i.reshape(1) if _is_scalar(i) else i for i in parts)]
    dim = 0
    for i in _spelt_out(parts, tensor.dim()):
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


def _spelt_out(parts: tuple[Any, ...], dims: int) -> list[Any]:
    """An index without `...`."""
    found: list[Any] = []
    for i in parts:
        if i is Ellipsis:
            found += [slice(None)] * (dims - sum(p is not None and p is not Ellipsis for p in parts))
        else:
            found.append(i)
    return found


def write(tensor: Tensor, index: Any, value: Any) -> None:
    """`tensor[index] = value`, likewise."""
    if isinstance(index, Tensor) and index.dim() == 0 and index.dtype == torch.bool:
        tensor.copy_(torch.where(index, value, tensor))
        return
    parts = index if isinstance(index, tuple) else (index,)
    if all(_is_scalar(i) for i in parts):
        index = tuple(i.reshape(1) for i in parts)
    tensor[index] = value


def _is_scalar(index: Any) -> bool:
    integers = (torch.int64, torch.int32, torch.int16, torch.int8)
    return isinstance(index, Tensor) and index.dim() == 0 and index.dtype in integers


def one_hot(index: Tensor, num_classes: int = -1) -> Tensor:
    """As torch's, which looks at the values to see whether there are such classes."""
    if num_classes < 0:
        raise refusal("one_hot without num_classes looks for the largest value")
    return (index.unsqueeze(-1) == torch.arange(num_classes, device=index.device)).to(torch.int64)
