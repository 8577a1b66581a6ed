"""Maps from unconstrained values to a support."""

from __future__ import annotations

from typing import Any

from torch import distributions as td


def unconstrained(support: Any) -> td.Transform:
    """The bijection from unconstrained values to a support.

    Raises:
        NotImplementedError: torch knows none.
    """
    while True:
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
