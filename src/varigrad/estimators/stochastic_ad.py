r"""Stochastic automatic differentiation: the derivative by differences between a draw and its neighbouring values.

For a family of counts with :math:`q_\theta(x)`, summation by parts turns the derivative into differences between
neighbours, :math:`\partial_\theta E[f] = E[w(x) (f(x + 1) - f(x))]` with
:math:`w(x) = -\partial_\theta P(X \le x) / q(x)`, or the same seen from :math:`x + 1`, or any mixture of both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch import distributions as td

from varigrad.distributions.finite_support import inner_of
from varigrad.distributions.rng import Source
from varigrad.estimators.base import Draw, Estimator, Lanes, State, Surrogate, tensor_of
from varigrad.estimators.coordinatewise import coordinates
from varigrad.estimators.traits import Needs


@dataclass(frozen=True)
class StochasticAD(Estimator):
    r"""Compares the draw with one neighbouring value, weighted by how fast probability flows there.

    | family | derivative of :math:`E[f]` |
    |---|---|
    | Bernoulli, Binomial | by the logit, :math:`p (1 - p) E[(n - x)(f(x + 1) - f(x)) + x (f(x) - f(x - 1))]` |
    | Poisson | by the rate, :math:`E[f(x + 1) - f(x)]` |
    | Geometric (failures) | by the logit, :math:`-(1 - p) E[(x + 1) (f(x + 1) - f(x))]` |
    | NegativeBinomial | by the logit, :math:`p\, E[(r + x) (f(x + 1) - f(x))]` |
    | Categorical | :math:`-\sum_k \partial P(X \le k) (f(k + 1) - f(k))`, each step seen from both of its sides |

    One step, up or down, of one coordinate of an event is drawn in proportion to its weight, and divided by that
    probability. Categories are taken in their order, so it pays where neighbours cost alike, and can be worse than a
    score function where they do not; impossible ones are stepped over.

    Serves these families (the number of trials must not be trained), also with `.to_event`. 2 evaluations. Unbiased.
    Every element of a plate steps at once, so every cost downstream has to be inside the plate.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist, testing
        >>> from varigrad.estimators import StochasticAD
        >>> def model():
        ...     z = vg.sample("z", dist.Bernoulli(0.3))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.5))
        >>> def guide():
        ...     vg.sample("z", dist.Bernoulli(logits=vg.param("w", 0.0)), estimator=StochasticAD())
        >>> bound = vg.ELBO()(model, guide)
        >>> _, exact = testing.exact_gradient(bound)
        >>> testing.largest_difference(testing.expected_gradient(bound).mean, exact) < 1e-6
        True

    References:
        Arya, Schauer, Schaefer, Rackauckas (2022), Automatic differentiation of programs with discrete randomness.
        arXiv:2210.08572.
    """

    needs: ClassVar[Needs] = Needs(per_element=True)

    def refusal(self, distribution: td.Distribution) -> tuple[str, str] | None:
        inner, _ = inner_of(distribution)
        if _family(inner) is None:
            return (
                f"no coupling of {type(inner).__name__} is known here, only those of Bernoulli, Binomial, Poisson, "
                "Geometric, NegativeBinomial and Categorical",
                "LeaveOneOut(4), or Score(MovingAverage())",
            )
        trials = getattr(inner, "total_count", None)
        if isinstance(trials, torch.Tensor) and trials.requires_grad:
            return "its total_count is trained, which a step to a neighbour says nothing about", "LeaveOneOut(4)"
        return None

    def alternatives(self, distribution: td.Distribution) -> int:
        return 1

    def draw(self, distribution: td.Distribution, lanes: Lanes | None, source: Source, state: State) -> Draw:
        assert lanes is not None
        value = lanes.begin(distribution, source)
        with torch.no_grad():
            steps = _steps(distribution, value[0])
            chosen = source.index(_chances(steps.size))
        count = coordinates(distribution)
        taken = torch.arange(count, device=value.device) == (chosen % count).unsqueeze(-1)
        target = torch.where((chosen < count).unsqueeze(-1), steps.target[..., :count], steps.target[..., count:])
        other = torch.where(taken, target.to(value.dtype), value[0].reshape(target.shape))
        value[lanes.own[0]] = other.reshape(value.shape[1:])
        return Draw(distribution, value, lanes, noise=chosen)

    def surrogate(self, draw: Draw, cost: Tensor, state: State) -> Surrogate:
        inner, _ = inner_of(draw.distribution)
        steps = _steps(draw.distribution, draw.value.reshape(inner.batch_shape)[0])
        chosen = tensor_of(draw.noise).unsqueeze(-1)
        chance = _chances(steps.size.detach()).gather(-1, chosen).squeeze(-1)
        size = steps.size.gather(-1, chosen).squeeze(-1)
        field = steps.field.gather(-1, chosen).squeeze(-1)
        # Where nothing can move, the neighbour may be impossible and its cost infinite.
        difference = torch.where(size > 0, (cost[1] - cost[0]) / chance, 0.0)
        return Surrogate(field * difference)


@dataclass(frozen=True, eq=False)
class _Steps:
    """All steps up, then all steps down: `[*plates, 2 * coordinates]`.

    Attributes:
        target: where each leads.
        field: the derivative of the mean cost is that of `field` times the cost's difference, summed over steps.
        size: how likely each is to be taken, up to a factor; zero only where `field` has no derivative.
    """

    target: Tensor
    field: Tensor
    size: Tensor


def _chances(size: Tensor) -> Tensor:
    total = size.sum(-1, keepdim=True)
    return torch.where(total > 0, size / total, 1 / size.shape[-1])


def _steps(distribution: td.Distribution, x: Tensor) -> _Steps:
    """The steps from the draws in lane 0, `[*plates, *coordinates]`."""
    inner, dims = inner_of(distribution)
    family = _family(inner)
    assert family is not None
    up, down = family(inner, x)
    joined = [
        torch.cat([a.reshape(*a.shape[: a.dim() - dims], -1), b.reshape(*b.shape[: b.dim() - dims], -1)], -1)
        for a, b in zip(up, down, strict=True)
    ]
    return _Steps(*joined)


Step = tuple[Tensor, Tensor, Tensor]


def _binomial(q: td.Bernoulli | td.Binomial, x: Tensor) -> tuple[Step, Step]:
    # Of n coins, each with its own exact difference p (1 - p) (f(1) - f(0)), n - x can go up and x can go down.
    logits, p = q.logits[0], q.probs[0].detach()
    trials = q.total_count[0] if isinstance(q, td.Binomial) else torch.ones_like(x)
    up, down = p * (1 - p) * (trials - x), p * (1 - p) * x
    return (x + 1, logits * up, up), (x - 1, -logits * down, down)


def _poisson(q: td.Poisson, x: Tensor) -> tuple[Step, Step]:
    rate = q.rate[0]
    none = torch.zeros_like(x)
    return (x + 1, rate, torch.ones_like(x)), (x, none, none)


def _geometric(q: td.Geometric, x: Tensor) -> tuple[Step, Step]:
    size = (1 - q.probs[0].detach()) * (x + 1)
    none = torch.zeros_like(x)
    return (x + 1, -q.logits[0] * size, size), (x, none, none)


def _negative_binomial(q: td.NegativeBinomial, x: Tensor) -> tuple[Step, Step]:
    size = q.probs[0].detach() * (q.total_count[0] + x)
    none = torch.zeros_like(x)
    return (x + 1, q.logits[0] * size, size), (x, none, none)


def _categorical(q: td.Categorical, x: Tensor) -> tuple[Step, Step]:
    probs = q.probs[0]
    p = probs.detach()
    k = torch.arange(p.shape[-1], device=p.device)
    here = x.unsqueeze(-1)
    after = torch.where((k > here) & (p > 0), k, len(k)).amin(-1)
    before = torch.where((k < here) & (p > 0), k, -1).amax(-1)
    # P(X <= x) and P(X < x); the flow between two neighbours, as seen from either, over their probabilities together.
    below = (probs * (k <= here)).sum(-1), (probs * (k < here)).sum(-1)
    own = (p * (k == here)).sum(-1)
    found = []
    for neighbour, cdf, sign in ((after, below[0], -1), (before, below[1], 1)):
        other = (p * (k == neighbour.unsqueeze(-1))).sum(-1)
        weight = torch.where(other > 0, 1 / (own + other), 0.0)
        c = cdf.detach()
        size = (c * (1 - c)).clamp(min=torch.finfo(p.dtype).tiny).sqrt() * weight
        found.append((torch.where(other > 0, neighbour, x), sign * cdf * weight, size))
    return found[0], found[1]


_FAMILIES: tuple[tuple[type, Callable[[Any, Tensor], tuple[Step, Step]]], ...] = (
    (td.Bernoulli, _binomial),
    (td.Binomial, _binomial),
    (td.Poisson, _poisson),
    (td.Geometric, _geometric),
    (td.NegativeBinomial, _negative_binomial),
    (td.Categorical, _categorical),
)


def _family(distribution: td.Distribution) -> Callable[[Any, Tensor], tuple[Step, Step]] | None:
    return next((family for kind, family in _FAMILIES if isinstance(distribution, kind)), None)
