"""Gradients as optimisers may have them: laid out like their parameters, each in memory of its own.

What `torch.autograd.grad` returns is right by its values only. It may be one number seen many times (`w.sum()`), lie in
another order than its parameter (`W.T`), be a single tensor for two parameters, or be the user's own data. A kernel
that goes through memory from end to end reads wrong numbers from such a tensor, or numbers that lie beyond it, and
whatever scales in place scales twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def downhill(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """Minus each gradient, for optimisers, which minimise; None stays None.

    Args:
        gradients: what `torch.autograd.grad` returned for the parameters.

    Returns:
        New tensors, which nothing else holds, with the strides of their parameters where those have no gaps.
    """
    found: list[Tensor | None] = []
    for gradient, parameter in zip(gradients, parameters, strict=True):
        if gradient is not None:
            gradient = torch.neg(gradient)  # always a new tensor, and never one with gaps
            if gradient.layout is torch.strided and gradient.stride() != parameter.stride():
                gradient = laid_out_like(gradient, parameter)
        found.append(gradient)
    return found


def laid_out_like(gradient: Tensor, parameter: Tensor) -> Tensor:
    """A copy of a gradient in the layout of its parameter.

    Args:
        gradient: `[*shape]`, of the parameter's type and on its device; one that is sparse stays sparse.

    Returns:
        A new tensor with the parameter's strides; without gaps if the parameter has gaps, or overlaps itself.
    """
    if gradient.layout is not torch.strided:
        return gradient.clone()
    return torch.empty_like(parameter, memory_format=torch.preserve_format, requires_grad=False).copy_(gradient)


def is_dense(tensor: Tensor) -> bool:
    """Whether every place in memory between a tensor's first element and its last is one element of it."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted((k, n) for n, k in zip(tensor.shape, tensor.stride(), strict=True) if n != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def overlaps_itself(tensor: Tensor) -> bool:
    """Whether several elements of a tensor may be one in memory: no operation of torch's writes to such a tensor."""
    reach = 0
    if tensor.numel() == 0:
        return False
    for stride, size in sorted((k, n) for n, k in zip(tensor.shape, tensor.stride(), strict=True) if n != 1):
        if stride <= reach:
            return True
        reach += stride * (size - 1)
    return False


def fits(parameter: Tensor, *others: Tensor) -> bool:
    """Whether a kernel that reads all of these from end to end reads what belongs together, and nothing else."""
    shape, stride, kind, device = parameter.shape, parameter.stride(), parameter.dtype, parameter.device
    return (
        parameter.layout is torch.strided
        and is_dense(parameter)
        and all(
            other.layout is torch.strided
            and other.stride() == stride
            and other.shape == shape
            and other.dtype == kind
            and other.device == device
            for other in others
        )
    )
