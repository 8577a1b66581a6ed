"""Coupled estimators: two antithetic draws per Bernoulli, from one uniform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td

from varigrad.distributions.source import Source
from varigrad.estimators.base import Draw, Estimator, Lanes, State, Surrogate, first


@dataclass(frozen=True)
class DisARM(Estimator):
    r"""Antithetic pairs with the uniform integrated out.

    .. math:: \tfrac12 \big(f(b) - f(\tilde b)\big) (-1)^{\tilde b}\, 1[b \ne \tilde b]\, \sigma(|\theta|)
              \quad\text{per logit}~\theta

    Serves Bernoulli, and Bernoulli with `.to_event`. Two evaluations. Unbiased.

    References:
        Dong, Mnih, Tucker (2020), DisARM: an antithetic gradient estimator for binary latent variables.
    """

    def refusal(self, distribution: td.Distribution) -> tuple[str, str] | None:
        if not isinstance(bernoulli_of(distribution), td.Bernoulli):
            return (
                f"DisARM is for Bernoulli choices, and this is {type(distribution).__name__}",
                "Enumerate() for a small finite support, LeaveOneOut(2) for anything",
            )
        return None

    def alternatives(self, distribution: td.Distribution) -> int:
        return 1

    def draw(self, distribution: td.Distribution, lanes: Lanes | None, source: Source) -> Draw:
        assert lanes is not None
        earlier = tuple(r for r in sorted(set(lanes.source)) if r not in lanes.rows)
        value = source.draw(distribution, rows=earlier)
        bernoulli = bernoulli_of(distribution)
        row = bernoulli.probs[0].detach()
        # b = 1[u > 1 - p], b~ = 1[u < p]: the three cells of u, the middle one split by which of the two is 1.
        apart = torch.minimum(row, 1 - row)
        both = (2 * row - 1).clamp(min=0)
        neither = (1 - 2 * row).clamp(min=0)
        cell = source.index(torch.stack([neither, apart, apart, both], -1))
        value[0] = (cell >= 2).to(value.dtype)
        value[lanes.own[0]] = ((cell == 1) | (cell == 3)).to(value.dtype)
        return Draw(distribution, lanes.share(value), lanes)

    def lane_weights(self, draw: Draw) -> Tensor | None:
        return draw.value.new_full((2,), 0.5)

    def surrogate(self, draw: Draw, cost: Tensor, state: State) -> Surrogate:
        event = len(draw.distribution.event_shape)
        logits = first(bernoulli_of(draw.distribution).logits, draw, event)
        assert draw.lanes is not None
        value, other = draw.value[0], draw.value[draw.lanes.own[0]]
        sign = 1 - 2 * other
        weight = torch.where(value != other, sign * torch.sigmoid(logits.detach().abs()), torch.zeros_like(sign))
        difference = 0.5 * (cost[0] - cost[1])
        return Surrogate(_sum_event(weight * logits, event) * difference)


def bernoulli_of(distribution: td.Distribution) -> Any:
    """The Bernoulli inside `.to_event`, or the distribution itself."""
    while isinstance(distribution, td.Independent):
        distribution = distribution.base_dist
    return distribution


def _sum_event(value: Tensor, event: int) -> Tensor:
    return value.sum(list(range(-event, 0))) if event else value
