"""What a few steps in a row came to."""

from __future__ import annotations

from typing import NamedTuple


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
