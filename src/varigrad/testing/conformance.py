"""`check_estimator`: tests that an estimator is unbiased on a registry of programs.

For every program of the registry that the estimator serves, its mean gradient has to equal the exact one. Where the
guide is discrete and the estimator's draws have few outcomes, each outcome is run and nothing is sampled; uniform
numbers are integrated over. Elsewhere a two-stage sampling test is used. The estimator has to refuse sites that it does
not serve.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from varigrad.distributions.rng import Source
from varigrad.errors import SiteError
from varigrad.estimators.base import Estimator
from varigrad.gradients.exact import (
    Gradient,
    Moments,
    draws_of,
    exact_gradient,
    expected_gradient,
    gradient_of,
    largest_difference,
)
from varigrad.gradients.moments import FIRST_ALARM, SECOND_ALARM
from varigrad.gradients.outcomes import NotEnumerable
from varigrad.objectives.bound import Bound
from varigrad.objectives.elbo import ELBO
from varigrad.shapes import table
from varigrad.testing.programs import PROGRAMS
from varigrad.testing.registered_program import Case

EXACT_TOLERANCE = 1e-9
QUADRATURE_TOLERANCE = 1e-6
NODES = 24, 32
"""For each uniform number. A mean that moves by more than a quarter of the tolerance from the one to the other has not
converged, and is sampled instead; an error that falls like 1/n^2 or faster is then below the tolerance."""


@dataclass(frozen=True)
class Verdict:
    """The result of the tests on one program.

    Attributes:
        program: the program's name.
        side_by_side: whether particles ran along a dimension, or in a loop.
        how: "exact", "quadrature" (exact but for integrals over uniform numbers), "sampled" or "refused".
        outcomes: paths enumerated, or draws taken.
        error: largest absolute error of the mean, or largest |z| (sampled).
        limit: what `error` had to stay below.

    Example:
        >>> from varigrad import estimators, testing
        >>> verdict = testing.check_case(estimators.Score(), "bernoulli", testing.PROGRAMS["bernoulli"])
        >>> verdict.how, verdict.error < verdict.limit
        ('exact', True)
    """

    program: str
    side_by_side: bool
    how: str
    outcomes: int
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the law holds."""
        return self.how == "refused" or self.error <= self.limit


class Conformance(tuple[Verdict, ...]):
    """The verdicts on all programs; `print` it.

    Example:
        >>> from varigrad import estimators, testing
        >>> one = {"bernoulli": testing.PROGRAMS["bernoulli"]}
        >>> found = testing.check_estimator(estimators.Score(), programs=one)
        >>> [verdict.how for verdict in found]
        ['exact', 'exact']
    """

    __slots__ = ()

    def __str__(self) -> str:
        rows = [
            (
                v.program,
                v.how,
                v.side_by_side,
                v.outcomes,
                f"{v.error:.2g}",
                f"{v.limit:.2g}",
                "ok" if v.passed else "WRONG",
            )
            for v in self
        ]
        return table(rows, ("program", "how", "side by side", "outcomes", "error", "limit", "verdict"))


def check_estimator(
    estimator: Estimator,
    *,
    programs: Mapping[str, Case] | None = None,
    draws: int = 20_000,
    outcomes: int = 3_000,
    seed: int = 0,
) -> Conformance:
    """Check an estimator on every program of the registry, side by side and in a loop.

    Args:
        estimator: the estimator.
        programs: the registry; default: all of `varigrad.testing.PROGRAMS`.
        draws: for the first stage of the sampling test side by side (a fortieth of it in a loop, which is slow); the
            second stage takes ten times as many.
        outcomes: programs with more outcomes than this are sampled.
        seed: of the sampling test.

    Returns:
        The verdicts, one for each program and way of running it.

    Raises:
        AssertionError: a law is broken; the text is the table of verdicts.

    Example:
        >>> from varigrad import estimators, testing
        >>> one = {"bernoulli": testing.PROGRAMS["bernoulli"]}
        >>> len(testing.check_estimator(estimators.DisARM(), programs=one))
        2
    """
    assert survives_copies(estimator), (
        f"{estimator!r} is not equal to its copy, made by pickle or copy.deepcopy; a frozen dataclass is"
    )
    verdicts = []
    for name, case in (programs or PROGRAMS).items():
        for vectorize in (None, False):
            verdicts.append(check_case(estimator, name, case, vectorize, draws=draws, outcomes=outcomes, seed=seed))
    found = Conformance(verdicts)
    if estimator.promises.unbiased and not all(v.passed for v in found):
        raise AssertionError(f"{estimator!r} is biased\n{found}")
    return found


