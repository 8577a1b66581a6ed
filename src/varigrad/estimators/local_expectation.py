"""`LocalExpectation`: sums exactly over one coordinate at a time, with the others as drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch import distributions as td

from varigrad.distributions.finite_support import index_in, inner_of, listed
from varigrad.distributions.rng import Source
from varigrad.estimators.base import Draw, Estimator, Lanes, State, Surrogate
from varigrad.estimators.coordinatewise import coordinates, own_costs, own_densities, write_alternatives
from varigrad.estimators.traits import Needs


@dataclass(frozen=True)
class LocalExpectation(Estimator):
    r"""Sums over the values of each coordinate of an event, with the other coordinates as drawn.

    .. math:: \sum_i \sum_v \nabla q_i(v)\, f(b_1, \dots, b_{i-1}, v, b_{i+1}, \dots)

    Serves discrete distributions with a finite support, also with `.to_event`. The draw is one of the values of every
    coordinate: :math:`1 + \sum_i (C_i - 1)` evaluations, where coordinate i has C values. Unbiased. The elements of a
    plate vary together, so every cost downstream has to be inside the plate. For one Bernoulli, and for one
    Categorical, this is their measure-valued derivative with the negative part summed over.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist, testing
        >>> from varigrad.estimators import LocalExpectation
        >>> def model():
        ...     z = vg.sample("z", dist.Bernoulli(0.3))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.5))
        >>> def guide():
        ...     vg.sample("z", dist.Bernoulli(logits=vg.param("w", 0.0)), estimator=LocalExpectation())
        >>> bound = vg.ELBO()(model, guide)
        >>> _, exact = testing.exact_gradient(bound)
        >>> testing.largest_difference(testing.expected_gradient(bound).mean, exact) < 1e-6
        True

    References:
        Titsias, Lazaro-Gredilla (2015), Local expectation gradients for black box variational inference.
        arXiv:1503.01494.
    """

    needs: ClassVar[Needs] = Needs(per_element=True)

    def refusal(self, distribution: td.Distribution) -> tuple[str, str] | None:
        inner, _ = inner_of(distribution)
        values, name = listed(inner), type(inner).__name__
        if values is None:
            return f"{name} does not have a finite, listed support", "Score(MovingAverage()), or LeaveOneOut(4)"
        if len(values) < 2:
            return f"{name} has one value here, and nothing to compare it with", "Score()"
        return None

    def alternatives(self, distribution: td.Distribution) -> int:
        values = listed(inner_of(distribution)[0])
        assert values is not None
        return coordinates(distribution) * (len(values) - 1)

    def draw(self, distribution: td.Distribution, lanes: Lanes | None, source: Source, state: State) -> Draw:
        assert lanes is not None
        value = lanes.begin(distribution, source)
        inner, _ = inner_of(distribution)
        values = listed(inner)
        assert values is not None
        position = index_in(values, value[0])
        others = [values[(position + k) % len(values)] for k in range(1, len(values))]
        if others:
            write_alternatives(value, torch.stack(others), lanes, distribution)
        return Draw(distribution, value, lanes)

    def lane_weights(self, draw: Draw) -> Tensor | None:
        # The average over the coordinates of the expectation over one of them.
        assert draw.lanes is not None
        probs = own_densities(draw).detach().exp()
        count = probs.shape[-1]
        others = probs[1:].movedim(-1, 0).flatten(0, 1) / count
        return torch.cat([probs[:1].mean(-1), others])

    def surrogate(self, draw: Draw, cost: Tensor, state: State) -> Surrogate:
        log_q = own_densities(draw)
        costs = own_costs(cost, log_q.shape[-1])
        # Costs relative to the draw's: the probabilities' gradients sum to zero, rounding errors do not.
        relative = torch.where(log_q == -torch.inf, 0.0, costs - costs[:1])
        return Surrogate((log_q.exp() * relative).sum((0, -1)))
