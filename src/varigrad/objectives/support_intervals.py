"""Intervals of a distribution's values, so that a guide's support can be compared with a model's."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from varigrad.distributions.delta import Delta
from varigrad.distributions.finite_support import inner_of, support_of


class Interval(NamedTuple):
    """The lowest and highest value (numbers or tensors), and whether only whole numbers are between them."""

    low: Tensor
    high: Tensor
    discrete: bool

    def __str__(self) -> str:
        return f"[{_shown(self.low)}, {_shown(self.high)}]"


def interval_of(distribution: td.Distribution) -> Interval | None:
    """The range of a distribution's values; None where it is no interval, or a point, or not known."""
    distribution, _ = inner_of(distribution)
    if isinstance(distribution, Delta):
        return None
    support = support_of(distribution)
    if support is None or constraints.is_dependent(support):
        return None
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if support is constraints.boolean:
        low, high = 0, 1
    elif support is constraints.real:
        if isinstance(distribution, td.TransformedDistribution):
            return None  # torch calls the image of any affine transform real
    elif low is None and high is None:
        return None
    bounds = [torch.as_tensor(default if b is None else b) for b, default in ((low, -torch.inf), (high, torch.inf))]
    return Interval(bounds[0], bounds[1], bool(support.is_discrete))


def _shown(bound: Tensor) -> str:
    return f"{bound.item():g}" if bound.numel() == 1 else "..."
