"""`Enumerate`: sums over every value of a discrete site, weighted by its probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch import distributions as td

from varigrad.distributions.finite_support import count_of, inner_of
from varigrad.distributions.rng import Source
from varigrad.errors import SiteError
from varigrad.estimators.base import Draw, Estimator, Lanes, State, Surrogate
from varigrad.estimators.traits import Needs


@dataclass(frozen=True)
class Enumerate(Estimator):
    r"""The exact expectation over one site, given the values of the sites upstream.

    .. math:: \sum_b \nabla q(b)\, f(b)

    Serves discrete distributions with a finite support, one choice per plate element (the elements of a plate vary
    together, so every cost downstream has to be inside the plate). As many evaluations as there are values. Unbiased.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist, testing
        >>> from varigrad.estimators import Enumerate
        >>> def model():
        ...     z = vg.sample("z", dist.Categorical(torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.5))
        >>> def guide():
        ...     logits = vg.param("w", torch.zeros(3, dtype=torch.float64))
        ...     vg.sample("z", dist.Categorical(logits=logits), estimator=Enumerate())
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
        name = type(inner).__name__
        if not inner.has_enumerate_support:
            return f"{name} does not have a finite, listed support", "Score(MovingAverage()), or LeaveOneOut(4)"
        if inner is not distribution:
            return (
                f"an event of {name} choices has as many values as the product over its elements",
                "a plate instead of .to_event, LeaveOneOut(4), or DisARM() for Bernoulli",
            )
        return None

    def alternatives(self, distribution: td.Distribution) -> int:
        return count_of(distribution) or 0

    def draw(self, distribution: td.Distribution, lanes: Lanes | None, source: Source, state: State) -> Draw:
        assert lanes is not None
        value = lanes.begin(distribution, source)
        support = distribution.enumerate_support(expand=False)
        event = len(distribution.event_shape)
        if support.numel() != len(support) * distribution.event_shape.numel():
            raise SiteError(
                "Enumerate cannot serve this site",
                site=source.site,
                because=f"{type(distribution).__name__}.enumerate_support(expand=False) lists values of shape "
                f"{tuple(support.shape)}, which differ between elements of a batch",
                try_="values that are the same for all elements, [values, *(1,) * batch, *event]; or LeaveOneOut(4)",
            )
        support = support.reshape(support.shape[0], *(1,) * lanes.dims, *support.shape[support.dim() - event :])
        value[list(lanes.own)] = support.expand(len(lanes.own), *value.shape[1:])
        return Draw(distribution, value, lanes)

    def lane_weights(self, draw: Draw) -> Tensor | None:
        assert draw.log_q is not None
        return torch.cat([torch.zeros_like(draw.log_q[:1]), draw.log_q[1:].exp()]).detach()

    def surrogate(self, draw: Draw, cost: Tensor, state: State) -> Surrogate:
        assert draw.log_q is not None
        # Costs relative to their mean: the probabilities' gradients sum to zero, rounding errors do not.
        # A value of probability zero may have an infinite cost: it counts nothing, in no value's.
        costs = torch.where(draw.log_q[1:] == -torch.inf, 0.0, cost[1:])
        relative = costs - costs.mean(0, keepdim=True)
        return Surrogate((draw.log_q[1:].exp() * relative).sum(0))
