"""The forward and backward recursions of a chain of discrete states, in log-space.

Both recursions are products of matrices `factor[t][i, j]`: the log-probability of moving from state i to j and of the
observation at that time. There are two ways to take the products:

* the scan, of matrices with matrices: `states ** 3` numbers a time, in about `2 log2(times)` operations, and a graph of
  that size;
* the loop, of a vector with one matrix after the other: `states ** 2` numbers a time, in `times` operations.

`in_levels` chooses, by counts. Processor time of a log-density and its gradient on one core, in milliseconds:

| times | sequences | states | numbers in a step | scan | loop |
|---|---|---|---|---|---|
| 1000 | 1 | 2 | 8 | 3 | 157 |
| 1000 | 1 | 16 | 4,096 | 61 | 170 |
| 1000 | 100 | 4 | 6,400 | 191 | 248 |
| 1000 | 1 | 24 | 13,824 | 208 | 179 |
| 1000 | 1 | 32 | 32,768 | 524 | 138 |
| 1000 | 1000 | 4 | 64,000 | 2,045 | 944 |
| 100 | 1 | 16 | 4,096 | 6 | 14 |
| 100 | 1 | 32 | 32,768 | 34 | 15 |

Where they are about equal the scan is taken, because a compiled step has a statement for each step of the loop. The
measurement is provisional: other programs ran on the same machine.
"""

from __future__ import annotations

import torch
from torch import Tensor

from varigrad.distributions.hidden_markov.scan import Operation, product, states, states_backwards
from varigrad.distributions.log_space import Reduction, log_matmul, log_sum_exp

NUMBERS_IN_A_STEP = 2**14
"""The scan is chosen where one product of matrices, of all sequences of the batch, has at most so many numbers."""
NUMBERS_AT_ONCE = 2**27
"""The scan is chosen where its largest table has at most so many numbers."""


def in_levels(factors: Tensor) -> bool:
    """Whether to take the products of these factors, `[*batch, time, states, states]`, by the scan."""
    numbers = factors.shape[:-3].numel() * factors.shape[-1] ** 3
    return numbers <= NUMBERS_IN_A_STEP and numbers * factors.shape[-3] <= NUMBERS_AT_ONCE


def final(initial: Tensor, factors: Tensor) -> Tensor:
    """Log-probabilities of all observations and the last state, `[*batch, states]`.

    Args:
        initial: log-probabilities of the state before the first time, `[*batch, states]`.
        factors: `[*batch, time, states, states]`.
    """
    if in_levels(factors):
        (whole,) = product((factors,), _matmul(log_sum_exp))
        return log_sum_exp(initial.unsqueeze(-1) + whole.squeeze(-3), [-2])
    row = initial.unsqueeze(-2)
    for factor in factors.unbind(-3):
        row = log_matmul(row, factor)
    return row.squeeze(-2)


def forward(initial: Tensor, factors: Tensor, reduction: Reduction = log_sum_exp) -> Tensor:
    """For each time and state, the log-probability of that state and of the observations up to it.

    Args:
        initial: `[*batch, states]`.
        factors: `[*batch, time, states, states]`.
        reduction: the sum, or the maximum: the probability of the most probable path to that state.

    Returns:
        `[*batch, time, states]`.
    """
    if in_levels(factors):
        start = (initial.unsqueeze(-2).unsqueeze(-2),)
        return states(start, (factors,), _matmul(reduction), _matmul(reduction))[0].squeeze(-2)
    rows, row = [], initial.unsqueeze(-2)
    for factor in factors.unbind(-3):
        row = log_matmul(row, factor, reduction)
        rows.append(row)
    return torch.cat(rows, -2)


def backward(factors: Tensor) -> Tensor:
    """For each time and state, the log-probability of the later observations given that state.

    Args:
        factors: `[*batch, time, states, states]`.

    Returns:
        `[*batch, time, states]`, zero at the last time.
    """
    column = torch.zeros_like(factors[..., -1, :, :1])
    if in_levels(factors):
        matmul = _matmul(log_sum_exp)
        end = (column.unsqueeze(-3),)
        (onwards,) = states_backwards(
            end, (factors[..., 1:, :, :],), matmul, lambda later, earlier: matmul(earlier, later)
        )
        return torch.cat([onwards.squeeze(-1), column.mT], -2)
    columns = [column]
    for factor in reversed(factors[..., 1:, :, :].unbind(-3)):
        column = log_matmul(factor, column)
        columns.append(column)
    return torch.cat(columns[::-1], -1).mT


def _matmul(reduction: Reduction) -> Operation:
    return lambda earlier, later: (log_matmul(earlier[0], later[0], reduction),)
