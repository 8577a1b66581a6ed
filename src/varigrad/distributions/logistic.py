"""The logistic distribution, which torch has only as a transformed uniform."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all
from torch.nn.functional import softplus

from varigrad.distributions.methods import Methods


class Logistic(Methods, td.Distribution):
    r"""Density :math:`e^{-x} / (s (1 + e^{-x})^2)` with :math:`x = (z - \mu) / s`.

    Args:
        loc: `[*batch]`.
        scale: `[*batch]`, positive.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.real
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

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        return type(self)(self.loc.expand(batch_shape), self.scale.expand(batch_shape))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
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
