"""An objective bound to a model and a guide: a torch module that owns the parameters and computes the loss."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from varigrad.distributions.rng import Source
from varigrad.errors import VarigradError, whole
from varigrad.estimators.base import State
from varigrad.language.messages import Forward, Indices, Param, Program, Sample, evolve
from varigrad.language.runtime import (
    can_do_without_arguments,
    expanded,
    modules_of,
    run,
    takes_no_arguments,
)
from varigrad.language.trace import Recorder, Trace
from varigrad.objectives.checks.first_run import check_arguments, check_pass, first_bad
from varigrad.objectives.checks.plate_independence import Crossed, crossed
from varigrad.objectives.checks.rechecks import Rechecks
from varigrad.objectives.discovery import POINTS, Discovery, Finding
from varigrad.objectives.estimate import Ensemble, Estimate, terms_of
from varigrad.objectives.estimator_selection import Choice, patterns_of
from varigrad.objectives.execute import Layout, LayoutChanged, Pass, Settings, perform
from varigrad.objectives.gradients import by_name, samples, undisturbed
from varigrad.objectives.parameters import Owner, Parameters
from varigrad.objectives.plan import Plan
from varigrad.objectives.reachable_state import Reached, reached_by
from varigrad.objectives.vectorization import layout_of
from varigrad.objectives.weights_and_kl import analytic, weighted
from varigrad.objectives.without_side_effects import Undisturbed, seed_beside, undisturbing
from varigrad.terms.term import Term

if TYPE_CHECKING:
    from varigrad.objectives.elbo import ELBO
    from varigrad.objectives.renyi import Renyi


class BiasWarning(UserWarning):
    """An estimator was asked for by name where it may be biased."""


class Bound(Parameters):
    """What `ELBO()(model, guide)` returns.

    Calling it with the programs' arguments gives minus the bound, a scalar whose gradient is the estimators'.
    Parameters exist once the programs have run, so call `init(*args)` first (programs without arguments: done at
    construction). `source` is where all draws come from, by default torch's global generator. `owner` is where
    parameters live, by default here; with another one the programs are not run before they are asked for.
    """

    def __init__(
        self,
        config: ELBO | Renyi,
        model: Program,
        guide: Program,
        source: Source | None = None,
        owner: Owner | None = None,
    ) -> None:
        super().__init__()
        self.__dict__["owner"] = self if owner is None else owner  # not as a submodule
        for what, program in (("model", model), ("guide", guide)):
            if not callable(program):
                raise VarigradError(f"the {what} must be a callable program, got {type(program).__name__}")
        self.config = config
        self.__dict__["_weights"] = config.weights
        self.source = Source() if source is None else source
        self.steps = 0
        self._programs = (_Held(model), _Held(guide))
        for name, program in (("model", model), ("guide", guide)) if owner is None else ():
            for i, module in enumerate(modules_of(program)):
                if not any(m is module for m in self.modules()):
                    self.add_module(name if i == 0 else f"{name}{i}", module)
        self._states: dict[str, State] = {}
        self._finding: Finding | None = None
        self._checks = Rechecks()
        self._reach: Reached | None = None
        self._asides = (0, 0)
        self.quiet = False
        self.held = False
        self._decided: Mapping[str, Choice] | None = None
        if owner is None and not self.undecided and takes_no_arguments(model) and can_do_without_arguments(guide):
            self.init()

    owner: Owner
    _weights: Mapping[str, Any]
    """The configuration's; a captured step puts tensors in the place of functions of the step number."""
    quiet: bool
    """Whether it is being looked at, and warns of nothing."""
    held: bool
    """Whether what has been found out is used as it is, without looks: in a step that is recorded, and in a twin."""

    @property
    def model_program(self) -> Program:
        """The model, as given."""
        return self._programs[0].program

    @property
    def guide_program(self) -> Program:
        """The guide, as given."""
        return self._programs[1].program

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound; its gradient is the estimators' (and the baselines' own)."""
        result = self.estimate(*args, **kwargs)
        self.advance(result.state)
        # The value of one, the gradient of the other.
        return result.surrogate.detach() - result.surrogate - result.value

    def estimate(self, *args: Any, **kwargs: Any) -> Estimate:
        """Value, surrogate and next estimator state; changes nothing but the generator.

        Raises:
            VarigradError: gradients are switched off, or the program is wrong in one of the ways the errors name.
        """
        checks = self._checks
        if self._finding is None:
            self.explore(*args, **kwargs)
        elif not self.held and checks.calls_for_a_look(self, args, kwargs):
            checks.attend(self, args, kwargs)
        for _ in range(3):
            assert self._finding is not None
            try:
                result = self._estimate(self._finding, args, kwargs)
            except LayoutChanged:
                self.use(self.look(args, kwargs))
                checks.settle(self, args, kwargs)
            except _Anew:
                pass
            else:
                if checks.unsettled:
                    checks.settle(self, args, kwargs)
                checks.note_buffers()
                return result
        raise VarigradError(
            "the program's sites, plates or supports change from run to run while alternatives are laid out for them",
            try_="ELBO(vectorize=False), or Score() for the sites concerned",
        )

    @property
    def finding(self) -> Finding | None:
        """What is known about the programs; None before they have been run."""
        return self._finding

    def use(self, finding: Finding | None) -> None:
        """Run the programs by what this says."""
        self.__dict__["_finding"] = finding

    def follow(self, other: Bound) -> None:
        """Run the programs as another bound of the same programs does, without looks of one's own."""
        self.__dict__.update(_finding=other._finding, _reach=other._reach, held=True, quiet=True)

    @property
    def _layout(self) -> Layout | None:
        return None if self._finding is None else self._finding.layout

    @property
    def side_by_side(self) -> bool:
        """Whether particles and alternatives run along dimensions of their own; else one by one, in a loop."""
        return self._finding is None or self._finding.side_by_side

    def look_again(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Before steps that are taken by a graph: look at the programs again if that is called for.

        Returns:
            Whether what was found before, and is in the graph, does not hold.
        """
        self._checks.note_buffers()  # a graph writes to them
        if self._finding is None or not self._checks.calls_for_a_look(self, args, kwargs):
            return False
        return self._checks.attend(self, args, kwargs)

    def expect_changes(self) -> None:
        """Look at the programs before the next step: what was recorded of them and what they do are not the same."""
        self._checks.hasten(self)

    @property
    def undeclared_flags(self) -> tuple[bool, ...]:
        """`requires_grad` of the tensors that the programs see and do not declare, as it was found last."""
        return self._checks.undeclared

    @property
    def steps_to_look(self) -> int:
        """How many steps may be taken before everything is to be looked at again."""
        return max(1, self._checks.due - self.steps)

    def advance(self, state: Mapping[str, State]) -> None:
        """Take over the estimators' next state: one step has been taken."""
        # Not by `self.steps += 1`: torch's modules look at everything that is assigned to them.
        self.__dict__.update(_states=state, steps=self.steps + 1)

    @property
    def estimator_states(self) -> Mapping[str, State]:
        """What the estimators carry from step to step, by site."""
        return self._states

    def install(self, states: Mapping[str, State]) -> None:
        """Carry the estimators' state in these tensors from now on."""
        self.__dict__["_states"] = dict(states)

    @property
    def latest_plan(self) -> Plan | None:
        """The plan as it was found last; None before the programs have been run."""
        return None if self._finding is None else self._finding.plan

    @property
    def undecided(self) -> bool:
        """Whether some estimators are to be found out by measuring, and nobody has measured yet."""
        return self._decided is None and any(asked == "auto" for _, asked in patterns_of(self.config.estimators))

    @property
    def decided(self) -> Mapping[str, Choice]:
        """The estimators that measuring has led to, by site."""
        return self._decided or {}

    def decide(self, choices: Mapping[str, Choice] | None) -> None:
        """Use these estimators from now on, before all that is said elsewhere (None: measure); call `init` after it."""
        old, new = ({s: c.key for s, c in (m or {}).items()} for m in (self._decided, choices))
        changed = {site for site in {*old, *new} if old.get(site) != new.get(site)}
        self._decided = None if choices is None else dict(choices)
        self._states = {site: state for site, state in self._states.items() if site not in changed}

    @property
    def is_empty(self) -> bool:
        """Whether the programs have not been run yet."""
        return self._finding is None

    def trace_guide(self, *args: Any, **kwargs: Any) -> Trace:
        """One run of the guide alone, with the current parameters."""
        recorder = Recorder()
        result = run(self.guide_program, (recorder, self._alone), args, kwargs)
        return Trace(recorder.messages, result)

    def _alone(self, message: Any, forward: Forward) -> Any:
        """Parameters and randomness for a program that runs outside a step."""
        if isinstance(message, Param) and message.value is None:
            message = evolve(message, value=self.owner.constrained(message, {}))
        elif isinstance(message, Sample) and message.value is None:
            message = evolve(message, value=self.source.draw(expanded(message)))
        elif isinstance(message, Indices) and message.value is None:
            message = evolve(message, value=self.source.subset(message.size, message.batch))
        return forward(message)

    def init(self, *args: Any, **kwargs: Any) -> Bound:
        """Run both programs: parameters are created, everything is checked, estimators are chosen.

        Nothing else is left behind: random generators (but for the draws of initial values), the averages and modes of
        modules and `.grad` are as they were.
        """
        self._begin(args, kwargs, lasting=True)
        self._checks.settle(self, args, kwargs)
        return self

    def explore(self, *args: Any, **kwargs: Any) -> Bound:
        """As `init`, but parameters come into being with the first step, in the order of its draws."""
        self._begin(args, kwargs, lasting=False)
        return self

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """Which estimator serves which site, and why; changes nothing about a run.

        Programs that have not been run yet are initialised.
        """
        if self._finding is None:
            self.init(*args, **kwargs)
            assert self._finding is not None
            return self._finding.plan
        return self.look(args, kwargs, self._finding).plan

    def look(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        known: Finding | None = None,
        base: tuple[Pass, Layout] | None = None,
        *,
        points: int = POINTS,
    ) -> Finding:
        """What the programs show in runs that leave nothing behind; the bound goes on by what it knew.

        Args:
            known: what was found before, which stays.
            base: a run whose draws are to be used, and its layout.
            points: at how many other points than the present parameters and arguments to compare numbers.
        """
        with self._undisturbed() as kept:
            return Discovery(self, args, kwargs, kept, known, points=points, base=base).run()

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any], lasting: bool) -> None:
        if self.undecided:
            raise VarigradError(
                "estimators='auto' has not been decided",
                because="an objective by itself does not measure",
                try_="vg.SVI(model, guide, optim, ELBO(estimators='auto')), or vg.decide(bound, data)",
            )
        with self._undisturbed() as kept:
            found = Discovery(self, args, kwargs, kept, check=True, lasting=lasting).run()
        self.use(found)
        self._checks.begin(self)
        assert self._reach is not None
        self._checks.reach(self, self._reach)
        for name in found.suspects:
            warnings.warn(
                f"{name!r}: Pathwise was asked for, but its value goes through a comparison, rounding or "
                "conversion, whose jumps a pathwise gradient misses, or loses its derivative on the way (detach, "
                "no_grad, an index). Try: Score(MovingAverage())",
                BiasWarning,
                stacklevel=4,
            )

    @contextmanager
    def _undisturbed(self, seed: int = 0) -> Iterator[Undisturbed]:
        """Inside, programs may be run on other random numbers; afterwards only the bound's finding may be another."""
        source = self.source
        reach = self.reach()
        with undisturbing(reach, [p for _, p in self.owner.named_parameters()], seed) as kept:
            self.source = Source(torch.Generator().manual_seed(seed))
            try:
                yield kept
            finally:
                self.source = source

    def reach(self) -> Reached:
        """The modules, tensors and generators that the programs refer to, as they are now."""
        found = reached_by((self.owner, self.model_program, self.guide_program))
        if self._reach is not None:
            found.modules.update(self._reach.modules)
        self.__dict__["_reach"] = found
        return found

    def fresh_seed(self) -> int:
        """A seed for draws beside the run: another one at every call, and none that the run's generators notice."""
        step, count = self._asides
        count = count + 1 if step == self.steps else 0
        self.__dict__["_asides"] = self.steps, count
        return seed_beside(self.source, self.steps, count)

    def terms(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """`site -> its contribution to the bound` in the run that the next step would make; they sum to minus its loss.

        Changes nothing: the next step draws the same numbers.
        """
        if self._finding is None:
            self.init(*args, **kwargs)
        source = self.source
        state = source.get_state()
        try:
            with undisturbed(self, None), torch.no_grad():
                return self.estimate(*args, **kwargs).terms()
        finally:
            source.set_state(state)

    def evaluate(self, *args: Any, particles: int = 1, **kwargs: Any) -> float:
        """The bound, averaged over fresh particles; nothing is updated, no generator either.

        Draws come from a stream of their own, which depends on the seed of the bound's source, on the number of steps
        taken and of evaluations since: every call has other draws, and a run goes on as if there had been none.

        Raises:
            VarigradError: particles is not a whole number of at least 1.
        """
        particles = whole("particles", particles)
        if self._finding is None:
            self.init(*args, **kwargs)
        with undisturbed(self, self.fresh_seed()), torch.no_grad():
            values = [self.estimate(*args, **kwargs).value for _ in range(particles)]
        return float(torch.stack(values).mean())

    def gradients(self, n: int, *args: Any, seed: int = 0, **kwargs: Any) -> dict[str, Tensor]:
        """`n` estimates of the bound's gradient in a row, `name -> [n, *shape]`, of the unconstrained parameters.

        Changes nothing: not the parameters or their `.grad`, not the estimators' state (averages go on in a copy), not
        the buffers of modules, no generator. Equal seeds give equal draws.

        Raises:
            VarigradError: n is not a whole number of at least 1, or there are no parameters.
        """
        n = whole("n", n)
        if self._finding is None:
            self.init(*args, **kwargs)
        with undisturbed(self, seed), torch.enable_grad():
            return by_name(self, samples(self, n, args, kwargs))

    def diagnose(self, *args: Any, **kwargs: Any) -> str:
        """A sentence about the first thing that is not finite: a parameter, or a site's log-density."""
        for name, parameter in self.owner.named_parameters():
            if not bool(parameter.isfinite().all()):
                return f"parameter {name!r} is NaN or infinite"
        with self._undisturbed(self.fresh_seed()) as kept, torch.no_grad():
            found = Discovery(self, args, kwargs, kept).explore()
            check_pass(found)
            sentence = first_bad(self._terms(found, Layout(plates=layout_of(found, 1).plates)))
        return sentence or "every term is finite in a fresh run; the gradient is not"

    def get_extra_state(self) -> dict[str, Any]:
        """State of the baselines, saved with the parameters."""
        return {"estimators": self._states, "steps": self.steps}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `get_extra_state` gave."""
        self._states = dict(state["estimators"])
        self.steps = int(state["steps"])

    def _settings(self, layout: Layout, *, owner: Owner | None = None, **options: Any) -> Settings:
        return Settings(
            self.owner if owner is None else owner,
            patterns_of(self.config.estimators),
            self.source,
            layout,
            strict=self.config.strict,
            decided=self._decided,
            states=self._states,
            track_all=options.pop("track_all", bool(self.config.analytic_kl)),
            **options,
        )

    def _estimate(self, finding: Finding, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Estimate:
        cache: dict[str, Tensor] = {}
        programs = (self.model_program, self.guide_program)
        layout, kinked = finding.layout, finding.kinked
        torch.clear_autocast_cache()  # 16-bit copies of parameters as they were, or made where gradients were off
        try:
            if finding.side_by_side:
                wide = perform(self._settings(layout, kinked=kinked), *programs, args, kwargs, cache)
                mixed = self._meet(wide, layout, args, kwargs)
                ensembles = [Ensemble(wide, crossed(self._terms(wide, layout), mixed), {})]
            else:
                layout = evolve(layout, particles=1)
                loop = self._settings(layout, kinked=kinked, loop=True)
                ensembles = [self._looped(loop, args, kwargs, cache) for _ in range(self.config.particles)]
            found = self.config.combine(ensembles, layout, self._states)
        except (VarigradError, LayoutChanged, _Anew):
            raise
        except Exception as error:
            if isinstance(error, TypeError):
                check_arguments(self.model_program, self.guide_program, args, kwargs)
            self._check_after(error, args, kwargs)
            raise
        if found.value.is_complex():
            self._check_after(None, args, kwargs)
        return found

    def _check_after(self, error: Exception | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Make the checks of a first run on the arguments of a step that has gone wrong; `error` is what torch says.

        Raises:
            VarigradError: one of them has failed, so this is what is wrong.
        """
        if self.held:  # a step that is recorded is told of in other words
            return
        try:
            with self._undisturbed() as kept, torch.no_grad():
                check_pass(Discovery(self, args, kwargs, kept).explore())
        except VarigradError as known:
            raise known from error
        except Exception:  # the program's own error, which torch's would be replaced by
            return

    def _looped(
        self, settings: Settings, args: tuple[Any, ...], kwargs: dict[str, Any], cache: dict[str, Tensor]
    ) -> Ensemble:
        """One particle: its own run, and one more for every alternative at every site."""
        programs = (self.model_program, self.guide_program)
        base = perform(settings, *programs, args, kwargs, cache)
        mixed = self._meet(base, settings.layout, args, kwargs)
        order = list(base.draws)
        found: dict[str, list[Ensemble]] = {}
        for site, draw in base.alternatives.items():
            before = {n: base.draws[n].value for n in order[: order.index(site)]}
            found[site] = []
            for row in range(1, len(draw.value)):
                other = perform(
                    settings, *programs, args, kwargs, cache, {**before, site: draw.value[row].clone()}, base.indices
                )
                found[site].append(Ensemble(other, crossed(self._terms(other, settings.layout), mixed), {}))
        return Ensemble(base, crossed(self._terms(base, settings.layout), mixed), found)

    def _meet(self, run: Pass, layout: Layout, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Crossed:
        """Look again where a run has gone a way that no look has seen; the plates that turn out to be mixed.

        Raises:
            _Anew: the step has to be taken again, in another way.
        """
        before = self._finding
        assert before is not None
        if self.held or not self._checks.meet(self, run, layout, args, kwargs):
            return {}
        now = self._finding
        assert now is not None
        if (now.side_by_side, now.kinked) != (before.side_by_side, before.kinked):
            raise _Anew
        return now.layout.mixed

    def _terms(self, run: Pass, layout: Layout) -> list[Term]:
        return terms_of(run, layout, self._adjust)

    def _adjust(self, run: Pass, terms: list[Term]) -> list[Term]:
        return weighted(analytic(terms, run, self.config.analytic_kl), self._weights, self.steps)


class _Anew(Exception):
    """What has been found out does not hold for this step: take it again."""


class _Held:
    """Keeps a program out of `nn.Module.__setattr__`."""

    def __init__(self, program: Program) -> None:
        self.program = program
