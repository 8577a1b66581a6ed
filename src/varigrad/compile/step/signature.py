"""What tells one form of call from another: shapes, types, and Python values that do not change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

_PLAIN = (bool, str, bytes, complex, type(None), torch.dtype, torch.device, torch.Size)
"""Arguments that are what they look like; of others, one is as good as itself only."""


class Signatures:
    """What graphs are recorded for; numbers that change from call to call are lifted: they become inputs.

    Attributes:
        unliftable: why a number has to stay one, by form of arguments.
    """

    def __init__(self) -> None:
        self.unliftable: dict[Any, str] = {}
        self._first_numbers: dict[Any, list[tuple[int, Any]]] = {}
        self._lifted: dict[Any, set[int]] = {}
        self._resumed: dict[str, set[int]] = {}

    def of(self, leaves: list[Any], tree: Any) -> tuple[Any, frozenset[int], Any]:
        """What the arguments have in common with those of other calls, which numbers are lifted, and both: the form.

        Numbers that differ from the first call's are lifted.
        """
        first: dict[int, int] = {}
        shape: list[Any] = []
        numbers: list[tuple[int, Any]] = []
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                same = first.setdefault(id(leaf), i)
                shape.append((described(leaf), same))
            elif _is_number(leaf):
                shape.append(type(leaf))
                numbers.append((i, leaf))
            else:
                shape.append(leaf if type(leaf) in _PLAIN else _Itself(leaf))
        base = (tree, tuple(shape), surroundings())
        if not numbers:
            return base, frozenset(), base
        lifted = self._lifted.get(base)
        if lifted is None:
            lifted = self._lifted[base] = set(self._resumed.get(repr(base), ()))
        if base not in self.unliftable:
            before = self._first_numbers.setdefault(base, numbers)
            lifted |= {i for (i, now), (_, then) in zip(numbers, before, strict=True) if now != then}
        chosen = frozenset(i for i, now in numbers if i in lifted and _is_held(now))
        return base, chosen, (base, chosen, tuple(n for n in numbers if n[0] not in chosen))

    def standing(self) -> dict[str, list[int]]:
        """Which numbers are lifted, by the text of what they are lifted in."""
        return {repr(base): sorted(lifted) for base, lifted in self._lifted.items() if lifted}

    def stand(self, standing: Mapping[str, list[int]]) -> None:
        """Lift these, and no others so far."""
        self.unliftable, self._first_numbers, self._lifted = {}, {}, {}
        self._resumed = {text: set(lifted) for text, lifted in standing.items()}

    def lift_none(self, base: Any, reason: str) -> None:
        """From now on, in calls of this form."""
        self.unliftable[base] = reason
        self._lifted[base] = set()


@dataclass(eq=False, repr=False)
class _Itself:
    """An argument that is only equal to itself, kept, so that no other one is given its id."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)

    def __repr__(self) -> str:
        """The same in every process."""
        return f"<{type(self.value).__module__}.{type(self.value).__qualname__}>"


def described(leaf: Tensor) -> tuple[Any, ...]:
    """What a graph takes for granted of a tensor."""
    layout = leaf.stride() if leaf.layout is torch.strided else leaf.layout
    return leaf.shape, layout, leaf.dtype, leaf.device, leaf.requires_grad, leaf.grad_fn is None


def _is_number(leaf: Any) -> bool:
    """Of Python or of numpy, and no truth value."""
    return type(leaf) in (int, float) or (type(leaf).__module__ == "numpy" and isinstance(leaf, Real))


def _is_held(number: Any) -> bool:
    """Whether a tensor has room for it: single precision keeps the units of what is smaller."""
    return not math.isfinite(number) or bool(abs(number) < (2**24 if isinstance(number, float) else 2**62))


def told(leaves: list[Any]) -> str:
    """Arguments in words: types and shapes of tensors, values of plain ones, types of all others."""
    texts = []
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            texts.append(f"{str(leaf.dtype).removeprefix('torch.')}{list(leaf.shape)}")
        elif _is_number(leaf) or type(leaf) in _PLAIN:
            texts.append(repr(leaf)[:50])
        else:
            texts.append(type(leaf).__qualname__)
    return f"arguments ({', '.join(texts)})" if texts else "no arguments"


def surroundings() -> tuple[Any, ...]:
    """What torch does otherwise in the same operations."""
    places = ("cpu", "cuda")
    mixed = [torch.get_autocast_dtype(place) if torch.is_autocast_enabled(place) else None for place in places]
    return torch.get_default_dtype(), *mixed
