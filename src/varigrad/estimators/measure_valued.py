r"""Measure-valued derivatives: write a density's derivative as a difference of two distributions that can be sampled.

.. math:: \partial_\theta q_\theta = c\,(q^+ - q^-), \qquad \partial_\theta E_q[f] = c\,(E_{q^+}[f] - E_{q^-}[f])

Where possible, one of the two is q itself, whose draw is the run's own, and the other uses the same random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch import distributions as td

from varigrad.distributions.finite_support import inner_of
from varigrad.distributions.rng import Source
from varigrad.estimators.base import Draw, Estimator, Lanes, State, Surrogate
from varigrad.estimators.coordinatewise import coordinates, own_costs, write_alternatives
from varigrad.estimators.local_expectation import LocalExpectation
from varigrad.estimators.traits import Needs
from varigrad.shapes import sum_rightmost

_LISTED = (td.Bernoulli, td.Categorical, td.OneHotCategorical)
_SUMMED = LocalExpectation()


@dataclass(frozen=True)
class MeasureValued(Estimator):
    r"""Measure-valued derivative: the cost's difference between two distributions, for each parameter.

    | family | parameter | derivative of :math:`E[f]` |
    |---|---|---|
    | Normal | loc | :math:`(f(\mu + \sigma W) - f(\mu - \sigma W)) / (\sigma \sqrt{2 \pi})`, W Rayleigh |
    | Normal | scale | :math:`(f(\mu + \sigma M) - f(z)) / \sigma`, M double-sided Maxwell, z a part of it |
    | Exponential | rate | :math:`(f(z) - f(z + e)) / \lambda`, e another draw |
    | Gamma | rate | :math:`(f(z) - f(z + e))\,\alpha / \beta`, e Exponential |
    | Gamma | concentration | :math:`\tfrac12 (f(z) - f(z')) (\log z - \log z')`, z' another draw |
    | Poisson | rate | :math:`f(z + 1) - f(z)` |
    | Bernoulli, Categorical, OneHotCategorical | all | as `LocalExpectation`, which sums over both parts |

    (A Gamma's derivative by its concentration has no parts that are easily drawn from; leave-one-out stands in.)

    Serves these families, also with `.to_event`, one coordinate at a time. The cost may be any function, but has to be
    inside the site's plates, whose elements vary together. 1 + D A evaluations for D coordinates, with A = 3 for a
    Normal, 2 for a Gamma, one less than its values for what is listed, 1 for the others. Unbiased.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist, testing
        >>> from varigrad.estimators import MeasureValued
        >>> def model():
        ...     z = vg.sample("z", dist.Bernoulli(0.3))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.5))
        >>> def guide():
        ...     vg.sample("z", dist.Bernoulli(logits=vg.param("w", 0.0)), estimator=MeasureValued())
        >>> bound = vg.ELBO()(model, guide)
        >>> _, exact = testing.exact_gradient(bound)
        >>> testing.largest_difference(testing.expected_gradient(bound).mean, exact) < 1e-6
        True

    References:
        Pflug (1989), Sampling derivatives of probabilities.
        Mohamed, Rosca, Figurnov, Mnih (2020), Monte Carlo gradient estimation in machine learning. arXiv:1906.10652.
    """

    needs: ClassVar[Needs] = Needs(per_element=True)

    def refusal(self, distribution: td.Distribution) -> tuple[str, str] | None:
        inner, _ = inner_of(distribution)
        if isinstance(inner, _LISTED):
            return _SUMMED.refusal(distribution)
        if _family(inner) is None:
            name = type(inner).__name__
            return (
                f"no measure-valued derivative of {name} is known here, only those of Normal, Gamma, Exponential, "
                "Poisson, Bernoulli, Categorical and OneHotCategorical",
                "LeaveOneOut(4), or Score(MovingAverage())",
            )
        return None

    def alternatives(self, distribution: td.Distribution) -> int:
        family = _family(inner_of(distribution)[0])
        if family is None:
            return _SUMMED.alternatives(distribution)
        return family.alternatives * coordinates(distribution)

    def draw(self, distribution: td.Distribution, lanes: Lanes | None, source: Source, state: State) -> Draw:
        inner, _ = inner_of(distribution)
        family = _family(inner)
        if family is None:
            return _SUMMED.draw(distribution, lanes, source, state)
        assert lanes is not None
        # The first alternative's own draw is one more from the distribution of lane 0.
        value = source.draw(distribution, lanes=lanes.drawn(*lanes.own[1:]))
        with torch.no_grad():
            others = family.others(inner, value[0], value[lanes.own[0]], source)
        value = lanes.share(value)
        write_alternatives(value, torch.stack(others), lanes, distribution)
        return Draw(distribution, value, lanes)

    def lane_weights(self, draw: Draw) -> Tensor | None:
        return _SUMMED.lane_weights(draw) if _family(inner_of(draw.distribution)[0]) is None else None

    def surrogate(self, draw: Draw, cost: Tensor, state: State) -> Surrogate:
        inner, dims = inner_of(draw.distribution)
        family = _family(inner)
        if family is None:
            return _SUMMED.surrogate(draw, cost, state)
        assert draw.lanes is not None
        value = draw.value.reshape(inner.batch_shape)  # in a loop it has the site's own plates only
        count = coordinates(draw.distribution)
        costs = own_costs(cost, count)
        shape = inner.batch_shape[len(inner.batch_shape) - dims :]
        costs = costs.reshape(*costs.shape[:-1], *shape)
        # The last alternative of each coordinate: its own draw, where it has one.
        last = value[list(draw.lanes.own)].reshape(count, -1, *value.shape[1:])[:, -1]
        last = last.reshape(count, *last.shape[1 : last.dim() - dims], count).diagonal(dim1=0, dim2=-1)
        last = last.reshape(value.shape[1:])
        field = family.field(inner, value[0], last, costs)
        return Surrogate(sum_rightmost(field, dims))


@dataclass(frozen=True)
class _Family:
    """How one family computes alternatives from the draw and another draw, and the field to differentiate.

    Attributes:
        others: `(distribution, draw, another draw, source) -> alternatives`, each `[*plates, *coordinates]`.
        field: `(distribution, draw, last alternative, costs [1 + alternatives, ...]) -> [*plates, *coordinates]`.
    """

    alternatives: int
    others: Callable[[Any, Tensor, Tensor, Source], list[Tensor]]
    field: Callable[[Any, Tensor, Tensor, Tensor], Tensor]


def _normal(q: td.Normal, z: Tensor, _: Tensor, source: Source) -> list[Tensor]:
    loc, scale = q.loc[0], q.scale[0]
    # In three dimensions the length of a standard normal vector is Maxwell's, and its direction uniform on the
    # sphere, so that each coordinate is a uniform part of it; the length of the other two is Rayleigh's.
    first, second, third = (z - loc) / scale, source.normal(z.shape, z), source.normal(z.shape, z)
    rayleigh = (second.square() + third.square()).sqrt()
    maxwell = (first.square() + rayleigh.square()).sqrt()
    maxwell = torch.where(first < 0, -maxwell, maxwell)
    return [loc + scale * rayleigh, loc - scale * rayleigh, loc + scale * maxwell]


def _normal_field(q: td.Normal, z: Tensor, last: Tensor, f: Tensor) -> Tensor:
    loc, scale = q.loc[0], q.scale[0]
    sigma = scale.detach()
    return loc * (f[1] - f[2]) / (sigma * math.sqrt(2 * math.pi)) + scale * (f[3] - f[0]) / sigma


def _exponential(q: td.Exponential, z: Tensor, other: Tensor, source: Source) -> list[Tensor]:
    return [z + other]


def _exponential_field(q: td.Exponential, z: Tensor, last: Tensor, f: Tensor) -> Tensor:
    return q.rate[0] * (f[0] - f[1]) / q.rate[0].detach()


def _gamma(q: td.Gamma, z: Tensor, other: Tensor, source: Source) -> list[Tensor]:
    return [z - torch.log1p(-source.uniform(z.shape, z)) / q.rate[0], other]


def _gamma_field(q: td.Gamma, z: Tensor, last: Tensor, f: Tensor) -> Tensor:
    shape, rate = q.concentration[0], q.rate[0]
    by_rate = rate * (shape / rate).detach() * (f[0] - f[1])
    return by_rate + shape * 0.5 * (f[0] - f[2]) * (z.log() - last.log())


def _poisson(q: td.Poisson, z: Tensor, other: Tensor, source: Source) -> list[Tensor]:
    return [z + 1]


def _poisson_field(q: td.Poisson, z: Tensor, last: Tensor, f: Tensor) -> Tensor:
    return q.rate[0] * (f[1] - f[0])


_FAMILIES = (
    (td.Normal, _Family(3, _normal, _normal_field)),
    (td.Exponential, _Family(1, _exponential, _exponential_field)),
    (td.Gamma, _Family(2, _gamma, _gamma_field)),
    (td.Poisson, _Family(1, _poisson, _poisson_field)),
)


def _family(distribution: td.Distribution) -> _Family | None:
    return next((family for kind, family in _FAMILIES if isinstance(distribution, kind)), None)
