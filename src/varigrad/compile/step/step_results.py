"""What one step, and a few steps in a row, came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Metrics:
    """What one step reports.

    Attributes:
        step: its number, from 1.
        loss: minus the estimated bound.
        gradient_norm: before clipping.
        skipped: whether parameters were left alone because loss or gradient was not finite.
    """

    step: int
    loss: float
    gradient_norm: float
    skipped: bool = False


class Outcomes(NamedTuple):
    """What some steps in a row came to.

    Attributes:
        losses: minus the bound, before each step.
        norms: of the gradients.
        taken: whether each was finite, and parameters were changed.
    """

    losses: list[float]
    norms: list[float]
    taken: list[bool]

    def first(self, count: int) -> Outcomes:
        """Those of the first steps."""
        return Outcomes(self.losses[:count], self.norms[:count], self.taken[:count])
