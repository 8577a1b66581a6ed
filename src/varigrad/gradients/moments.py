"""Mean and variance of a gradient from many draws, and the reference gradient that it is compared with."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from varigrad.distributions.rng import Source
from varigrad.errors import SiteError, VarigradError
from varigrad.estimators.base import Estimator
from varigrad.estimators.baselines import MovingAverage
from varigrad.estimators.leave_one_out import LeaveOneOut
from varigrad.estimators.score import Score
from varigrad.gradients.exact import draws_of, exact_gradient, expected_gradient, options_of
from varigrad.language.messages import Program, evolve
from varigrad.language.runtime import modules_of
from varigrad.objectives.bound import Bound
from varigrad.objectives.elbo import ELBO
from varigrad.objectives.estimator_selection import patterns_of
from varigrad.objectives.gradient_draws import leaves_of, reseeded, samples
from varigrad.objectives.objective import Objective
from varigrad.objectives.plan import shown
from varigrad.objectives.shadow_parameters import ShadowParameters

FIRST_ALARM, SECOND_ALARM = 1e-3, 1e-5
"""Two-sided false-alarm rates of the two stages of a sampling test, family-wise over a program's coordinates; a
correct estimator fails both, on fresh draws, about once in 10^8 tests."""

WARM_UP = 100
"""Steps before anything is measured: a decaying average has then forgotten its start."""

TOGETHER = 10
"""Particles in a step of a long run."""

LEARNING_RATE = 1e-2
"""Of Adam, for the networks of baselines while they warm up."""


@dataclass
class RunningMoments:
    """Mean and variance, element by element, of draws that come in blocks `[n, elements]`."""

    count: int = 0
    mean: Tensor = field(default_factory=lambda: torch.zeros(()))
    squares: Tensor = field(default_factory=lambda: torch.zeros(()))
    """Sum of squared deviations from the mean."""

    def add(self, block: Tensor) -> None:
        """Add a block of draws, `[n, elements]`."""
        block = block.double()
        mean, squares = block.mean(0), (block - block.mean(0)).square().sum(0)
        if self.count:
            n, m = self.count, len(block)
            step = mean - self.mean
            squares = self.squares + squares + step.square() * (n * m / (n + m))
            mean = self.mean + step * (m / (n + m))
        self.count, self.mean, self.squares = self.count + len(block), mean, squares

    @property
    def variance(self) -> Tensor:
        """The unbiased variance of one draw."""
        return self.squares / (self.count - 1)

    @property
    def error(self) -> Tensor:
        """The standard error of the mean."""
        return (self.variance / self.count).sqrt()


@dataclass(frozen=True, eq=False)
class Reference:
    """The gradient that estimators are compared with: `mean` and its standard error (zero if exact), `[elements]`."""

    mean: Tensor
    error: Tensor
    how: str
    count: int = 0
    """Steps that it was taken from; zero if it is exact."""


@contextmanager
def measured_bound(
    model: Program,
    guide: Program,
    args: tuple[object, ...],
    at: Bound | None,
    seed: int,
    objective: Objective | None = None,
) -> Iterator[Bound]:
    """A bound whose gradient is to be measured: `at`, or a new one. Afterwards all generators, averages and buffers
    are what they were.

    Args:
        objective: says which sites a new bound sums out, and whether the programs may have different sites.
    """
    if at is not None and not isinstance(at, Bound):
        raise VarigradError(f"at must be a bound, got {type(at).__name__}", try_="at=svi.bound, or fit.bound")
    if at is None or at.is_empty:
        with reseeded(seed):
            if at is None:
                if modules_of(model) or modules_of(guide):
                    # An automatic guide makes its parameters when it first runs: let a copy of it do that.
                    model, guide = copy.deepcopy((model, guide))
                plain = ELBO() if objective is None else ELBO(marginal=objective.marginal, strict=objective.strict)
                at = plain.bind(model, guide, seeded(seed))
            at.init(*args)
    with at.preserved(seed), torch.enable_grad():
        yield at


def seeded(seed: int) -> Source:
    """A source with a separate generator."""
    return Source(torch.Generator().manual_seed(seed))


def candidate(
    at: Bound, objective: Objective, estimators: Mapping[str, Estimator], args: tuple[object, ...], seed: int
) -> Bound:
    """A bound with other estimators for the parameters of `at`; baselines' networks are copies, and all is warm.

    Raises:
        VarigradError: an estimator cannot serve.
    """
    others = {glob: e for glob, e in patterns_of(objective.estimators) if glob not in estimators}
    mine = {glob: copy.deepcopy(e) if e.parameters_of_baselines() else e for glob, e in estimators.items()}
    changed = evolve(objective, estimators={**mine, **others})  # the first match counts
    bound = at.twin(seeded(seed), ShadowParameters(at.owner), changed)
    free = {site: c for site, c in at.decided.items() if not any(fnmatchcase(site, glob) for glob in estimators)}
    bound.decide(free)
    bound.advance(steps=at.steps - bound.steps)
    networks = [p for e in mine.values() for m in e.parameters_of_baselines().values() for p in m.parameters()]
    warm_up(bound.init(*args), args, networks)
    return bound


def warm_up(bound: Bound, args: tuple[object, ...], networks: Sequence[Tensor]) -> None:
    """Let averages see some costs, and train these parameters of baselines."""
    if not networks:
        samples(bound, WARM_UP, args, {})
        return
    optimiser = torch.optim.Adam(networks, LEARNING_RATE)
    for _ in range(WARM_UP):
        result = bound.estimate(*args)
        for network, grad in zip(
            networks, torch.autograd.grad(-result.surrogate, networks, materialize_grads=True), strict=True
        ):
            network.grad = grad
        optimiser.step()
        bound.advance(result.state, steps=0)


def reference_of(
    at: Bound,
    objective: Objective,
    sites: tuple[str, ...],
    args: tuple[object, ...],
    outcomes: int,
    draws: int,
    seed: int,
) -> Reference:
    """The exact gradient by enumeration, if the guide's choices have at most so many outcomes; else the mean of many
    draws with leave-one-out (a moving average where that is refused) at these sites.
    """
    plain = type(objective) is ELBO and not objective.weights and objective.strict
    if plain:
        try:
            bound = at.twin(seeded(seed), ShadowParameters(at.owner), ELBO()).init(*args)
            if options_of(bound, *args, limit=outcomes) <= outcomes:
                gradient = exact_gradient(bound, *args, limit=outcomes)[1]
                exact = torch.cat([gradient[n].reshape(-1) for n in leaves_of(bound)]).double()
                return Reference(exact, torch.zeros_like(exact), "exact, by enumeration")
        except (VarigradError, NotImplementedError):
            pass  # a choice without finite support, or too many
    # An ELBO's particles are independent, so their average has the same mean and costs less than as many steps.
    particles = TOGETHER * objective.particles if isinstance(objective, ELBO) else objective.particles
    together = particles // objective.particles
    for estimator in (LeaveOneOut(4), Score(MovingAverage())):
        try:
            bound = candidate(at, evolve(objective, particles=particles), dict.fromkeys(sites, estimator), args, seed)
            break
        except SiteError:
            continue
    running = RunningMoments()
    steps = max(2, -(-draws // together))
    for start in range(0, steps, 100):
        running.add(samples(bound, min(100, steps - start), args, {}))
    return Reference(running.mean, running.error, f"mean of {steps * together} draws with {shown(estimator)}", steps)


def z_scores(found: RunningMoments, reference: Reference, dtype: torch.dtype) -> Tensor:
    """Difference of the means in standard errors, `[elements]`, as a standard normal number; rounding counts for
    nothing.

    Errors estimated from few draws make the quotient Student's t, which is brought to the normal scale.

    References:
        Wallace (1959), Bounds on normal approximations to Student's and the chi-square distributions.
    """
    mine, theirs = found.error.square(), reference.error.square()
    spread = (mine + theirs).sqrt()
    t = (found.mean - reference.mean) / torch.maximum(spread, rounding_of(reference, dtype))
    # Welch's degrees of freedom.
    share = mine / (mine + theirs).clamp(min=torch.finfo(torch.float64).tiny)
    inverse = share.square() / (found.count - 1) + (1 - share).square() / max(1, reference.count - 1)
    freedom = torch.where(spread > 0, 1 / inverse, found.count - 1)
    return t.sign() * (8 * freedom + 1) / (8 * freedom + 3) * (freedom * (t.square() / freedom).log1p()).sqrt()


def rounding_of(reference: Reference, dtype: torch.dtype) -> Tensor:
    """How far a gradient may be off by rounding in this precision, `[elements]`."""
    return (1e-9 if dtype == torch.float64 else 1e-5) * (1 + reference.mean.abs())


def exact_bias(bound: Bound, reference: Reference, args: tuple[object, ...], outcomes: int) -> Tensor | None:
    """The estimator's mean minus the reference, without sampling, `[elements]`; None unless the reference is exact and
    what the estimator draws has at most so many outcomes.
    """
    if reference.error.any():
        return None
    generator = torch.get_rng_state()
    try:
        if draws_of(bound, *args, limit=outcomes) > outcomes:
            return None
        moments = expected_gradient(bound, *args, limit=outcomes)
    except (VarigradError, NotImplementedError):
        return None
    if not torch.equal(generator, torch.get_rng_state()):
        return None  # it drew numbers that are no choices among outcomes
    mean = torch.cat([moments.mean[n].reshape(-1) for n in leaves_of(bound)]).double()
    return mean - reference.mean


def limit_of(alarm: float, tests: int) -> float:
    """The limit that |z| exceeds by chance in any of so many tests with at most this probability."""
    return float(torch.special.ndtri(torch.tensor(1 - alarm / (2 * tests), dtype=torch.float64)))


def dtype_of(bound: Bound) -> torch.dtype:
    """The precision of the bound's parameters (of the first of them)."""
    return next(iter(leaves_of(bound).values())).dtype
