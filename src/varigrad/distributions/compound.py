"""Compound count distributions (beta-binomial, gamma-Poisson, ...): the rate or probabilities are integrated out."""

from __future__ import annotations

import math
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from varigrad.distributions.families import NegativeBinomial
from varigrad.distributions.mixin import Methods
from varigrad.distributions.univariate import Univariate
from varigrad.shapes import Shape, join


def _log_beta(a: Tensor, b: Tensor) -> Tensor:
    return a.lgamma() + b.lgamma() - (a + b).lgamma()


class BetaBinomial(Univariate):
    """Successes in `total_count` trials whose probability has a Beta distribution.

    Args:
        concentration1, concentration0: `[*batch]`, positive.
        total_count: `[*batch]`, whole.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.BetaBinomial(2.0, 3.0, total_count=10)
        >>> round(d.log_prob(torch.arange(11.0)).exp().sum().item(), 4)
        1.0
    """

    arg_constraints: dict[str, constraints.Constraint] = {
        "concentration1": constraints.positive,
        "concentration0": constraints.positive,
        "total_count": constraints.nonnegative_integer,
    }
    has_enumerate_support = True
    concentration1: Tensor
    concentration0: Tensor
    total_count: Tensor

    def __init__(
        self,
        concentration1: Tensor | float,
        concentration0: Tensor | float,
        total_count: Tensor | float = 1,
        validate_args: bool | None = None,
    ) -> None:
        self._keep(validate_args, concentration1=concentration1, concentration0=concentration0, total_count=total_count)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.total_count)

    @property
    def mean(self) -> Tensor:
        return self.total_count * self.concentration1 / (self.concentration1 + self.concentration0)

    @property
    def variance(self) -> Tensor:
        a, b, n = self.concentration1, self.concentration0, self.total_count
        return n * a * b * (a + b + n) / ((a + b).square() * (a + b + 1))

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        with torch.no_grad():
            probs = td.Beta(self.concentration1, self.concentration0, validate_args=False).sample(sample_shape)
            result: Tensor = td.Binomial(self.total_count, probs, validate_args=False).sample()
            return result

    def log_prob(self, value: Tensor) -> Tensor:
        a, b, n = self.concentration1, self.concentration0, self.total_count
        ways = (n + 1).lgamma() - (value + 1).lgamma() - (n - value + 1).lgamma()
        return ways + _log_beta(value + a, n - value + b) - _log_beta(a, b)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        result: Tensor = td.Binomial(self.total_count, self.mean * 0, validate_args=False).enumerate_support(expand)
        return result


