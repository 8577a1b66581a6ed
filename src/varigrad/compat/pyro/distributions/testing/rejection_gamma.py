"""Gamma by rejection: reparameterised up to a score part, which Pyro's TraceGraph_ELBO drops and varigrad keeps."""

from __future__ import annotations

from varigrad import distributions as native
from varigrad.compat.pyro.distributions.torch import family

RejectionGamma: type[native.RejectionGamma] = family(native.RejectionGamma, __name__)
