"""`Logistic`, which torch has only as a transformed uniform distribution, and `SkewLogistic`."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all
from torch.nn.functional import softplus

from varigrad.distributions.mixin import Methods
from varigrad.distributions.univariate import Univariate
from varigrad.shapes import Shape


class Logistic(Methods, td.Distribution):
    r"""Density :math:`e^{-x} / (s (1 + e^{-x})^2)` with :math:`x = (z - \mu) / s`.

    Args:
        loc: `[*batch]`.
        scale: `[*batch]`, positive.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.Logistic(0.0, 1.0)
        >>> round(d.log_prob(torch.tensor(0.0)).item(), 4)
        -1.3863
    """

    loc: Tensor
    scale: Tensor

    arg_constraints: dict[str, constraints.Constraint] = {"loc": constraints.real, "scale": constraints.positive}
    support: constraints.Constraint = constraints.real
    has_rsample = True

    def __init__(self, loc: Tensor | float, scale: Tensor | float, validate_args: bool | None = None) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return (self.scale * torch.pi).square() / 3

    def expand(self, batch_shape: Shape, _instance: td.Distribution | None = None) -> Self:
        return self._as_told(type(self)(self.loc.expand(batch_shape), self.scale.expand(batch_shape)))

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        uniform = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
        tiny = torch.finfo(uniform.dtype).tiny
        return self.loc + self.scale * (uniform.clamp(min=tiny).log() - (-uniform).log1p())

    def log_prob(self, value: Tensor) -> Tensor:
        x = (value - self.loc) / self.scale
        return x - 2 * softplus(x) - self.scale.log()

    def cdf(self, value: Tensor) -> Tensor:
        return torch.sigmoid((value - self.loc) / self.scale)

    def icdf(self, value: Tensor) -> Tensor:
        return self.loc + self.scale * torch.logit(value)

    def entropy(self) -> Tensor:
        return self.scale.log() + 2


class SkewLogistic(Univariate):
    r"""The power `asymmetry` of a logistic CDF: skewed to the right above 1, to the left below.

    Args:
        loc: `[*batch]`.
        scale: `[*batch]`, positive.
        asymmetry: `[*batch]`, positive.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.SkewLogistic(0.0, 1.0, asymmetry=2.0)
        >>> round(d.log_prob(torch.tensor(0.0)).item(), 4)
        -1.3863
    """

    arg_constraints: dict[str, constraints.Constraint] = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "asymmetry": constraints.positive,
    }
    support: constraints.Constraint = constraints.real
    has_rsample = True
    loc: Tensor
    scale: Tensor
    asymmetry: Tensor

    def __init__(
        self,
        loc: Tensor | float,
        scale: Tensor | float,
        asymmetry: Tensor | float = 1.0,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self._keep(validate_args, loc=loc, scale=scale, asymmetry=asymmetry)

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        return self.icdf(self._uniform(sample_shape, self.loc))

    def log_prob(self, value: Tensor) -> Tensor:
        x = (value - self.loc) / self.scale
        return self.asymmetry.log() - x - (self.asymmetry + 1) * softplus(-x) - self.scale.log()

    def cdf(self, value: Tensor) -> Tensor:
        return torch.sigmoid((value - self.loc) / self.scale).pow(self.asymmetry)

    def icdf(self, value: Tensor) -> Tensor:
        log_power = value.log() / self.asymmetry  # of the logistic's CDF
        return self.loc + self.scale * (log_power - torch.log(-torch.expm1(log_power)))
