r"""Functions of the continuous Bernoulli whose derivatives stay accurate near logits of zero, where it is uniform.

With logits :math:`l` the density on [0, 1] is :math:`e^{lx}\, l / (e^l - 1)`. Its inverse distribution function is
:math:`K_u(l) / l`, where :math:`K_u(l) = \log(1 - u + u e^l)` generates the cumulants :math:`\kappa_n` of a Bernoulli
with probability :math:`u`. So near zero it is :math:`\sum_n \kappa_n l^{n-1} / n!`, with :math:`\kappa_1 = u`.

torch replaces nearly uniform ones by the uniform distribution, whose draws have no derivative.

References:
    Loaiza-Ganem, Cunningham (2019), The continuous Bernoulli: fixing a pervasive error in variational autoencoders.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions.utils import broadcast_all

WINDOW = 0.05
"""Below these logits the series count: their remainder is less than the rounding of double precision."""


def inverse_cdf(logits: Tensor, u: Tensor) -> Tensor:
    """Where the distribution function is `u`; both broadcast."""
    logits, u = broadcast_all(logits, u)
    near = logits.abs() < WINDOW
    small = torch.where(near, logits, 0.0)
    v, skew = u * (1 - u), 1 - 2 * u
    # Cumulants of a Bernoulli divided by v = u(1 - u); the odd ones have the factor 1 - 2u as well.
    fourth = 1 - 6 * v
    fifth = skew * (1 - 12 * v)
    sixth = 1 + v * (-30 + 120 * v)
    seventh = skew * (1 + v * (-60 + 360 * v))
    eighth = 1 + v * (-126 + v * (1680 - 5040 * v))
    inner = seventh / 5040 + small * eighth / 40320
    inner = skew / 6 + small * (fourth / 24 + small * (fifth / 120 + small * (sixth / 720 + small * inner)))
    series = u + small * v * (0.5 + small * inner)
    # The negative of the absolute value keeps the exponential from overflowing: x(u, l) = 1 - x(1 - u, -l).
    far = torch.where(near, 1.0, logits)
    upper = far > 0
    low = torch.where(upper, 1 - u, u)
    scale = -far.abs()
    # 1 + low (e^scale - 1) is the sum of two positive numbers, and cannot round to zero unless both do.
    exact = torch.log(((1 - low) + low * torch.exp(scale)).clamp_min(torch.finfo(u.dtype).tiny)) / scale
    return torch.where(near, series, torch.where(upper, 1 - exact, exact))


def cdf(logits: Tensor, value: Tensor) -> Tensor:
    """The distribution function; both broadcast."""
    logits, value = broadcast_all(logits, value)
    x = value.clamp(0.0, 1.0)
    near = logits.abs() < WINDOW
    small = torch.where(near, logits, 0.0)
    far = torch.where(near, 1.0, logits)
    scale = -far.abs()
    low = torch.where(far > 0, 1 - x, x)
    exact = torch.expm1(scale * low) / torch.expm1(scale)
    exact = torch.where(far > 0, 1 - exact, exact)
    return torch.where(near, x * _relative_expm1(small * x) / _relative_expm1(small), exact)


def log_density(logits: Tensor, value: Tensor) -> Tensor:
    """The log-density at values inside [0, 1]; both broadcast."""
    logits, value = broadcast_all(logits, value)
    near = logits.abs() < WINDOW
    square = torch.where(near, logits, 0.0).square()
    # log((l / 2) / sinh(l / 2)), which is even.
    series = -square * (1 / 24 - square * (1 / 2880 - square * (1 / 181440)))
    far = torch.where(near, 1.0, logits).abs()
    exact = torch.log(far) - torch.log(-torch.expm1(-far)) - far / 2
    return logits * (value - 0.5) + torch.where(near, series, exact)


def _relative_expm1(x: Tensor) -> Tensor:
    """`expm1(x) / x` for small numbers."""
    return 1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5 * (1 + x / 6 * (1 + x / 7 * (1 + x / 8))))))
