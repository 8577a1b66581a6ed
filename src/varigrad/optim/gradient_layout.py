"""Copies gradients to the memory layout that optimisers need: their parameter's strides, in separate memory.

Results of `torch.autograd.grad` have the right values, but any layout. A gradient may be one number expanded many times
(`w.sum()`), have another order in memory than its parameter (`W.T`), be a single tensor for two parameters, or be the
user's own data. A kernel that reads memory from end to end gets wrong numbers from such a tensor, or numbers beyond its
end, and scaling in place scales twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from varigrad._torch_internals import foreach_neg
from varigrad.errors import ParameterError


def downhill(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """Minus each gradient, for optimisers, which minimise; None stays None.

    Args:
        gradients: what `torch.autograd.grad` returned for the parameters.

    Returns:
        New tensors, which nothing else holds, with the strides of their parameters where those have no gaps.
    """
    reached = [g for g in gradients if g is not None]
    found: Sequence[Tensor | None] = foreach_neg(reached)  # always new tensors, without gaps
    if len(reached) < len(gradients):
        left = iter(found)
        found = [None if g is None else next(left) for g in gradients]
    return [
        g if g is None or (g.layout is torch.strided and g.stride() == p.stride()) else _as(p, g)
        for g, p in zip(found, parameters, strict=True)
    ]


def laid_out_like(gradient: Tensor, parameter: Tensor) -> Tensor:
    """A copy of a gradient in the layout of its parameter.

    Args:
        gradient: `[*shape]`, of the parameter's type and on its device; one that is sparse stays sparse.

    Returns:
        A new tensor with the parameter's strides; without gaps if the parameter has gaps, or overlaps itself.
    """
    if gradient.layout is not torch.strided or gradient.stride() == parameter.stride():
        return gradient.clone()  # in the same order
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


def fits(parameter: Tensor, gradient: Tensor, first: Tensor, second: Tensor) -> bool:
    """Whether a kernel that reads all of these from end to end reads what belongs together, and nothing else.

    Written out, because a step of a small model asks it for every parameter.
    """
    kind = parameter.dtype
    if not (
        gradient.layout is torch.strided and gradient.dtype is kind and first.dtype is kind and second.dtype is kind
    ):
        return False
    if not (parameter.is_cpu and gradient.is_cpu and first.is_cpu and second.is_cpu):
        device = parameter.device
        if not (gradient.device == device and first.device == device and second.device == device):
            return False
    if parameter.ndim == gradient.ndim == first.ndim == second.ndim == 0:
        return True  # single numbers
    shape, stride = parameter.shape, parameter.stride()
    return (
        gradient.stride() == stride
        and first.stride() == stride
        and second.stride() == stride
        and gradient.shape == shape
        and first.shape == shape
        and second.shape == shape
        and (parameter.is_contiguous() or is_dense(parameter))
    )


def check_writable(named: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse parameters that no operation of torch's can write to.

    Raises:
        ParameterError: several elements of one are a single place in memory.
    """
    for name, parameter in named:
        if not parameter.is_contiguous() and parameter.layout is torch.strided and overlaps_itself(parameter):
            raise ParameterError(
                f"parameter {name!r} overlaps itself: several of its elements are one place in memory",
                because=f"its shape is {tuple(parameter.shape)} and its strides are {parameter.stride()}",
                try_="nn.Parameter(value.clone()), or a smaller parameter that the program expands",
            )


def prepare_kernels(optimizer: torch.optim.Optimizer) -> None:
    """Make sure that the fused kernels of torch's optimisers read what they should; nothing to do for others.

    Raises:
        ParameterError: a parameter has gaps in memory.
    """
    for group in optimizer.param_groups:
        if not group.get("fused"):
            continue
        for parameter in group["params"]:
            if not is_dense(parameter):
                raise ParameterError(
                    f"a parameter of shape {tuple(parameter.shape)} has gaps in memory: strides {parameter.stride()}",
                    because="fused=True goes through memory from end to end",
                    try_="fused=False, or nn.Parameter(value.contiguous())",
                )
            kept = optimizer.state.get(parameter, {})
            for name, value in kept.items():
                if (
                    isinstance(value, Tensor)
                    and value.shape == parameter.shape
                    and value.stride() != parameter.stride()
                ):
                    kept[name] = laid_out_like(value, parameter)


def _as(parameter: Tensor, gradient: Tensor) -> Tensor:
    """A new gradient in the layout of its parameter."""
    if gradient.is_sparse:
        return gradient.coalesce()  # each entry once: what has a norm
    if gradient.layout is not torch.strided:
        return gradient
    return laid_out_like(gradient, parameter)
