"""`ProgramRuns`: makes a step's runs of a model and a guide, and collects their terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from varigrad.distributions.rng import Source
from varigrad.language.messages import Forward, Indices, Message, Param, Program, Sample, evolve
from varigrad.language.runtime import expanded, run
from varigrad.language.trace import Recorder, Trace
from varigrad.objectives.checks.first_run import check_arguments
from varigrad.objectives.checks.plate_independence_by_operations import MixedPlates, with_mixed_plates
from varigrad.objectives.estimator_selection import Choice, patterns_of
from varigrad.objectives.estimator_states import EstimatorStates
from varigrad.objectives.execute import perform
from varigrad.objectives.objective import Objective, Weight
from varigrad.objectives.parameters import ParameterStore
from varigrad.objectives.run_record import Ensemble, RunRecord, RunSettings, Vectorization
from varigrad.objectives.surrogate import Estimate, terms_of
from varigrad.objectives.weights_and_kl import analytic, weighted
from varigrad.terms.independence.analysis import Follower
from varigrad.terms.term import Term

MixedIn = Callable[[RunRecord, Vectorization], MixedPlates]
"""Plates that turn out, in a run, to have elements that depend on each other; they were not known before it."""


@dataclass(eq=False)
class ProgramRuns:
    """A model and a guide with everything that a run needs: objective, parameters, randomness, state.

    Attributes:
        objective: the configuration.
        owner: holds the parameters.
        source: where all draws come from.
        carried: what the estimators carry from step to step, and the number of steps.
        weights: the objective's; a captured step has tensors in the place of functions of the step number.
        decided: the estimators that measuring has led to, by site; None before it.
    """

    objective: Objective
    model: Program
    guide: Program
    owner: ParameterStore
    source: Source
    carried: EstimatorStates
    weights: Mapping[str, Weight] = field(init=False)
    decided: Mapping[str, Choice] | None = None
    _latest: RunSettings | None = field(default=None, init=False)
    """The settings of the last step, which the next one shares unless something has changed."""

    def __post_init__(self) -> None:
        self.weights = self.objective.weights

    def settings(
        self,
        vectorization: Vectorization,
        *,
        owner: ParameterStore | None = None,
        nondifferentiable: frozenset[str] = frozenset(),
        track_all: bool | None = None,
        explore: bool = False,
        loop: bool = False,
        lasting: Callable[[], AbstractContextManager[None]] = nullcontext,
        follower: Follower | None = None,
    ) -> RunSettings:
        """Settings of a run; `track_all` is needed, and by default on, for divergences in closed form."""
        return RunSettings(
            self.owner if owner is None else owner,
            patterns_of(self.objective.estimators),
            self.source,
            vectorization,
            bool(self.objective.analytic_kl) if track_all is None else track_all,
            nondifferentiable,
            explore,
            loop,
            self.objective.strict,
            self.decided,
            self.carried.trees,
            lasting,
            follower,
            self.objective.marginal,
        )

    def _for_step(self, vectorization: Vectorization, nondifferentiable: frozenset[str]) -> RunSettings:
        """Settings of a step whose particles run side by side: those of the step before, if they are the same."""
        latest, objective = self._latest, self.objective
        if (
            latest is None
            or latest.vectorization is not vectorization
            or latest.nondifferentiable is not nondifferentiable
            or latest.source is not self.source
            or latest.decided is not self.decided
            or latest.owner is not self.owner
            or latest.patterns != patterns_of(objective.estimators)
            or latest.track_all != bool(objective.analytic_kl)
            or latest.strict is not objective.strict
            or latest.marginal is not objective.marginal
        ):
            latest = self._latest = self.settings(vectorization, nondifferentiable=nondifferentiable)
        states = self.carried.trees
        return latest if latest.states is states else evolve(latest, states=states)

    def perform(
        self,
        settings: RunSettings,
        args: tuple[object, ...],
        kwargs: dict[str, object],
        cache: dict[str, Tensor] | None = None,
        forced: Mapping[str, Tensor] | None = None,
        indices: Mapping[str, Tensor] | None = None,
    ) -> RunRecord:
        """One run of guide and model; see `execute.perform`."""
        constrained = {} if cache is None else cache
        return perform(settings, self.model, self.guide, args, kwargs, constrained, forced, indices)

    def estimate(
        self,
        vectorization: Vectorization,
        nondifferentiable: frozenset[str],
        side_by_side: bool,
        mixed_in: MixedIn,
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> Estimate:
        """Value, surrogate and next states, from runs of all particles and alternatives."""
        cache: dict[str, Tensor] = {}
        torch.clear_autocast_cache()  # 16-bit copies of parameters as they were, or made where gradients were off
        try:
            if side_by_side:
                wide = self.perform(self._for_step(vectorization, nondifferentiable), args, kwargs, cache)
                ensembles = [self._ensemble(wide, vectorization, mixed_in(wide, vectorization), {})]
            else:
                vectorization = evolve(vectorization, particles=1)
                loop = self.settings(vectorization, nondifferentiable=nondifferentiable, loop=True)
                particles = range(self.objective.particles)
                ensembles = [self._looped(loop, mixed_in, args, kwargs, cache) for _ in particles]
        except TypeError:
            check_arguments(self.model, self.guide, args, kwargs)
            raise
        return self.objective.combine(ensembles, vectorization, self.carried.trees)

    def _looped(
        self,
        settings: RunSettings,
        mixed_in: MixedIn,
        args: tuple[object, ...],
        kwargs: dict[str, object],
        cache: dict[str, Tensor],
    ) -> Ensemble:
        """One particle: its own run, and one more for every alternative at every site."""
        vectorization = settings.vectorization
        base = self.perform(settings, args, kwargs, cache)
        mixed = mixed_in(base, vectorization)
        order = list(base.draws)
        found: dict[str, list[Ensemble]] = {}
        for site, draw in base.alternatives.items():
            before = {n: base.draws[n].value for n in order[: order.index(site)]}
            found[site] = []
            for row in range(1, len(draw.value)):
                forced = {**before, site: draw.value[row].clone()}
                other = self.perform(settings, args, kwargs, cache, forced, base.indices)
                found[site].append(self._ensemble(other, vectorization, mixed, {}))
        return self._ensemble(base, vectorization, mixed, found)

    def _ensemble(
        self,
        run: RunRecord,
        vectorization: Vectorization,
        mixed: MixedPlates,
        alternatives: Mapping[str, list[Ensemble]],
    ) -> Ensemble:
        return Ensemble(run, with_mixed_plates(self.terms(run, vectorization), mixed), alternatives)

    def terms(self, run: RunRecord, vectorization: Vectorization) -> list[Term]:
        """The terms of a run, as the objective sums them."""
        return terms_of(run, vectorization, self.adjusted)

    def adjusted(self, run: RunRecord, terms: list[Term]) -> list[Term]:
        """Terms with divergences in closed form and weights put in."""
        return weighted(analytic(terms, run, self.objective.analytic_kl), self.weights, self.carried.count)

    def trace_guide(self, args: tuple[object, ...], kwargs: dict[str, object]) -> Trace:
        """One run of the guide alone, outside a step."""
        recorder = Recorder()
        result = run(self.guide, (recorder, self._alone), args, kwargs)
        return Trace(recorder.messages, result)

    def _alone(self, message: Message, forward: Forward) -> Message:
        """Answer messages of a program that runs outside a step: parameters, draws and minibatches."""
        if isinstance(message, Param) and message.value is None:
            message = evolve(message, value=self.owner.constrained(message, {}))
        elif isinstance(message, Sample) and message.value is None:
            message = evolve(message, value=self.source.draw(expanded(message)))
        elif isinstance(message, Indices) and message.value is None:
            message = evolve(message, value=self.source.subset(message.size, message.batch))
        return forward(message)
