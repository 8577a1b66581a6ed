"""Distributions pushed through a fixed map: scaled (`AffineBeta`), folded, or correlation matrices (`LKJ`)."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions.utils import broadcast_all

from varigrad.distributions import constraints
from varigrad.distributions.families import LKJCholesky, TransformedDistribution
from varigrad.distributions.fast_families import Beta
from varigrad.distributions.transforms import AbsTransform, AffineTransform, CorrMatrixCholeskyTransform
from varigrad.shapes import Shape


class AffineBeta(TransformedDistribution):
    """Beta on (`loc`, `loc + scale`).

    Args:
        concentration1, concentration0: `[*batch]`, positive.
        loc: `[*batch]`.
        scale: `[*batch]`, positive.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.AffineBeta(2.0, 3.0, loc=-1.0, scale=4.0)
        >>> bool(-1 < d.sample() < 3)
        True
    """

    loc: Tensor
    scale: Tensor

    arg_constraints: dict[str, constraints.Constraint] = {
        "concentration1": constraints.positive,
        "concentration0": constraints.positive,
        "loc": constraints.real,
        "scale": constraints.positive,
    }

    def __init__(
        self,
        concentration1: Tensor | float,
        concentration0: Tensor | float,
        loc: Tensor | float,
        scale: Tensor | float,
        validate_args: bool | None = None,
    ) -> None:
        a, b, self.loc, self.scale = broadcast_all(concentration1, concentration0, loc, scale)
        super().__init__(Beta(a, b), AffineTransform(self.loc, self.scale), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        return constraints.interval(self.low, self.high)

    @property
    def concentration1(self) -> Tensor:
        assert isinstance(self.base_dist, td.Beta)
        return self.base_dist.concentration1

    @property
    def concentration0(self) -> Tensor:
        assert isinstance(self.base_dist, td.Beta)
        return self.base_dist.concentration0

    @property
    def low(self) -> Tensor:
        return self.loc

    @property
    def high(self) -> Tensor:
        return self.loc + self.scale

    @property
    def mean(self) -> Tensor:
        return self.loc + self.scale * self.base_dist.mean

    @property
    def variance(self) -> Tensor:
        return self.scale.square() * self.base_dist.variance

    def expand(self, batch_shape: Shape, _instance: td.Distribution | None = None) -> Self:
        a, b = self.concentration1.expand(batch_shape), self.concentration0.expand(batch_shape)
        return self._as_told(type(self)(a, b, self.loc.expand(batch_shape), self.scale.expand(batch_shape)))

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        return self._inside(super().rsample(sample_shape))

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        return self._inside(super().sample(sample_shape))

    def _inside(self, value: Tensor) -> Tensor:
        # A draw rounded onto an end would have no finite density.
        edge = torch.finfo(value.dtype).eps * self.scale.detach()
        return torch.max(torch.min(value, self.high - edge), self.low + edge)


class FoldedDistribution(TransformedDistribution):
    """The absolute value of a draw of a univariate `base_dist`.

    Args:
        base_dist: `[*batch]`.

    Raises:
        ValueError: it is not univariate.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.FoldedDistribution(dist.Normal(0.0, 1.0))
        >>> bool(d.sample() >= 0)
        True
    """

    support = constraints.nonnegative

    def __init__(self, base_dist: td.Distribution, validate_args: bool | None = None) -> None:
        if base_dist.event_shape:
            raise ValueError(f"FoldedDistribution takes a univariate base, got {tuple(base_dist.event_shape)}")
        super().__init__(base_dist, AbsTransform(), validate_args=validate_args)

    def expand(self, batch_shape: Shape, _instance: td.Distribution | None = None) -> Self:
        return self._as_told(type(self)(self.base_dist.expand(batch_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        return torch.logaddexp(self.base_dist.log_prob(value), self.base_dist.log_prob(-value))


class LKJ(TransformedDistribution):
    r"""Correlation matrices with density :math:`\propto \det(C)^{\eta - 1}`.

    Args:
        dim: of the matrices.
        concentration: `[*batch]`, :math:`\eta`, positive.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.LKJ(3, concentration=2.0)
        >>> d.sample().shape
        torch.Size([3, 3])
    """

    arg_constraints: dict[str, constraints.Constraint] = {"concentration": constraints.positive}
    support = constraints.corr_matrix

    def __init__(self, dim: int = 2, concentration: Tensor | float = 1.0, validate_args: bool | None = None) -> None:
        base = LKJCholesky(dim, concentration)
        super().__init__(base, CorrMatrixCholeskyTransform().inv, validate_args=validate_args)

    @property
    def concentration(self) -> Tensor:
        assert isinstance(self.base_dist, td.LKJCholesky)
        concentration: Tensor = self.base_dist.concentration
        return concentration

    @property
    def dim(self) -> int:
        """The number of rows of the matrices."""
        assert isinstance(self.base_dist, td.LKJCholesky)
        return self.base_dist.dim

    @property
    def mean(self) -> Tensor:
        like = self.concentration
        return torch.eye(self.dim, dtype=like.dtype, device=like.device).expand(self.batch_shape + self.event_shape)

    def expand(self, batch_shape: Shape, _instance: td.Distribution | None = None) -> Self:
        return self._as_told(type(self)(self.dim, self.concentration.expand(batch_shape)))
