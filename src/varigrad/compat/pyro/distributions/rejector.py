"""`Rejector`: rejection sampling from a proposal, with Pyro's methods."""

from __future__ import annotations

from varigrad import distributions as native
from varigrad.compat.pyro.distributions.torch import family

Rejector: type[native.Rejector] = family(native.Rejector, __name__)
