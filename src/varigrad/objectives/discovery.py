"""Discovery: analyses two programs by running them: their sites, plates, and whether they can be vectorised.

Findings are rechecked later (`rechecks.py`). Runs are undone (`without_side_effects.py`), but the first run's new
parameters may stay.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter

import torch
from torch import Tensor

from varigrad.errors import VarigradError
from varigrad.language.messages import Sample, evolve
from varigrad.objectives.checks.first_run import (
    check_arguments,
    check_particles,
    check_pass,
    check_patterns,
    check_smooth,
)
from varigrad.objectives.checks.lane_independence import failure_side_by_side, site_values
from varigrad.objectives.checks.marginal_densities import check_marginal_values
from varigrad.objectives.checks.perturbed_points import moved, moved_arguments
from varigrad.objectives.checks.plate_independence_by_operations import (
    MixedPlates,
    Structure,
    joined_plates,
    structure_of_lanes,
    structure_of_plates,
    with_upstream_sites,
)
from varigrad.objectives.checks.plate_independence_by_values import mixed_plates, moves_anywhere, open_plates
from varigrad.objectives.checks.pole_crossings import pole_crossings
from varigrad.objectives.checks.replays import FAILURES
from varigrad.objectives.estimator_selection import patterns_of
from varigrad.objectives.initializing_store import InitializingStore
from varigrad.objectives.marginal_plan import AllValues, all_values
from varigrad.objectives.marginal_sites import check_named, globs_of
from varigrad.objectives.parameters import ParameterStore
from varigrad.objectives.plan import Plan, plan_of
from varigrad.objectives.program_runs import ProgramRuns
from varigrad.objectives.run_record import RunRecord, Vectorization, vectorization_of
from varigrad.objectives.shadow_parameters import shadow_of
from varigrad.objectives.surrogate import densities_of
from varigrad.objectives.without_side_effects import PreservedState
from varigrad.terms.dependency_tracker import NOT_PATHWISE
from varigrad.terms.independence.analysis import Follower
from varigrad.terms.term import Term, collect

POINTS = 3
"""At how many other points than the present one the first look compares numbers,"""
ATTEMPTS = 6
"""in at most so many attempts: a program may refuse some of the points."""

_NAME = attrgetter("message.name")


@dataclass(frozen=True, eq=False)
class DiscoveryResult:
    """The result of analysing two programs.

    Attributes:
        vectorization: how leading dimensions are used, with the plates whose elements are mixed.
        side_by_side: whether particles and alternatives run along separate dimensions; else in a loop.
        reason: why in a loop; empty otherwise.
        nondifferentiable: sites whose values go through a step, or lose their derivative.
        plan: what to tell about it.
        branch: the statements and plates that were met.
        sentences: how plates are mixed, by site and plate, as far as it is known.
        proven: whether the operations that were seen prove it, so that numbers need not be compared again.
        points: how many other points than the present one have said something.
        suspects: sites where Pathwise was asked for by name though it may be biased.
        crossed: sites whose pathwise gradients were seen to go through a pole, with a sentence about the place.
        observed: the sites of the model that had observations.
    """

    vectorization: Vectorization
    side_by_side: bool
    reason: str
    nondifferentiable: frozenset[str]
    plan: Plan
    branch: tuple[object, ...]
    sentences: Mapping[tuple[str, str], str] = field(default_factory=dict)
    proven: bool = False
    points: int = 0
    suspects: tuple[str, ...] = ()
    crossed: Mapping[str, str] = field(default_factory=dict)
    observed: frozenset[str] = frozenset()


def branch_of(run: RunRecord) -> tuple[object, ...]:
    """The branch that a run took, as far as its statements and plates tell it."""
    return (*map(_NAME, run.guide), None, *map(_NAME, run.model), *run.sizes.items())


def observed_in(run: RunRecord) -> list[str]:
    """The observed sites of a run's model."""
    return [s.message.name for s in run.model if isinstance(s.message, Sample) and s.message.observed]


