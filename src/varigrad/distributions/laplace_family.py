"""Relatives of the Laplace distribution: `SoftLaplace` is smooth, the asymmetric ones have two different tails."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import constraints

from varigrad.distributions.univariate import Univariate
from varigrad.shapes import Shape


class SoftLaplace(Univariate):
    r"""Tails of a Laplace, infinitely smooth: density :math:`\operatorname{sech}(x) / (\pi s)`, :math:`x = (z-\mu)/s`.

    Args:
        loc: `[*batch]`.
        scale: `[*batch]`, positive.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.SoftLaplace(0.0, 1.0)
        >>> round(d.log_prob(torch.tensor(0.0)).item(), 4)
        -1.1447
    """

    arg_constraints: dict[str, constraints.Constraint] = {"loc": constraints.real, "scale": constraints.positive}
    support: constraints.Constraint = constraints.real
    has_rsample = True
    loc: Tensor
    scale: Tensor

    def __init__(self, loc: Tensor | float, scale: Tensor | float, *, validate_args: bool | None = None) -> None:
        self._keep(validate_args, loc=loc, scale=scale)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return (self.scale * (math.pi / 2)).square()

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        return self.icdf(self._uniform(sample_shape, self.loc))

    def log_prob(self, value: Tensor) -> Tensor:
        x = (value - self.loc) / self.scale
        return math.log(2 / math.pi) - self.scale.log() - torch.logaddexp(x, -x)

    def cdf(self, value: Tensor) -> Tensor:
        return ((value - self.loc) / self.scale).exp().atan() * (2 / math.pi)

    def icdf(self, value: Tensor) -> Tensor:
        return self.loc + self.scale * (value * (math.pi / 2)).tan().log()


class _TwoTails(Univariate):
    """Interface of families with two tails, whose scales have a given geometric mean and ratio."""

    scale: Tensor
    asymmetry: Tensor

    @property
    def left_scale(self) -> Tensor:
        return self.scale * self.asymmetry

    @property
    def right_scale(self) -> Tensor:
        return self.scale / self.asymmetry


class AsymmetricLaplace(_TwoTails):
    r"""Exponential tails of scale :math:`s a` on the left and :math:`s / a` on the right of `loc`.

    Args:
        loc: `[*batch]`, the mode.
        scale: `[*batch]`, positive; the geometric mean of both scales.
        asymmetry: `[*batch]`, positive; the square root of the ratio of the left scale to the right.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.AsymmetricLaplace(0.0, 1.0, asymmetry=2.0)
        >>> round(d.log_prob(torch.tensor(-1.0)).item(), 4)
        -1.4163
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
        asymmetry: Tensor | float,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self._keep(validate_args, loc=loc, scale=scale, asymmetry=asymmetry)

    @property
    def mean(self) -> Tensor:
        return self.loc + self.right_scale - self.left_scale

    @property
    def variance(self) -> Tensor:
        return self.left_scale.square() + self.right_scale.square()

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        left, right = (-self._uniform(sample_shape, self.loc).log() for _ in range(2))
        return self.loc + self.right_scale * right - self.left_scale * left

    def log_prob(self, value: Tensor) -> Tensor:
        d = value - self.loc
        steepness = torch.where(d < 0, self.left_scale, self.right_scale)
        return -d.abs() / steepness - (self.left_scale + self.right_scale).log()


class SoftAsymmetricLaplace(_TwoTails):
    r"""An asymmetric Laplace plus Normal noise of scale :math:`s \cdot` `softness`.

    Args:
        loc: `[*batch]`.
        scale: `[*batch]`, positive; the geometric mean of both tails' scales.
        asymmetry: `[*batch]`, positive; the square root of the ratio of the left scale to the right.
        softness: `[*batch]`, positive.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.SoftAsymmetricLaplace(0.0, 1.0, asymmetry=2.0, softness=0.5)
        >>> round(d.log_prob(torch.tensor(-1.0)).item(), 4)
        -1.3989
    """

    arg_constraints: dict[str, constraints.Constraint] = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "asymmetry": constraints.positive,
        "softness": constraints.positive,
    }
    support: constraints.Constraint = constraints.real
    has_rsample = True
    loc: Tensor
    scale: Tensor
    asymmetry: Tensor
    softness: Tensor

    def __init__(
        self,
        loc: Tensor | float,
        scale: Tensor | float,
        asymmetry: Tensor | float = 1.0,
        softness: Tensor | float = 1.0,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self._keep(validate_args, loc=loc, scale=scale, asymmetry=asymmetry, softness=softness)

    @property
    def soft_scale(self) -> Tensor:
        return self.scale * self.softness

    @property
    def mean(self) -> Tensor:
        return self.loc + self.right_scale - self.left_scale

    @property
    def variance(self) -> Tensor:
        return self.left_scale.square() + self.right_scale.square() + self.soft_scale.square()

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        left, right = (-self._uniform(sample_shape, self.loc).log() for _ in range(2))
        normal = torch.randn(left.shape, dtype=left.dtype, device=left.device)
        return self.loc + self.soft_scale * normal + self.right_scale * right - self.left_scale * left

    def log_prob(self, value: Tensor) -> Tensor:
        d, soft, left, right = value - self.loc, self.soft_scale, self.left_scale, self.right_scale

        def tail(x: Tensor, scale: Tensor) -> Tensor:
            # The convolution of exp(-x / scale) on x > 0 with the Normal.
            result: Tensor = (soft / scale).square() / 2 - x / scale + torch.special.log_ndtr(x / soft - soft / scale)
            return result

        return torch.logaddexp(tail(d, right), tail(-d, left)) - (left + right).log()
