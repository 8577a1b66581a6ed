r"""Spline flows: monotone rational splines, entry by entry, which are flexible and have closed-form inverses.

Inside the box :math:`[-B, B]`, between knots; outside, the identity. Quadratic: the pieces of Durkan et al. with
derivatives given at the knots. Linear: two linear-rational pieces for each bin, as Dolatabadi et al. have them.

References:
    Durkan, Bekasov, Murray, Papamakarios (2019), Neural spline flows.
    Dolatabadi, Erfani, Leckie (2020), Invertible generative modeling using linear rational splines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, softplus

from varigrad.distributions import constraints
from varigrad.distributions.flows.base import TransformModule, VectorTransform
from varigrad.distributions.flows.networks import AutoRegressiveNN, DenseNN
from varigrad.shapes import join

_LEAST = 1e-3


@dataclass(frozen=True, eq=False)
class Knots:
    """The parameters of a spline, unconstrained, each `[*, bins]` or, at the inner knots, `[*, bins - 1]`."""

    widths: Tensor
    heights: Tensor
    derivatives: Tensor
    lambdas: Tensor | None
    bound: float


def _positions(raw: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Knots `[*, bins + 1]` from -bound to bound, and the sizes between them."""
    bins = raw.shape[-1]
    share = _LEAST + (1 - _LEAST * bins) * raw.softmax(-1)
    knots = pad(share.cumsum(-1)[..., :-1], (1, 0))
    knots = torch.cat([2 * bound * knots - bound, torch.full_like(knots[..., :1], bound)], -1)
    return knots, knots.diff(dim=-1)


