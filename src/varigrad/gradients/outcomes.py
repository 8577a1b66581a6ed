"""`Outcomes`: a random source that walks the tree of outcomes of a program's draws, path by path.

The source makes choices instead of drawing: each run follows one path through the tree, and the source computes the
path's probability.

A uniform number has no finite support. Where an estimator promises a polynomial in it, a few Gauss-Legendre nodes are
exact. Elsewhere the caller chooses how many nodes replace it, and checks that they are enough.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch import distributions as td

from varigrad.distributions.finite_support import count_of
from varigrad.distributions.mixin import unmasked
from varigrad.distributions.rng import Source
from varigrad.distributions.score_only import ScoreOnly
from varigrad.errors import VarigradError

LIMIT = 100_000
"""How many outcomes are run through at most, unless a limit is given."""


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
        if flat.dtype != torch.float64:
            # The sum of single-precision probabilities is 1 but for rounding; over many choices that adds up.
            total = flat.double().sum(-1, keepdim=True)
            flat = flat.double() / total.where((total - 1).abs() < 1e3 * torch.finfo(probs.dtype).eps, 1.0)
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
