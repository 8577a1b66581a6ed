"""`RenyiELBO`: Rényi bounds under Pyro's name."""

from __future__ import annotations

import math

from varigrad import objectives
from varigrad.compat.pyro.infer.elbo import ELBO, Native
from varigrad.errors import VarigradError


class RenyiELBO(ELBO):
    """`varigrad.Renyi(alpha, num_particles)`; `alpha=0` is the importance-weighted bound.

    Right gradients also for choices without `rsample`.

    Args:
        alpha: its order, any number but 1.
        num_particles: how many weights are averaged inside the logarithm; with one, every order is the ELBO.
        max_plate_nesting, max_iarange_nesting, vectorize_particles, strict_enumeration_warning: as in `ELBO`.

    Raises:
        VarigradError: (a `ValueError`) alpha is 1.
    """

    def __init__(
        self,
        alpha: float = 0,
        num_particles: int = 2,
        max_plate_nesting: float = math.inf,
        max_iarange_nesting: float | None = None,
        vectorize_particles: bool = False,
        strict_enumeration_warning: bool = True,
    ) -> None:
        if alpha == 1:
            raise VarigradError(
                "alpha must not be 1", because="the bound of order 1 is the ELBO", try_="Trace_ELBO(num_particles=...)"
            )
        self.alpha = alpha
        super().__init__(
            num_particles, max_plate_nesting, max_iarange_nesting, vectorize_particles, strict_enumeration_warning
        )

    def native(self) -> Native:
        if self.num_particles == 1:
            return objectives.ELBO(strict=False)
        return objectives.Renyi(self.alpha, self.num_particles, vectorize=self.side_by_side, strict=False)
