"""Multilinear extension: continues log-densities of discrete families linearly between the values of their supports."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as td

from varigrad.distributions.mixin import Masked, filled, masked
from varigrad.distributions.score_only import ScoreOnly
from varigrad.shapes import sum_rightmost


def continued_log_prob(distribution: td.Distribution, value: Tensor) -> Tensor:
    """The log-density, `[*batch]`, continued linearly from the corners of a Bernoulli or one-hot support.

    Equal to `log_prob` on the support; other families are asked for their own `log_prob`. Nothing is validated.
    """
    if isinstance(distribution, td.Independent):
        inner = continued_log_prob(distribution.base_dist, value)
        return sum_rightmost(inner, distribution.reinterpreted_batch_ndims)
    if isinstance(distribution, Masked):
        value = filled(distribution.base, value, distribution.density_mask)
        return masked(continued_log_prob(distribution.base, value), distribution.density_mask)
    if isinstance(distribution, ScoreOnly):
        return continued_log_prob(distribution.base, value)
    if isinstance(distribution, td.Bernoulli):
        positive = torch.nn.functional.softplus(distribution.logits)
        return value * distribution.logits - positive
    if isinstance(distribution, td.OneHotCategorical):
        # An impossible category costs everything, as soon as it is in the value.
        possible = distribution.logits.isfinite()
        inside = value * torch.where(possible, distribution.logits, 0.0)
        return torch.where(possible | (value == 0), inside, -torch.inf).sum(-1)
    return distribution.log_prob(value)
