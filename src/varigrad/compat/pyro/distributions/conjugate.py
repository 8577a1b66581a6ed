"""Compound count distributions (`BetaBinomial`, `GammaPoisson`, `DirichletMultinomial`) with Pyro's methods."""

from __future__ import annotations

from varigrad import distributions as native
from varigrad.compat.pyro.distributions.torch import family

BetaBinomial = family(native.BetaBinomial, __name__)
GammaPoisson = family(native.GammaPoisson, __name__)
DirichletMultinomial = family(native.DirichletMultinomial, __name__)
