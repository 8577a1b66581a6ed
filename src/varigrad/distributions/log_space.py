"""Sums, products of matrices and normalisation of probabilities that are kept as logarithms.

Minus infinity stands for probability zero. Every function is exact there, and its derivative is zero, never NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Reduction = Callable[[Tensor, Sequence[int]], Tensor]
"""Takes a table and the dimensions to remove, counted from the left or the right; they are gone from the result."""


def log_sum_exp(table: Tensor, dims: Sequence[int]) -> Tensor:
    """The logarithm of the sum of exponentials, with a zero derivative where every entry is minus infinity.

    `torch.logsumexp` has the derivative NaN there. Built of operations that can be differentiated again.

    Args:
        table: log-densities, any shape; minus infinity stands for probability zero.
        dims: the dimensions to sum over.

    Returns:
        The table without these dimensions.

    Example:
        >>> import torch
        >>> log_sum_exp(torch.tensor([[0.5, 0.5], [0.0, 0.0]]).log(), [1])
        tensor([0., -inf])
    """
    dims = list(dims)
    largest = table.detach().amax(dims, keepdim=True)
    shift = torch.where(largest.isinf(), 0.0, largest)
    total = (table - shift).exp().sum(dims)
    possible = total > 0
    return torch.where(possible, torch.where(possible, total, 1.0).log() + shift.squeeze(dims), -torch.inf)


def log_maximum(table: Tensor, dims: Sequence[int]) -> Tensor:
    """The largest entry over some dimensions: the reduction that finds most probable assignments."""
    return table.amax(list(dims))


def log_matmul(first: Tensor, second: Tensor, reduction: Reduction = log_sum_exp) -> Tensor:
    """The product of two matrices of probabilities, all as logarithms.

    A product of shifted exponentials would lose every term that is small beside the largest entries of its row and
    column, and with it the whole entry where no other term is there. The sum over the middle index is therefore taken
    in log-space, which costs the space of `[*, m, k, n]` numbers.

    Args:
        first: `[*, m, k]`.
        second: `[*, k, n]`.
        reduction: what is done over the middle index: the sum, or the maximum.

    Returns:
        `[*, m, n]`.

    Example:
        >>> import torch
        >>> far = torch.tensor([[0.0, -1000.0]])
        >>> log_matmul(far, torch.tensor([[-torch.inf], [0.0]]))
        tensor([[-1000.]])
    """
    return reduction(first.unsqueeze(-1) + second.unsqueeze(-3), [-2])


def normalized(logits: Tensor) -> Tensor:
    """Log-probabilities that sum to one over the last dimension; entries that are all minus infinity stay so."""
    total = log_sum_exp(logits, [-1]).unsqueeze(-1)
    return logits - torch.where(total == -torch.inf, 0.0, total)
