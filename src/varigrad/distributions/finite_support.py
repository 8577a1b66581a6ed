"""The support of one choice, seen through `to_event`: whether its values are finitely many, how many, and which."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

NUMBERS = 2**24
"""A list of values has at most so many numbers."""


def inner_of(distribution: td.Distribution) -> tuple[Any, int]:
    """The distribution inside `.to_event`, and how many dimensions have been declared coordinates."""
    dims = 0
    while isinstance(distribution, td.Independent):
        dims += distribution.reinterpreted_batch_ndims
        distribution = distribution.base_dist
    return distribution, dims


def support_of(distribution: td.Distribution) -> constraints.Constraint | None:
    """The support of one choice, without the dimensions of its event; None where the class declares none."""
    try:
        support: constraints.Constraint | None = distribution.support
    except (NotImplementedError, AttributeError):
        return None
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def count_of(distribution: td.Distribution) -> int | None:
    """How many values one choice can take; None if they are not finitely many. Of torch's families they are counted
    without being listed, which for one-hot vectors takes their number squared.
    """
    if not distribution.has_enumerate_support:
        return None
    base = getattr(distribution, "base", None)
    if isinstance(base, td.Distribution):
        return count_of(base)
    if isinstance(distribution, td.Bernoulli):
        return 2
    if isinstance(distribution, td.Categorical):
        return int(distribution.param_shape[-1])
    if isinstance(distribution, td.OneHotCategorical):
        return int(distribution.event_shape[-1])
    if isinstance(distribution, td.Binomial):
        return int(distribution.total_count.max()) + 1
    return len(distribution.enumerate_support(expand=False))


def listed(distribution: td.Distribution) -> Tensor | None:
    """All values of one choice, `[values, *event]`; None if they are not listed, not the same everywhere, or too many
    for a list.
    """
    count = count_of(distribution)
    if count is None or count * max(1, distribution.event_shape.numel()) > NUMBERS:
        return None
    try:
        return distribution.enumerate_support(expand=False).reshape(-1, *distribution.event_shape)
    except (NotImplementedError, RuntimeError):
        return None


def index_in(values: Tensor, value: Tensor) -> Tensor:
    """Which of the listed values each choice has: `[*batch]` from `[values, *event]` and `[*batch, *event]`."""
    event = values.dim() - 1
    batch = value.shape[: value.dim() - event]
    every = values.reshape(len(values), *(1,) * len(batch), *values.shape[1:])
    return (every == value).reshape(len(values), *batch, -1).all(-1).to(torch.int64).argmax(0)
