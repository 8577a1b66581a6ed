"""`vindex`: indexing by several tensors at once whose batch dimensions, on the left, broadcast."""

from __future__ import annotations

from types import EllipsisType

import torch
from torch import Tensor

Index = Tensor | int | slice | EllipsisType


def vindex(tensor: Tensor, args: Index | tuple[Index, ...]) -> Tensor:
    r"""`tensor[args]`, where `tensor` may have more dimensions on the left than there are indices.

    Those dimensions broadcast with the indices' own, instead of being put in front of them; `...` may only be the
    first index. Dimensions that are kept by a slice end up on the right.
    """
    if not isinstance(args, tuple):
        return tensor[args]
    if not args:
        return tensor
    if args[0] is Ellipsis:
        args = args[1:]
        batch = tensor.dim() - len(args)
    else:
        batch = 0
        args = (*args, *(slice(None),) * (tensor.dim() - len(args)))
    if any(isinstance(a, slice) and a != slice(None) for a in args):
        raise NotImplementedError("vindex takes whole slices only")
    indexed = [i for i, a in enumerate(args) if not isinstance(a, slice)]
    kept = [i for i, a in enumerate(args) if isinstance(a, slice)]
    # Indices along the batch dimensions that broadcast with the others, element by element.
    own = [
        torch.arange(tensor.shape[d], device=tensor.device).reshape(-1, *(1,) * (batch - 1 - d)) for d in range(batch)
    ]
    moved = tensor.permute(*range(batch), *(batch + i for i in indexed), *(batch + i for i in kept))
    return moved[(*own, *(args[i] for i in indexed))]


class Vindex:
    """`Vindex(tensor)[args]` is `vindex(tensor, args)`."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def __getitem__(self, args: Index | tuple[Index, ...]) -> Tensor:
        return vindex(self._tensor, args)
