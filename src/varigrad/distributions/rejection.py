r"""Rejection-sampled families that are only partly reparameterised.

The accepted noise :math:`\varepsilon` still depends on the parameters, so a pathwise gradient alone is biased: the
estimator must add a score part. A family says so by having a method `score_part(value)`, the field whose gradient is
that part's weight on the cost.

References:
    Naesseth, Ruiz, Linderman, Blei (2017), Reparameterization gradients through acceptance-rejection sampling.
    Marsaglia, Tsang (2000), A simple method for generating gamma variables.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from varigrad.distributions.methods import Methods


class RejectionGamma(Methods, td.Distribution):
    r"""Gamma by Marsaglia-Tsang rejection: :math:`z = h(\varepsilon) / \beta`,
    :math:`h(\varepsilon) = (\alpha - 1/3)(1 + \varepsilon / \sqrt{9\alpha - 3})^3`, :math:`\alpha \ge 1`.

    Args:
        concentration: `[*batch]`, at least 1.
        rate: `[*batch]`, positive.
    """

    arg_constraints = {"concentration": constraints.greater_than_eq(1.0), "rate": constraints.positive}
    support = constraints.positive
    has_rsample = True

    def __init__(
        self, concentration: Tensor | float, rate: Tensor | float = 1.0, validate_args: bool | None = None
    ) -> None:
        self.concentration, self.rate = broadcast_all(concentration, rate)
        super().__init__(self.concentration.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.concentration / self.rate

    @property
    def variance(self) -> Tensor:
        return self.concentration / self.rate.square()

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        return type(self)(self.concentration.expand(batch_shape), self.rate.expand(batch_shape))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            # The accepted noise is a deterministic, invertible function of a Gamma draw: z fixes epsilon.
            noise = self._noise(torch._standard_gamma(self.concentration.expand(shape)))
        return self._standard(noise) / self.rate

    def log_prob(self, value: Tensor) -> Tensor:
        alpha, beta = self.concentration, self.rate
        return torch.xlogy(alpha, beta) + torch.xlogy(alpha - 1, value) - beta * value - torch.lgamma(alpha)

    def score_part(self, value: Tensor) -> Tensor:
        r"""Log-density of the accepted noise, :math:`\log q(h(\varepsilon; \phi); \phi) |h'(\varepsilon; \phi)|`, up to
        a constant, as a function of the parameters at fixed noise. `[*batch]`.
        """
        with torch.no_grad():
            noise = self._noise(value * self.rate)
        z, alpha = self._standard(noise), self.concentration
        root = (9 * alpha - 3).sqrt()
        log_slope = (alpha - 1 / 3).log() + 2 * torch.log1p(noise / root) - root.log()
        return torch.xlogy(alpha - 1, z) - z - torch.lgamma(alpha) + log_slope

    def _standard(self, noise: Tensor) -> Tensor:
        alpha = self.concentration
        return (alpha - 1 / 3) * (1 + noise / (9 * alpha - 3).sqrt()).pow(3)

    def _noise(self, standard: Tensor) -> Tensor:
        alpha = self.concentration
        return ((standard / (alpha - 1 / 3)).pow(1 / 3) - 1) * (9 * alpha - 3).sqrt()
