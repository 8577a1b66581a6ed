"""`TruncatedPolyaGamma`: the Polya-Gamma distribution PG(1, 0), truncated where it has almost no mass."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from varigrad.distributions.mixin import Methods
from varigrad.shapes import Shape


class TruncatedPolyaGamma(Methods, td.Distribution):
    """PG(1, 0) on (0, 2.5). Densities are right to about six digits; draws are sums of the first few terms.

    Args:
        prototype: `[*batch]`, gives shape, dtype and device.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.TruncatedPolyaGamma(torch.zeros(3))
        >>> bool(((d.sample() > 0) & (d.sample() < 2.5)).all())
        True

    References:
        Polson, Scott, Windle (2013), Bayesian inference for logistic models using Polya-Gamma latent variables.
        arXiv:1205.0310.
    """

    truncation_point: float = 2.5
    terms = 200
    arg_constraints: dict[str, constraints.Constraint] = {}
    support: constraints.Constraint = constraints.interval(0, truncation_point)

    def __init__(self, prototype: Tensor, validate_args: bool | None = None) -> None:
        self.prototype = prototype
        td.Distribution.__init__(self, prototype.shape, validate_args=False)
        self._said(validate_args)

    def expand(self, batch_shape: Shape, _instance: td.Distribution | None = None) -> Self:
        return self._as_told(type(self)(self.prototype.expand(torch.Size(batch_shape))))

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        with torch.no_grad():
            shape = (self.terms, *self._extended_shape(torch.Size(sample_shape)))
            k = torch.arange(0.5, self.terms, dtype=self.prototype.dtype, device=self.prototype.device)
            exponential = -torch.log1p(-torch.rand(shape, dtype=self.prototype.dtype, device=self.prototype.device))
            # PG(1, 0) = sum_k g_k / (2 pi^2 (k - 1/2)^2), g_k exponential.
            weights = (1 / (2 * (math.pi * k).square())).reshape(-1, *(1,) * (len(shape) - 1))
            return (weights * exponential).sum(0).clamp(max=self.truncation_point - 1e-6)

    def log_prob(self, value: Tensor) -> Tensor:
        # sum_n (-1)^n (2n + 1) / sqrt(2 pi x^3) exp(-(2n + 1)^2 / (8x)), alternating and quickly falling.
        n = torch.arange(1, 2 * 12 + 1, 2, dtype=value.dtype, device=value.device)
        x = value.unsqueeze(-1)
        # Relative to the first term, whose exponential would vanish.
        series = 1 + ((-1.0) ** ((n[1:] - 1) / 2) * n[1:] * (-(n[1:].square() - 1) / (8 * x)).exp()).sum(-1)
        first = -0.5 * math.log(2 * math.pi) - 1.5 * value.log() - 1 / (8 * value)
        return series.clamp(min=torch.finfo(value.dtype).tiny).log() + first
