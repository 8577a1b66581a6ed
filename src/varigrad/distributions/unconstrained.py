"""`unconstrained`: the bijection from unconstrained values to a support."""

from __future__ import annotations

import torch
from torch import distributions as td
from torch.distributions import constraints


def unconstrained(support: constraints.Constraint | None) -> td.Transform:
    """The bijection from unconstrained values to a support.

    Raises:
        NotImplementedError: torch has none.
    """
    while True:
        if isinstance(support, constraints.interval) and bool(torch.as_tensor(support.upper_bound).isposinf().all()):
            support = constraints.greater_than_eq(support.lower_bound)  # torch would scale by infinity
        try:
            result: td.Transform = td.biject_to(support)
            return result
        except NotImplementedError:
            base = getattr(support, "base_constraint", None)
            if base is None:
                raise
            support = base


def is_identity(transform: td.Transform) -> bool:
    """Whether a transform does nothing, whatever it is wrapped in."""
    while isinstance(transform, td.IndependentTransform):
        transform = transform.base_transform
    return isinstance(transform, td.ComposeTransform) and not transform.parts
