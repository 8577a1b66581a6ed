r"""Planar, radial and Sylvester flows: add a bump along few directions to a vector.

References:
    Rezende, Mohamed (2015), Variational inference with normalizing flows.
    van den Berg, Hasenclever, Tomczak, Welling (2018), Sylvester normalizing flows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from varigrad.distributions.flows.base import Cached, VectorTransform, uniform_


class Planar(VectorTransform):
    r""":math:`y = x + \hat u \tanh(w \cdot x + b)`, with :math:`\hat u` such that it can be inverted.

    Args:
        input_dim: of the vectors.
    """

    def __init__(self, input_dim: int) -> None:
        super().__init__()
        self.input_dim = input_dim
        self.bias: nn.Parameter = nn.Parameter(torch.zeros(1))
        self.u: nn.Parameter = nn.Parameter(torch.empty(input_dim))
        self.w: nn.Parameter = nn.Parameter(torch.empty(input_dim))
        for parameter in (self.u, self.w):
            uniform_(parameter, input_dim**-0.5)

    def _u_hat(self) -> Tensor:
        # w.u >= -1 keeps the map invertible: u moves along w until that holds.
        along = (self.u * self.w).sum(-1, keepdim=True)
        return self.u + (softplus(along) - 1 - along) * self.w / self.w.square().sum(-1, keepdim=True)

    def _height(self, x: Tensor) -> Tensor:
        return ((self.w * x).sum(-1, keepdim=True) + self.bias).tanh()

    def _call(self, x: Tensor) -> Tensor:
        return x + self._u_hat() * self._height(x)

    def _inverse(self, y: Tensor) -> Tensor:
        u = self._u_hat()
        slope, target = (self.w * u).sum(-1, keepdim=True), (self.w * y).sum(-1, keepdim=True)
        # Along w it is one increasing function, a + (w.u) tanh(a + b), whose root is within |w.u| of the target.
        with torch.no_grad():
            low, high = target - slope.abs(), target + slope.abs()
            for _ in range(60):
                middle = (low + high) / 2
                above = middle + slope * (middle + self.bias).tanh() > target
                low, high = torch.where(above, low, middle), torch.where(above, middle, high)
            root = (low + high) / 2
        # One step of Newton's carries the gradients of the root.
        t = (root + self.bias).tanh()
        root = root - (root + slope * t - target) / (1 + slope * (1 - t.square())).detach()
        return y - u * (root + self.bias).tanh()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        height = self._height(x).squeeze(-1)
        return torch.log1p((1 - height.square()) * (self._u_hat() * self.w).sum(-1)).expand(x.shape[:-1])


class Radial(VectorTransform):
    r""":math:`y = x + \frac{\beta}{\alpha + r} (x - x_0)`, with :math:`r = |x - x_0|` and :math:`\beta > -\alpha`.

    Args:
        input_dim: of the vectors.
    """

    def __init__(self, input_dim: int) -> None:
        super().__init__()
        self.input_dim = input_dim
        self.x0: nn.Parameter = nn.Parameter(torch.empty(input_dim))
        self.alpha_prime: nn.Parameter = nn.Parameter(torch.empty(1))
        self.beta_prime: nn.Parameter = nn.Parameter(torch.empty(1))
        for parameter in (self.x0, self.alpha_prime, self.beta_prime):
            uniform_(parameter, input_dim**-0.5)

    def _alpha_and_beta(self) -> tuple[Tensor, Tensor]:
        alpha = softplus(self.alpha_prime)
        return alpha, softplus(self.beta_prime) - alpha

    def _call(self, x: Tensor) -> Tensor:
        alpha, beta = self._alpha_and_beta()
        away = x - self.x0
        result: Tensor = x + beta / (alpha + away.norm(dim=-1, keepdim=True)) * away
        return result

    def _inverse(self, y: Tensor) -> Tensor:
        alpha, beta = self._alpha_and_beta()
        away = y - self.x0
        length = away.norm(dim=-1, keepdim=True)
        # r (1 + beta / (alpha + r)) = length is quadratic in r.
        half = (alpha + beta - length) / 2
        r = -half + (half.square() + alpha * length).sqrt()
        result: Tensor = self.x0 + away / (1 + beta / (alpha + r))
        return result

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        alpha, beta = self._alpha_and_beta()
        r = (x - self.x0).norm(dim=-1)
        stretch = beta / (alpha + r)
        result: Tensor = (x.shape[-1] - 1) * stretch.log1p() + (stretch - beta * r / (alpha + r).square()).log1p()
        return result


class Householder(VectorTransform):
    """One or several Householder reflections, whose Jacobian has absolute determinant one.

    Args:
        input_dim: of the vectors.
        count_transforms: how many reflections.
    """

    volume_preserving = True

    def __init__(self, input_dim: int, count_transforms: int = 1) -> None:
        if not 1 <= count_transforms <= input_dim:
            raise ValueError(f"count_transforms must be between 1 and {input_dim}, got {count_transforms}")
        super().__init__()
        self.u_unnormed: nn.Parameter = nn.Parameter(torch.empty(count_transforms, input_dim))
        uniform_(self.u_unnormed, input_dim**-0.5)

    def _reflected(self, x: Tensor, directions: Tensor) -> Tensor:
        for u in directions:
            x = x - 2 * (x * u).sum(-1, keepdim=True) * u
        return x

    def _directions(self) -> Tensor:
        result: Tensor = self.u_unnormed / self.u_unnormed.norm(dim=-1, keepdim=True)
        return result

    def _call(self, x: Tensor) -> Tensor:
        return self._reflected(x, self._directions())

    def _inverse(self, y: Tensor) -> Tensor:
        return self._reflected(y, self._directions().flip(0))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x.new_zeros(x.shape[:-1])


class Sylvester(Cached, Householder):
    r""":math:`y = x + Q R \tanh(S Q^T x + b)` with a rotation :math:`Q` and triangular :math:`R, S`. No inverse.

    Args:
        input_dim: of the vectors.
        count_transforms: how many reflections make the rotation.
    """

    volume_preserving = False

    def __init__(self, input_dim: int, count_transforms: int = 1) -> None:
        super().__init__(input_dim, count_transforms)
        d = input_dim
        self.R_dense: nn.Parameter = nn.Parameter(torch.empty(d, d))
        self.S_dense: nn.Parameter = nn.Parameter(torch.empty(d, d))
        self.R_diag: nn.Parameter = nn.Parameter(torch.empty(d))
        self.S_diag: nn.Parameter = nn.Parameter(torch.empty(d))
        self.b: nn.Parameter = nn.Parameter(torch.empty(d))
        for parameter in (self.R_dense, self.S_dense, self.R_diag, self.S_diag, self.b):
            uniform_(parameter, 0.01)

    def _triangles(self) -> tuple[Tensor, Tensor]:
        # Diagonals within (-1, 1): with tanh' <= 1 the Jacobian's diagonal, 1 + tanh' R_ii S_ii, stays positive.
        return tuple(  # type: ignore[return-value]
            dense.triu(1) + diagonal.tanh().diag()
            for dense, diagonal in ((self.R_dense, self.R_diag), (self.S_dense, self.S_diag))
        )

    def _rotation(self) -> Tensor:
        eye = torch.eye(self.R_diag.shape[0], dtype=self.R_diag.dtype, device=self.R_diag.device)
        return self._reflected(eye, self._directions()).mT

    def _call(self, x: Tensor) -> Tensor:
        q, (r, s) = self._rotation(), self._triangles()
        bump = (x @ q @ s.mT + self.b).tanh()
        return x + bump @ r.mT @ q.mT

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        q, (r, s) = self._rotation(), self._triangles()
        slope = 1 - (x @ q @ s.mT + self.b).tanh().square()
        # det(I + R diag(slope) S), both upper-triangular.
        return torch.log1p(slope * r.diagonal() * s.diagonal()).sum(-1)

    _inverse = Cached._inverse


def planar(input_dim: int) -> Planar:
    """Make a `Planar` flow on `input_dim` variables."""
    return Planar(input_dim)


def radial(input_dim: int) -> Radial:
    """Make a `Radial` flow on `input_dim` variables."""
    return Radial(input_dim)


def householder(input_dim: int, count_transforms: int | None = None) -> Householder:
    """A `Householder` flow; default: half as many reflections as there are dimensions, plus one."""
    return Householder(input_dim, input_dim // 2 + 1 if count_transforms is None else count_transforms)


def sylvester(input_dim: int, count_transforms: int | None = None) -> Sylvester:
    """A `Sylvester` flow; default: half as many reflections as there are dimensions, plus one."""
    return Sylvester(input_dim, input_dim // 2 + 1 if count_transforms is None else count_transforms)
