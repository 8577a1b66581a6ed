"""`Flattened`: the distribution of several sites' values as one vector of unconstrained coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from varigrad.distributions.mixin import Methods
from varigrad.distributions.unconstrained import is_identity
from varigrad.shapes import Shape, sum_rightmost


class Flattened(Methods, td.Distribution):
    r"""A distribution of vectors :math:`u`, cut into pieces :math:`u_i` that are mapped to values :math:`T_i(u_i)`.

    Draws are of `base`. The density is the values', so that it can be held against a density of theirs:

    .. math:: \log q(u) - \sum_i \log |\det T_i'(u_i)|

    Args:
        base: the distribution of `u`: `[*batch]`, event `[size]`.
        transforms: one for each piece, from unconstrained values to a support.
        shapes: of the unconstrained pieces, `[*plates, *free]`; their sizes add up to `size`.
        plates: how many leading dimensions of each shape are plates.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    has_rsample = True
    support: constraints.Constraint = constraints.real_vector

    def __init__(
        self,
        base: td.Distribution,
        transforms: Sequence[td.Transform],
        shapes: Sequence[torch.Size],
        plates: Sequence[int],
    ) -> None:
        self.base = base
        self.transforms: tuple[td.Transform, ...] = tuple(transforms)
        self.shapes: tuple[torch.Size, ...] = tuple(shapes)
        self.plates: tuple[int, ...] = tuple(plates)
        self.sizes: tuple[int, ...] = tuple(shape.numel() for shape in shapes)
        td.Distribution.__init__(self, base.batch_shape, base.event_shape, validate_args=False)

    def expand(self, batch_shape: Shape, _instance: td.Distribution | None = None) -> Self:
        return type(self)(self.base.expand(batch_shape), self.transforms, self.shapes, self.plates)

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        return self.base.rsample(sample_shape)

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        return self.base.sample(sample_shape)

    def pieces(self, vector: Tensor) -> list[Tensor]:
        """The unconstrained pieces of `[*batch, size]`, each `[*batch, *plates, *free]`.

        A piece's plates take the place of as many rightmost batch dimensions, which have size 1 there.
        """
        batch = vector.shape[:-1]
        found = []
        for part, shape, plates in zip(vector.split(self.sizes, -1), self.shapes, self.plates, strict=True):
            outer = batch[: max(0, len(batch) - plates)]
            found.append(part.reshape(outer + shape))
        return found

    def values(self, vector: Tensor) -> list[Tensor]:
        """The values that the vector stands for, each `[*batch, *plates, *event]`."""
        return [t if is_identity(f) else f(t) for f, t in zip(self.transforms, self.pieces(vector), strict=True)]

    def log_slope(self, vector: Tensor) -> Tensor:
        r""":math:`\sum_i \log |\det T_i'(u_i)|`, `[*batch]`."""
        total = vector.new_zeros(vector.shape[:-1])
        for transform, piece, shape in zip(self.transforms, self.pieces(vector), self.shapes, strict=True):
            if not is_identity(transform):
                slope = transform.log_abs_det_jacobian(piece, transform(piece))
                outer = piece.dim() - len(shape)
                total = total + sum_rightmost(slope, slope.dim() - outer).reshape(total.shape)
        return total

    def log_prob(self, value: Tensor) -> Tensor:
        return self.base.log_prob(value) - self.log_slope(value)
