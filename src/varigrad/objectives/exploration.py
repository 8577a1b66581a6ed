"""Keeps the analysis of a bound's programs, and renews it when something changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from varigrad.distributions.rng import Source
from varigrad.errors import VarigradError
from varigrad.objectives.checks.first_run import check_pass, first_bad
from varigrad.objectives.checks.plate_independence_by_operations import MixedPlates
from varigrad.objectives.checks.rechecks import Rechecks
from varigrad.objectives.discovery import POINTS, Discovery, DiscoveryResult
from varigrad.objectives.estimator_selection import patterns_of
from varigrad.objectives.parameters import ParameterStore
from varigrad.objectives.program_runs import ProgramRuns
from varigrad.objectives.reachable_state import ReachableState, reachable_from
from varigrad.objectives.run_record import RunRecord, Vectorization, vectorization_of
from varigrad.objectives.without_side_effects import PreservedState, preserving_programs, seed_beside
from varigrad.user_warnings import warn_user


class BiasWarning(UserWarning):
    """An estimator that the user named may be biased at this site.

    Example:
        >>> import warnings
        >>> from varigrad.objectives import BiasWarning
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("error", BiasWarning)  # a biased gradient is an error in this block
    """


class StepInvalidated(Exception):
    """A step relied on an analysis that no longer holds, so the step has to be repeated."""


class Exploration:
    """The analysis of a bound's programs, which it renews when something changes.

    Args:
        runs: the programs, with all that their runs need.

    Attributes:
        discovered: the result of the last look; None before the first.
        rechecks: when to look again.
        quiet: whether warnings are left out, because the runs are measurements.
        held: whether what was discovered is used as it is, without looks: in a step that is captured, and in a twin.
    """

    def __init__(self, runs: ProgramRuns) -> None:
        self.runs = runs
        self.discovered: DiscoveryResult | None = None
        self.rechecks: Rechecks = Rechecks()
        self.quiet: bool = False
        self.held: bool = False
        self._reachable: ReachableState | None = None
        self._seeds = (0, 0)

    @property
    def owner(self) -> ParameterStore:
        """Holds the programs' parameters."""
        return self.runs.owner

    @property
    def steps(self) -> int:
        """How many steps have been taken."""
        return self.runs.carried.count

    @property
    def undecided(self) -> bool:
        """Whether some estimators are to be found out by measuring, and nothing has been measured yet."""
        patterns = patterns_of(self.runs.objective.estimators)
        return self.runs.decided is None and any(asked == "auto" for _, asked in patterns)

    def use(self, discovered: DiscoveryResult | None) -> None:
        """Run the programs by this result from now on."""
        self.discovered = discovered

    def mirror(self, other: Exploration) -> None:
        """Use the analysis of another exploration of the same programs, without analysing them again."""
        self.discovered, self._reachable = other.discovered, other._reachable
        self.held = self.quiet = True

    def begin(self, args: tuple[object, ...], kwargs: dict[str, object], *, lasting: bool) -> None:
        """Look at the programs for the first time, or from scratch.

        Args:
            lasting: parameters that come into being stay; else they come into being again with the first step.
        """
        if self.runs.decided is None and any(
            asked == "auto" for _, asked in patterns_of(self.runs.objective.estimators)
        ):
            raise VarigradError(
                "estimators='auto' has not been decided",
                because="an objective by itself does not measure",
                try_="vg.SVI(model, guide, optim, ELBO(estimators='auto')), or vg.decide(bound, data)",
            )
        with self._preserved() as kept:
            found = Discovery(self.runs, args, kwargs, kept, check=True, lasting=lasting).run()
        self.use(found)
        self.rechecks = Rechecks()  # a new one: what was known before may be of use to others
        self.rechecks.begin(self)
        assert self._reachable is not None
        self.rechecks.reach(self.owner, self._reachable)
        for sentence in found.plan.scaled_inside:
            warn_user(f"{sentence}. Try: the whole plate, or the site inside of it", BiasWarning)
        for name in found.suspects:
            warn_user(
                f"{name!r}: Pathwise was asked for, but its value goes through a comparison, rounding conversion "
                "or a pole, whose jumps a pathwise gradient misses, or loses its derivative on the way (detach, "
                "no_grad, an index). Try: Score(MovingAverage())",
                BiasWarning,
            )

    def look(
        self,
        args: tuple[object, ...],
        kwargs: dict[str, object],
        known: DiscoveryResult | None = None,
        base: tuple[RunRecord, Vectorization] | None = None,
        *,
        points: int = POINTS,
    ) -> DiscoveryResult:
        """What the programs show in runs that leave nothing behind; steps go on by what was known.

        Args:
            known: what was discovered before, which stays.
            base: a run whose draws are to be used, and its vectorization.
            points: at how many other points than the present parameters and arguments to compare numbers.
        """
        with self._preserved() as kept:
            return Discovery(self.runs, args, kwargs, kept, known, points=points, base=base).run()

    def look_again(self, args: tuple[object, ...], kwargs: dict[str, object]) -> bool:
        """Look again if that is called for before a step.

        Returns:
            Whether what was known before does not hold.
        """
        if self.discovered is None or not self.rechecks.is_due(self, args, kwargs):
            return False
        return self.rechecks.recheck(self, args, kwargs)

    def settle(self, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        """Note that what was discovered is good for the present arguments, modes and parameters."""
        self.rechecks.settle(self, args, kwargs)

    def mixed_in(
        self, run: RunRecord, vectorization: Vectorization, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> MixedPlates:
        """Look again where a run has gone a way that no look has seen; the plates that turn out to be mixed.

        Raises:
            StepInvalidated: the step has to be taken again, in another way.
        """
        before = self.discovered
        assert before is not None
        if self.held or not self.rechecks.note_branch(self, run, vectorization, args, kwargs):
            return {}
        now = self.discovered
        assert now is not None
        if (now.side_by_side, now.nondifferentiable) != (before.side_by_side, before.nondifferentiable):
            raise StepInvalidated
        return now.vectorization.mixed

    def first_problem(self, args: tuple[object, ...], kwargs: dict[str, object]) -> str:
        """A sentence about the first thing that is not finite: a parameter, or a site's log-density."""
        for name, parameter in self.owner.named_parameters():
            if not bool(parameter.isfinite().all()):
                return f"parameter {name!r} is NaN or infinite"
        with self._preserved(self.fresh_seed()) as kept, torch.no_grad():
            look = Discovery(self.runs, args, kwargs, kept)
            found = look.explore()
            check_pass(found)
            plain = vectorization_of(found, 1).plain
            if plain.slots:
                spread = look.with_all_values(plain)
                sentence = spread.first_impossible() or first_bad(spread.terms)
            else:
                sentence = first_bad(self.runs.terms(found, Vectorization(plates=plain.plates)))
        return sentence or "every term is finite in a fresh run; the gradient is not"

    def check_after(self, error: Exception | None, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        """Make the checks of a first run on the arguments of a step that has gone wrong; `error` is what torch says.

        Raises:
            VarigradError: one of them has failed, so this is what is wrong.
        """
        if self.held:  # an error while a step is recorded is reported by the recorder
            return
        try:
            with self._preserved() as kept, torch.no_grad():
                check_pass(Discovery(self.runs, args, kwargs, kept).explore())
        except VarigradError as known:
            raise known from error
        except Exception:  # the program's own error, which torch's would be replaced by
            return

    def reach(self) -> ReachableState:
        """The modules, tensors and generators that the programs refer to, as they are now."""
        found = reachable_from((self.owner, self.runs.model, self.runs.guide))
        if self._reachable is not None:
            found.modules.update(self._reachable.modules)
        self._reachable = found
        return found

    def fresh_seed(self) -> int:
        """A seed for draws beside the run: another one at every call, and none that the run's generators notice."""
        step, count = self._seeds
        count = count + 1 if step == self.steps else 0
        self._seeds = self.steps, count
        return seed_beside(self.runs.source, self.steps, count)

    @contextmanager
    def preserved(self) -> Iterator[None]:
        """Inside, what is discovered, and when to look again, may change; afterwards both are what they were."""
        before = self.discovered, self.rechecks, self.quiet
        self.rechecks, self.quiet = self.rechecks.beside(self), True
        try:
            yield
        finally:
            self.discovered, self.rechecks, self.quiet = before

    @contextmanager
    def _preserved(self, seed: int = 0) -> Iterator[PreservedState]:
        """Inside, programs may be run on other random numbers; afterwards all that the runs changed is put back."""
        runs, source = self.runs, self.runs.source
        parameters = [p for _, p in self.owner.named_parameters()]
        with preserving_programs(self.reach(), parameters, seed) as kept:
            runs.source = Source(torch.Generator().manual_seed(seed))
            try:
                yield kept
            finally:
                runs.source = source
