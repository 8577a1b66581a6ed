"""Lists and replaces the tensors inside a distribution, and checks whether its class is a known one.

torch has no official way to list a distribution's parameters, so this module walks attributes, the way every
torch.distributions family and transform stores them. A class from elsewhere may hide tensors where the walk does not
look. `is_known` is False for such classes, and the computation itself is then tracked where certainty is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

_KNOWN = ("torch.distributions.", "varigrad.distributions.", "varigrad.testing.", "varigrad.compat.")
_PARTS = (td.Distribution, td.Transform, constraints.Constraint)


def tensors_of(part: object) -> tuple[list[Tensor], bool]:
    """Every tensor held by a distribution, transform or constraint, however nested, and whether these are all.

    That is sure if every class involved is torch's or ours.
    """
    found: list[Tensor] = []
    return found, _collect(part, found, set())


def is_known(distribution: td.Distribution) -> bool:
    """Whether the class, and every part inside it, stores its tensors where `tensors_of` looks."""
    return tensors_of(distribution)[1]


@lru_cache(maxsize=1024)
def is_known_type(kind: type) -> bool:
    """Whether a class is torch's or ours, and stores all its tensors as attributes."""
    return kind.__module__.startswith(_KNOWN) and not getattr(kind, "holds_functions", False)


def _collect(part: object, found: list[Tensor], seen: set[int]) -> bool:
    seen.add(id(part))  # a transform and its inverse hold each other
    kind: type = part.__class__
    known = is_known_type(kind) or isinstance(part, constraints.Constraint)
    for value in vars(part).values():
        if isinstance(value, Tensor):
            found.append(value)
            continue
        held = type(value)
        if held is torch.Size or held is bool or value is None:
            continue
        for entry in value if held in (list, tuple) else (value,):
            if isinstance(entry, Tensor):
                found.append(entry)
            elif isinstance(entry, _PARTS) and id(entry) not in seen:
                known = _collect(entry, found, seen) and known
    return known


def replace_tensors(distribution: td.Distribution, replace: Callable[[Tensor], Tensor]) -> td.Distribution:
    """A copy of a known distribution with `replace` applied to every tensor in it; lazily cached values included."""
    twin: td.Distribution = _replaced(distribution, replace, {})
    return twin


def _replaced(value: object, replace: Callable[[Tensor], Tensor], twins: dict[int, object]) -> Any:
    if isinstance(value, Tensor):
        return replace(value)
    kind = type(value)
    if kind is torch.Size or kind is bool or kind is float or value is None:
        return value
    if isinstance(value, _PARTS):
        if id(value) in twins:
            return twins[id(value)]
        twin = object.__new__(type(value))
        twins[id(value)] = twin
        for key, part in vars(value).items():
            # The inverse that a transform refers to weakly is the original's; a twin makes its own.
            twin.__dict__[key] = None if type(part) is ref else _replaced(part, replace, twins)
        return twin
    if isinstance(value, (list, tuple)) and kind in (list, tuple):
        return kind(_replaced(v, replace, twins) for v in value)
    return value
