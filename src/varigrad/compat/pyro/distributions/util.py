"""Helpers for shapes and tensors that Pyro programs import, and the switch for validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions.utils import broadcast_all as broadcast_all

from varigrad.compat.pyro import settings
from varigrad.distributions.tensor_walk import replace_tensors
from varigrad.shapes import join
from varigrad.shapes import sum_rightmost as _sum_rightmost

T = TypeVar("T")
V = TypeVar("V", Tensor, float)


def broadcast_shape(*shapes: Sequence[int], strict: bool = False) -> tuple[int, ...]:
    """The broadcast of several shapes; with `strict`, only dimensions that are missing may be filled in.

    Raises:
        ValueError: they do not broadcast.
    """
    try:
        full = tuple(join(*map(tuple, shapes)))
    except RuntimeError as error:
        raise ValueError(f"shapes do not broadcast: {', '.join(str(tuple(s)) for s in shapes)}") from error
    if strict and any(tuple(s) != full[len(full) - len(s) :] for s in shapes):
        raise ValueError(f"shapes differ: {', '.join(str(tuple(s)) for s in shapes)}")
    return full


def sum_rightmost(value: V, dim: int) -> V:
    """Sum over the `dim` rightmost dimensions; over all but the `-dim` leftmost if it is negative."""
    if isinstance(value, (int, float)):
        return value
    return _sum_rightmost(value, dim if dim >= 0 else max(value.dim() + dim, 0))


def sum_leftmost(value: V, dim: int) -> V:
    """Sum over the `dim` leftmost dimensions; over all but the `-dim` rightmost if it is negative."""
    if isinstance(value, (int, float)):
        return value
    count = dim if dim >= 0 else max(value.dim() + dim, 0)
    return value.sum(list(range(count))) if count else value


def scale_and_mask(
    tensor: Tensor | float, scale: Tensor | float = 1.0, mask: Tensor | bool | None = None
) -> Tensor | float:
    """`tensor * scale`, zero where `mask` is False."""
    if mask is False:
        return torch.zeros_like(tensor) if isinstance(tensor, Tensor) else 0.0
    scaled = tensor if is_identically_one(scale) else tensor * scale
    if mask is None or mask is True or not isinstance(tensor, Tensor):
        return scaled
    assert isinstance(mask, Tensor) and isinstance(scaled, Tensor)
    return torch.where(mask, scaled, torch.zeros((), dtype=scaled.dtype, device=scaled.device))


def is_identically_zero(x: object) -> bool:
    """Whether `x` is the number zero (a tensor is not asked)."""
    return isinstance(x, (int, float)) and x == 0


def is_identically_one(x: object) -> bool:
    """Whether `x` is the number one (a tensor is not asked)."""
    return isinstance(x, (int, float)) and x == 1


def scalar_like(prototype: Tensor, fill_value: float) -> Tensor:
    """A scalar of the same dtype and device."""
    return torch.tensor(fill_value, dtype=prototype.dtype, device=prototype.device)


def eye_like(value: Tensor, m: int, n: int | None = None) -> Tensor:
    """The identity `[m, n]` of the same dtype and device."""
    return torch.eye(m, m if n is None else n, dtype=value.dtype, device=value.device)


def logsumexp(tensor: Tensor, dim: int = -1, keepdim: bool = False) -> Tensor:
    """The logarithm of a sum of exponentials, as in torch."""
    return torch.logsumexp(tensor, dim, keepdim)


log_sum_exp = logsumexp


def detach(distribution: td.Distribution) -> td.Distribution:
    """A copy whose tensors carry no gradients."""
    return replace_tensors(distribution, Tensor.detach)


def deep_to(obj: T, *args: Any, **kwargs: Any) -> T:
    """A tensor, or a distribution with all tensors in it, handed through `torch.Tensor.to`."""
    moved: object = obj
    if isinstance(obj, Tensor):
        moved = obj.to(*args, **kwargs)
    elif isinstance(obj, td.Distribution):
        moved = replace_tensors(obj, lambda t: t.to(*args, **kwargs))
    return cast(T, moved)


def copy_docs_from(source_class: type, full_text: bool = False) -> Callable[[T], T]:
    """A decorator that takes over a docstring."""

    def decorate(kind: T) -> T:
        kind.__doc__ = source_class.__doc__
        return kind

    return decorate


def enable_validation(is_validate: bool = True) -> None:
    """Let `torch.distributions` objects check parameters and values at every use, or not.

    The families of this package leave that to the engine, which checks a program when it is first run and again when
    a number goes bad; `validate_args=True` at a distribution asks for torch's checks. Off, values outside a support
    (grey pixels under a Bernoulli) are taken as they are.
    """
    settings.set(validate_distributions_pyro=bool(is_validate), validate_distributions_torch=bool(is_validate))


def is_validation_enabled() -> bool:
    """What was last asked for."""
    return bool(settings.get("validate_distributions_pyro"))


@contextmanager
def validation_enabled(is_validate: bool = True) -> Iterator[None]:
    """`enable_validation` for a block."""
    before = is_validation_enabled()
    try:
        enable_validation(is_validate)
        yield
    finally:
        enable_validation(before)
