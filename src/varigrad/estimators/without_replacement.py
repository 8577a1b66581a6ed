"""Sampling without replacement: several distinct values of one discrete site."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch import distributions as td

from varigrad.distributions.finite_support import inner_of, listed
from varigrad.distributions.rng import Source
from varigrad.errors import SiteError, is_whole, store_whole
from varigrad.estimators.base import Draw, Estimator, Lanes, State, Surrogate, tensor_of
from varigrad.estimators.traits import Needs


@dataclass(frozen=True)
class UnorderedSet(Estimator):
    r"""Draws k distinct values one after the other, and weights them as a set, whatever their order.

    .. math:: \sum_{s \in S} \nabla p(s)\, R(S, s) \Big[f(s) - \sum_{s' \in S} p(s')\, R^{\setminus s}(S, s') f(s')\Big]

    with :math:`R(S, s) = P(S \mid \text{s first}) / P(S)`, and :math:`R^{\setminus s}` the same for draws that leave
    out s from the beginning; :math:`R^{\setminus s}(S, s) = 1`.

    Serves discrete distributions with a finite, listed support of at least k values (Categorical, OneHotCategorical),
    one choice per plate element; the elements of a plate vary together, so every cost downstream has to be inside
    the plate. k evaluations. Unbiased; with as many draws as values it is exact.

    Args:
        k: how many values, 2 to 8.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist, testing
        >>> from varigrad.estimators import UnorderedSet
        >>> def model():
        ...     z = vg.sample("z", dist.Categorical(torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.5))
        >>> def guide():
        ...     logits = vg.param("w", torch.zeros(3, dtype=torch.float64))
        ...     vg.sample("z", dist.Categorical(logits=logits), estimator=UnorderedSet(2))
        >>> bound = vg.ELBO()(model, guide)
        >>> _, exact = testing.exact_gradient(bound)
        >>> testing.largest_difference(testing.expected_gradient(bound).mean, exact) < 1e-6
        True

    References:
        Kool, van Hoof, Welling (2020), Estimating gradients for discrete random variables by sampling without
        replacement. arXiv:2002.06043.
    """

    k: int = 2

    needs: ClassVar[Needs] = Needs(per_element=True)

    def __post_init__(self) -> None:
        store_whole(self, "k")
        if not is_whole(self.k, 2, 8):
            raise SiteError(
                f"k must be a whole number from 2 to 8, got {self.k!r}",
                site="UnorderedSet",
                because="the baseline of a value is made of the others, and all subsets of the draws are weighed",
                try_="UnorderedSet(2), or SumAndSample(16) for more values",
            )

    def refusal(self, distribution: td.Distribution) -> tuple[str, str] | None:
        return _refusal(distribution, self.k)

    def alternatives(self, distribution: td.Distribution) -> int:
        return self.k - 1

    def draw(self, distribution: td.Distribution, lanes: Lanes | None, source: Source, state: State) -> Draw:
        assert lanes is not None
        value, values, probs = _begin(distribution, lanes, source)
        # One after the other, each from what is left: in law the same as the k largest of log p + Gumbel noise.
        left, open_ = probs, torch.ones_like(probs)
        drawn = []
        for lane in lanes.compared:
            index = _one_of(left, open_, source)
            left, open_ = (x.scatter(-1, index.unsqueeze(-1), 0.0) for x in (left, open_))
            value[lane] = values[index].to(value.dtype)
            drawn.append(index)
        return Draw(distribution, lanes.share(value), lanes, noise=torch.stack(drawn))

    def lane_weights(self, draw: Draw) -> Tensor | None:
        probs, rest = _own(draw)
        return (probs * self._first(probs.detach(), rest)[0]).detach()

    def surrogate(self, draw: Draw, cost: Tensor, state: State) -> Surrogate:
        probs, rest = _own(draw)
        p = probs.detach()
        first, second = self._first(p, rest)
        # Relative to the first draw's: the weights of a constant cancel, rounding errors do not.
        f = torch.where(p > 0, cost - cost[:1], 0.0)
        baseline = (second * p * f).sum(1)
        return Surrogate((probs * first * (f - baseline)).sum(0))

    def _first(self, p: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        """`R(S, s)`, `[k, *plates]`, and `R^s(S, s')`, `[k, k, *plates]`.

        Args:
            p: of the drawn values, `[k, *plates]`.
            rest: of all others together, `[*plates]`.
        """
        # `chance[E]` is that of drawing the rest of S, in any order, once the values in E (bits) are drawn.
        k = len(p)
        everything = 2**k - 1
        chance = {everything: torch.ones_like(rest)}
        for subset in range(everything - 1, -1, -1):
            out = [a for a in range(k) if not subset >> a & 1]
            mass = rest + sum(p[a] for a in out)
            ways = sum(p[a] * chance[subset | 1 << a] for a in out) / mass
            alike = sum(chance[subset | 1 << a] for a in out)
            # No probability is left: any of the others is drawn, and how many they are cancels.
            chance[subset] = torch.where(mass > 0, ways, alike)
        first = torch.stack([chance[1 << s] / chance[0] for s in range(k)])
        ratios = [[chance[1 << s | 1 << o] / chance[1 << s] for o in range(k)] for s in range(k)]
        return first, torch.stack([torch.stack(row) for row in ratios])


@dataclass(frozen=True)
class SumAndSample(Estimator):
    r"""Sums over the k likeliest values, and draws one of the others, which represents the rest.

    .. math:: \sum_{s \in C} \nabla p(s)\,(f(s) - b) + (1 - p_C)\,\nabla \log p(j)\,(f(j) - b), \qquad
              j \sim p(\cdot \mid j \notin C), \quad b = \sum_{s \in C} p(s) f(s) / p_C

    The baseline b does not depend on the draw j, so it changes no mean.

    Serves discrete distributions with a finite, listed support of more than k values (Categorical,
    OneHotCategorical), one choice per plate element; the elements of a plate vary together, so every cost downstream
    has to be inside the plate. k + 1 evaluations. Unbiased.

    Args:
        k: how many values are summed, at least 1.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist, testing
        >>> from varigrad.estimators import SumAndSample
        >>> def model():
        ...     z = vg.sample("z", dist.Categorical(torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.5))
        >>> def guide():
        ...     logits = vg.param("w", torch.zeros(3, dtype=torch.float64))
        ...     vg.sample("z", dist.Categorical(logits=logits), estimator=SumAndSample(1))
        >>> bound = vg.ELBO()(model, guide)
        >>> _, exact = testing.exact_gradient(bound)
        >>> testing.largest_difference(testing.expected_gradient(bound).mean, exact) < 1e-6
        True

    References:
        Liu, Regier, Tripuraneni, Jordan, McAuliffe (2019), Rao-Blackwellized stochastic gradients for discrete
        distributions. arXiv:1810.04777.
    """

    k: int = 1

    needs: ClassVar[Needs] = Needs(per_element=True)

    def __post_init__(self) -> None:
        store_whole(self, "k")
        if not is_whole(self.k):
            raise SiteError(
                f"k must be a whole number of at least 1, got {self.k!r}",
                site="SumAndSample",
                because="it is how many values are summed",
                try_="SumAndSample(1), or Score(MovingAverage()) to sum none",
            )

    def refusal(self, distribution: td.Distribution) -> tuple[str, str] | None:
        return _refusal(distribution, self.k + 1)

    def alternatives(self, distribution: td.Distribution) -> int:
        return self.k

    def draw(self, distribution: td.Distribution, lanes: Lanes | None, source: Source, state: State) -> Draw:
        assert lanes is not None
        value, values, probs = _begin(distribution, lanes, source)
        top, likeliest = probs.topk(self.k, -1)
        others = probs.scatter(-1, likeliest, 0.0)
        mass = others.sum(-1, keepdim=True)
        sampled = _one_of(others, torch.ones_like(probs).scatter(-1, likeliest, 0.0), source)
        listed = torch.cat([likeliest, sampled.unsqueeze(-1)], -1)
        # Lane 0 has to be a draw from p: it takes one of these values, and the others go to the alternatives.
        chosen = source.index(torch.cat([top, mass], -1)).unsqueeze(-1)
        place = torch.arange(self.k + 1, device=listed.device)
        swapped = torch.where(place == chosen, listed[..., :1], listed)
        swapped = torch.where(place == 0, listed.gather(-1, chosen), swapped)
        for lane, index in zip(lanes.compared, swapped.unbind(-1), strict=True):
            value[lane] = values[index].to(value.dtype)
        noise = torch.cat([swapped.movedim(-1, 0), sampled.unsqueeze(0)])
        return Draw(distribution, lanes.share(value), lanes, noise=noise)

    def lane_weights(self, draw: Draw) -> Tensor | None:
        probs, factor, _ = self._weights(draw)
        return (probs * factor).detach()

    def surrogate(self, draw: Draw, cost: Tensor, state: State) -> Surrogate:
        probs, factor, summed = self._weights(draw)
        p = probs.detach()
        f = torch.where(p > 0, cost, 0.0)
        share = torch.where(summed, p, 0.0)
        baseline = (share * f).sum(0) / share.sum(0)
        return Surrogate((probs * torch.where(p > 0, factor * (f - baseline), 0.0)).sum(0))

    def _weights(self, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities, what to multiply them by, and whether they are summed: `[1 + k, *plates]`."""
        probs, rest = _own(draw)
        drawn = tensor_of(draw.noise)
        summed = drawn[:-1] != drawn[-1:]
        p = probs.detach()
        sampled = torch.where(summed, 0.0, p).sum(0)
        factor = torch.where(sampled > 0, (rest + sampled) / sampled, 0.0)
        return probs, torch.where(summed, torch.ones_like(p), factor), summed


