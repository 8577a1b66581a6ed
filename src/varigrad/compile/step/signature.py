"""Signatures of calls: shapes, types and Python values of the arguments; a step is specialised to each signature."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor

from varigrad._torch_internals import pytree

_PLAIN = (bool, str, bytes, complex, type(None), torch.dtype, torch.device, torch.Size)
"""Types of arguments that are compared by value; arguments of other types are compared by identity."""

Numbers = list[tuple[int, float]]
"""Positions of numbers among the arguments, and the numbers."""


class Call(NamedTuple):
    """The arguments of a call, as the caller gave them, and flattened.

    Attributes:
        args, kwargs: as they were given.
        leaves: the arguments, flattened.
        tree: the structure that they were flattened from.
        base: the signature of the call but for the values of its numbers.
        lifted: positions of numbers that become inputs of the graph.
    """

    args: tuple[object, ...]
    kwargs: dict[str, object]
    leaves: list[object]
    tree: pytree.TreeSpec
    base: Hashable
    lifted: frozenset[int]


class Signatures:
    """Computes signatures of calls, and lifts numbers that change from call to call to inputs of the graph.

    Attributes:
        unliftable: why the numbers of a signature have to stay Python numbers.
    """

    def __init__(self) -> None:
        self.unliftable: dict[Hashable, str] = {}
        self._first_numbers: dict[Hashable, Numbers] = {}
        self._lifted: dict[Hashable, set[int]] = {}
        self._resumed: dict[str, set[int]] = {}

    def of(self, args: tuple[object, ...], kwargs: dict[str, object]) -> tuple[Call, Hashable]:
        """Flatten a call's arguments; returns them, and the key of the specialisation for them.

        Numbers that differ from the first call's with the same signature are lifted.
        """
        leaves, tree = pytree.tree_flatten((args, kwargs))
        first: dict[int, int] = {}
        shape: list[object] = []
        numbers: Numbers = []
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                same = first.setdefault(id(leaf), i)
                shape.append((layout_of(leaf), same))
            elif _is_number(leaf):
                shape.append(type(leaf))
                numbers.append((i, leaf))
            else:
                shape.append(leaf if type(leaf) in _PLAIN else _ByIdentity(leaf))
        base = (tree, tuple(shape), surroundings())
        if not numbers:
            return Call(args, kwargs, leaves, tree, base, frozenset()), base
        lifted = self._lifted.get(base)
        if lifted is None:
            lifted = self._lifted[base] = set(self._resumed.get(repr(base), ()))
        if base not in self.unliftable:
            before = self._first_numbers.setdefault(base, numbers)
            lifted |= {i for (i, now), (_, then) in zip(numbers, before, strict=True) if now != then}
        chosen = frozenset(i for i, now in numbers if i in lifted and _fits_tensor(now))
        rest = tuple(n for n in numbers if n[0] not in chosen)
        return Call(args, kwargs, leaves, tree, base, chosen), (base, chosen, rest)

    def state(self) -> dict[str, list[int]]:
        """The lifted numbers, by the text of their signature."""
        return {repr(base): sorted(lifted) for base, lifted in self._lifted.items() if lifted}

    def load_state(self, state: Mapping[str, list[int]]) -> None:
        """Lift the numbers that were lifted when the state was saved, and no others so far."""
        self.unliftable, self._first_numbers, self._lifted = {}, {}, {}
        self._resumed = {text: set(lifted) for text, lifted in state.items()}

    def lift_none(self, base: Hashable, reason: str) -> None:
        """Lift no numbers any more in calls with this signature."""
        self.unliftable[base] = reason
        self._lifted[base] = set()


@dataclass(eq=False, repr=False)
class _ByIdentity:
    """An argument that is equal only to itself; a reference is kept so that its id is not used again."""

    value: object

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByIdentity) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)

    def __repr__(self) -> str:
        """A text that is the same in every process."""
        return f"<{type(self.value).__module__}.{type(self.value).__qualname__}>"


def layout_of(leaf: Tensor) -> tuple[Hashable, ...]:
    """Everything that a graph takes for granted of a tensor: all but its values and its address."""
    layout = leaf.stride() if leaf.layout is torch.strided else leaf.layout
    return leaf.shape, layout, leaf.dtype, leaf.device, leaf.requires_grad, leaf.grad_fn is None


def _is_number(leaf: object) -> TypeGuard[float]:
    """Whether an argument is a number, of Python or of numpy, and no truth value."""
    return type(leaf) in (int, float) or (type(leaf).__module__ == "numpy" and isinstance(leaf, Real))


def _fits_tensor(number: float) -> bool:
    """Whether a tensor holds a number without loss: single precision keeps the units of what is smaller."""
    limit = 2**24 if isinstance(number, float) else 2**62
    return not math.isfinite(number) or bool(abs(number) < limit)


def arguments_in_words(leaves: list[object]) -> str:
    """Types and shapes of tensors, values of plain arguments, types of all others."""
    texts = []
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            texts.append(f"{str(leaf.dtype).removeprefix('torch.')}{list(leaf.shape)}")
        elif _is_number(leaf) or type(leaf) in _PLAIN:
            texts.append(repr(leaf)[:50])
        else:
            texts.append(type(leaf).__qualname__)
    return f"arguments ({', '.join(texts)})" if texts else "no arguments"


def surroundings() -> tuple[torch.dtype | None, ...]:
    """Torch's settings that change what operations compute: default type, and autocast on the CPU and on CUDA."""
    places = ("cpu", "cuda")
    mixed = [torch.get_autocast_dtype(place) if torch.is_autocast_enabled(place) else None for place in places]
    return torch.get_default_dtype(), *mixed
