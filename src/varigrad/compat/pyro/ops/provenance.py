"""Provenance under Pyro's names, also for lists, tuples and dictionaries of tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

from varigrad.terms import provenance as native
from varigrad.terms.provenance import Provenance, Tracked

X = TypeVar("X")

ProvenanceTensor = Tracked


def track_provenance(x: X, provenance: Provenance) -> X:
    """`x`, with every tensor in it marked as computed from `provenance` (in addition to what it carries already)."""
    marked: X = _mapped(x, lambda tensor: native.track_provenance(tensor, provenance))
    return marked


def get_provenance(x: object) -> Provenance:
    """The union of what the tensors in `x` were computed from."""
    return extract_provenance(x)[1]


def detach_provenance(x: X) -> X:
    """`x` with plain tensors, still connected to the autograd graph."""
    return extract_provenance(x)[0]


def extract_provenance(x: X) -> tuple[X, Provenance]:
    """`x` with plain tensors, and what they were computed from."""
    found: Provenance = frozenset()

    def plain(tensor: Tensor) -> Tensor:
        nonlocal found
        found |= native.get_provenance(tensor)
        return native.untracked(tensor)

    return _mapped(x, plain), found


def _mapped(x: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(x, Tensor):
        return change(x)
    if isinstance(x, dict):
        return type(x)((key, _mapped(value, change)) for key, value in x.items())
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*(_mapped(value, change) for value in x))
    if isinstance(x, (list, tuple, set, frozenset)):
        return type(x)(_mapped(value, change) for value in x)
    return x
