"""Exact expected gradients of programs with discrete guides, by running every outcome instead of sampling.

`Outcomes` is a random source that makes choices instead of drawing, one path through the tree of outcomes a run, and
knows the path's probability. Replaying an *estimator* along every path gives the mean and variance of its gradient
without sampling error (`expected_gradient`); replaying the *programs* gives the gradient it should have
(`exact_gradient`), by a way that shares nothing with estimators, terms and costs.

A uniform number has no finite support. Where an estimator promises a polynomial in it, a few Gauss-Legendre nodes are
exact. Elsewhere it is for the caller to say how many nodes stand for it, and to see that they are enough.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch import distributions as td

from varigrad.distributions.independent_utils import count_of
from varigrad.distributions.mixin import masked, unmasked
from varigrad.distributions.rng import Source
from varigrad.distributions.score_only import ScoreOnly
from varigrad.errors import VarigradError
from varigrad.language.messages import Factor, Forward, Indices, Message, Param, Sample, evolve
from varigrad.language.plates import same_minibatch
from varigrad.language.runtime import expanded, plate_shape, run
from varigrad.objectives.bound import Bound
from varigrad.shapes import join

LIMIT = 100_000
"""How many outcomes are run through at most, unless a limit is given."""

Gradient = dict[str, Tensor]


class NotEnumerable(VarigradError):
    """A program's outcomes cannot be listed, or there are too many."""


