"""Helpers of inference: names of the parameters that a run uses, numbers from tensors, zeroed gradients."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from varigrad.compat.pyro import settings
from varigrad.compat.pyro.params.param_store import Asking
from varigrad.compat.pyro.poutine.messages import Dictionary
from varigrad.compat.pyro.primitives import get_param_store
from varigrad.compat.pyro.primitives import validation_enabled as validation_enabled
from varigrad.language.messages import Forward, Message, Param
from varigrad.language.runtime import Scope


@contextmanager
def captured_params() -> Iterator[dict[str, None]]:
    """A `with` block that yields the names of the parameters that are asked for in it, and not hidden.

    Slower than `Asking`, and for programs that no objective runs. Baselines' networks are there once it is left.
    """
    names: dict[str, None] = {}

    def note(message: Message, forward: Forward) -> Message:
        if type(message) is Param:
            names[message.name] = None
        return forward(message)

    with Asking(get_param_store()) as asked, Scope(note):
        yield names
    names.update(asked)


def enable_validation(is_validate: bool) -> None:
    """Switch the checks of inference on or off."""
    settings.set(validate_infer=is_validate)


def is_validation_enabled() -> bool:
    """Whether they are on."""
    return bool(settings.get("validate_infer"))


def torch_item(x: Any) -> float:
    """The number in a tensor of one element; numbers are handed back."""
    number: float = cast(float, x) if isinstance(x, numbers.Number) else x.item()
    return number


def torch_backward(x: object, retain_graph: bool | None = None) -> None:
    """`x.backward()`, if `x` is a tensor that depends on anything."""
    if isinstance(x, Tensor) and x.requires_grad:
        x.backward(retain_graph=retain_graph)


def torch_exp(x: Tensor | float) -> Tensor | float:
    """The exponential of a tensor or a number."""
    return torch.as_tensor(x).exp() if isinstance(x, Tensor) else torch.tensor(x).exp().item()


def torch_sum(tensor: Tensor, dims: Sequence[int]) -> Tensor:
    """The sum over some dimensions; none: the tensor itself."""
    assert all(d < 0 for d in dims)
    leftmost = -tensor.dim()
    dims = [d for d in dims if leftmost <= d]
    return tensor.sum(dims) if dims else tensor


def zero_grads(tensors: Iterable[Tensor]) -> None:
    """Forget the gradients of all tensors."""
    for p in tensors:
        p.grad = None


def check_fully_reparametrized(guide_site: Dictionary) -> None:
    """Raise unless the gradient of a site goes through its draw.

    Raises:
        NotImplementedError: it does not.
    """
    if not guide_site["fn"].has_rsample:
        raise NotImplementedError(f"{guide_site['name']!r}: every distribution in the guide has to have rsample here")
