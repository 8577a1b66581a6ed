"""`MultivariateStudentT`: the multivariate Student-t distribution."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from varigrad.distributions.mixin import Methods
from varigrad.shapes import Shape, join


class MultivariateStudentT(Methods, td.Distribution):
    """A multivariate Normal divided by the root of a chi-square over its degrees of freedom.

    Args:
        df: `[*batch]`, positive.
        loc: `[*batch, d]`.
        scale_tril: `[*batch, d, d]`, lower-triangular with a positive diagonal.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.MultivariateStudentT(4.0, torch.zeros(2), torch.eye(2))
        >>> d.sample().shape, round(d.log_prob(torch.zeros(2)).item(), 4)
        (torch.Size([2]), -1.8379)
    """

    arg_constraints: dict[str, constraints.Constraint] = {
        "df": constraints.positive,
        "loc": constraints.real_vector,
        "scale_tril": constraints.lower_cholesky,
    }
    support: constraints.Constraint = constraints.real_vector
    has_rsample = True

    def __init__(self, df: Tensor | float, loc: Tensor, scale_tril: Tensor, validate_args: bool | None = None) -> None:
        df = torch.as_tensor(df, dtype=loc.dtype, device=loc.device)
        batch = join(df.shape, loc.shape[:-1], scale_tril.shape[:-2])
        d = loc.shape[-1:]
        self.df: Tensor = df.expand(batch)
        self.loc: Tensor = loc.expand(batch + d)
        self.scale_tril: Tensor = scale_tril.expand(batch + d + d)
        self._begin(batch, d, validate_args)

    @property
    def covariance_matrix(self) -> Tensor:
        """`scale_tril scale_tril'`: the scale matrix, which is the covariance only in the limit of many degrees."""
        return self.scale_tril @ self.scale_tril.mT

    @property
    def precision_matrix(self) -> Tensor:
        """The inverse of the scale matrix, `[*batch, d, d]`."""
        return torch.cholesky_inverse(self.scale_tril)

    @property
    def mean(self) -> Tensor:
        return torch.where(self.df.unsqueeze(-1) > 1, self.loc, torch.nan)

    @property
    def variance(self) -> Tensor:
        df = self.df.unsqueeze(-1)
        finite = self.scale_tril.square().sum(-1) * df / (df - 2)
        return torch.where(df > 2, finite, torch.where(df > 1, torch.inf, torch.nan))

    def expand(self, batch_shape: Shape, _instance: td.Distribution | None = None) -> Self:
        shape, d = torch.Size(batch_shape), self.event_shape
        twin = type(self)(self.df.expand(shape), self.loc.expand(shape + d), self.scale_tril.expand(shape + d + d))
        return self._as_told(twin)

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        normal = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        chi2 = td.Chi2(self.df, validate_args=False).rsample(torch.Size(sample_shape))
        return self.loc + (self.scale_tril @ normal.unsqueeze(-1)).squeeze(-1) * (self.df / chi2).sqrt().unsqueeze(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        d, df = self.event_shape[0], self.df
        deviation = (value - self.loc).unsqueeze(-1)
        tril = self.scale_tril.expand(deviation.shape[:-2] + self.scale_tril.shape[-2:])
        squares = torch.linalg.solve_triangular(tril, deviation, upper=False).squeeze(-1).square().sum(-1)
        volume = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        normaliser = ((df + d) / 2).lgamma() - (df / 2).lgamma() - d / 2 * (df * math.pi).log() - volume
        result: Tensor = normaliser - (df + d) / 2 * (squares / df).log1p()
        return result
