"""Reductions of tables of log-densities over some dimensions: sum, maximum, and sum with a sampled derivative.

All three may stand for each other in an elimination. The derivative of the result by a table's entry is then the
posterior probability of that entry, whether it is part of a most probable assignment, or whether it is part of an
assignment drawn from the posterior.

References:
    Darwiche (2003), A differential approach to inference in Bayesian networks. doi:10.1145/765568.765570.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from varigrad.distributions.log_space import Reduction as Reduction
from varigrad.distributions.log_space import log_sum_exp as log_sum_exp
from varigrad.distributions.rng import Source


def log_max(table: Tensor, dims: Sequence[int]) -> Tensor:
    """The largest entry, with a derivative of one at the first entry that attains it and of zero elsewhere."""
    flat = _last(table, dims)
    return flat.gather(-1, flat.detach().argmax(-1, keepdim=True)).squeeze(-1)


def sampled_sum(source: Source) -> Reduction:
    """`log_sum_exp`, with a derivative of one at a single entry: one drawn in proportion to the exponentials.

    Along the chain rule such derivatives make up a draw from the joint posterior: backward sampling.

    Args:
        source: where the draws come from.
    """

    def reduce(table: Tensor, dims: Sequence[int]) -> Tensor:
        flat = _last(table, dims)
        total = log_sum_exp(flat.detach(), [-1])
        possible = total.isfinite()
        logits = torch.where(possible.unsqueeze(-1), flat.detach(), 0.0)
        index = source.draw(torch.distributions.Categorical(logits=logits, validate_args=False))
        chosen = flat.gather(-1, index.unsqueeze(-1)).squeeze(-1)
        return torch.where(possible, total + (chosen - chosen.detach()), -torch.inf)

    return reduce


def _last(table: Tensor, dims: Sequence[int]) -> Tensor:
    """The table with these dimensions as one, the last."""
    kept = [d for d in range(table.dim()) if d not in {d % table.dim() for d in dims}]
    moved = table.permute(*kept, *dims)
    return moved.reshape(*[table.shape[d] for d in kept], -1)
