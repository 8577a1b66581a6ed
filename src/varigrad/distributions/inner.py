"""One choice inside `.to_event`: which it is, and the values that it can take."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributions as td


def inner_of(distribution: td.Distribution) -> tuple[Any, int]:
    """What is inside `.to_event`, and how many dimensions that has declared to be coordinates."""
    dims = 0
    while isinstance(distribution, td.Independent):
        dims += distribution.reinterpreted_batch_ndims
        distribution = distribution.base_dist
    return distribution, dims


def listed(distribution: td.Distribution) -> Tensor | None:
    """All values of one choice, `[values, *event]`; None if they are not listed, or not the same everywhere."""
    if not distribution.has_enumerate_support:
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
