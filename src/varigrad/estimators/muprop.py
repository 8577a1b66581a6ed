"""`MuProp`: a control variate that is linear in the draw, from the cost's derivative at the mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch import distributions as td

from varigrad.distributions.rng import Source
from varigrad.estimators.base import Draw, Estimator, Lanes, State, Surrogate
from varigrad.estimators.baselines import Baseline, NoBaseline
from varigrad.estimators.concrete_relaxation import (
    is_one_hot,
    logits_of,
    refusal_to_relax,
    slopes_of,
    softened,
    values_of,
)
from varigrad.estimators.traits import Needs, Slope
from varigrad.shapes import sum_rightmost


@dataclass(frozen=True)
class MuProp(Estimator):
    r"""Score-function estimator with the cost's first-order expansion about the mean for a control variate.

    .. math:: \big(f(b) - f(\mu) - f'(\mu)^T (b - \mu) - c\big) \nabla \log q(b) + f'(\mu)^T \nabla \mu,
              \qquad \mu = E[b]

    Serves Bernoulli and OneHotCategorical, also with `.to_event`, in models that take values between those of the
    support. Two evaluations and one derivative. Unbiased, whatever the derivative is worth.

    Args:
        baseline: :math:`c`, for what the expansion leaves; without one the leftover's mean makes it noisy.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist, testing
        >>> from varigrad.estimators import MuProp
        >>> def model():
        ...     z = vg.sample("z", dist.Bernoulli(0.3))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.5))
        >>> def guide():
        ...     vg.sample("z", dist.Bernoulli(logits=vg.param("w", 0.0)), estimator=MuProp())
        >>> bound = vg.ELBO()(model, guide)
        >>> _, exact = testing.exact_gradient(bound)
        >>> testing.largest_difference(testing.expected_gradient(bound).mean, exact) < 1e-6
        True

    References:
        Gu, Levine, Sutskever, Mnih (2016), MuProp: unbiased backpropagation for stochastic neural networks.
        arXiv:1511.05176.
    """

    baseline: Baseline = field(default_factory=NoBaseline)

    needs: ClassVar[Needs] = Needs(between_values=True, slope=Slope())

    def refusal(self, distribution: td.Distribution) -> tuple[str, str] | None:
        return refusal_to_relax("MuProp", distribution)

    def alternatives(self, distribution: td.Distribution) -> int:
        return 1

    def draw(self, distribution: td.Distribution, lanes: Lanes | None, source: Source, state: State) -> Draw:
        assert lanes is not None
        value = lanes.begin(distribution, source)
        with torch.no_grad():
            value[lanes.own[0]] = distribution.mean[0]
        return Draw(distribution, value, lanes)

    def surrogate(self, draw: Draw, cost: Tensor, state: State) -> Surrogate:
        assert draw.log_q is not None
        event = len(draw.distribution.event_shape)
        value, logits, slope = values_of(draw).detach(), logits_of(draw), slopes_of(draw)[1]
        # Where the model cannot take the mean, there is nothing to expand.
        centre = torch.where(cost[1].isfinite(), cost[1], 0.0)
        residual = cost[0] - centre - linear(slope, value[0] - value[1], event, cost[0])
        guess = self.baseline.guess(residual, draw, state)
        mean = softened(logits, 1.0, is_one_hot(draw.distribution))
        path = sum_rightmost(slope * mean, event)
        return Surrogate((residual - guess.value) * draw.log_q[0] + path, guess.state, guess.regression)

    def parameters_of_baselines(self) -> Mapping[str, nn.Module]:
        return self.baseline.modules()


def linear(slope: Tensor, change: Tensor, event: int, cost: Tensor) -> Tensor:
    """How much each cost changes to first order; elements that share a cost change it together.

    Args:
        slope: derivative of the cost by the value, `[*plates, *event]`.
        change: of the value, `[*plates, *event]`.
        event: number of event dimensions.
        cost: `[*plates]`, of size 1 where elements share it.

    Returns:
        A change for each cost, in its shape.
    """
    found = sum_rightmost(slope * change, event)
    shared = [d for d in range(-found.dim(), 0) if -d > cost.dim() or cost.shape[d] == 1]
    return found.sum(shared, keepdim=True) if shared else found


def times(cost: Tensor, score: Tensor, event: int) -> Tensor:
    """The cost times the score of each coordinate.

    Args:
        cost: `[*plates]`.
        score: `[*plates, *event]`.
        event: number of event dimensions.

    Returns:
        `[*plates, *event]`.
    """
    return cost.reshape(cost.shape + (1,) * event) * score if event else cost * score