def _refusal(distribution: td.Distribution, count: int) -> tuple[str, str] | None:
    inner, dims = inner_of(distribution)
    name, values = type(inner).__name__, listed(inner)
    if values is None:
        return f"{name} does not have a finite, listed support", "Score(MovingAverage()), or LeaveOneOut(4)"
    if dims:
        return (
            f"an event of {name} choices has as many values as the product over its elements",
            "a plate instead of .to_event, LocalExpectation(), or LeaveOneOut(4)",
        )
    if len(values) < count:
        return f"{name} has {len(values)} values here, and {count} different ones are asked for", "Enumerate()"
    return None


def _one_of(weights: Tensor, otherwise: Tensor, source: Source) -> Tensor:
    """Draw an index, `[*plates]`, by weights.

    Args:
        weights: `[*plates, values]`.
        otherwise: the weights to take where those are all zero.
        source: where the random numbers come from.
    """
    weights = torch.where(weights.sum(-1, keepdim=True) > 0, weights, otherwise)
    return source.index(weights / weights.sum(-1, keepdim=True))


def _begin(distribution: td.Distribution, lanes: Lanes, source: Source) -> tuple[Tensor, Tensor, Tensor]:
    """Draws for earlier sites' lanes; all values, `[values, *event]`; their probabilities, `[*plates, values]`."""
    value = source.draw(distribution, lanes=lanes.drawn(*lanes.compared))
    values = listed(distribution)
    assert values is not None
    return value, values, _probabilities(distribution, lanes).detach()


def _probabilities(distribution: td.Distribution, lanes: Lanes) -> Tensor:
    """The probabilities of all values in lane 0, `[*plates, values]`."""
    values = listed(distribution)
    assert values is not None
    every = values.reshape(len(values), *(1,) * (lanes.dims + 1), *distribution.event_shape)
    return distribution.log_prob(every)[:, 0].exp().movedim(0, -1)


def _own(draw: Draw) -> tuple[Tensor, Tensor]:
    """Probabilities of the values in the site's lanes, `[1 + alternatives, *plates]`, and of all others together."""
    assert draw.lanes is not None
    probs = _probabilities(draw.distribution, draw.lanes)
    index = tensor_of(draw.noise).movedim(0, -1)
    own = probs.gather(-1, index[..., : len(draw.lanes.compared)]).movedim(-1, 0)
    return own, probs.detach().scatter(-1, index, 0.0).sum(-1)
