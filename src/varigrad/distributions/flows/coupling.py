"""Coupling flows: a network of one part of a vector, which stays unchanged, scales and shifts the other part.

References:
    Dinh, Sohl-Dickstein, Bengio (2017), Density estimation using Real NVP.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from varigrad.distributions import constraints
from varigrad.distributions.flows.base import TransformModule, clamp_preserving_gradients
from varigrad.distributions.flows.networks import DenseNN


class AffineCoupling(TransformModule):
    """Keeps the first `split_dim` entries; a network of them scales and shifts the others.

    Args:
        split_dim: how many are kept.
        hypernet: from the kept entries to shifts and logarithms of scales, each of the others' shape.
        dim: the (negative) dimension that is divided.
        log_scale_min_clip, log_scale_max_clip: bounds of the logarithms.
    """

    bijective = True

    def __init__(
        self,
        split_dim: int,
        hypernet: nn.Module,
        *,
        dim: int = -1,
        log_scale_min_clip: float = -5.0,
        log_scale_max_clip: float = 3.0,
    ) -> None:
        if dim >= 0:
            raise ValueError(f"dim counts from the right and is negative, got {dim}")
        super().__init__()
        self.split_dim: int = split_dim
        self.nn: nn.Module = hypernet
        self.dim: int = dim
        self.log_scale_min_clip: float = log_scale_min_clip
        self.log_scale_max_clip: float = log_scale_max_clip

    @constraints.dependent_property(is_discrete=False)
    def domain(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, -self.dim)

    codomain: constraints.Constraint = domain

    def _divided(self, x: Tensor) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = x.split([self.split_dim, x.shape[self.dim] - self.split_dim], self.dim)
        return result

    def _shift_and_log_scale(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        flat = kept.flatten(self.dim) if self.dim < -1 else kept
        mean, log_scale = self.nn(flat)
        rest = kept.shape[self.dim + 1 :] if self.dim < -1 else torch.Size()
        mean, log_scale = (p.reshape(*p.shape[:-1], -1, *rest) for p in (mean, log_scale))
        return mean, clamp_preserving_gradients(log_scale, self.log_scale_min_clip, self.log_scale_max_clip)

    def _call(self, x: Tensor) -> Tensor:
        kept, moved = self._divided(x)
        mean, log_scale = self._shift_and_log_scale(kept)
        return torch.cat([kept, log_scale.exp() * moved + mean], self.dim)

    def _inverse(self, y: Tensor) -> Tensor:
        kept, moved = self._divided(y)
        mean, log_scale = self._shift_and_log_scale(kept)
        return torch.cat([kept, (moved - mean) * (-log_scale).exp()], self.dim)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        _, log_scale = self._shift_and_log_scale(self._divided(x)[0])
        return log_scale.sum(list(range(self.dim, 0)))


def affine_coupling(
    input_dim: int | Sequence[int],
    hidden_dims: Sequence[int] | None = None,
    split_dim: int | None = None,
    dim: int = -1,
    **kwargs: Any,
) -> AffineCoupling:
    """An `AffineCoupling` with a new dense network.

    Args:
        input_dim: the size of the vectors, or the sizes of the `-dim` rightmost dimensions.
        hidden_dims: of the network; default: two layers of ten times the (divided) size.
        split_dim: how many entries are kept; default: half.
        dim: the (negative) dimension that is divided.
    """
    sizes = [input_dim] if isinstance(input_dim, int) else list(input_dim)
    if len(sizes) != -dim:
        raise ValueError(f"input_dim {sizes} does not have the sizes of the {-dim} rightmost dimensions")
    split = sizes[0] // 2 if split_dim is None else split_dim
    rest = math.prod(sizes[1:])
    hidden = [10 * sizes[0] * rest] * 2 if hidden_dims is None else list(hidden_dims)
    moved = (sizes[0] - split) * rest
    return AffineCoupling(split, DenseNN(split * rest, hidden, [moved, moved]), dim=dim, **kwargs)
