"""Compound count distributions (`BetaBinomial`, `GammaPoisson`, `DirichletMultinomial`) with Pyro's methods."""

from __future__ import annotations

from varigrad import distributions as native
from varigrad.compat.pyro.distributions.torch import family

BetaBinomial: type[native.BetaBinomial] = family(native.BetaBinomial, __name__)
GammaPoisson: type[native.GammaPoisson] = family(native.GammaPoisson, __name__)
DirichletMultinomial: type[native.DirichletMultinomial] = family(native.DirichletMultinomial, __name__)
