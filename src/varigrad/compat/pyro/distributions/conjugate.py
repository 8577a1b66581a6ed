"""Counts whose rate or probabilities have been integrated out, by Pyro's names."""

from __future__ import annotations

from varigrad import distributions as native
from varigrad.compat.pyro.distributions.torch import family

BetaBinomial = family(native.BetaBinomial, __name__)
GammaPoisson = family(native.GammaPoisson, __name__)
DirichletMultinomial = family(native.DirichletMultinomial, __name__)
