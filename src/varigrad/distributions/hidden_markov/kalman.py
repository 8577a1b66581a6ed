r"""The Kalman filter and smoother of a linear Gaussian chain, by an associative operation.

An element is what one stretch of time says about its two ends, given its observations: the law of the last state
given the one before the stretch, and the likelihood of the stretch as a function of that state,

.. math:: p(z_t \mid z_s, y) = N(A z_s + b, C), \qquad p(y \mid z_s) \propto \exp(\eta' z_s - z_s' J z_s / 2).

Only :math:`I + CJ` is ever inverted, whose eigenvalues are at least one: transitions may be without noise, and there
may be more states than observations. Log-densities are sums over the predicted observations, as in the filter that goes
one time after the other, for the likelihoods above lose their digits where observations are far from zero.

Vectors are columns, and a matrix moves a state by standing to its left. Time is third from the right.

References:
    Särkkä, García-Fernández (2021), Temporal parallelization of Bayesian smoothers. arXiv:1905.13002.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from varigrad.distributions.hidden_markov.scan import Elements, after, matmul, states, states_backwards


class Chain(NamedTuple):
    """The parameters of a linear Gaussian chain, with time one where they are the same at all times.

    Attributes:
        start, start_covariance: the state before the first time, `[*, 1, d, 1]` and `[*, 1, d, d]`.
        move, drift, noise: its transition, `[*, time, d, d]`, `[*, time, d, 1]` and `[*, time, d, d]`.
        look, offset, error: its observation, `[*, time, m, d]`, `[*, time, m, 1]` and `[*, time, m, m]`.
    """

    start: Tensor
    start_covariance: Tensor
    move: Tensor
    drift: Tensor
    noise: Tensor
    look: Tensor
    offset: Tensor
    error: Tensor


class Predicted(NamedTuple):
    """What an observation turns out to be, by what was predicted of it from those before.

    Attributes:
        squares: the squared Mahalanobis distance from the prediction, `[*, time]`; zero where nothing is observed.
        volume: the logarithm of the determinant of the prediction's covariance, `[*, time]`; zero likewise.
    """

    squares: Tensor
    volume: Tensor

    def log_density(self, observed: int | Tensor) -> Tensor:
        """The Gaussian log-density of this many numbers, `[*]`."""
        return -(self.squares.sum(-1) + self.volume.sum(-1) + math.log(2 * math.pi) * observed) / 2


def filtered(chain: Chain, value: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the state, given the observations so far, before the first time and at each time.

    Args:
        chain: the parameters.
        value: `[*, time, m]`.
        observed: `[*, time]`, where observations count; None: everywhere.

    Returns:
        `[*, 1 + time, d, 1]` and `[*, 1 + time, d, d]`.
    """
    start = (chain.start, chain.start_covariance)
    mean, covariance = states(start, _elements(chain, value, observed), _combined, _forwards)
    return after(chain.start, mean), after(chain.start_covariance, covariance)


