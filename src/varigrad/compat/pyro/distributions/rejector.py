"""Rejection sampling from a proposal."""

from __future__ import annotations

from varigrad import distributions as native
from varigrad.compat.pyro.distributions.torch import family

Rejector: type[native.Rejector] = family(native.Rejector, __name__)
