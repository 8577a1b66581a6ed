"""Twins of reparameterised families without `rsample`, which only score-function estimators serve."""

from __future__ import annotations

from torch import distributions as td

from varigrad.compat.pyro.distributions.torch import FAMILIES

_BETA: type[td.Distribution] = FAMILIES["Beta"]
_DIRICHLET: type[td.Distribution] = FAMILIES["Dirichlet"]
_GAMMA: type[td.Distribution] = FAMILIES["Gamma"]
_NORMAL: type[td.Distribution] = FAMILIES["Normal"]


class NonreparameterizedBeta(_BETA):  # type: ignore[valid-type, misc]
    """The Beta distribution without `rsample`."""

    has_rsample = False


class NonreparameterizedDirichlet(_DIRICHLET):  # type: ignore[valid-type, misc]
    """The Dirichlet distribution without `rsample`."""

    has_rsample = False


class NonreparameterizedGamma(_GAMMA):  # type: ignore[valid-type, misc]
    """The Gamma distribution without `rsample`."""

    has_rsample = False


class NonreparameterizedNormal(_NORMAL):  # type: ignore[valid-type, misc]
    """The normal distribution without `rsample`."""

    has_rsample = False
