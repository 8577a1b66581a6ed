"""`SVI`: stochastic variational inference, which maximises an objective by an optimiser's steps."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from varigrad.compile.step.saved_steps import SavedSteps
from varigrad.compile.step.step_compiler import StepCompiler
from varigrad.compile.step.step_results import Metrics, StepResults
from varigrad.distributions.counter_rng import Noise
from varigrad.distributions.rng import Source
from varigrad.errors import NonFiniteError, ParameterError, VarigradError
from varigrad.inference import run_state
from varigrad.inference.arguments import Compile, check_arguments, check_compile, check_run
from varigrad.inference.batches import batches
from varigrad.inference.eager_step import EagerSteps
from varigrad.inference.fit_result import Fit
from varigrad.inference.gradient_monitor import Gradients, Monitor
from varigrad.inference.noise_history import NoiseHistory
from varigrad.inference.one_thread import OneThread
from varigrad.inference.progress import Progress
from varigrad.language.messages import Program
from varigrad.objectives.bound import Bound
from varigrad.objectives.elbo import ELBO
from varigrad.objectives.plan import Plan
from varigrad.optim.config import Optimizer
from varigrad.optim.schedules import Scheduler
from varigrad.user_warnings import warn_user


class SVI:
    """Maximises an objective over the parameters of a model and a guide.

    Args:
        model, guide: plain functions, or modules.
        optim: `vg.optim.Adam(...)`, any `vg.optim.Optimizer`, or a function from a list of parameters to a
            `torch.optim.Optimizer`.
        objective: an `ELBO(...)`, or a `Bound` that exists already.
        seed: of the generator that all draws come from; None: taken from torch's global generator.
        skip_nonfinite: leave out steps whose loss or gradient is NaN or infinite, instead of raising.
        compile: turn whole steps into compiled graphs. True: in the background, steps run eagerly until the compiler
            is done; "wait": at once. `explain()` tells what came of it. Random numbers are other ones than without,
            and the same however soon the compiler is done.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> def model():
        ...     z = vg.sample("z", dist.Normal(0.0, 1.0))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(2.0))
        >>> def guide():
        ...     vg.sample("z", dist.Normal(vg.param("m", 0.0), vg.param("s", 1.0, dist.constraints.positive)))
        >>> svi = vg.SVI(model, guide, vg.optim.Adam(lr=0.05), vg.ELBO(), seed=0)
        >>> fit = svi.run(500)
        >>> bool((fit.parameters["m"] - 1.0).abs() < 0.2)
        True
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        optim: Optimizer | Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        objective: ELBO | Bound | None = None,
        *,
        seed: int | None = None,
        skip_nonfinite: bool = False,
        compile: Compile = False,
    ) -> None:
        objective = ELBO() if objective is None else objective
        check_arguments(optim, objective, seed, skip_nonfinite)
        seed = int(torch.randint(2**62, ()).item()) if seed is None else int(seed)
        self.bound: Bound = objective if isinstance(objective, Bound) else objective.bind(model, guide, None)
        self.metrics: Metrics | None = None
        self._eager_steps = EagerSteps(self.bound, optim, skip_nonfinite)
        self._one_thread = OneThread()
        self._step_compiler: StepCompiler | None = None
        self._looks: NoiseHistory | None = None
        self._use(compile, seed)

    def _use(self, compile: Compile, seed: int) -> None:
        """Compile steps from now on, or not, with new generators."""
        check_compile(compile)
        self._publish()
        if not compile:
            self._step_compiler = None
            self.bound.draw_from(Source(torch.Generator().manual_seed(seed)))
            return
        self._step_compiler = StepCompiler(self._eager_steps, compile == "wait")
        self.bound.draw_from(Noise(seed))

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """The optimiser of torch, with its state up to date; None before the first step."""
        self._publish()
        return self._eager_steps.current_optimizer

    @property
    def scheduler(self) -> Scheduler | None:
        """The optimiser's scheduler; None if it has none, or before the first step."""
        return self._eager_steps.scheduler

    @property
    def skip_nonfinite(self) -> bool:
        """Whether steps that are not finite are left out; may be set."""
        return self._eager_steps.skip_nonfinite

    @skip_nonfinite.setter
    def skip_nonfinite(self, skip: bool) -> None:
        self._eager_steps.skip_nonfinite = skip

    @property
    def clip_norm(self) -> float | None:
        """The limit of the gradient's norm; None if there is none."""
        return self._eager_steps.clip_norm

    def explain(self) -> str:
        """Say what is compiled and what is not, and why, with a row for each signature of the arguments."""
        return (
            "steps are not compiled: SVI(..., compile=True)"
            if self._step_compiler is None
            else self._step_compiler.explain()
        )

    def _publish(self) -> None:
        """Write state that a compiled step keeps in flat tensors back to where users look for it."""
        if self._step_compiler is not None:
            self._step_compiler.leave()

    def init(self, *args: object, **kwargs: object) -> SVI:
        """Run both programs once, so that all parameters exist, and find out which estimators serve sites that are
        "auto"; called by the first step if you do not.
        """
        self._begin(args, kwargs)
        self._eager_steps.follow_parameters()
        return self

    def _begin(self, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        """Run the programs for the first time. Ctrl-C comes when that is done, or at once if it comes twice."""
        interrupts = self._eager_steps.interrupts
        if self.bound.undecided:
            decide = partial(
                run_state.auto_select().decide, self.bound, *args, compiled=self._step_compiler is not None, **kwargs
            )
            interrupts.on_second(decide)
        else:
            interrupts.on_second(partial(self.bound.init, *args, **kwargs))
        interrupts.deliver()

    def plan(self, *args: object, **kwargs: object) -> Plan:
        """Say which estimator serves which site, and why."""
        if self.bound.undecided:
            self._begin(args, kwargs)
        return self.bound.plan(*args, **kwargs)

    def recheck(self, *args: object, **kwargs: object) -> Plan:
        """Measure again which estimators serve the sites that are "auto", at the parameters as they are now.

        A site changes its estimator only for one that needs 1.2 times less variance x cost; where none does, the run
        goes on bit for bit as if there had been no recheck.

        Raises:
            VarigradError: no estimator is "auto".
        """
        if self.bound.undecided:
            return self.plan(*args, **kwargs)
        before = self.bound.decided
        plan = run_state.auto_select().decide(self.bound, *args, compiled=self._step_compiler is not None, **kwargs)
        now = self.bound.decided
        changed = {s: c.key for s, c in before.items()} != {s: c.key for s, c in now.items()}
        if self._step_compiler is not None and changed:
            self._publish()
            self._step_compiler = StepCompiler(self._eager_steps, self._step_compiler.wait)
        return cast(Plan, plan)

    def step(self, *args: object, **kwargs: object) -> float:
        """One gradient step; returns the loss before it. More figures are in `metrics`.

        Ctrl-C does not cut it in two: `KeyboardInterrupt` comes when the step is whole, and `metrics` tell of it. A
        second Ctrl-C leaves a program that takes too long, and nothing has been changed.

        Raises:
            NonFiniteError: loss or gradient is NaN or infinite (parameters are left as they were).
            VarigradError: gradients are switched off, or the program is wrong.
        """
        if not torch.is_grad_enabled():
            raise VarigradError(
                "a step needs gradients, and they are switched off here",
                because="the call is inside torch.no_grad() or torch.inference_mode()",
                try_="svi.evaluate(...) to measure without learning",
            )
        taken: StepResults = self._eager_steps.interrupts.whole(self._one_thread, self._advance, 1, args, kwargs)
        return taken.losses[0]

    def evaluate(self, *args: object, particles: int = 1, **kwargs: object) -> float:
        """The loss averaged over `particles` fresh runs; nothing is updated, no generator either."""
        if self.bound.undecided:
            self._begin(args, kwargs)
        return -self.bound.evaluate(*args, particles=particles, **kwargs)

    def run(
        self,
        steps: int,
        *args: object,
        progress: bool | None = None,
        callback: Callable[[Metrics], object] | None = None,
        every: int = 1,
        compile: Compile | None = None,
        monitor: Gradients | None = None,
        recheck: int | None = None,
        **kwargs: object,
    ) -> Fit:
        """Take `steps` steps.

        Args:
            steps: how many.
            args, kwargs: handed to model and guide at every step; a single `DataLoader` instead is cycled
                through, its batches (unpacked if they are tuples or lists) are the arguments.
            progress: show a bar; None: on a terminal only.
            callback: called after every `every`-th step; return True to stop.
            every: how many steps a compiled run may take between two calls of `callback`.
            compile: from now on compile the steps, or not; None: as before.
            monitor: `vg.Gradients()`: look at the gradient's noise now and then; see `fit.gradients`.
            recheck: call the method of that name after every so many steps; for estimators that are "auto".

        Returns:
            A `Fit`. After an interruption (Ctrl-C, which ends a run between two steps) it covers the steps taken, and
            so do parameters, optimiser, baselines and counters. A second Ctrl-C leaves the step that is being computed.

        Raises:
            VarigradError: `steps` is not a whole number of at least 1, the loader is empty, or `monitor` is none.
        """
        steps, every, recheck = check_run(steps, every, callback, compile, monitor, recheck)
        if compile is not None:
            if bool(compile) != (self._step_compiler is not None):
                self._use(compile, self.bound.source.fresh_seed())
            elif self._step_compiler is not None:
                self._step_compiler.wait = compile == "wait"
        begin = partial(self._run, steps, args, kwargs, progress, callback, every, monitor, recheck)
        outcome: tuple[Fit, bool] = self._eager_steps.interrupts.whole(self._one_thread, begin, quiet=True)
        fit, interrupted = outcome
        if self._eager_steps.interrupts.forget() or interrupted:
            warn_user(f"interrupted after {len(fit.losses)} of {steps} steps")
        return fit

    def _run(
        self,
        steps: int,
        args: tuple[object, ...],
        kwargs: dict[str, object],
        progress: bool | None,
        callback: Callable[[Metrics], object] | None,
        every: int,
        monitor: Gradients | None,
        recheck: int | None,
    ) -> tuple[Fit, bool]:
        """Take the steps; returns what they came to, and whether they were interrupted."""
        interrupts = self._eager_steps.interrupts
        losses: list[float] = []
        skipped, interrupted = 0, False
        watch = None if monitor is None else self._monitor(monitor)
        given, alone = batches(args)
        bar = Progress(steps, progress)
        start = time.perf_counter()
        try:
            while len(losses) < steps:
                args = interrupts.at_once(next, given)
                limit = 1 if alone else steps - len(losses)
                if callback is not None:
                    limit = min(limit, every - len(losses) % every)
                if watch is not None:
                    limit = min(limit, watch.room(len(losses)) or limit)
                if recheck is not None:
                    limit = min(limit, recheck - len(losses) % recheck)
                results = self._advance(limit, args, kwargs)
                losses += results.losses_taken()
                skipped += results.taken.count(False)
                metrics = self.metrics
                assert metrics is not None
                if watch is not None and watch.due(len(losses)):
                    watch.look(args, kwargs)
                if recheck is not None and len(losses) % recheck == 0 and len(losses) < steps:
                    self.recheck(*args, **kwargs)
                note = "" if watch is None else watch.note
                bar.update(metrics.loss, metrics.gradient_norm, len(results.losses), note)
                self._stop_if_asked()
                if callback is not None and len(losses) % every == 0 and interrupts.at_once(callback, metrics) is True:
                    break
        except KeyboardInterrupt:
            interrupts.hold()
            interrupted = True
        finally:
            bar.close()
            self._publish()
        seconds = time.perf_counter() - start
        looks = None if watch is None else watch.looks
        fit = Fit(self.bound, torch.tensor(losses, dtype=torch.float64), seconds, skipped, args, kwargs, looks)
        return fit, interrupted

    def _stop_if_asked(self) -> None:
        """Raise what has ended the last steps early; between two steps, when all that was taken is on record."""
        self._eager_steps.interrupts.deliver()
        if self._step_compiler is not None and self._step_compiler.stopped is not None:
            stopped, self._step_compiler.stopped = self._step_compiler.stopped, None
            raise stopped

    def _monitor(self, config: Gradients) -> Monitor:
        """The monitor of this run, whose history goes on from that of the run before."""
        self._looks = NoiseHistory() if self._looks is None else copy.copy(self._looks)
        self._looks.looks = list(self._looks.looks)
        return Monitor(config, self.bound, self._looks)

    def state(self) -> run_state.RunState:
        """All that changes from step to step, as one tree: parameters, optimiser, baselines, generator, looks, and how
        far compiled steps have come.
        """
        self._publish()
        metrics = self.metrics
        return {
            **run_state.state_of(self.bound, self._eager_steps),
            "looks": None if self._looks is None else self._looks.state(),
            "decided": run_state.auto_select().named(self.bound.decided) if self.bound.decided else None,
            "compiled": None if self._step_compiler is None else self._step_compiler.state(),
            "metrics": None if metrics is None else asdict(metrics),
        }

    def load_state(self, state: run_state.RunState | Mapping[str, Any]) -> None:
        """Go back to a state.

        The continuation is bit for bit the one that followed it: without `compile`, and with `compile="wait"`. With
        `compile=True` it is from the moment on at which the compiler was done when the state was taken; before that
        it depends on the compiler's time which steps Python takes, and these are equal up to rounding. All this on the
        same kind of processor, with the same number of threads and the same torch.

        Raises:
            ParameterError: the state belongs to other programs, or to steps that are compiled where these are not (or
                the other way round), or parameters do not exist yet (call `init` first). Nothing has been changed.
        """
        self._publish()
        run_state.check_kind(state, compiled=self._step_compiler is not None)
        looks, metrics = state.get("looks"), state.get("metrics")  # states of older versions have neither of these
        with run_state.reading("looks"):
            looks = None if looks is None else NoiseHistory.from_state(looks)
        with run_state.reading("metrics"):
            metrics = None if metrics is None else Metrics(**metrics)
        decided = self.bound.decided
        with run_state.reading("decided"):
            choices = run_state.auto_select().from_names(state["decided"]) if state.get("decided") else {}
        if choices:
            self.bound.decide({**decided, **choices})
        try:
            run_state.load(state, self.bound, self._eager_steps)
        except ParameterError:
            if choices:
                self.bound.decide(decided or None)
            raise
        self._looks, self.metrics = looks, metrics
        if self._step_compiler is not None:
            self._step_compiler.load_state(cast(SavedSteps, state.get("compiled") or {}))

    def _advance(self, limit: int, args: tuple[object, ...], kwargs: dict[str, object]) -> StepResults:
        """Take at least one step and at most `limit`, with the same arguments."""
        if self.bound.is_empty:  # at the beginning, and after a state was loaded into an SVI that has not run
            self._begin(args, kwargs)
        if self._eager_steps.current_optimizer is None:
            self._eager_steps.follow_parameters()
        if self._step_compiler is None or self._eager_steps.by_line_search:
            results = self._eager_steps.by_python(args, kwargs)
        else:
            if self.bound.look_again(args, kwargs):
                self._publish()  # what the graphs take for granted does not hold any more
                self._step_compiler = StepCompiler(self._eager_steps, self._step_compiler.wait)
            results = self._step_compiler.advance(min(limit, self.bound.steps_to_look), args, kwargs)
        torch.clear_autocast_cache()  # its copies are of the parameters as they were
        loss, norm, taken = results.losses[-1], results.norms[-1], results.taken[-1]
        number = (0 if self.metrics is None else self.metrics.step) + len(results.losses)
        self.metrics = Metrics(number, loss, norm, not taken)
        if not taken and not self.skip_nonfinite:
            what = "the loss" if not math.isfinite(loss) else "the gradient"
            raise NonFiniteError(
                f"step {number}: {what} is {loss if not math.isfinite(loss) else norm}",
                because=self.bound.diagnose(*args, **kwargs),
                try_="finite data, factors and initial values, or SVI(..., skip_nonfinite=True)"
                if self.bound.steps == 0
                else "a smaller learning rate, clip_norm=10.0, or SVI(..., skip_nonfinite=True)",
            )
        if self._eager_steps.late is not None:
            late, self._eager_steps.late = self._eager_steps.late, None
            raise late
        return results