def through(x: Tensor, knots: Knots, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """The image (or origin) of `x` under a spline, and the logarithm of the derivative there.

    Args:
        x: `[*]`.
        knots: the spline's parameters, whose batch dimensions broadcast with `x`.
        inverse: go from the image to its origin.

    Returns:
        Value and log-derivative, both `[*]`.
    """
    bound = knots.bound
    inside = (x >= -bound) & (x <= bound)
    at = x.clamp(-bound, bound)
    xs, widths = _positions(knots.widths, bound)
    ys, heights = _positions(knots.heights, bound)
    slopes = pad(_LEAST + softplus(knots.derivatives), (1, 1), value=1.0)
    shape = join(x.shape, xs.shape[:-1])
    edges = (ys if inverse else xs).expand(*shape, -1)
    index = torch.searchsorted(edges[..., 1:-1].contiguous(), at.expand(shape).unsqueeze(-1).contiguous(), right=True)

    def pick(values: Tensor) -> Tensor:
        return values.expand(*shape, values.shape[-1]).gather(-1, index).squeeze(-1)

    piece = _linear if knots.lambdas is not None else _quadratic
    parts = [pick(v) for v in (xs[..., :-1], widths, ys[..., :-1], heights, slopes[..., :-1], slopes[..., 1:])]
    if knots.lambdas is not None:
        parts.append(pick(0.95 * knots.lambdas.sigmoid() + 0.025))
    value, log_slope = piece(at.expand(shape), *parts, inverse=inverse)
    log_slope = -log_slope if inverse else log_slope
    return torch.where(inside, value, x), torch.where(inside, log_slope, torch.zeros_like(log_slope))


def _quadratic(
    at: Tensor, x0: Tensor, width: Tensor, y0: Tensor, height: Tensor, d0: Tensor, d1: Tensor, *, inverse: bool
) -> tuple[Tensor, Tensor]:
    """Durkan et al., equations 4 to 8; the derivative is that of the map forward."""
    s = height / width
    bend = d0 + d1 - 2 * s
    if inverse:
        rise = at - y0
        a = height * (s - d0) + rise * bend
        b = height * d0 - rise * bend
        c = -s * rise
        root = (b.square() - 4 * a * c).clamp(min=0).sqrt()
        theta = (2 * c / (-b - root)).clamp(0, 1)
        value = theta * width + x0
    else:
        theta = (at - x0) / width
        value = y0 + height * (s * theta.square() + d0 * theta * (1 - theta)) / (s + bend * theta * (1 - theta))
    mixed = theta * (1 - theta)
    numerator = s.square() * (d1 * theta.square() + 2 * s * mixed + d0 * (1 - theta).square())
    return value, numerator.log() - 2 * (s + bend * mixed).log()


def _linear(
    at: Tensor, x0: Tensor, width: Tensor, y0: Tensor, height: Tensor, d0: Tensor, d1: Tensor, lambdas: Tensor,
    *, inverse: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Two pieces (w_a y_a (l - t) + w_b y_b t) / (w_a (l - t) + w_b t) that meet at t = lambda with equal slopes."""
    s = height / width
    wa = torch.ones_like(s)
    wb = (d0 / d1).sqrt() * wa
    wc = (lambdas * wa * d0 + (1 - lambdas) * wb * d1) / s
    ya, yb = y0, y0 + height
    yc = ((1 - lambdas) * wa * ya + lambdas * wb * yb) / ((1 - lambdas) * wa + lambdas * wb)
    if inverse:
        left = at <= yc
        t_left = lambdas * wa * (ya - at) / (wa * (ya - at) + wc * (at - yc))
        t_right = (wc * (yc - at) + lambdas * wb * (at - yb)) / (wc * (yc - at) + wb * (at - yb))
        t = torch.where(left, t_left, t_right).clamp(0, 1)
        value = t * width + x0
    else:
        t = (at - x0) / width
        left = t <= lambdas
        t_low, t_high = torch.where(left, t, lambdas), torch.where(left, lambdas, t)
        low = (wa * ya * (lambdas - t_low) + wc * yc * t_low) / (wa * (lambdas - t_low) + wc * t_low)
        high = (wc * yc * (1 - t_high) + wb * yb * (t_high - lambdas)) / (wc * (1 - t_high) + wb * (t_high - lambdas))
        value = torch.where(left, low, high)
    below = wa * (lambdas - t) + wc * t
    above = wc * (1 - t) + wb * (t - lambdas)
    slope_left = wa * wc * lambdas * (yc - ya) / below.square()
    slope_right = wb * wc * (1 - lambdas) * (yb - yc) / above.square()
    return value, torch.where(left, slope_left, slope_right).log() - width.log()


class _Splined:
    """Interface of the three spline transforms: how many parameters a spline has, and how they are divided."""

    count_bins: int
    bound: float
    order: str

    def _check(self, count_bins: int, bound: float, order: str) -> None:
        if order not in ("linear", "quadratic"):
            raise ValueError(f"order must be 'linear' or 'quadratic', got {order!r}")
        self.count_bins, self.bound, self.order = count_bins, bound, order

    def _knots(self, parts: Sequence[Tensor]) -> Knots:
        widths, heights, derivatives, *rest = parts
        return Knots(widths, heights, derivatives, rest[0] if rest else None, self.bound)


def _sizes(count_bins: int, order: str) -> list[int]:
    return [count_bins, count_bins, count_bins - 1] + ([count_bins] if order == "linear" else [])


class Spline(_Splined, VectorTransform):
    """A spline for each entry of a vector.

    Args:
        input_dim: of the vectors.
        count_bins: pieces of each spline.
        bound: half the width of the box.
        order: `"linear"` or `"quadratic"`.
    """

    def __init__(self, input_dim: int, count_bins: int = 8, bound: float = 3.0, order: str = "linear") -> None:
        super().__init__()
        self._check(count_bins, bound, order)
        self.input_dim = input_dim
        self.unnormalized_widths: nn.Parameter = nn.Parameter(torch.randn(input_dim, count_bins))
        self.unnormalized_heights: nn.Parameter = nn.Parameter(torch.randn(input_dim, count_bins))
        self.unnormalized_derivatives: nn.Parameter = nn.Parameter(torch.randn(input_dim, count_bins - 1))
        self.unnormalized_lambdas: nn.Parameter | None = (
            nn.Parameter(torch.rand(input_dim, count_bins)) if order == "linear" else None
        )

    def _own(self) -> Knots:
        parts = [self.unnormalized_widths, self.unnormalized_heights, self.unnormalized_derivatives]
        return self._knots(parts if self.unnormalized_lambdas is None else [*parts, self.unnormalized_lambdas])

    def _call(self, x: Tensor) -> Tensor:
        y, log_slope = through(x, self._own())
        self._keep(x, log_slope.sum(-1))
        return y

    def _inverse(self, y: Tensor) -> Tensor:
        return through(y, self._own(), inverse=True)[0]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        known = self._kept(x)
        return through(x, self._own())[1].sum(-1) if known is None else known


class SplineCoupling(_Splined, TransformModule):
    """Transforms the first `split_dim` entries by splines (or keeps them); they parametrise the others' splines.

    Args:
        input_dim: of the vectors.
        split_dim: how many entries decide.
        hypernet: from these to the numbers of the others' splines.
        count_bins, bound, order: as for `Spline`.
        identity: keep the first entries as they are.
    """

    domain: constraints.Constraint = constraints.real_vector
    codomain: constraints.Constraint = constraints.real_vector
    bijective = True

    def __init__(
        self,
        input_dim: int,
        split_dim: int,
        hypernet: nn.Module,
        count_bins: int = 8,
        bound: float = 3.0,
        order: str = "linear",
        identity: bool = False,
    ) -> None:
        super().__init__()
        self._check(count_bins, bound, order)
        self.input_dim: int = input_dim
        self.split_dim: int = split_dim
        self.nn: nn.Module = hypernet
        self.identity: bool = identity
        self.lower_spline: Spline | None = None if identity else Spline(split_dim, count_bins, bound, order)

    def _others(self, kept: Tensor) -> Knots:
        moved = self.input_dim - self.split_dim
        return self._knots([p.unflatten(-1, (moved, -1)) for p in self.nn(kept)])

    def _call(self, x: Tensor) -> Tensor:
        y, log_det = self._both(x)
        self._keep(x, log_det)
        return y

    def _both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = x[..., : self.split_dim], x[..., self.split_dim :]
        second, log_slope = through(moved, self._others(kept))
        log_det = log_slope.sum(-1)
        if self.lower_spline is None:
            return torch.cat([kept, second], -1), log_det
        first, log_slope = through(kept, self.lower_spline._own())
        return torch.cat([first, second], -1), log_det + log_slope.sum(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        first, moved = y[..., : self.split_dim], y[..., self.split_dim :]
        kept = first if self.lower_spline is None else self.lower_spline._inverse(first)
        return torch.cat([kept, through(moved, self._others(kept), inverse=True)[0]], -1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        known = self._kept(x)
        return self._both(x)[1] if known is None else known


class SplineAutoregressive(_Splined, VectorTransform):
    """A spline for each entry, parametrised by those before it. The inverse takes a pass for each entry.

    Args:
        input_dim: of the vectors.
        autoregressive_nn: gives the numbers of the splines.
        count_bins, bound, order: as for `Spline`.
    """

    def __init__(
        self, input_dim: int, autoregressive_nn: nn.Module, count_bins: int = 8, bound: float = 3.0,
        order: str = "linear",
    ) -> None:  # fmt: skip
        super().__init__()
        self._check(count_bins, bound, order)
        self.input_dim: int = input_dim
        self.arn: nn.Module = autoregressive_nn

    def _own(self, x: Tensor) -> Knots:
        return self._knots([p.mT for p in self.arn(x)])

    def _call(self, x: Tensor) -> Tensor:
        y, log_slope = through(x, self._own(x))
        self._keep(x, log_slope.sum(-1))
        return y

    def _inverse(self, y: Tensor) -> Tensor:
        x = torch.zeros_like(y)
        for _ in range(y.shape[-1]):
            x = through(y, self._own(x), inverse=True)[0]
        return x

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        known = self._kept(x)
        return through(x, self._own(x))[1].sum(-1) if known is None else known


def spline(input_dim: int, count_bins: int = 8, bound: float = 3.0, order: str = "linear") -> Spline:
    """Make a `Spline`.

    Args:
        input_dim: number of variables.
        count_bins: pieces of the spline, for each variable.
        bound: the spline acts on `[-bound, bound]`; outside it is the identity.
        order: "linear" or "quadratic", the degree of each piece's numerator and denominator.
    """
    return Spline(input_dim, count_bins, bound, order)


def spline_coupling(
    input_dim: int, split_dim: int | None = None, hidden_dims: Sequence[int] | None = None, count_bins: int = 8,
    bound: float = 3.0, order: str = "linear",
) -> SplineCoupling:  # fmt: skip
    """Make a `SplineCoupling` with a dense network.

    Args:
        input_dim: number of variables.
        split_dim: how many of them stay as they are; default: half.
        hidden_dims: sizes of the network's hidden layers; default: two of `10 * input_dim`.
        count_bins, bound, order: see `spline`.
    """
    split = input_dim // 2 if split_dim is None else split_dim
    hidden = [input_dim * 10] * 2 if hidden_dims is None else list(hidden_dims)
    net = DenseNN(split, hidden, [(input_dim - split) * n for n in _sizes(count_bins, order)])
    return SplineCoupling(input_dim, split, net, count_bins, bound, order)


def spline_autoregressive(
    input_dim: int, hidden_dims: Sequence[int] | None = None, count_bins: int = 8, bound: float = 3.0,
    order: str = "linear",
) -> SplineAutoregressive:  # fmt: skip
    """Make a `SplineAutoregressive` with an autoregressive network.

    Args:
        input_dim: number of variables.
        hidden_dims: sizes of the network's hidden layers; default: two of `10 * input_dim`.
        count_bins, bound, order: see `spline`.
    """
    hidden = [input_dim * 10] * 2 if hidden_dims is None else list(hidden_dims)
    net = AutoRegressiveNN(input_dim, hidden, param_dims=_sizes(count_bins, order))
    return SplineAutoregressive(input_dim, net, count_bins, bound, order)
