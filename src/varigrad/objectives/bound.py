"""`Bound`: an objective of a model and a guide, as a torch module that owns the parameters and computes the loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from varigrad.distributions.rng import Source
from varigrad.errors import VarigradError, whole_number
from varigrad.estimators.base import State
from varigrad.interrupts import Interrupts
from varigrad.language.messages import Program
from varigrad.language.runtime import can_do_without_arguments, modules_of, takes_no_arguments
from varigrad.language.trace import Trace
from varigrad.objectives.discovery import DiscoveryResult
from varigrad.objectives.estimator_selection import Choice
from varigrad.objectives.estimator_states import EstimatorStates, entries_of
from varigrad.objectives.exploration import BiasWarning as BiasWarning
from varigrad.objectives.exploration import Exploration, StepInvalidated
from varigrad.objectives.gradient_draws import by_name, samples
from varigrad.objectives.objective import Objective, Weight
from varigrad.objectives.parameters import Parameters, ParameterStore
from varigrad.objectives.plan import Plan
from varigrad.objectives.program_runs import ProgramRuns
from varigrad.objectives.run_record import VectorizationChanged
from varigrad.objectives.surrogate import Estimate
from varigrad.objectives.without_side_effects import preserving_programs


class Bound(Parameters):
    """An objective of a model and a guide, such as `ELBO()(model, guide)` returns.

    Calling it with the programs' arguments gives minus the bound, a scalar whose gradient is the estimators'.
    Parameters exist once the programs have run, so call `init(*args)` first (programs without arguments: done at
    construction).

    What changes from step to step belongs to the bound and is changed by it alone: `advance` takes over the estimators'
    next states, `draw_from` puts another source of random numbers in place, `drawing_from`, `preserved` and
    `captured` do so for a while.

    Args:
        config: the objective.
        model, guide: the programs.
        source: where all draws come from; None: torch's global generator.
        owner: holds the parameters; None: the bound does. With another one the programs are not run before they are
            asked for.

    Attributes:
        runs: the programs with all that their runs need.
        exploration: what is known about the programs.

    Raises:
        VarigradError: a program is not callable.

    Example:
        >>> import varigrad as vg
        >>> program = lambda: vg.sample("z", vg.distributions.Normal(vg.param("m", 0.0), 1.0))
        >>> sorted(dict(vg.ELBO()(program, program).named_parameters()))
        ['m']
    """

    def __init__(
        self,
        config: Objective,
        model: Program,
        guide: Program,
        source: Source | None = None,
        owner: ParameterStore | None = None,
    ) -> None:
        super().__init__()
        for what, program in (("model", model), ("guide", guide)):
            if not callable(program):
                raise VarigradError(f"the {what} must be a callable program, got {type(program).__name__}")
        self.config = config
        carried = EstimatorStates()
        self.runs: ProgramRuns = ProgramRuns(
            config, model, guide, self if owner is None else owner, Source() if source is None else source, carried
        )
        self.exploration: Exploration = Exploration(self.runs)
        self._interrupts = Interrupts()
        for name, program in (("model", model), ("guide", guide)) if owner is None else ():
            for i, module in enumerate(modules_of(program)):
                if not any(m is module for m in self.modules()):
                    self.add_module(name if i == 0 else f"{name}{i}", module)
        self._modules["_estimators"] = carried
        if owner is None and not self.undecided and takes_no_arguments(model) and can_do_without_arguments(guide):
            self.init()

    @property
    def owner(self) -> ParameterStore:
        """Holds the parameters: the bound itself, unless another owner was given."""
        return self.runs.owner

    @property
    def model_program(self) -> Program:
        """The model, as it was given."""
        return self.runs.model

    @property
    def guide_program(self) -> Program:
        """The guide, as it was given."""
        return self.runs.guide

    @property
    def source(self) -> Source:
        """Where all draws come from."""
        return self.runs.source

    @property
    def steps(self) -> int:
        """How many steps have been taken."""
        return self.runs.carried.count

    @property
    def estimator_states(self) -> Mapping[str, State]:
        """What the estimators carry from step to step, by site."""
        return self.runs.carried.trees

    @property
    def discovered(self) -> DiscoveryResult | None:
        """What is known about the programs; None before they have been run."""
        return self.exploration.discovered

    @property
    def side_by_side(self) -> bool:
        """Whether particles and alternatives run along separate dimensions; else one by one, in a loop."""
        return self.discovered is None or self.discovered.side_by_side

    @property
    def latest_plan(self) -> Plan | None:
        """The plan as it was found last; None before the programs have been run."""
        return None if self.discovered is None else self.discovered.plan

    @property
    def is_empty(self) -> bool:
        """Whether the programs have not been run yet."""
        return self.exploration.discovered is None

    @property
    def undecided(self) -> bool:
        """Whether some estimators are to be found out by measuring, and nothing has been measured yet."""
        return self.exploration.undecided

    @property
    def decided(self) -> Mapping[str, Choice]:
        """The estimators that measuring has led to, by site."""
        return self.runs.decided or {}

    @property
    def steps_to_look(self) -> int:
        """How many steps may be taken before everything is to be looked at again."""
        return max(1, self.exploration.rechecks.due - self.steps)

    def forward(self, *args: object, **kwargs: object) -> Tensor:
        """Minus the bound; its gradient is the estimators' (and the baselines' own)."""
        result = self.estimate(*args, **kwargs)
        self._interrupts.whole(self.advance, result.state)
        surrogate = result.surrogate
        return surrogate.detach() - surrogate - result.value  # the value of one, the gradient of the other

    def estimate(self, *args: object, **kwargs: object) -> Estimate:
        """Value, surrogate and next estimator state; changes nothing but the generator.

        Raises:
            VarigradError: gradients are switched off, or the program is wrong in one of the ways the errors name.
        """
        exploration = self.exploration
        if exploration.discovered is None:
            self.explore(*args, **kwargs)
        elif not exploration.held:
            exploration.look_again(args, kwargs)
        mixed_in = partial(exploration.mixed_in, args=args, kwargs=kwargs)
        for _ in range(3):
            known = exploration.discovered
            assert known is not None
            try:
                result = self.runs.estimate(
                    known.vectorization, known.nondifferentiable, known.side_by_side, mixed_in, args, kwargs
                )
            except VectorizationChanged:
                exploration.use(exploration.look(args, kwargs))
                exploration.settle(args, kwargs)
            except StepInvalidated:
                pass
            except VarigradError:
                raise
            except Exception as error:
                exploration.check_after(error, args, kwargs)
                raise
            else:
                if result.value.is_complex():
                    exploration.check_after(None, args, kwargs)
                if exploration.rechecks.unsettled:
                    exploration.settle(args, kwargs)
                exploration.rechecks.note_buffers()
                return result
        raise VarigradError(
            "the program's sites, plates or supports change from run to run while alternatives are laid out for them",
            try_="ELBO(vectorize=False), or Score() for the sites concerned",
        )

    def advance(self, states: Mapping[str, State] | None = None, steps: int = 1) -> None:
        """Take over the estimators' next states.

        Args:
            states: by site; those of sites that it lacks are forgotten. None: they are up to date already.
            steps: how many steps have led to them; 0: it is no step that changes them.

        Raises:
            VarigradError: an estimator carries something besides nested tuples of tensors and None.
        """
        carried = self.runs.carried
        carried.advance(carried.trees if states is None else states, steps)

    def draw_from(self, source: Source) -> None:
        """Draw from this source from now on."""
        self.runs.source = source

    @contextmanager
    def drawing_from(self, source: Source) -> Iterator[None]:
        """Inside, draw from this source; afterwards from the one before. Other sources may follow inside."""
        before = self.source
        self.draw_from(source)
        try:
            yield
        finally:
            self.draw_from(before)

    @contextmanager
    def preserved(self, seed: int | None = None) -> Iterator[None]:
        """Lend the bound: inside, it may be run and advanced; afterwards it is what it was.

        Put back are its source, the estimators' states (the very tensors: a captured step may know them), the number of
        steps, what has been discovered about the programs, and all that runs of them may change (see
        `preserving_programs`).

        Args:
            seed: of the source that it draws from inside; None: its own, and generators go on from where they are.
        """
        source = self.source if seed is None else Source(torch.Generator().manual_seed(seed))
        parameters = [p for _, p in self.owner.named_parameters()]
        with (
            preserving_programs(self.exploration.reach(), parameters, seed),
            self.drawing_from(source),
            self.runs.carried.preserved(),
            self.exploration.preserved(),
        ):
            yield

    @contextmanager
    def captured(self, weights: Mapping[str, Weight]) -> Iterator[None]:
        """Inside, estimates are to become part of a graph: nothing is looked at again, and terms have these weights."""
        runs, exploration = self.runs, self.exploration
        before = runs.weights, exploration.held
        runs.weights, exploration.held = weights, True
        try:
            yield
        finally:
            runs.weights, exploration.held = before

    def twin(self, source: Source, owner: ParameterStore, config: Objective | None = None) -> Bound:
        """A bound of the same programs, with another source, another owner of the parameters, and another objective.

        Args:
            source: where all its draws come from.
            owner: holds its parameters.
            config: its objective; None: the same.
        """
        return Bound(self.config if config is None else config, self.model_program, self.guide_program, source, owner)

    def mirror(self, other: Bound) -> None:
        """Stand where another bound of the same programs stands: its source, steps, states and what it knows."""
        self.draw_from(other.source)
        self.exploration.mirror(other.exploration)
        self.advance(other.estimator_states, other.steps - self.steps)

    def program_buffers(self) -> list[Tensor]:
        """The buffers of the programs' modules, each once; not the estimators' states."""
        carried = {id(b) for b in self.runs.carried.buffers()}
        return list({id(b): b for b in self.buffers() if id(b) not in carried}.values())

    def look_again(self, args: tuple[object, ...], kwargs: dict[str, object]) -> bool:
        """Before steps that are taken by a graph: look at the programs again if that is called for.

        Returns:
            Whether what was found before, and is in the graph, does not hold.
        """
        self.exploration.rechecks.note_buffers()  # a graph writes to them
        return self.exploration.look_again(args, kwargs)

    def expect_changes(self) -> None:
        """Look at the programs before the next step: what was recorded of them and what they do are not the same."""
        self.exploration.rechecks.hasten(self.exploration)

    @property
    def undeclared_flags(self) -> tuple[bool, ...]:
        """`requires_grad` of the tensors that the programs see and do not declare."""
        return self.exploration.rechecks.undeclared

    def decide(self, choices: Mapping[str, Choice] | None) -> None:
        """Use these estimators from now on, before all that is said elsewhere (None: measure); call `init` after it."""
        old, new = ({s: c.key for s, c in (m or {}).items()} for m in (self.runs.decided, choices))
        changed = {site for site in {*old, *new} if old.get(site) != new.get(site)}
        self.runs.decided = None if choices is None else dict(choices)
        states = self.estimator_states
        if any(site in changed for site in states):
            self.advance({site: state for site, state in states.items() if site not in changed}, steps=0)

    def trace_guide(self, *args: object, **kwargs: object) -> Trace:
        """One run of the guide alone, with the current parameters."""
        return self.runs.trace_guide(args, kwargs)

    def init(self, *args: object, **kwargs: object) -> Bound:
        """Run both programs: parameters are created, everything is checked, estimators are chosen.

        Nothing else is left behind: random generators (but for the draws of initial values), the averages and modes of
        modules and `.grad` are as they were.
        """
        self.exploration.begin(args, kwargs, lasting=True)
        self.exploration.settle(args, kwargs)
        return self

    def explore(self, *args: object, **kwargs: object) -> Bound:
        """As `init`, but parameters come into being with the first step, in the order of its draws."""
        self.exploration.begin(args, kwargs, lasting=False)
        return self

    def plan(self, *args: object, **kwargs: object) -> Plan:
        """Which estimator serves which site, and why; changes nothing about a run.

        Programs that have not been run yet are initialised.
        """
        if self.discovered is not None:
            return self.exploration.look(args, kwargs, self.discovered).plan
        plan = self.init(*args, **kwargs).latest_plan
        assert plan is not None
        return plan

    def terms(self, *args: object, **kwargs: object) -> dict[str, Tensor]:
        """`site -> its contribution to the bound` in the run that the next step would make; they sum to minus its loss.

        Changes nothing: the next step draws the same numbers.
        """
        if self.is_empty:
            self.init(*args, **kwargs)
        source = self.source
        state = source.get_state()
        try:
            with self.preserved(), torch.no_grad():
                return self.estimate(*args, **kwargs).terms()
        finally:
            source.set_state(state)

    def evaluate(self, *args: object, particles: int = 1, **kwargs: object) -> float:
        """The bound, averaged over fresh particles; nothing is updated, no generator either.

        Draws come from a stream of their own, which depends on the seed of the bound's source, on the number of steps
        taken and of evaluations since: every call has other draws, and a run goes on as if there had been none.

        Raises:
            VarigradError: particles is not a whole number of at least 1.
        """
        particles = whole_number("particles", particles)
        if self.is_empty:
            self.init(*args, **kwargs)
        with self.preserved(self.exploration.fresh_seed()), torch.no_grad():
            values = [self.estimate(*args, **kwargs).value for _ in range(particles)]
        return float(torch.stack(values).mean())

    def gradients(self, n: int, *args: object, seed: int = 0, **kwargs: object) -> dict[str, Tensor]:
        """`n` estimates of the bound's gradient in a row, `name -> [n, *shape]`, of the unconstrained parameters.

        Changes nothing: not the parameters or their `.grad`, not the estimators' state (averages go on in a copy), not
        the buffers of modules, no generator. Equal seeds give equal draws.

        Raises:
            VarigradError: n is not a whole number of at least 1, or there are no parameters.
        """
        n = whole_number("n", n)
        if self.is_empty:
            self.init(*args, **kwargs)
        with self.preserved(seed), torch.enable_grad():
            return by_name(self, samples(self, n, args, kwargs))

    def diagnose(self, *args: object, **kwargs: object) -> str:
        """A sentence about the first thing that is not finite: a parameter, or a site's log-density."""
        return self.exploration.first_problem(args, kwargs)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Load a state; up to version 0.1 its estimators' part was one dictionary, under `_extra_state`."""
        old = state_dict.pop(f"{prefix}_extra_state", None)
        if old is not None:
            entries = entries_of(old["estimators"], old["steps"])
            state_dict.update({f"{prefix}_estimators.{name}": tensor for name, tensor in entries.items()})
        super()._load_from_state_dict(state_dict, prefix, *rest)