class GammaPoisson(Univariate):
    """Counts whose rate has a Gamma distribution: a negative binomial.

    Args:
        concentration, rate: `[*batch]`, positive.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.GammaPoisson(2.0, 1.0)
        >>> round(d.log_prob(torch.tensor(3.0)).item(), 4)
        -2.0794
    """

    arg_constraints: dict[str, constraints.Constraint] = {
        "concentration": constraints.positive,
        "rate": constraints.positive,
    }
    support: constraints.Constraint = constraints.nonnegative_integer
    concentration: Tensor
    rate: Tensor

    def __init__(self, concentration: Tensor | float, rate: Tensor | float, validate_args: bool | None = None) -> None:
        self._keep(validate_args, concentration=concentration, rate=rate)

    @property
    def mean(self) -> Tensor:
        return self.concentration / self.rate

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 + 1 / self.rate)

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        with torch.no_grad():
            return torch.poisson(td.Gamma(self.concentration, self.rate, validate_args=False).sample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        a, b = self.concentration, self.rate
        ways = (a + value).lgamma() - a.lgamma() - (value + 1).lgamma()
        return ways - a * (1 / b).log1p() - value * b.log1p()


class DirichletMultinomial(Methods, td.Distribution):
    """Counts of categories in `total_count` draws whose probabilities have a Dirichlet distribution.

    Args:
        concentration: `[*batch, categories]`, positive.
        total_count: `[*batch]`, whole. The density takes counts of any total.
        is_sparse: most counts are zero; accepted, and makes no difference.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.DirichletMultinomial(torch.tensor([1.0, 2.0, 3.0]), total_count=5)
        >>> d.sample().sum()
        tensor(5.)
    """

    arg_constraints: dict[str, constraints.Constraint] = {
        "concentration": constraints.independent(constraints.positive, 1),
        "total_count": constraints.nonnegative_integer,
    }

    def __init__(
        self,
        concentration: Tensor,
        total_count: Tensor | int = 1,
        is_sparse: bool = False,
        validate_args: bool | None = None,
    ) -> None:
        total = torch.as_tensor(total_count, dtype=concentration.dtype, device=concentration.device)
        batch = join(concentration.shape[:-1], total.shape)
        self.concentration: Tensor = concentration.expand(batch + concentration.shape[-1:])
        self.total_count: Tensor = total.expand(batch)
        self.is_sparse = is_sparse
        self._begin(batch, concentration.shape[-1:], validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        return constraints.multinomial(self.total_count)

    @property
    def mean(self) -> Tensor:
        return self._shares * self.total_count.unsqueeze(-1)

    @property
    def variance(self) -> Tensor:
        n, all_ = self.total_count.unsqueeze(-1), self.concentration.sum(-1, True)
        return n * self._shares * (1 - self._shares) * (n + all_) / (1 + all_)

    @property
    def _shares(self) -> Tensor:
        return self.concentration / self.concentration.sum(-1, True)

    def expand(self, batch_shape: Shape, _instance: td.Distribution | None = None) -> Self:
        shape = torch.Size(batch_shape)
        concentration = self.concentration.expand(shape + self.event_shape)
        return self._as_told(type(self)(concentration, self.total_count.expand(shape), self.is_sparse))

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        with torch.no_grad():
            probs = td.Dirichlet(self.concentration, validate_args=False).sample(sample_shape)
            most = int(self.total_count.max()) if self.total_count.numel() else 0
            flat = probs.reshape(-1, probs.shape[-1])
            drawn = torch.multinomial(flat, max(most, 1), replacement=True)
            # Every element draws as often as the largest total; what is beyond its own does not count.
            counts = torch.arange(max(most, 1), device=probs.device) < self.total_count.unsqueeze(-1)
            weights = counts.expand(*probs.shape[:-1], -1).reshape(drawn.shape).to(probs.dtype)
            return torch.zeros_like(flat).scatter_add_(1, drawn, weights).reshape(probs.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        a = self.concentration
        n, all_ = value.sum(-1), a.sum(-1)
        ways = (n + 1).lgamma() - (value + 1).lgamma().sum(-1)
        return ways + all_.lgamma() - (all_ + n).lgamma() + ((a + value).lgamma() - a.lgamma()).sum(-1)


class LogNormalNegativeBinomial(Univariate):
    r"""Negative binomial counts whose logits carry Normal noise, integrated out by Gauss-Hermite quadrature.

    Args:
        total_count: `[*batch]`, positive.
        logits: `[*batch]`.
        multiplicative_noise_scale: `[*batch]`, positive: the noise's standard deviation.
        num_quad_points: of the quadrature in `log_prob`.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.LogNormalNegativeBinomial(5.0, 0.0, multiplicative_noise_scale=0.1)
        >>> round(d.log_prob(torch.tensor(4.0)).item(), 4)
        -1.9997
    """

    arg_constraints: dict[str, constraints.Constraint] = {
        "total_count": constraints.greater_than_eq(0),
        "logits": constraints.real,
        "multiplicative_noise_scale": constraints.positive,
    }
    support: constraints.Constraint = constraints.nonnegative_integer
    total_count: Tensor
    logits: Tensor
    multiplicative_noise_scale: Tensor

    def __init__(
        self,
        total_count: Tensor | float,
        logits: Tensor | float,
        multiplicative_noise_scale: Tensor | float,
        *,
        num_quad_points: int = 8,
        validate_args: bool | None = None,
    ) -> None:
        noise = multiplicative_noise_scale
        self._keep(validate_args, total_count=total_count, logits=logits, multiplicative_noise_scale=noise)
        self.num_quad_points = num_quad_points

    @property
    def mean(self) -> Tensor:
        return self.total_count * (self.logits + self.multiplicative_noise_scale.square() / 2).exp()

    @property
    def variance(self) -> Tensor:
        spread = self.multiplicative_noise_scale.square().exp() * (1 + 1 / self.total_count) - 1
        return self.mean + spread * self.mean.square()

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            noise = torch.randn(shape, dtype=self.logits.dtype, device=self.logits.device)
            logits = self.logits + self.multiplicative_noise_scale * noise
            result: Tensor = NegativeBinomial(self.total_count, logits=logits).sample()
            return result

    def log_prob(self, value: Tensor) -> Tensor:
        nodes, weights = np.polynomial.hermite.hermgauss(self.num_quad_points)
        x, w = (torch.as_tensor(v, dtype=self.logits.dtype, device=self.logits.device) for v in (nodes, weights))
        # The rule is for exp(-x^2): the noise is sqrt(2) sigma x.
        noise = self.multiplicative_noise_scale.unsqueeze(-1) * (math.sqrt(2) * x)
        total, logits = broadcast_all(self.total_count.unsqueeze(-1), self.logits.unsqueeze(-1) + noise)
        each = NegativeBinomial(total, logits=logits).log_prob(value.unsqueeze(-1))
        return torch.logsumexp(each + (w / math.sqrt(math.pi)).log(), -1)
