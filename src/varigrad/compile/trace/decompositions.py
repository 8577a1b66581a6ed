"""Decompositions: replaces some operations by equivalent ones that compile to faster loops.

Look-ups along a dimension of a few entries become comparisons, which fuse with the operations around them, vectorise,
and need no atomic additions in their gradient. An index without an entry gives NaN, where torch raises an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from varigrad._torch_internals import OpOverload

SHORT = 8
"""Dimensions with fewer entries are short; Inductor writes sums over so many terms out."""

_aten = torch.ops.aten


def decomposed(func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, object]) -> Callable[[], Tensor] | None:
    """Another way to compute `func(*args, **kwargs)`; None where the operation is best left as it is."""
    rule = _RULES.get(func)
    if rule is None or kwargs or args[0].device.type != "cpu":  # a GPU's operations are not fused
        return None
    return rule(*args)


def _mv(matrix: Tensor, vector: Tensor) -> Callable[[], Tensor]:
    # Inductor writes a matrix times a vector as a loop, which is slower than BLAS's product of matrices.
    return lambda: _aten.mm(matrix, vector.unsqueeze(1)).squeeze(1)


def _cumsum(x: Tensor, dim: int) -> Callable[[], Tensor] | None:
    if not _is_short(x, dim) or dim not in (-1, x.dim() - 1) or not x.is_floating_point():
        return None

    def sums() -> Tensor:
        place = torch.arange(x.shape[-1], device=x.device)
        return torch.where(place <= place.unsqueeze(-1), x.unsqueeze(-2), 0.0).sum(-1)

    return sums


def _gather(x: Tensor, dim: int, index: Tensor) -> Callable[[], Tensor] | None:
    if not _is_single(x, dim, index) or not x.is_floating_point():
        return None

    def entry() -> Tensor:
        found = torch.where(_places(x, dim) == index, x, 0.0).sum(dim, keepdim=True)
        return torch.where((index >= 0) & (index < x.shape[dim]), found, math.nan)

    return entry


def _scatter_add(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Callable[[], Tensor] | None:
    if not _is_single(x, dim, index) or index.shape != source.shape or x.dtype == torch.bool:
        return None
    return lambda: x + torch.where(_places(x, dim) == index, source, 0)


def _scatter(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Callable[[], Tensor] | None:
    if not _is_single(x, dim, index) or index.shape != source.shape:
        return None
    return lambda: torch.where(_places(x, dim) == index, source, x)


def _index(x: Tensor, indices: list[Tensor | None]) -> Callable[[], Tensor] | None:
    index = _only(x, indices)
    if index is None or not x.is_floating_point():
        return None

    def entries() -> Tensor:
        at = _spread(_wrapped(index, len(x)), x.dim() - 1)
        found = torch.where(at.unsqueeze(index.dim()) == _places(x, 0), x, 0.0).sum(index.dim())
        return torch.where((at >= 0) & (at < len(x)), found, math.nan)

    return entries


def _index_put(
    x: Tensor, indices: list[Tensor | None], values: Tensor, accumulate: bool = False
) -> Callable[[], Tensor] | None:
    index = _only(x, indices)
    if index is None or not accumulate or values.shape != (*index.shape, *x.shape[1:]):
        return None
    if not x.is_floating_point():  # sums of other numbers are of another type
        return None

    def added() -> Tensor:
        at = _spread(_wrapped(index, len(x)).reshape(-1, 1), x.dim() - 1)
        return x + torch.where(at == _places(x, 0), values.reshape(-1, 1, *x.shape[1:]), 0).sum(0)

    return added


def _is_short(x: Tensor, dim: int) -> bool:
    return x.dim() > 0 and x.shape[dim] < SHORT


def _is_single(x: Tensor, dim: int, index: Tensor) -> bool:
    """Whether an index picks one entry along a short dimension, for each combination of the other dimensions."""
    if not _is_short(x, dim) or index.dim() != x.dim() or index.shape[dim] != 1:
        return False
    return all(i == n for d, (i, n) in enumerate(zip(index.shape, x.shape, strict=True)) if d != dim % x.dim())


def _places(x: Tensor, dim: int) -> Tensor:
    """The positions of entries along a dimension, `[n, 1, ..., 1]`."""
    return torch.arange(x.shape[dim], device=x.device).reshape(-1, *(1,) * (x.dim() - 1 - dim % x.dim()))


def _wrapped(index: Tensor, count: int) -> Tensor:
    """An index with negative entries counted from the beginning."""
    return torch.where(index < 0, index + count, index)


def _spread(x: Tensor, dims: int) -> Tensor:
    """The tensor with `dims` more dimensions, of size one, at the end."""
    return x.reshape((*x.shape, *(1,) * dims))


def _only(x: Tensor, indices: list[Tensor | None]) -> Tensor | None:
    """The index tensor, if there is just one, into a short first dimension; else None."""
    index = indices[0] if len(indices) == 1 else None
    integers = index is not None and index.dtype in (torch.int64, torch.int32)
    return index if integers and _is_short(x, 0) else None


_RULES: Mapping[Any, Callable[..., Callable[[], Tensor] | None]] = {
    _aten.mv.default: _mv,
    _aten.cumsum.default: _cumsum,
    _aten.gather.default: _gather,
    _aten.scatter_add.default: _scatter_add,
    _aten.scatter.src: _scatter,
    _aten.index.Tensor: _index,
    _aten.index_put.default: _index_put,
}
