"""`Escapes`: records the values that leave torch during one run of a program, and what they depend on."""

from __future__ import annotations

from typing import Any

import torch

Provenance = frozenset[Any]
NOTHING: Provenance = frozenset()


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

    def __init__(self, watch: bool = False) -> None:
        self.watch = watch
        """Whether to note functions without a useful derivative, as while a program is explored."""
        self.with_gradients: bool = watch and torch.is_grad_enabled()
        """Whether a block under `no_grad` inside the program is its own, and blocks gradients."""
        self.poles: set[tuple[Provenance, str, str]] = set()
        """Functions with poles that what depends on choices may reach: where it comes from, the function, the line."""

    def add(self, provenance: Provenance) -> None:
        """Note that a value with this provenance has left torch."""
        if self.active:
            self.provenance |= provenance
