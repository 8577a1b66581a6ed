"""`Trace_ELBO`: the ELBO, with pathwise gradients where draws have `rsample` and score functions elsewhere."""

from __future__ import annotations

from varigrad import objectives
from varigrad.compat.pyro.infer.elbo import ELBO
from varigrad.compat.pyro.infer.summed_out import is_marked


class Trace_ELBO(ELBO):  # noqa: N801 - Pyro's name
    """`varigrad.ELBO()`: the gradient goes through draws that have `rsample`, and by the score function elsewhere.

    Costs contain only what is downstream of a choice, and baselines act: what Pyro does in `TraceGraph_ELBO` only.
    """

    def native(self) -> objectives.ELBO:
        marginal = is_marked if self.enumerates else False
        return objectives.ELBO(self.num_particles, vectorize=self.side_by_side, strict=False, marginal=marginal)


class JitTrace_ELBO(Trace_ELBO):  # noqa: N801
    """`Trace_ELBO` with compiled steps."""

    compiles = True
