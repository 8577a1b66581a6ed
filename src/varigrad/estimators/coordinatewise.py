"""Helpers for alternatives that change one coordinate of an event: their values, densities and costs by coordinate.

The coordinates of a site are the independent choices that `.to_event` declared one event; without it there is one. The
elements of a plate are not coordinates: they vary together.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as td

from varigrad.distributions.finite_support import inner_of
from varigrad.estimators.base import Draw, Lanes


def coordinates(distribution: td.Distribution) -> int:
    """How many independent choices one element is made of."""
    inner, dims = inner_of(distribution)
    count: int = inner.batch_shape[len(inner.batch_shape) - dims :].numel()
    return count


def write_alternatives(value: Tensor, others: Tensor, lanes: Lanes, distribution: td.Distribution) -> None:
    """Write alternatives into the site's lanes, coordinate by coordinate.

    Args:
        value: `[lanes, *plates, *coordinates, *event]`, written to; lane 0 holds the draw.
        others: `[alternatives, *plates, *coordinates, *event]`, what each coordinate is to be instead.
    """
    inner, dims = inner_of(distribution)
    shape = inner.batch_shape[len(inner.batch_shape) - dims :]
    count = shape.numel()
    chosen = torch.eye(count, dtype=torch.bool, device=value.device)
    chosen = chosen.reshape(count, 1, *(1,) * lanes.dims, *shape, *(1,) * len(inner.event_shape))
    value[list(lanes.own)] = torch.where(chosen, others, value[0]).flatten(0, 1)


def densities(draw: Draw) -> Tensor:
    """Log-density of each coordinate, `[lanes, *plates, *coordinates]`."""
    inner, _ = inner_of(draw.distribution)
    # In a loop the value has the site's own plates only.
    log_prob: Tensor = inner.log_prob(draw.value.reshape(*inner.batch_shape, *inner.event_shape))
    return log_prob


def own_densities(draw: Draw) -> Tensor:
    """Log-density of each coordinate's draw and alternatives, `[1 + alternatives, *plates, count]`."""
    assert draw.lanes is not None
    _, dims = inner_of(draw.distribution)
    found = densities(draw)
    found = found.reshape(*found.shape[: found.dim() - dims], -1)[list(draw.lanes.compared)]
    count = found.shape[-1]
    others = found[1:].reshape(count, -1, *found.shape[1:]).diagonal(dim1=0, dim2=-1)
    return torch.cat([found[:1], others])


def own_costs(cost: Tensor, count: int) -> Tensor:
    """Costs by coordinate, where lane 0 belongs to every coordinate.

    Args:
        cost: `[1 + count * alternatives, *plates]`.
        count: number of coordinates.

    Returns:
        `[1 + alternatives, *plates, count]`.
    """
    drawn = cost[:1].unsqueeze(-1).expand(*cost[:1].shape, count)
    return torch.cat([drawn, cost[1:].reshape(count, -1, *cost.shape[1:]).movedim(0, -1)])
