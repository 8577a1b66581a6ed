"""Twins of reparameterised families without `rsample`, which only score-function estimators serve."""

from __future__ import annotations

from varigrad.compat.pyro.distributions.torch import FAMILIES

Beta, Dirichlet, Gamma, Normal = (FAMILIES[name] for name in ("Beta", "Dirichlet", "Gamma", "Normal"))


class NonreparameterizedBeta(Beta):  # type: ignore[valid-type, misc]
    """The Beta distribution without `rsample`."""

    has_rsample = False


class NonreparameterizedDirichlet(Dirichlet):  # type: ignore[valid-type, misc]
    """The Dirichlet distribution without `rsample`."""

    has_rsample = False


class NonreparameterizedGamma(Gamma):  # type: ignore[valid-type, misc]
    """The Gamma distribution without `rsample`."""

    has_rsample = False


class NonreparameterizedNormal(Normal):  # type: ignore[valid-type, misc]
    """The normal distribution without `rsample`."""

    has_rsample = False
