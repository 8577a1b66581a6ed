"""An objective bound to a model and a guide: a torch module that owns the parameters and computes the loss."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from varigrad.distributions.source import Source
from varigrad.errors import ArgumentError, VarigradError, check_whole
from varigrad.estimators.base import State
from varigrad.language.messages import Forward, Indices, Param, Program, Sample, evolve
from varigrad.language.runtime import (
    can_do_without_arguments,
    expanded,
    modules_of,
    run,
    signature_of,
    takes_no_arguments,
)
from varigrad.language.trace import Recorder, Trace
from varigrad.objectives.adjust import analytic, weighted
from varigrad.objectives.checks import check_particles, check_pass, check_patterns, check_smooth, first_bad
from varigrad.objectives.choice import Choice, patterns_of
from varigrad.objectives.estimate import Ensemble, Estimate, terms_of
from varigrad.objectives.gradients import by_name, samples, undisturbed
from varigrad.objectives.layout import Again, failure_side_by_side, layout_of, mixed_plates
from varigrad.objectives.parameters import Owner, Parameters
from varigrad.objectives.plan import Plan, plan_of
from varigrad.objectives.run import Layout, LayoutChanged, Pass, Settings, perform
from varigrad.terms.term import Term, collect
from varigrad.terms.tracking import SEVERED

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
        self._layout: Layout | None = None
        self.side_by_side = True
        self._kinked: frozenset[str] = frozenset()
        self._plan: Plan | None = None
        self._decided: Mapping[str, Choice] | None = None
        if owner is None and not self.undecided and takes_no_arguments(model) and can_do_without_arguments(guide):
            self.init()

    owner: Owner
    _weights: Mapping[str, Any]
    """The configuration's; a captured step puts tensors in the place of functions of the step number."""

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
        if self._layout is None:
            self.init(*args, **kwargs)
        for _ in range(3):
            assert self._layout is not None
            layout = self._layout
            try:
                return self._estimate(layout, args, kwargs)
            except LayoutChanged:
                self._discover(args, kwargs)
        raise VarigradError(
            "the program's sites, plates or supports change from run to run while alternatives are laid out for them",
            try_="ELBO(vectorize=False), or Score() for the sites concerned",
        )

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
        return self._plan

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
        return self._layout is None

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
        """Run both programs once: parameters are created, everything is checked, estimators are chosen."""
        self._discover(args, kwargs, check=True)
        return self

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """Which estimator serves which site, and why."""
        self._discover(args, kwargs, check=self._layout is None)
        assert self._plan is not None
        return self._plan

    def terms(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """`site -> its contribution to the bound` in one run; they sum to minus the loss."""
        with torch.no_grad():
            return self.estimate(*args, **kwargs).terms()

    def evaluate(self, *args: Any, particles: int = 1, **kwargs: Any) -> float:
        """The bound, averaged over fresh particles; nothing is updated.

        Raises:
            VarigradError: particles is not a whole number of at least 1.
        """
        check_whole("particles", particles)
        with torch.no_grad():
            values = [self.estimate(*args, **kwargs).value for _ in range(particles)]
        return float(torch.stack(values).mean())

    def gradients(self, n: int, *args: Any, seed: int = 0, **kwargs: Any) -> dict[str, Tensor]:
        """`n` estimates of the bound's gradient in a row, `name -> [n, *shape]`, of the unconstrained parameters.

        Changes nothing: not the parameters or their `.grad`, not the estimators' state (averages go on in a copy), not
        the buffers of modules, no generator. Equal seeds give equal draws.

        Raises:
            VarigradError: n is not a whole number of at least 1, or there are no parameters.
        """
        check_whole("n", n)
        if self._layout is None:
            self.init(*args, **kwargs)
        with undisturbed(self, seed), torch.enable_grad():
            return by_name(self, samples(self, n, args, kwargs))

    def diagnose(self, *args: Any, **kwargs: Any) -> str:
        """A sentence about the first thing that is not finite: a parameter, or a site's log-density."""
        for name, parameter in self.owner.named_parameters():
            if not bool(parameter.isfinite().all()):
                return f"parameter {name!r} is NaN or infinite"
        with torch.no_grad():
            found = self._explore(args, kwargs)
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

    def _settings(self, layout: Layout, **options: Any) -> Settings:
        return Settings(
            self.owner,
            patterns_of(self.config.estimators),
            self.source,
            layout,
            kinked=self._kinked,
            strict=self.config.strict,
            decided=self._decided,
            states=self._states,
            track_all=options.pop("track_all", bool(self.config.analytic_kl)),
            **options,
        )

    def _estimate(self, layout: Layout, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Estimate:
        cache: dict[str, Tensor] = {}
        programs = (self.model_program, self.guide_program)
        torch.clear_autocast_cache()  # 16-bit copies of parameters as they were, or made where gradients were off
        try:
            if self.side_by_side:
                wide = perform(self._settings(layout), *programs, args, kwargs, cache)
                ensembles = [Ensemble(wide, self._terms(wide, layout), {})]
            else:
                layout = evolve(layout, particles=1)
                loop = self._settings(layout, loop=True)
                ensembles = [self._looped(loop, args, kwargs, cache) for _ in range(self.config.particles)]
        except TypeError:
            self._check_arguments(args, kwargs)
            raise
        return self.config.combine(ensembles, layout, self._states)

    def _looped(
        self, settings: Settings, args: tuple[Any, ...], kwargs: dict[str, Any], cache: dict[str, Tensor]
    ) -> Ensemble:
        """One particle: its own run, and one more for every alternative at every site."""
        programs = (self.model_program, self.guide_program)
        base = perform(settings, *programs, args, kwargs, cache)
        order = list(base.draws)
        found: dict[str, list[Ensemble]] = {}
        for site, draw in base.alternatives.items():
            before = {n: base.draws[n].value for n in order[: order.index(site)]}
            found[site] = []
            for row in range(1, len(draw.value)):
                other = perform(
                    settings, *programs, args, kwargs, cache, {**before, site: draw.value[row]}, base.indices
                )
                found[site].append(Ensemble(other, self._terms(other, settings.layout), {}))
        return Ensemble(base, self._terms(base, settings.layout), found)

    def _terms(self, run: Pass, layout: Layout) -> list[Term]:
        return terms_of(run, layout, self._adjust)

    def _adjust(self, run: Pass, terms: list[Term]) -> list[Term]:
        return weighted(analytic(terms, run, self.config.analytic_kl), self._weights, self.steps)

    def _explore(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], mixed: Mapping[str, frozenset[str]] | None = None
    ) -> Pass:
        settings = self._settings(Layout(mixed=mixed or {}), track_all=True, explore=True)
        try:
            return perform(settings, self.model_program, self.guide_program, args, kwargs, {})
        except TypeError:
            self._check_arguments(args, kwargs)
            raise

    def _check_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Both programs are called with the same arguments: name the one that does not take them."""
        for what, program in (("model", self.model_program), ("guide", self.guide_program)):
            signature = signature_of(program)
            if signature is None:
                continue
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                raise ArgumentError(
                    f"the {what} does not accept the arguments it is called with: {error}",
                    because=f"model and guide get the same arguments, and its signature is {signature}",
                    try_=f"the same parameters in the {what}, used or not (or *args, **kwargs)",
                ) from error

    def _discover(self, args: tuple[Any, ...], kwargs: dict[str, Any], check: bool = False) -> None:
        if self.undecided:
            raise VarigradError(
                "estimators='auto' has not been decided",
                because="an objective by itself does not measure",
                try_="vg.SVI(model, guide, optim, ELBO(estimators='auto')), or vg.decide(bound, data)",
            )
        differentiable = torch.is_grad_enabled()
        with torch.no_grad():
            self._kinked = frozenset()
            with torch.set_grad_enabled(differentiable):  # to see where the program switches it off
                seen = self._explore(args, kwargs)
            escapes = seen.tracker.escapes
            kinked = frozenset(t.site for t in escapes.kinked if SEVERED not in t.crossed)
            lost = frozenset(t.site for t in escapes.lost if SEVERED not in t.crossed)
            if kinked or lost:
                self._kinked = kinked | lost
                with torch.set_grad_enabled(differentiable):
                    seen = self._explore(args, kwargs)
            if check:
                check_pass(seen)
                check_particles(seen, self.config.particles)
                check_smooth(seen, kinked)
                analytic_kl = self.config.analytic_kl
                named = () if isinstance(analytic_kl, bool) else tuple(analytic_kl)
                asked = tuple(pattern for pattern, _ in patterns_of(self.config.estimators))
                patterns = {"estimators": asked, "weights": tuple(self.config.weights)}
                check_patterns(seen, {**patterns, "analytic_kl": named})
                self.config.check(seen)
                self.owner.check_names(s.message.name for s in (*seen.guide, *seen.model))
            wide = layout_of(seen, self.config.particles)

            def again(layout: Layout, like: Pass | None, forced: dict[str, Tensor]) -> Pass:
                settings = self._settings(layout, loop=like is not None)
                indices = like.indices if like is not None else None
                return perform(settings, self.model_program, self.guide_program, args, kwargs, {}, forced, indices)

            mixed = mixed_plates(again, self._terms, seen, wide)
            if mixed:
                wide = evolve(wide, mixed=mixed)
                seen = self._explore(args, kwargs, mixed)
            terms = collect(seen.guide, seen.model, dims=wide.plates, fixed=(), escapes=seen.tracker.escapes)
            self._adjust(seen, terms)
            reason = self._choose_side(wide, again)
        self._layout = wide
        side = self.side_by_side
        self._plan = plan_of(seen, terms, wide, self.config.particles, reason, side, self._kinked)
        for site in self._plan.sites if check else ():
            if site.suspect and "default" not in site.why:
                warnings.warn(
                    f"{site.name!r}: Pathwise was asked for, but its value goes through a comparison, rounding or "
                    "conversion, whose jumps a pathwise gradient misses, or loses its derivative on the way (detach, "
                    "no_grad, an index). Try: Score(MovingAverage())",
                    BiasWarning,
                    stacklevel=4,
                )

    def _choose_side(self, wide: Layout, again: Again) -> str:
        """Decide between side by side and a loop; returns the reason for a loop."""
        self.side_by_side = True
        if wide.count == 1 and wide.particles == 1:
            return ""
        if self.config.vectorize is False:
            self.side_by_side = False
            return "vectorize=False"

        failure = failure_side_by_side(again, self._terms, wide)
        if failure is None:
            return ""
        if self.config.vectorize:
            raise VarigradError(
                f"cannot run particles and alternatives side by side: {failure}",
                because="vectorize=True asks for it",
                try_="ELBO(vectorize=False), which loops, or code that leaves leading dimensions alone "
                "(sum(-1) for sum(), z[..., 0] for z[0])",
            )
        self.side_by_side = False
        return failure


class _Held:
    """Keeps a program out of `nn.Module.__setattr__`."""

    def __init__(self, program: Program) -> None:
        self.program = program
