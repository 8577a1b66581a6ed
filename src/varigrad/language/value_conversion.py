"""Converts values given to programs and handlers to tensors; refuses masked arrays."""

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
        SiteError: it cannot be made a tensor, or has masked elements, which a tensor cannot have.
    """
    if isinstance(value, Tensor):
        return value
    check_unmasked(name, value, what)
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SiteError(
            f"{what} must be a tensor or a number, got {type(value).__name__}",
            site=name,
            because=str(error).split("\n")[0],
        ) from error


def check_unmasked(name: str | None, value: object, what: str) -> None:
    """Raise where an array of `numpy.ma` has masked elements: torch would take what lies under the mask for data.

    Raises:
        SiteError: it has some.
    """
    mask = getattr(value, "mask", None) if hasattr(value, "filled") else None
    if mask is not None and mask.any():
        raise SiteError(
            f"{what} is a masked array of numpy with {int(mask.sum())} masked elements",
            site=name,
            because="a tensor has no mask, and the numbers under it would count as data",
            try_="obs=torch.as_tensor(array.filled(0.0)), obs_mask=torch.as_tensor(~numpy.ma.getmaskarray(array))",
        )
