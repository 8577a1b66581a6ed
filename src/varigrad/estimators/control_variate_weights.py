r"""Coefficients of control variates, by least squares from past draws.

An estimate :math:`g_0 + \sum_i a_i g_i`, where the :math:`g_i` have mean zero, has the least variance at the solution
of :math:`\sum_j E[g_i g_j]\, a_j = -E[g_i g_0]`. There is no learning rate, and since the coefficients depend on past
draws only, the estimate's mean stays the same. The regression has a constant besides: without it the control variates
would fit the gradient itself, as far as their own means over a finite number of draws are not zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from varigrad.estimators.base import State, tensor_of, tuple_of

DECAY = 0.99
"""Decay of the sums over past draws, which are worth at most a hundred draws."""

FADING = 0.8
"""Decay of the weight that the start coefficients have against those from past draws."""


def coefficients(state: State, start: Sequence[float], like: Tensor) -> Tensor:
    """The coefficients of control variates that past draws recommend.

    Args:
        state: what `learnt` returned in the last step, or None.
        start: one coefficient for each control, used as long as there are no past draws.
        like: a tensor with the dtype and the device that are wanted.

    Returns:
        `[controls]`.
    """
    believed = like.new_tensor([*start, 0.0])
    if state is None:
        return believed[:-1]
    cross, square, belief = (tensor_of(part).to(like) for part in tuple_of(state))
    # A little more on the diagonal: control variates may be multiples of each other.
    finfo = torch.finfo(square.dtype)
    more = belief + square.diagonal() * 100 * finfo.eps + finfo.tiny
    return solved(square + more.diag_embed(), belief * believed - cross)[:-1]


def learnt(
    state: State, plain: Tensor, controls: Sequence[Tensor], worth: float = 1.0, fading: float = FADING
) -> State:
    """What past draws and this one say about control variates and a constant.

    Args:
        state: what the last step returned.
        plain, controls: gradients of one shape; means are taken over all entries.
        worth: how many draws the start counts as much as, at first.
        fading: what is left of that after each draw.

    Returns:
        Products with the plain gradient, `[n]`; with each other, `[n, n]`; and the weight of the start, `[n]`.
    """
    stacked = torch.stack([plain, *controls, torch.ones_like(plain)]).detach().reshape(2 + len(controls), -1)
    products = stacked @ stacked.mT / stacked.shape[1]
    cross, square = products[1:, 0], products[1:, 1:]
    if state is None:
        return cross, square, worth * square.diagonal()
    old_cross, old_square, belief = (tensor_of(part).to(cross) for part in tuple_of(state))
    return DECAY * old_cross + cross, DECAY * old_square + square, fading * belief


def solved(square: Tensor, right: Tensor) -> Tensor:
    """The solution of a few linear equations with a positive matrix, by elimination."""
    rows = torch.cat([square, right.unsqueeze(-1)], -1)
    for i in range(len(right)):
        pivot = rows[i] / rows[i, i]
        rows = torch.stack([pivot if j == i else rows[j] - rows[j, i] * pivot for j in range(len(right))])
    return rows[:, -1]


def units(state: State, like: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of past costs and their spread, for networks that see, or make, numbers of size one."""
    if state is None:
        return like.new_zeros(()), like.new_ones(())
    centre, square = (tensor_of(part).to(like) for part in tuple_of(state))
    return centre, square.sqrt()


def following_units(state: State, cost: Tensor) -> State:
    """Decaying averages of costs and of their squared distance from it."""
    old = None if state is None else [tensor_of(part).to(cost) for part in tuple_of(state)]
    centre = cost.mean() if old is None else torch.lerp(old[0], cost.mean(), 1 - DECAY)
    square = (cost - centre).square().mean()
    # One cost alone does not spread; then its size will do.
    fresh = torch.where(square > 0, square, centre.square() + torch.finfo(cost.dtype).tiny)
    return centre, fresh if old is None else torch.lerp(old[1], fresh, 1 - DECAY)
