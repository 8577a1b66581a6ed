"""`TraceMeanField_ELBO`: the ELBO with closed-form KL divergences."""

from __future__ import annotations

from dataclasses import replace

from varigrad import objectives
from varigrad.compat.pyro.infer.trace_elbo import Trace_ELBO


class TraceMeanField_ELBO(Trace_ELBO):  # noqa: N801 - Pyro's name
    """`varigrad.ELBO(analytic_kl=True)`: closed-form KL divergences where torch has them and the guide allows it."""

    def native(self) -> objectives.ELBO:
        return replace(super().native(), analytic_kl=True)


class JitTraceMeanField_ELBO(TraceMeanField_ELBO):  # noqa: N801
    """`TraceMeanField_ELBO` with compiled steps."""

    compiles = True