def smoothed(chain: Chain, value: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the state at each time, given all observations.

    Args:
        chain: the parameters.
        value: `[*, time, m]`.
        observed: `[*, time]`, where observations count; None: everywhere.

    Returns:
        `[*, time, d, 1]` and `[*, time, d, d]`.
    """
    mean, covariance = (m[..., 1:, :, :] for m in filtered(chain, value, observed))
    end = (torch.zeros_like(chain.start), torch.zeros_like(chain.start_covariance))
    later = tuple(e[..., 1:, :, :] for e in _elements(chain, value, observed))
    weight, precision = (
        after(s, e) for s, e in zip(states_backwards(end, later, _combined, _backwards), end, strict=True)
    )
    gain = _inverse(matmul(covariance, precision))
    return matmul(gain, mean + matmul(covariance, weight)), _symmetric(matmul(gain, covariance))


def predicted(chain: Chain, value: Tensor, observed: Tensor | None) -> Predicted:
    """How far each observation is from what those before it predict.

    Args:
        chain: the parameters.
        value: `[*, time, m]`.
        observed: `[*, time]`, where observations count; None: everywhere.
    """
    mean, covariance = (m[..., :-1, :, :] for m in filtered(chain, value, observed))
    mean = matmul(chain.move, mean) + chain.drift
    covariance = matmul(matmul(chain.move, covariance), chain.move.mT) + chain.noise
    deviation = value.unsqueeze(-1) - matmul(chain.look, mean) - chain.offset
    factor = torch.linalg.cholesky(matmul(matmul(chain.look, covariance), chain.look.mT) + chain.error)
    if observed is not None:
        deviation = torch.where(observed[..., None, None], deviation, 0.0)
    scaled = torch.linalg.solve_triangular(factor.expand(*deviation.shape[:-1], -1), deviation, upper=False)
    volume = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return Predicted(scaled.square().sum([-2, -1]), volume if observed is None else torch.where(observed, volume, 0.0))


def _elements(chain: Chain, value: Tensor, observed: Tensor | None) -> Elements:
    """The elements of single times, all with all times: A, b, C, eta, J."""
    deviation = value.unsqueeze(-1) - chain.look @ chain.drift - chain.offset
    # Of a step from a known state: the gain of its observation, and the rest of the noise.
    factor = torch.linalg.cholesky(chain.look @ chain.noise @ chain.look.mT + chain.error)
    gain = torch.cholesky_solve(chain.look @ chain.noise, factor).mT
    seen = chain.look @ chain.move
    weighted = torch.cholesky_solve(seen, factor)
    elements: Elements = (
        chain.move - gain @ seen,
        chain.drift + matmul(gain, deviation),
        _symmetric(chain.noise - gain @ chain.look @ chain.noise),
        matmul(weighted.mT, deviation),
        _symmetric(weighted.mT @ seen),
    )
    if observed is not None:
        zero = torch.zeros_like(seen[..., :1, :1])
        nothing = (chain.move, chain.drift, chain.noise, zero, zero)
        there = observed[..., None, None]
        elements = tuple(torch.where(there, e, n) for e, n in zip(elements, nothing, strict=True))
    return tuple(e.expand(*e.shape[:-3], value.shape[-2], -1, -1) for e in elements)


def _combined(earlier: Elements, later: Elements) -> Elements:
    a_i, b_i, c_i, eta_i, j_i = earlier
    a_j, b_j, c_j, eta_j, j_j = later
    gain = _inverse(matmul(c_i, j_j))
    moved = matmul(gain, a_i)
    through = matmul(a_j, gain)
    return (
        matmul(a_j, moved),
        matmul(through, b_i + matmul(c_i, eta_j)) + b_j,
        matmul(matmul(through, c_i), a_j.mT) + c_j,
        matmul(moved.mT, eta_j - matmul(j_j, b_i)) + eta_i,
        matmul(matmul(moved.mT, j_j), a_i) + j_i,
    )


def _forwards(state: Elements, step: Elements) -> Elements:
    """Mean and covariance of the state after a stretch and given its observations."""
    mean, covariance = state
    a, b, c, eta, j = step
    gain = matmul(a, _inverse(matmul(covariance, j)))
    moved = matmul(gain, mean + matmul(covariance, eta)) + b
    return moved, matmul(matmul(gain, covariance), a.mT) + c


def _backwards(likelihood: Elements, step: Elements) -> Elements:
    """The likelihood, by eta and J, of a stretch and what follows it, as a function of the state before it."""
    eta, j = likelihood
    a, b, c, own_eta, own_j = step
    moved = matmul(_inverse(matmul(c, j)), a)
    weight = matmul(moved.mT, eta - matmul(j, b)) + own_eta
    return weight, matmul(matmul(moved.mT, j), a) + own_j


def _inverse(product: Tensor) -> Tensor:
    """The inverse of the identity plus a product of two positive semi-definite matrices."""
    eye = torch.eye(product.shape[-1], dtype=product.dtype, device=product.device)
    inverse: Tensor = torch.linalg.inv(eye + product)
    return inverse


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.mT) / 2