@dataclass(eq=False)
class Discovery:
    """One analysis of two programs, by runs whose side effects are undone afterwards.

    Args:
        runs: the programs; their source is one of the look's own.
        args, kwargs: what they are called with.
        kept: puts back afterwards what runs change.
        known: what was found before: plates that were seen to be mixed, and a loop, stay.
        check: raise for what is wrong with the programs.
        lasting: parameters that come into being stay.
        points: at how many other points to compare numbers.
        base: a run whose draws and minibatches the look is to take, and the vectorization it had.
    """

    runs: ProgramRuns
    args: tuple[object, ...]
    kwargs: dict[str, object]
    kept: PreservedState
    known: DiscoveryResult | None = None
    check: bool = False
    lasting: bool = False
    points: int = POINTS
    base: tuple[RunRecord, Vectorization] | None = None
    _nondifferentiable: frozenset[str] = frozenset()
    _mixed: dict[str, frozenset[str]] = field(default_factory=dict)
    _owner: ParameterStore | None = None
    _proof: Structure = field(default_factory=Structure)
    _lanes_proven: bool = True
    _proven: bool = True

    def run(self) -> DiscoveryResult:
        """Run the programs as often as it takes, and conclude what they show."""
        runs = self.runs
        differentiable = torch.is_grad_enabled()
        self._owner = InitializingStore(runs.owner, self.kept) if self.lasting else shadow_of(runs.owner)
        with torch.no_grad():
            with torch.set_grad_enabled(differentiable):  # to see where the program switches it off
                seen = self.explore()
            escapes = seen.tracker.escapes
            nondifferentiable = frozenset(
                t.site for t in escapes.nondifferentiable if NOT_PATHWISE not in t.cross_element
            )
            blocked = frozenset(t.site for t in escapes.blocked if NOT_PATHWISE not in t.cross_element)
            known = self.known.nondifferentiable if self.known is not None else frozenset()
            if nondifferentiable or blocked or known:
                self._nondifferentiable = nondifferentiable | blocked | known
                with torch.set_grad_enabled(differentiable):
                    seen = self.explore()
            if self.check:
                self._check(seen, nondifferentiable)
            if self.lasting:
                self._owner = shadow_of(runs.owner)  # what other values than the drawn ones lead to does not stay
            crossed = dict(self.known.crossed) if self.known is not None else {}
            if differentiable and (new := self._crossed(seen)):
                crossed.update(new)
                if self.check:
                    check_smooth(seen, nondifferentiable, new)
                self._nondifferentiable |= new.keys()
                with torch.enable_grad():
                    seen = self.explore()
            wide = vectorization_of(seen, runs.objective.particles)
            if self.known is not None:
                self._mixed = dict(self.known.vectorization.mixed)
            if wide.slots:
                check_marginal_values(self._again, densities_of, wide)
            self._structure(seen, wide)
            self._add(mixed_plates(self._again, runs.terms, seen, wide, self._settled))
            reason = self._reason(wide)
            reason, points = self._elsewhere(seen, wide, reason)
            self._mixed = with_upstream_sites(self._mixed, seen)
            if self._mixed:
                wide = evolve(wide, mixed=self._mixed)
                seen = self.explore(self._mixed)
            terms = collect(seen.guide, seen.model, dims=wide.plates, fixed=(), escapes=seen.tracker.escapes)
            if wide.slots:
                terms = (spread := self.with_all_values(wide.plain)).terms
            else:
                runs.adjusted(seen, terms)
        side = self._alone(wide) or not reason
        unproven = self._unproven(seen, wide, reason, points)
        without = self._nondifferentiable
        plan = plan_of(seen, terms, wide, runs.objective.particles, reason, side, without, unproven, crossed)
        if wide.slots:
            sums, scaled_inside = spread.plans()
            plan = evolve(plan, marginal=sums, scaled_inside=scaled_inside)
        suspects = tuple(s.name for s in plan.sites if s.suspect and "default" not in s.why)
        sentences, proven = self._proof.sentences, self._proven
        branch, observed = branch_of(seen), frozenset(observed_in(seen))
        return DiscoveryResult(
            wide, side, reason, without, plan, branch, sentences, proven, points, suspects, crossed, observed
        )

    def explore(self, mixed: MixedPlates | None = None) -> RunRecord:
        """One run with plain draws, everything tracked."""
        if self._owner is None:
            self._owner = shadow_of(self.runs.owner)
        runs = self.runs
        forced, indices = {}, None
        if self.base is not None:
            run, vectorization = self.base
            forced, indices = site_values(run, vectorization), run.indices
        settings = runs.settings(
            Vectorization(mixed=mixed or {}),
            owner=self._owner,
            nondifferentiable=self._nondifferentiable,
            track_all=True,
            explore=True,
            lasting=self.kept.lasting,
        )
        try:
            return runs.perform(settings, self.args, self.kwargs, forced=forced, indices=indices)
        except TypeError:
            check_arguments(runs.model, runs.guide, self.args, self.kwargs)
            raise

    def _crossed(self, seen: RunRecord) -> dict[str, str]:
        """The sites whose pathwise gradients were seen to go through a pole, with sentences about the places."""
        assert self._owner is not None
        self.kept.know(p for _, p in self._owner.named_parameters())
        self.base, base = None, self.base
        try:
            with torch.enable_grad():
                return pole_crossings(seen, self.explore, self.kept, 2 * self.points)
        finally:
            self.base = base

    def _again(self, vectorization: Vectorization, like: RunRecord | None, forced: dict[str, Tensor]) -> RunRecord:
        """Run the programs again, with some values forced, on the minibatches of another run."""
        runs = self.runs
        settings = runs.settings(
            vectorization,
            owner=self._owner,
            nondifferentiable=self._nondifferentiable,
            loop=like is not None or not vectorization.lanes,
        )
        indices = like.indices if like is not None else None
        return runs.perform(settings, self.args, self.kwargs, forced=forced, indices=indices)

    def _followed(self, vectorization: Vectorization, follower: Follower, plain: bool) -> RunRecord:
        """Run the programs while a follower follows dimensions: with plain draws, or as steps run them."""
        runs = self.runs
        settings = runs.settings(
            vectorization,
            owner=self._owner,
            nondifferentiable=self._nondifferentiable,
            track_all=True,
            explore=plain,
            follower=follower,
        )
        forced, indices = {}, None
        if self.base is not None and plain:
            forced, indices = site_values(*self.base), self.base[0].indices
        return runs.perform(settings, self.args, self.kwargs, forced=forced, indices=indices)

    def with_all_values(self, vectorization: Vectorization) -> AllValues:
        """A run in which sites are summed out, everything tracked."""
        runs, without = self.runs, self._nondifferentiable
        settings = runs.settings(vectorization, owner=self._owner, nondifferentiable=without, track_all=True, loop=True)
        run = runs.perform(settings, self.args, self.kwargs)
        return all_values(run, vectorization, runs.terms(run, vectorization))

    def _structure(self, seen: RunRecord, wide: Vectorization) -> None:
        """Note what the operations of a run prove about its plates."""
        if not open_plates(seen, self._mixed):
            return
        self._proof = structure_of_plates(self._followed, self.runs.terms, wide)
        self._add(self._proof.mixed)

    @property
    def _settled(self) -> dict[str, frozenset[str]]:
        """Plates, by site, of which it is known whether their elements are mixed."""
        return joined_plates(self._mixed, self._proof.apart)

    def _check(self, seen: RunRecord, nondifferentiable: frozenset[str]) -> None:
        config, owner = self.runs.objective, self._owner
        assert owner is not None
        check_pass(seen)
        check_particles(seen, config.particles)
        check_smooth(seen, nondifferentiable)
        analytic_kl = config.analytic_kl
        named = () if isinstance(analytic_kl, bool) else tuple(analytic_kl)
        asked = tuple(pattern for pattern, _ in patterns_of(config.estimators))
        patterns = {"estimators": asked, "weights": tuple(config.weights), "marginal": globs_of(config.marginal)}
        check_patterns(seen, {**patterns, "analytic_kl": named})
        check_named(config.marginal, seen.marginal, observed_in(seen), seen.draws)
        config.check(seen)
        owner.check_names(s.message.name for s in (*seen.guide, *seen.model))

    def _add(self, mixed: MixedPlates) -> None:
        for site, plates in mixed.items():
            self._mixed[site] = self._mixed.get(site, frozenset()) | plates

    def _alone(self, vectorization: Vectorization) -> bool:
        """Whether there is nothing that could run side by side."""
        return vectorization.count == 1 and vectorization.particles == 1

    def _reason(self, wide: Vectorization) -> str:
        """Why particles and alternatives have to run in a loop, at the present parameters; empty if they need not."""
        if self._alone(wide):
            return ""
        if self.runs.objective.vectorize is False:
            return "vectorize=False"
        if self.known is not None and not self.known.side_by_side:
            return self.known.reason
        verdict = structure_of_lanes(self._followed, self.runs.terms, wide)
        self._lanes_proven = verdict.apart
        if verdict.kind == "mixes":
            return self._failure(
                f"the density of {verdict.term!r} mixes particles or alternatives: {verdict.sentence()}"
            )
        if verdict.apart and self.known is not None:
            return ""
        others = 1 if verdict.apart else None
        return self._failure(failure_side_by_side(self._again, self.runs.terms, wide, others=others))

    def _failure(self, failure: str | None) -> str:
        if failure is not None and self.runs.objective.vectorize:
            raise VarigradError(
                f"cannot run particles and alternatives side by side: {failure}",
                because="vectorize=True asks for it",
                try_="ELBO(vectorize=False), which loops, or code that leaves leading dimensions alone "
                "(sum(-1) for sum(), z[..., 0] for z[0])",
            )
        return failure or ""

    def _unproven(self, seen: RunRecord, wide: Vectorization, reason: str, points: int) -> tuple[str, ...]:
        """Sentences about independence that only numbers speak for: of plates, or of lanes and particles."""
        compared = f"compared at {1 + points} point(s): no operation that was seen proves it"
        plates = sorted({f"{m.name!r} in plate {p.name!r}" for m, p in open_plates(seen, self._settled)})
        found = [f"the elements of {', '.join(plates)} being kept apart, {compared}"] if plates else []
        if not (reason or self._alone(wide) or self._lanes_proven):
            found.append(f"particles and alternatives being kept apart, {compared}")
        return tuple(found)

    def _elsewhere(self, seen: RunRecord, wide: Vectorization, reason: str) -> tuple[str, int]:
        """The same comparisons at other parameters, buffers and arguments; the reason for a loop, and how many points
        said something.

        What is proven needs no more than a second opinion, and that once.
        """
        self._proven = not open_plates(seen, self._settled) and bool(reason or self._lanes_proven)
        first = self.known is None
        points = min(self.points, first) if self._proven else self.points
        if not open_plates(seen, self._mixed if first else self._settled) and (reason or self._alone(wide)):
            return reason, 0
        generator = torch.Generator().manual_seed(len(wide.order))
        said = 0
        given = self.args, self.kwargs
        assert self._owner is not None
        self.kept.know(p for _, p in self._owner.named_parameters())
        for attempt in range(ATTEMPTS):
            if said >= points:
                break
            inputs = attempt % 2 == 1
            if inputs:
                self.args, self.kwargs = moved_arguments(*given, generator)
            try:
                with moved(self.kept, generator, inputs), warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # at values that the program is never given
                    there, spoke = self._there(wide, reason)
            except FAILURES:
                continue  # this point says nothing
            finally:
                self.args, self.kwargs = given
            if there != reason:
                reason = self._failure(there)
            said += spoke
        return reason, said

    def _there(self, wide: Vectorization, reason: str) -> tuple[str, bool]:
        """Compare at one other point: the reason for a loop that it gives, and whether it says anything.

        Mixed plates are noted.
        """
        runs = self.runs
        self.base, base = None, self.base
        try:
            seen = self.explore()
        finally:
            self.base = base
        here = vectorization_of(seen, runs.objective.particles)
        if here.plates != wide.plates or tuple(here.order) != tuple(wide.order) or here.lanes != wide.lanes:
            return reason, False  # another branch
        terms: list[Term] = runs.terms(seen, Vectorization(plates=wide.plates, order=wide.order))
        spoke = all(bool(t.log_prob.isfinite().all()) for t in terms)
        known = self._mixed if self.known is None else self._settled
        for plate, sites in moves_anywhere(self._again, runs.terms, seen, wide, known).items():
            found = mixed_plates(self._again, runs.terms, seen, wide, known)
            self._add(found)
            if not any(plate in found.get(site, ()) for site in sites):
                self._add({site: frozenset((plate,)) for site in sites})
        if not reason and not self._alone(wide):
            reason = failure_side_by_side(self._again, runs.terms, wide, thorough=False) or ""
        return reason, spoke
