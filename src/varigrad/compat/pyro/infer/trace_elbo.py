"""The ELBO from runs of model and guide."""

from __future__ import annotations

from varigrad import objectives
from varigrad.compat.pyro.infer.elbo import ELBO


class Trace_ELBO(ELBO):  # noqa: N801 - Pyro's name
    """`varigrad.ELBO()`: the gradient goes through draws that have `rsample`, and by the score function elsewhere.

    Costs contain only what is downstream of a choice, and baselines act: what Pyro does in `TraceGraph_ELBO` only.
    """

    def native(self) -> objectives.ELBO:
        return objectives.ELBO(self.num_particles, vectorize=_vectorize(self), strict=False)


class JitTrace_ELBO(Trace_ELBO):  # noqa: N801
    """`Trace_ELBO` with compiled steps."""

    compiles = True


def _vectorize(elbo: ELBO) -> bool | None:
    """Alternatives may run side by side in any case, particles if that was asked for."""
    if elbo.num_particles == 1:
        return None
    return bool(elbo.vectorize_particles)
