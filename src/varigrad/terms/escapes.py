"""`Escapes`: records the values that leave torch during one run of a program, and what they depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Provenance = frozenset[Any]
NOTHING: Provenance = frozenset()
Roots = tuple[Tensor, ...]
"""What a denominator vanishes with (`zero_crossings.py`)."""


@dataclass(frozen=True, eq=False)
class Pole:
    """A call, in an explored run, of a function with a pole that a value depending on choices may reach.

    Attributes:
        provenance: what the denominator depends on.
        name: the function's.
        line: of the program.
        marks: what changes where a pole is crossed: signs, or numbers of intervals between poles.
        finite: whether all results are numbers.
        reviewed: whether the function is known to have poles; else it may jump for all that is known.
        differentiable: whether the denominator carries a gradient.
    """

    provenance: Provenance
    name: str
    line: str
    marks: Roots
    finite: bool
    reviewed: bool = True
    differentiable: bool = True

    def crossed(self, other: Pole) -> bool:
        """Whether a pole lies between this call and the same call in another run."""
        if self.finite != other.finite:
            return True
        pairs = zip(self.marks, other.marks, strict=False)
        return any(a.shape == b.shape and bool((a * b < 0).any()) for a, b in pairs)


class Escapes:
    """The values that have left torch during one run of a program; later statements count as downstream of them."""

    # Defaults of the class: most runs write to none of them.
    provenance: Provenance = NOTHING
    """What the values that have left torch depend on."""
    active = True
    """Whether the run still goes on."""
    nondifferentiable: Provenance = NOTHING
    """What a step function (a comparison, a rounding) was applied to."""
    held: Provenance = NOTHING
    """What was held constant: by `detach`, `.data` or a copy."""
    blocked: Provenance = NOTHING
    """What a density depends on without a gradient: by `detach`, `no_grad`, the indices of `sort` and others."""
    way = 0
    """A number for the operations on tracked tensors and their order, the same for the same ones."""
    swapped = False
    """Whether the memory of a plain tensor was replaced by that of a tracked one (`w.data = z`)."""

    def __init__(self, watch: bool = False, compare: bool = True) -> None:
        self.watch = watch
        """Whether to note functions without a useful derivative, as while a program is explored."""
        self.compare: bool = watch and compare
        """Whether to compare the contents of tensors with what they were, to find what was written through aliases."""
        self.with_gradients: bool = watch and torch.is_grad_enabled()
        """Whether a block under `no_grad` inside the program is its own, and blocks gradients."""
        self.poles: list[Pole] = []
        """Calls of functions with poles that what depends on choices may reach, in order."""

        self._aliased: list[tuple[Tensor, object, Tensor, Provenance]] = []

    def note_alias(self, plain: Tensor, provenance: Provenance) -> None:
        """Note that another tensor shares a tensor's memory, and no gradient goes through it (`detach`, `.data`)."""
        if self.compare and plain.requires_grad:
            self._aliased.append((plain, plain.grad_fn, plain.detach().clone(), provenance))

    def overwritten(self) -> Provenance:
        """What those tensors depend on whose numbers have changed through an alias: autograd has not noticed."""
        found = [
            provenance
            for plain, grad_fn, before, provenance in self._aliased
            if plain.grad_fn is grad_fn and not same_numbers(plain.detach(), before)
        ]
        return NOTHING.union(*found)

    def add(self, provenance: Provenance) -> None:
        """Note that a value with this provenance has left torch."""
        if self.active:
            self.provenance |= provenance


def same_numbers(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape have the same entries, where NaN equals NaN."""
    try:
        return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())
    except RuntimeError:  # inside vmap and its like a tensor has no numbers
        return True
