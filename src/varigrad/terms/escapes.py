"""What has left torch during one run of a program."""

from __future__ import annotations

from typing import Any

import torch

Provenance = frozenset[Any]
NOTHING: Provenance = frozenset()


class Escapes:
    """What has left torch during one run of a program; later statements count as downstream of it."""

    __slots__ = ("active", "differentiable", "held", "kinked", "lost", "poles", "provenance", "swapped", "watch", "way")

    def __init__(self, watch: bool = False) -> None:
        self.provenance: Provenance = NOTHING
        self.active = True
        self.way = 0
        """A number for the operations on tracked tensors and their order, the same for the same ones."""
        self.watch = watch
        """Whether to note what went through a step that has no useful derivative."""
        self.kinked: Provenance = NOTHING
        self.held: Provenance = NOTHING
        """What lost its derivative: by `detach`, `.data` or a copy."""
        self.differentiable = watch and torch.is_grad_enabled()
        self.lost: Provenance = NOTHING
        """What a density depends on that lost its derivative, `no_grad` and the indices of `sort` among the ways."""
        self.poles: set[tuple[Provenance, str, str]] = set()
        """Functions with poles that what depends on choices may reach: where it comes from, the function, the line."""
        self.swapped = False
        """Whether the memory of a plain tensor was replaced by that of a tracked one (`w.data = z`)."""

    def add(self, provenance: Provenance) -> None:
        """Something with this provenance has left."""
        if self.active:
            self.provenance |= provenance