def check_case(
    estimator: Estimator,
    name: str,
    case: Case,
    vectorize: bool | None = None,
    *,
    draws: int = 20_000,
    outcomes: int = 3_000,
    seed: int = 0,
) -> Verdict:
    """Check an estimator at the sites `z*` of one program.

    Args:
        estimator: the estimator.
        name: the program's name, for the verdict.
        case: the program.
        vectorize: False: particles run in a loop; None: as the program allows.
        draws, outcomes, seed: see `check_estimator`.

    Returns:
        What was found.

    Example:
        >>> from varigrad import estimators, testing
        >>> verdict = testing.check_case(estimators.DisARM(), "bernoulli", testing.PROGRAMS["bernoulli"])
        >>> verdict.how, verdict.program
        ('exact', 'bernoulli')
    """
    particles = 1 if estimator.drawing.coupling is None and not estimator.needs.across_particles else 2
    try:
        bound = _warm(ELBO(particles, {"z*": estimator}, vectorize=vectorize), case, seed)
        if case.exact is None:
            found = _enumerated(bound, name, case, outcomes)
            if found is not None:
                return found
    except SiteError:
        return Verdict(name, vectorize is None, "refused", 0, 0.0, 0.0)
    # One particle always counts as side by side: many do not, if they are not allowed to.
    particles = 100 if bound.side_by_side and vectorize is None else 10
    bound = _warm(ELBO(particles, {"z*": estimator}, vectorize=vectorize), case, seed)
    if case.exact is None:
        _, gradient = exact_gradient(bound, *case.args)
    else:
        _, gradient = gradient_of(bound, case.exact)
    batches = max(2, draws // (100 if bound.side_by_side else 400))
    for stage, (alarm, count) in enumerate(((FIRST_ALARM, batches), (SECOND_ALARM, 10 * batches))):
        bound.draw_from(Source(torch.Generator().manual_seed(1_000_003 * (stage + 1) + seed)))
        error, limit = sampled_error(bound, case, gradient, count, alarm)
        if error <= limit:
            break
    return Verdict(name, bound.side_by_side, "sampled", count * particles, error, limit)


def _enumerated(bound: Bound, name: str, case: Case, outcomes: int) -> Verdict | None:
    """The verdict without sampling; None if too many outcomes, or a quadrature that does not converge, forbid it."""
    value, gradient = exact_gradient(bound, *case.args)
    moments, how, tolerance = _moments(bound, case, outcomes, None), "exact", EXACT_TOLERANCE
    if moments is None:
        coarse, moments = (_moments(bound, case, outcomes, n) for n in NODES)
        how, tolerance = "quadrature", QUADRATURE_TOLERANCE
        if coarse is None or moments is None:
            return None
        if largest_difference(coarse.mean, moments.mean) > tolerance / 4:
            return None
    error = max(largest_difference(moments.mean, gradient), abs(moments.value - value))
    return Verdict(name, bound.side_by_side, how, moments.count, error, tolerance)


def _moments(bound: Bound, case: Case, outcomes: int, nodes: int | None) -> Moments | None:
    """Mean and variance over at most so many outcomes; None if there are more."""
    try:
        if draws_of(bound, *case.args, nodes=nodes, limit=outcomes) > outcomes:
            return None
        return expected_gradient(bound, *case.args, limit=outcomes, nodes=nodes)
    except NotEnumerable:
        return None


def survives_copies(estimator: Estimator) -> bool:
    """Whether a copy and a pickled copy equal the original (those that hold networks compare by identity)."""
    copies = (copy.deepcopy(estimator), pickle.loads(pickle.dumps(estimator)))  # noqa: S301 - our own bytes
    comparable = not estimator.parameters_of_baselines()
    return all(type(c) is type(estimator) and (c == estimator or not comparable) for c in copies)


def _warm(config: ELBO, case: Case, seed: int) -> Bound:
    """A bound whose baselines have seen a few costs."""
    source = Source(torch.Generator().manual_seed(seed))
    bound = config.bind(case.model, case.guide, source)
    if bound.is_empty:  # programs without arguments have been analysed when the bound was made
        bound.init(*case.args)
    for _ in range(3):
        bound(*case.args)
    return bound


def sampled_error(bound: Bound, case: Case, gradient: Gradient, batches: int, alarm: float) -> tuple[float, float]:
    """Compare the mean of sampled gradients with the exact one.

    Args:
        bound: the objective.
        case: the program, for its arguments.
        gradient: the exact gradient.
        batches: how many gradients to draw.
        alarm: the probability of a false alarm.

    Returns:
        The largest |z| of an element, and what it may be at most.
    """
    leaves = [p for n, p in bound.named_parameters() if n in gradient]
    seen: list[Tensor] = []
    for _ in range(batches):
        result = bound.estimate(*case.args)
        grads = torch.autograd.grad(result.surrogate, leaves)
        seen.append(torch.cat([g.reshape(-1) for g in grads]))
        bound.advance(result.state)
    draws = torch.stack(seen)
    exact = torch.cat([gradient[n].reshape(-1) for n, _ in bound.named_parameters() if n in gradient])
    error = (draws.mean(0) - exact).abs()
    spread = draws.std(0) / batches**0.5
    rounding = 1e-9 * (1 + exact.abs())
    z = error / spread.clamp(min=rounding)
    limit = float(torch.special.ndtri(torch.tensor(1 - alarm / (2 * len(exact)), dtype=torch.float64)))
    return float(z.max()), limit
