"""What programs and handlers are given as values, as tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from varigrad.errors import SiteError


def as_numbers(name: str, value: object, what: str) -> Tensor:
    """A tensor of what was given at a site.

    Args:
        name: the site's name.
        value: a tensor, a number, or what torch makes a tensor of.
        what: what the value is, for the error.

    Raises:
        SiteError: it cannot be made a tensor.
    """
    if isinstance(value, Tensor):
        return value
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SiteError(
            f"{what} must be a tensor or a number, got {type(value).__name__}",
            site=name,
            because=str(error).split("\n")[0],
        ) from error
