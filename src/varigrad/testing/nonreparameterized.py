"""Twins of reparameterised families without `rsample`: the same draws and densities, for score-function estimators."""

from __future__ import annotations

from torch import Tensor

from varigrad.distributions import Beta, Dirichlet, Gamma, Normal, ScoreOnly


class NonreparameterizedBeta(ScoreOnly):
    """The Beta distribution without `rsample`.

    Args:
        concentration1, concentration0: `[*batch]`, positive.

    Example:
        >>> from varigrad import testing
        >>> testing.NonreparameterizedBeta(2.0, 3.0).has_rsample
        False
    """

    def __init__(self, concentration1: Tensor | float, concentration0: Tensor | float) -> None:
        super().__init__(Beta(concentration1, concentration0))


class NonreparameterizedDirichlet(ScoreOnly):
    """The Dirichlet distribution without `rsample`.

    Args:
        concentration: `[*batch, categories]`, positive.

    Example:
        >>> import torch
        >>> from varigrad import testing
        >>> testing.NonreparameterizedDirichlet(torch.ones(3)).has_rsample
        False
    """

    def __init__(self, concentration: Tensor) -> None:
        super().__init__(Dirichlet(concentration))


class NonreparameterizedGamma(ScoreOnly):
    """The Gamma distribution without `rsample`.

    Args:
        concentration, rate: `[*batch]`, positive.

    Example:
        >>> from varigrad import testing
        >>> testing.NonreparameterizedGamma(2.0, 1.0).has_rsample
        False
    """

    def __init__(self, concentration: Tensor | float, rate: Tensor | float) -> None:
        super().__init__(Gamma(concentration, rate))


class NonreparameterizedNormal(ScoreOnly):
    """The normal distribution without `rsample`.

    Args:
        loc: `[*batch]`.
        scale: `[*batch]`, positive.

    Example:
        >>> from varigrad import testing
        >>> testing.NonreparameterizedNormal(0.0, 1.0).has_rsample
        False
    """

    def __init__(self, loc: Tensor | float, scale: Tensor | float) -> None:
        super().__init__(Normal(loc, scale))
