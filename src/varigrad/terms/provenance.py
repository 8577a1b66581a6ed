"""Provenance: tracks which random choices a tensor was computed from, through arbitrary torch code.

`track_provenance` marks a tensor, every operation passes the marks of its inputs to its results (`tracked.py`), and
`get_provenance` reads them. A separate record keeps the marks of values that leave torch (`escapes.py`).

References:
    Wingate, Goodman, Stuhlmueller, Siskind (2011), Nonstandard interpretations of probabilistic programs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from torch import Tensor

from varigrad.errors import VarigradError
from varigrad.terms.escapes import NOTHING as NOTHING
from varigrad.terms.escapes import Escapes as Escapes
from varigrad.terms.escapes import Provenance as Provenance
from varigrad.terms.tracked import HARMLESS, tracked
from varigrad.terms.tracked import Tracked as Tracked
from varigrad.terms.tracked import get_blocked as get_blocked
from varigrad.terms.tracked import untracked as untracked

R = TypeVar("R")


def track_provenance(tensor: Tensor, provenance: Provenance, escapes: Escapes | None = None) -> Tensor:
    """`tensor`, marked as computed from `provenance` (in addition to what it carries already).

    Args:
        tensor: any shape, any dtype; gradients flow through.
        provenance: a frozenset of hashable sources.
        escapes: record to tell when a value leaves torch; kept by everything computed from the result.

    Returns:
        A tensor with the same values that is a `torch.Tensor` in every respect.

    Example:
        >>> import torch
        >>> a = track_provenance(torch.zeros(3), frozenset({"a"}))
        >>> b = track_provenance(torch.ones(3), frozenset({"b"}))
        >>> sorted(get_provenance(a.exp() * (b + 1)))
        ['a', 'b']
    """
    if not isinstance(provenance, frozenset):
        raise TypeError(f"provenance must be a frozenset, got {type(provenance).__name__}")
    if type(tensor) is Tracked:
        provenance |= tensor._provenance
        escapes = escapes or tensor._escapes
        tensor = untracked(tensor)
    return tracked(tensor, provenance, escapes) if provenance else tensor


def get_provenance(*tensors: object) -> Provenance:
    """The union of what the tensors were computed from; empty for anything untracked.

    Args:
        tensors: any values; what is no tensor counts as computed from nothing.

    Returns:
        A frozen set of what `track_provenance` was given.

    Example:
        >>> import torch
        >>> a = track_provenance(torch.zeros(3), frozenset({"a"}))
        >>> sorted(get_provenance(a + 1)), sorted(get_provenance(torch.ones(3)))
        (['a'], [])
    """
    result = NOTHING
    for tensor in tensors:
        if type(tensor) is Tracked:
            result = result | tensor._provenance if result else tensor._provenance
    return result


def leaving(function: Callable[[], R], tensors: Iterable[object]) -> tuple[R, Provenance]:
    """Call a function, and say what leaves torch meanwhile.

    Args:
        function: takes no arguments.
        tensors: values of a run; what leaves is noted if one of them is tracked.

    Returns:
        What the function answers, and the provenance of what has left.
    """
    escapes = next((t._escapes for t in tensors if type(t) is Tracked and t._escapes is not None), None)
    if escapes is None:
        return function(), NOTHING
    before = escapes.active, escapes.provenance
    escapes.active, escapes.provenance = True, NOTHING
    try:
        return function(), escapes.provenance
    finally:
        escapes.active, escapes.provenance = before


def refuse_wrappers(*tensors: object) -> None:
    """Refuse tensors of classes that compute by their own hooks: the tensors inside may be tracked.

    Raises:
        VarigradError: there is one; its class is named.
    """
    for tensor in tensors:
        kind = type(tensor)
        if kind is Tensor or kind is Tracked or kind in HARMLESS or not isinstance(tensor, Tensor):
            continue
        if getattr(kind, "__torch_dispatch__", None) is not Tensor.__torch_dispatch__:
            raise VarigradError(
                f"a tensor of class {kind.__module__}.{kind.__qualname__} stands where choices have been made before",
                because="what such a class holds may depend on them, and the class does not say so",
                try_="a plain tensor (the one inside) in distributions, factors and observed data",
            )
