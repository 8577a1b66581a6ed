"""Transforms: torch's, and further ones without trainable parameters. Those with parameters are in `flows`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to as biject_to
from torch.distributions import transform_to as transform_to
from torch.distributions.transforms import *  # noqa: F403
from torch.distributions.transforms import ComposeTransform, CorrCholeskyTransform, ExpTransform, SoftplusTransform
from torch.distributions.transforms import Transform as Transform
from torch.nn import functional as F  # noqa: N812
from torch.nn.functional import logsigmoid, softplus

from varigrad.distributions import constraints
from varigrad.shapes import join


class OrderedTransform(Transform):
    """Real vectors to increasing ones: the first entry, then sums of exponentials."""

    domain: constraints.Constraint = constraints.real_vector
    codomain: constraints.Constraint = constraints.ordered_vector
    bijective = True
    sign = +1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OrderedTransform)

    __hash__ = Transform.__hash__

    def _call(self, x: Tensor) -> Tensor:
        return torch.cat([x[..., :1], x[..., 1:].exp()], -1).cumsum(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.cat([y[..., :1], y.diff(dim=-1).log()], -1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x[..., 1:].sum(-1)


class SimplexToOrderedTransform(Transform):
    r"""Probabilities to the thresholds that cut a logistic of location `anchor_point` into them.

    Args:
        anchor_point: `[*batch, 1]` or a number.
    """

    domain: constraints.Constraint = constraints.simplex
    codomain: constraints.Constraint = constraints.ordered_vector
    bijective = True

    def __init__(self, anchor_point: Tensor | float | None = None, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        self.anchor_point: Tensor = torch.as_tensor(0.0 if anchor_point is None else anchor_point)

    def with_cache(self, cache_size: int = 1) -> SimplexToOrderedTransform:
        return SimplexToOrderedTransform(self.anchor_point, cache_size)

    def _call(self, x: Tensor) -> Tensor:
        below = x.cumsum(-1)[..., :-1]
        return torch.logit(below) + self.anchor_point

    def _inverse(self, y: Tensor) -> Tensor:
        below = torch.sigmoid(y - self.anchor_point)
        ends = torch.zeros_like(below[..., :1])
        return torch.cat([ends, below, ends + 1], -1).diff(dim=-1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        z = y - self.anchor_point
        return -(logsigmoid(z) + logsigmoid(-z)).sum(-1)

    def forward_shape(self, shape: Sequence[int]) -> torch.Size:
        return torch.Size((*shape[:-1], shape[-1] - 1))

    def inverse_shape(self, shape: Sequence[int]) -> torch.Size:
        return torch.Size((*shape[:-1], shape[-1] + 1))


class CholeskyTransform(Transform):
    """Positive-definite matrices to their Cholesky factors."""

    domain: constraints.Constraint = constraints.positive_definite
    codomain: constraints.Constraint = constraints.lower_cholesky
    bijective = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CholeskyTransform)

    __hash__ = Transform.__hash__

    def _call(self, x: Tensor) -> Tensor:
        result: Tensor = torch.linalg.cholesky(x)
        return result

    def _inverse(self, y: Tensor) -> Tensor:
        return y @ y.mT

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        n = y.shape[-1]
        powers = torch.arange(n, 0, -1, dtype=y.dtype, device=y.device)
        return -(n * math.log(2) + (powers * y.diagonal(dim1=-2, dim2=-1).log()).sum(-1))


class CorrMatrixCholeskyTransform(CholeskyTransform):
    """Correlation matrices to their Cholesky factors."""

    domain: constraints.Constraint = constraints.corr_matrix
    codomain: constraints.Constraint = constraints.corr_cholesky

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CorrMatrixCholeskyTransform)

    __hash__ = Transform.__hash__

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        # Free are the entries below the diagonal. dC_ij / dL_ij = L_jj, and row j stands above n - 1 - j others.
        powers = torch.arange(y.shape[-1] - 1, -1, -1, dtype=y.dtype, device=y.device)
        return -(powers * y.diagonal(dim1=-2, dim2=-1).log()).sum(-1)


class CorrLCholeskyTransform(CorrCholeskyTransform):
    """Real vectors to Cholesky factors of correlation matrices; an older name of `CorrCholeskyTransform`."""


class SoftplusLowerCholeskyTransform(Transform):
    """Square matrices to lower-triangular ones with a positive diagonal, by softplus."""

    domain: constraints.Constraint = constraints.independent(constraints.real, 2)
    codomain: constraints.Constraint = constraints.softplus_lower_cholesky

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SoftplusLowerCholeskyTransform)

    __hash__ = Transform.__hash__

    def _call(self, x: Tensor) -> Tensor:
        return x.tril(-1) + softplus(x.diagonal(dim1=-2, dim2=-1)).diag_embed()

    def _inverse(self, y: Tensor) -> Tensor:
        d = y.diagonal(dim1=-2, dim2=-1)
        return y.tril(-1) + (d + torch.log(-torch.expm1(-d))).diag_embed()


class UnitLowerCholeskyTransform(Transform):
    """Square matrices to lower-triangular ones with ones on the diagonal."""

    domain: constraints.Constraint = constraints.independent(constraints.real, 2)
    codomain: constraints.Constraint = constraints.unit_lower_cholesky

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnitLowerCholeskyTransform)

    __hash__ = Transform.__hash__

    def _call(self, x: Tensor) -> Tensor:
        return x.tril(-1) + torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)

    def _inverse(self, y: Tensor) -> Tensor:
        return y.tril(-1)


class LowerCholeskyAffine(Transform):
    """`loc + scale_tril x`.

    Args:
        loc: `[*batch, d]`.
        scale_tril: `[*batch, d, d]`, lower-triangular with a positive diagonal.
    """

    domain: constraints.Constraint = constraints.real_vector
    codomain: constraints.Constraint = constraints.real_vector
    bijective = True

    def __init__(self, loc: Tensor, scale_tril: Tensor, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        self.loc: Tensor = loc
        self.scale_tril: Tensor = scale_tril

    def with_cache(self, cache_size: int = 1) -> LowerCholeskyAffine:
        return LowerCholeskyAffine(self.loc, self.scale_tril, cache_size)

    def _call(self, x: Tensor) -> Tensor:
        return self.loc + (self.scale_tril @ x.unsqueeze(-1)).squeeze(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        right = (y - self.loc).unsqueeze(-1)
        tril = self.scale_tril.expand(right.shape[:-2] + self.scale_tril.shape[-2:])
        result: Tensor = torch.linalg.solve_triangular(tril, right, upper=False).squeeze(-1)
        return result

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        volume = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return volume.expand(join(x.shape[:-1], volume.shape))


class PositivePowerTransform(Transform):
    """`sign(x) |x|^exponent` on the whole line.

    Args:
        exponent: positive.
    """

    domain: constraints.Constraint = constraints.real
    codomain: constraints.Constraint = constraints.real
    bijective = True
    sign = +1

    def __init__(self, exponent: Tensor | float, *, cache_size: int = 0, validate_args: bool | None = None) -> None:
        super().__init__(cache_size=cache_size)
        self.exponent: Tensor = torch.as_tensor(exponent, dtype=torch.get_default_dtype())

    def with_cache(self, cache_size: int = 1) -> PositivePowerTransform:
        return PositivePowerTransform(self.exponent, cache_size=cache_size)

    def _call(self, x: Tensor) -> Tensor:
        return x.abs().pow(self.exponent) * x.sign()

    def _inverse(self, y: Tensor) -> Tensor:
        return y.abs().pow(1 / self.exponent) * y.sign()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.exponent.log() + (self.exponent - 1) * x.abs().log()


class Normalize(Transform):
    """Vectors divided by their length (of order `p`). No bijection."""

    domain: constraints.Constraint = constraints.real_vector
    codomain: constraints.Constraint = constraints.sphere
    bijective = False

    def __init__(self, p: float = 2, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        self.p = p

    def with_cache(self, cache_size: int = 1) -> Normalize:
        return Normalize(self.p, cache_size)

    def _call(self, x: Tensor) -> Tensor:
        result: Tensor = x / x.norm(p=self.p, dim=-1, keepdim=True)
        return result

    def _inverse(self, y: Tensor) -> Tensor:
        return y


class Permute(Transform):
    """Entries along a dimension in another order.

    Args:
        permutation: `[n]`: entry `i` of the result is entry `permutation[i]`.
        dim: the (negative) dimension.
    """

    bijective = True

    def __init__(self, permutation: Tensor, *, dim: int = -1, cache_size: int = 1) -> None:
        if dim >= 0:
            raise ValueError(f"dim counts from the right and is negative, got {dim}")
        super().__init__(cache_size=cache_size)
        self.permutation: Tensor = permutation
        self.dim: int = dim

    @constraints.dependent_property(is_discrete=False)
    def domain(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, -self.dim)

    codomain: constraints.Constraint = domain

    @property
    def inv_permutation(self) -> Tensor:
        """The permutation that undoes this one, `[n]`."""
        return self.permutation.argsort()

    def with_cache(self, cache_size: int = 1) -> Permute:
        return Permute(self.permutation, dim=self.dim, cache_size=cache_size)

    def _call(self, x: Tensor) -> Tensor:
        return x.index_select(self.dim, self.permutation)

    def _inverse(self, y: Tensor) -> Tensor:
        return y.index_select(self.dim, self.inv_permutation)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x.new_zeros(x.shape[: self.dim])


class ELUTransform(Transform):
    """`elu`, entry by entry."""

    domain: constraints.Constraint = constraints.real
    codomain: constraints.Constraint = constraints.greater_than(-1.0)
    bijective = True
    sign = +1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ELUTransform)

    __hash__ = Transform.__hash__

    def _call(self, x: Tensor) -> Tensor:
        return F.elu(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.where(y > 0, y, y.clamp(max=0).log1p())

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x.clamp(max=0)


class LeakyReLUTransform(Transform):
    """`leaky_relu` of slope 0.01, entry by entry."""

    domain: constraints.Constraint = constraints.real
    codomain: constraints.Constraint = constraints.real
    bijective = True
    sign = +1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LeakyReLUTransform)

    __hash__ = Transform.__hash__

    def _call(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return F.leaky_relu(y, 100.0)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.where(x >= 0, 0.0, math.log(0.01)).to(x.dtype)


_MAPS: tuple[tuple[Any, Callable[[], Transform]], ...] = (
    (constraints.ordered_vector, OrderedTransform),
    (constraints.positive_ordered_vector, lambda: ComposeTransform([OrderedTransform(), ExpTransform()])),
    (constraints.corr_matrix, lambda: ComposeTransform([CorrCholeskyTransform(), CorrMatrixCholeskyTransform().inv])),
    (constraints.softplus_positive, SoftplusTransform),
    (constraints.softplus_lower_cholesky, SoftplusLowerCholeskyTransform),
    (constraints.unit_lower_cholesky, UnitLowerCholeskyTransform),
)
for _constraint, _make in _MAPS:
    for _registry in (biject_to, transform_to):
        _registry.register(_constraint)(lambda _, make=_make: make())
transform_to.register(constraints.sphere)(lambda _: Normalize())
