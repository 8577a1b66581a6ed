"""`TraceTMC_ELBO`: Pyro's name for tensor Monte Carlo, which is not there."""

from __future__ import annotations

from typing import NoReturn

from varigrad.compat.pyro.infer.elbo import ELBO


class TraceTMC_ELBO(ELBO):  # noqa: N801 - Pyro's name
    """Tensor Monte Carlo is not there; making the object is, and its use raises an error.

    Raises:
        NotImplementedError: it is asked for a loss.
    """

    def native(self) -> NoReturn:
        raise NotImplementedError(
            "TraceTMC_ELBO: bounds from all combinations of sites' samples are not there. Try: TraceEnum_ELBO() for "
            "discrete sites, which are summed over exactly; RenyiELBO(alpha=0, num_particles=...) for others"
        )
