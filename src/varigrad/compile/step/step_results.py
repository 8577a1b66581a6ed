"""Results of steps: loss, gradient norm, and whether the step changed the parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Metrics:
    """The loss and gradient norm of one step.

    Attributes:
        step: the number of the step, from 1.
        loss: minus the estimated bound.
        gradient_norm: before clipping.
        skipped: whether parameters were left alone because loss or gradient was not finite.
    """

    step: int
    loss: float
    gradient_norm: float
    skipped: bool = False


class StepResults(NamedTuple):
    """Results of consecutive steps.

    Attributes:
        losses: minus the bound, before each step.
        norms: of the gradients.
        taken: whether each was finite, and parameters were changed.
    """

    losses: list[float]
    norms: list[float]
    taken: list[bool]

    def losses_taken(self) -> list[float]:
        """The losses, with NaN for steps that were left out."""
        if all(self.taken):
            return self.losses
        return [loss if taken else math.nan for loss, taken in zip(self.losses, self.taken, strict=True)]

    def first(self, count: int) -> StepResults:
        """The results of the first `count` steps."""
        return StepResults(self.losses[:count], self.norms[:count], self.taken[:count])
