"""What has left torch during one run of a program."""

from __future__ import annotations

from typing import Any

import torch

Provenance = frozenset[Any]
NOTHING: Provenance = frozenset()


class Escapes:
    """What has left torch during one run of a program; later statements count as downstream of it."""

    # Defaults of the class: most runs write to none of them.
    provenance: Provenance = NOTHING
    active = True
    kinked: Provenance = NOTHING
    held: Provenance = NOTHING
    """What lost its derivative: by `detach`, `.data` or a copy."""
    lost: Provenance = NOTHING
    """What a density depends on that lost its derivative, `no_grad` and the indices of `sort` among the ways."""
    swapped = False
    """Whether the memory of a plain tensor was replaced by that of a tracked one (`w.data = z`)."""

    def __init__(self, watch: bool = False) -> None:
        self.watch = watch
        """Whether to note what went through a step that has no useful derivative."""
        self.differentiable = watch and torch.is_grad_enabled()

    def add(self, provenance: Provenance) -> None:
        """Something with this provenance has left."""
        if self.active:
            self.provenance |= provenance
