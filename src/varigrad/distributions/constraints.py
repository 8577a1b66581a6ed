"""Constraints: torch's, further ones, and the bijections from unconstrained values to them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints as _torch
from torch.distributions.constraints import *  # noqa: F403
from torch.distributions.constraints import Constraint as Constraint
from torch.distributions.constraints import MixtureSameFamilyConstraint as MixtureSameFamilyConstraint


class _Integer(Constraint):
    """Whole numbers of any sign."""

    is_discrete = True

    def check(self, value: Tensor) -> Tensor:
        return value % 1 == 0


class _OrderedVector(Constraint):
    """Vectors whose entries increase."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        return (value[..., 1:] > value[..., :-1]).all(-1)


class _PositiveOrderedVector(_OrderedVector):
    """Vectors whose entries are positive and increase."""

    def check(self, value: Tensor) -> Tensor:
        return super().check(value) & (value[..., :1] > 0).all(-1)


class _Sphere(Constraint):
    """Vectors of length one."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        tolerance = torch.finfo(value.dtype).eps * value.shape[-1] ** 0.5 * 10
        result: Tensor = (value.norm(dim=-1) - 1).abs() < tolerance
        return result


class _CorrMatrix(Constraint):
    """Positive-definite matrices with ones on the diagonal."""

    event_dim = 2

    def check(self, value: Tensor) -> Tensor:
        ones = (value.diagonal(dim1=-2, dim2=-1) - 1).abs() < 1e-6
        result: Tensor = ones.all(-1) & _torch.positive_definite.check(value)
        return result


class _UnitLowerCholesky(Constraint):
    """Lower-triangular matrices with ones on the diagonal."""

    event_dim = 2

    def check(self, value: Tensor) -> Tensor:
        below = (value.tril() == value).flatten(-2).all(-1)
        return below & (value.diagonal(dim1=-2, dim2=-1) == 1).all(-1)


class _SoftplusPositive(type(_torch.positive)):  # type: ignore[misc]
    """Positive, reached by softplus instead of exp."""

    def __init__(self) -> None:
        super().__init__(lower_bound=0.0)


class _SoftplusLowerCholesky(type(_torch.lower_cholesky)):  # type: ignore[misc]
    """Lower-triangular with a positive diagonal, reached by softplus instead of exp."""


integer: Constraint = _Integer()
ordered_vector: Constraint = _OrderedVector()
positive_ordered_vector: Constraint = _PositiveOrderedVector()
sphere: Constraint = _Sphere()
corr_matrix: Constraint = _CorrMatrix()
unit_lower_cholesky: Constraint = _UnitLowerCholesky()
softplus_positive: Constraint = _SoftplusPositive()
softplus_lower_cholesky: Constraint = _SoftplusLowerCholesky()
