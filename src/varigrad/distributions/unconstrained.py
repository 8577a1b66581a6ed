"""Maps from unconstrained values to a support."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributions as td
from torch.distributions import constraints


def unconstrained(support: Any) -> td.Transform:
    """The bijection from unconstrained values to a support.

    Raises:
        NotImplementedError: torch knows none.
    """
    while True:
        if isinstance(support, constraints.interval) and bool(torch.as_tensor(support.upper_bound).isposinf().all()):
            support = constraints.greater_than_eq(support.lower_bound)  # torch would scale by infinity
        try:
            return td.biject_to(support)
        except NotImplementedError:
            if not hasattr(support, "base_constraint"):
                raise
            support = support.base_constraint


def is_identity(transform: td.Transform) -> bool:
    """Whether it does nothing, whatever it is wrapped in."""
    while isinstance(transform, td.IndependentTransform):
        transform = transform.base_transform
    return isinstance(transform, td.ComposeTransform) and not transform.parts