class Outcomes(Source):
    """A source that follows one path through the tree of outcomes.

    Args:
        path: the option to take at each choice; the first option after its end.
        nodes: how many Gauss-Legendre nodes stand for a uniform number of which nothing is promised; None: there is no
            such number, or it is an error.
        limit: a draw with more outcomes is an error. Outcomes are counted before any is listed.

    Attributes:
        taken: the options taken so far, and how many there were.
        probability: of the path so far.
    """

    def __init__(self, path: tuple[int, ...] = (), nodes: int | None = None, limit: int = LIMIT) -> None:
        super().__init__()
        self.path = path
        self.nodes = nodes
        self.limit = limit
        self.taken: list[tuple[int, int]] = []
        self.probability: float = 1.0

    def draw(
        self, distribution: td.Distribution, *, reparameterised: bool = False, lanes: tuple[int, ...] | None = None
    ) -> Tensor:
        with torch.no_grad():
            distribution = unmasked(distribution)
            if isinstance(distribution, ScoreOnly):
                return self.draw(distribution.base, lanes=lanes)
            if isinstance(distribution, td.Independent):
                return self.draw(distribution.base_dist, lanes=lanes)
            count, name = count_of(distribution), type(distribution).__name__
            if count is None:
                raise NotEnumerable(f"{name} has no finite support to enumerate")
            self._check_count([count], f"a {name} has {count} values,")
            if isinstance(distribution, td.Categorical):
                return self.index(distribution.probs, lanes=lanes)
            if isinstance(distribution, td.OneHotCategorical):
                chosen = self.index(distribution.probs, lanes=lanes)
                return torch.zeros_like(distribution.probs).scatter(-1, chosen.unsqueeze(-1), 1.0)
            support = distribution.enumerate_support(expand=True)
            options = self.index(distribution.log_prob(support).exp().movedim(0, -1), lanes=lanes)
            event = support.dim() - 1 - options.dim()
            at = options.reshape(1, *options.shape, *(1,) * event).expand(1, *support.shape[1:])
            return support.gather(0, at).squeeze(0)

    def bernoulli(self, probs: Tensor, shape: torch.Size | None = None) -> Tensor:
        return self.index(torch.stack([1 - probs, probs], -1)).to(probs.dtype)

    def index(self, probs: Tensor, shape: torch.Size | None = None, lanes: tuple[int, ...] | None = None) -> Tensor:
        flat = probs.reshape(-1, probs.shape[-1])
        leading = probs.shape[0] if probs.dim() > 1 else 1
        size = len(flat) // leading
        free = [lanes is None or i // size in lanes for i in range(len(flat))]
        self._check_count((flat > 0).sum(-1)[torch.tensor(free)].tolist(), "a draw has")
        chosen = [
            self._choose(row.tolist()) if choice else int(row.argmax()) for row, choice in zip(flat, free, strict=True)
        ]
        return torch.tensor(chosen, dtype=torch.int64, device=probs.device).reshape(probs.shape[:-1])

    def uniform(self, shape: Sequence[int], like: Tensor, degree: int | None = None) -> Tensor:
        # n nodes are exact up to degree 2 n - 1, and the variance of a polynomial has twice its degree.
        count = self.nodes if degree is None else degree + 1
        if count is None:
            raise NotEnumerable(
                "a uniform number is no choice among outcomes",
                because="nothing is promised about what is made of it, so that no number of nodes is sure to be exact",
                try_="source.uniform(..., degree=n) where the gradient is a polynomial in it, or nodes=24 and "
                "nodes=32, and a look at how far the mean moves",
            )
        nodes, weights = _legendre(count)
        chosen = self.index(weights.to(like).expand(*shape, count))
        return nodes.to(like)[chosen]

    def normal(self, shape: Sequence[int], like: Tensor) -> Tensor:
        raise NotEnumerable("a normal number is no choice among outcomes")

    def dirichlet(self, concentration: Tensor) -> Tensor:
        raise NotEnumerable("a Dirichlet draw is no choice among outcomes")

    def subset(self, size: int, count: int) -> Tensor:
        # C(n, k) is the product of (n - k + i) / i, and every product on the way is a whole number.
        sets = 1
        for i in range(1, min(count, size - count) + 1):
            sets = sets * (size - min(count, size - count) + i) // i
            self._check_count([sets], f"a minibatch of {count} of {size} has")
        chosen = self._choose([1 / sets] * sets)
        return torch.tensor(next(itertools.islice(itertools.combinations(range(size), count), chosen, None)))

    def _check_count(self, options: Iterable[int], what: str) -> None:
        """Raise if independent choices with so many options each have too many outcomes together."""
        product = 1
        for number in options:
            product *= number
            if product > self.limit:
                raise NotEnumerable(f"{what} more than {self.limit} outcomes", try_="a smaller program")

    def _choose(self, probabilities: list[float]) -> int:
        possible = [i for i, p in enumerate(probabilities) if p > 0]
        position = len(self.taken)
        option = self.path[position] if position < len(self.path) else 0
        self.taken.append((option, len(possible)))
        self.probability *= probabilities[possible[option]]
        return possible[option]


@lru_cache
def _legendre(count: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes in [0, 1] and their weights, `[count]`."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return torch.tensor((1 + nodes) / 2), torch.tensor(weights / 2)


def outcomes(limit: int = LIMIT, nodes: int | None = None) -> Iterator[Outcomes]:
    """One source for every path; each has to be used up by a run before the next is asked for.

    Raises:
        NotEnumerable: there are more than `limit` paths.
    """
    path: tuple[int, ...] = ()
    for _ in range(limit):
        source = Outcomes(path, nodes, limit)
        yield source
        following = _next(source.taken)
        if following is None:
            return
        path = following
    raise NotEnumerable(f"more than {limit} outcomes", try_="a smaller program")


def _next(taken: list[tuple[int, int]]) -> tuple[int, ...] | None:
    while taken and taken[-1][0] + 1 == taken[-1][1]:
        taken = taken[:-1]
    if not taken:
        return None
    return (*(option for option, _ in taken[:-1]), taken[-1][0] + 1)


@dataclass(frozen=True, eq=False)
class Moments:
    """Exact mean and variance of a gradient estimate, by parameter, over `count` outcomes.

    Example:
        >>> import varigrad as vg
        >>> from varigrad import testing
        >>> coin = testing.PROGRAMS["bernoulli"]
        >>> moments = testing.expected_gradient(vg.ELBO()(coin.model, coin.guide))
        >>> moments.count, sorted(moments.mean)
        (2, ['t'])
    """

    mean: Gradient
    variance: Gradient
    count: int
    value: float


def expected_gradient(
    bound: Bound, *args: object, limit: int = LIMIT, nodes: int | None = None, **kwargs: object
) -> Moments:
    """What the bound's gradient estimate is on average, over every outcome of its draws.

    Baselines keep the state that they have. Parameters of baselines are left out.

    Args:
        nodes: of a quadrature for uniform numbers of which the estimator promises nothing: then exact only as far as
            a polynomial of degree `2 * nodes - 1` in each comes near the gradient, which is not so over a jump.

    Raises:
        NotEnumerable: a draw is not from a finite support, a uniform number without `nodes` included, or there are
            too many outcomes.

    Example:
        >>> import varigrad as vg
        >>> from varigrad import testing
        >>> coin = testing.PROGRAMS["bernoulli"]
        >>> testing.expected_gradient(vg.ELBO()(coin.model, coin.guide)).mean["t"].shape
        torch.Size([1])
    """
    names, leaves = _leaves(bound)
    first = [torch.zeros_like(p) for p in leaves]
    second = [torch.zeros_like(p) for p in leaves]
    count, total, value = 0, 0.0, 0.0
    for path in outcomes(limit, nodes):
        with bound.drawing_from(path):
            result = bound.estimate(*args, **kwargs)
            grads = torch.autograd.grad(result.surrogate, leaves, allow_unused=True)
        weight = path.probability
        for one, two, grad in zip(first, second, grads, strict=True):
            if grad is not None:
                one += weight * grad
                two += weight * grad.square()
        count, total, value = count + 1, total + weight, value + weight * float(result.value)
    if abs(total - 1) > 1e-9:
        raise VarigradError(f"probabilities of the outcomes sum to {total}")
    variance = {n: two - one.square() for n, one, two in zip(names, first, second, strict=True)}
    return Moments(dict(zip(names, first, strict=True)), variance, count, value)


def _mean(probabilities: Tensor, log_weights: Tensor) -> Tensor:
    return (probabilities * log_weights).sum()


def exact_gradient(
    bound: Bound,
    *args: object,
    limit: int = LIMIT,
    of: Callable[[Tensor, Tensor], Tensor] = _mean,
    **kwargs: object,
) -> tuple[float, Gradient]:
    """A bound and its gradient, by enumerating all values of the guide's choices. Uses no estimator.

    Args:
        of: the bound, from the probabilities of the guide's outcomes and `log p(x, z) - log q(z)` in each, both
            `[outcomes]`; default: the ELBO.

    Raises:
        NotEnumerable: a choice has no finite support, or there are too many outcomes.

    Example:
        >>> import varigrad as vg
        >>> from varigrad import testing
        >>> coin = testing.PROGRAMS["bernoulli"]
        >>> value, gradient = testing.exact_gradient(vg.ELBO()(coin.model, coin.guide))
        >>> sorted(gradient)
        ['t']
    """
    names, leaves = _leaves(bound)
    paths = [_outcome(bound, path, args, kwargs) for path in outcomes(limit)]
    total = of(torch.stack([p for p, _ in paths]), torch.stack([w for _, w in paths]))
    grads = torch.autograd.grad(total, leaves, allow_unused=True)
    found = {n: torch.zeros_like(p) if g is None else g for n, p, g in zip(names, leaves, grads, strict=True)}
    return float(total.detach()), found


def options_of(bound: Bound, *args: object, limit: int = LIMIT, **kwargs: object) -> int:
    """How many outcomes the guide's choices have if every path has as many options as the first; cheap.

    Raises:
        NotEnumerable: a choice has no finite support, or by itself more than `limit` outcomes.
    """
    first = Outcomes(limit=limit)
    with torch.no_grad():
        _outcome(bound, first, args, kwargs)
    return math.prod(count for _, count in first.taken)


def draws_of(bound: Bound, *args: object, nodes: int | None = None, limit: int = LIMIT, **kwargs: object) -> int:
    """As `options_of`, for what the bound's estimators draw; `nodes` as in `expected_gradient`.

    Raises:
        NotEnumerable: they draw something without finite support, or with more than `limit` outcomes.
    """
    first = Outcomes(nodes=nodes, limit=limit)
    with bound.drawing_from(first):
        bound.estimate(*args, **kwargs)
    return math.prod(count for _, count in first.taken)


def gradient_of(bound: Bound, function: Callable[[dict[str, Tensor]], Tensor]) -> tuple[float, Gradient]:
    """Value and gradient of a closed form, given as a function of the constrained parameters by name.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import testing
        >>> def program():
        ...     vg.sample("z", vg.distributions.Normal(vg.param("m", torch.tensor(3.0)), 1.0))
        >>> bound = vg.ELBO()(program, program).init()
        >>> testing.gradient_of(bound, lambda parameters: parameters["m"] ** 2)
        (9.0, {'m': tensor(6.)})
    """
    names, leaves = _leaves(bound)
    value = function(bound.owner.constrained_leaves())
    grads = torch.autograd.grad(value, leaves, allow_unused=True)
    return float(value.detach()), {
        n: torch.zeros_like(p) if g is None else g for n, p, g in zip(names, leaves, grads, strict=True)
    }


def largest_difference(a: Gradient, b: Gradient) -> float:
    """The largest absolute difference of two gradients.

    Example:
        >>> import torch
        >>> from varigrad import testing
        >>> testing.largest_difference({"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([1.0, 2.5])})
        0.5
    """
    return max(float((a[n] - b[n]).abs().max()) for n in a)


def _leaves(bound: Bound) -> tuple[list[str], list[Tensor]]:
    named = [(n, p) for n, p in bound.owner.named_parameters() if p.requires_grad and not n.startswith("baselines.")]
    return [n for n, _ in named], [p for _, p in named]


def _outcome(
    bound: Bound, source: Outcomes, args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[Tensor, Tensor]:
    """One path's probability and its log-ratio; differentiable."""
    cache: dict[str, Tensor] = {}
    values: dict[str, Tensor] = {}
    indices: dict[str, Tensor] = {}
    log_q: list[Tensor] = []  # what the draws follow
    terms: list[Tensor] = []  # what the bound counts
    chance = 1.0

    def common(message: Message, forward: Forward, sign: int) -> Message:
        nonlocal chance
        if isinstance(message, Param) and message.value is None:
            message = evolve(message, value=bound.owner.constrained(message, cache))
        elif isinstance(message, Indices):
            if message.name not in indices:
                before = source.probability
                indices[message.name] = source.subset(message.size, message.batch)
                chance *= source.probability / before
            message = evolve(message, value=same_minibatch(message, indices[message.name]))
        elif isinstance(message, Factor):
            terms.append(sign * _counted(message, message.log_factor))
        return forward(message)

    def guide(message: Message, forward: Forward) -> Message:
        if isinstance(message, Sample):
            distribution = expanded(message)
            value = source.draw(distribution)
            values[message.name] = value
            log_q.append(unmasked(distribution).log_prob(value).sum())
            terms.append(-_counted(message, distribution.log_prob(value)))
            return forward(evolve(message, value=value))
        return common(message, forward, -1)

    def model(message: Message, forward: Forward) -> Message:
        if isinstance(message, Sample):
            if not message.observed:
                message = evolve(message, value=values[message.name])
            assert message.value is not None
            terms.append(_counted(message, message.distribution.log_prob(message.value)))
            return forward(message)
        return common(message, forward, 1)

    run(bound.guide_program, (guide,), args, kwargs)
    run(bound.model_program, (model,), args, kwargs)
    probability = torch.stack(log_q).sum().exp() if log_q else torch.ones(())
    return chance * probability, torch.stack(terms).sum()


def _counted(message: Sample | Factor, log_prob: Tensor) -> Tensor:
    shape = plate_shape(message)
    log_prob = log_prob.expand(join(log_prob.shape, shape))
    if message.mask is not None:
        log_prob = masked(log_prob, message.mask)
    return (log_prob * message.scale).sum()
