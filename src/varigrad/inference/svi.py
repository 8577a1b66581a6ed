"""Stochastic variational inference: an objective, an optimiser, and the loop around them."""

from __future__ import annotations

import copy
import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from varigrad.distributions.noise import Noise
from varigrad.distributions.source import Source
from varigrad.errors import NonFiniteError, ParameterError, VarigradError, check_whole
from varigrad.inference.descent import Descent
from varigrad.inference.fit import Fit
from varigrad.inference.looks import Looks
from varigrad.inference.monitor import Gradients, Monitor
from varigrad.inference.optim import Optimizer
from varigrad.inference.outcomes import Outcomes
from varigrad.inference.progress import Progress
from varigrad.inference.session import Session
from varigrad.language.messages import Program
from varigrad.objectives.bound import Bound
from varigrad.objectives.elbo import ELBO
from varigrad.objectives.plan import Plan

Compile = bool | Literal["wait"]


@dataclass(frozen=True)
class Metrics:
    """What one step reports.

    Attributes:
        step: its number, from 1.
        loss: minus the estimated bound.
        gradient_norm: before clipping.
        skipped: whether parameters were left alone because loss or gradient was not finite.
    """

    step: int
    loss: float
    gradient_norm: float
    skipped: bool = False


class SVI:
    """Maximise an objective over the parameters of a model and a guide.

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
        if isinstance(optim, (torch.optim.Optimizer, type)):
            raise VarigradError(
                f"optim must be a configuration, got {optim!r}",
                because="the parameters to optimise are known only once the programs have run",
                try_="vg.optim.Adam(lr=1e-3), or lambda parameters: torch.optim.SGD(parameters, lr=0.1)",
            )
        seed = int(torch.randint(2**62, ()).item()) if seed is None else seed
        if isinstance(objective, type) or not (isinstance(objective, Bound) or hasattr(objective, "bind")):
            raise VarigradError(f"objective must be an ELBO(...) or a bound, got {objective!r}", try_="vg.ELBO()")
        if isinstance(objective, Bound):
            self.bound = objective
        else:
            self.bound = objective.bind(model, guide, None)
        self.metrics: Metrics | None = None
        self._descent = Descent(self.bound, optim, skip_nonfinite)
        self._session: Session | None = None
        self._looks: Looks | None = None
        self._use(compile, seed)

    def _use(self, compile: Compile, seed: int) -> None:
        """Compile from now on, or not, with new generators."""
        if compile not in (False, True, "wait"):
            raise VarigradError(f'compile must be False, True or "wait", got {compile!r}')
        self._publish()
        if not compile:
            self._session = None
            self.bound.source = Source(torch.Generator().manual_seed(seed))
            return
        self._session = Session(self._descent, compile == "wait")
        self.bound.source = Noise(seed)

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """The optimiser of torch, with its state up to date; None before the first step."""
        self._publish()
        return self._descent.current_optimizer

    @property
    def scheduler(self) -> Any:
        """The optimiser's scheduler; None if it has none, or before the first step."""
        return self._descent.scheduler

    @property
    def skip_nonfinite(self) -> bool:
        """Whether steps that are not finite are left out; may be set."""
        return self._descent.skip_nonfinite

    @skip_nonfinite.setter
    def skip_nonfinite(self, skip: bool) -> None:
        self._descent.skip_nonfinite = skip

    def explain(self) -> str:
        """What is compiled and what is not, and why: a row for each form of the arguments."""
        return "steps are not compiled: SVI(..., compile=True)" if self._session is None else self._session.explain()

    def _publish(self) -> None:
        """State that a compiled step keeps elsewhere comes to where everybody looks for it."""
        if self._session is not None:
            self._session.leave()

    def init(self, *args: Any, **kwargs: Any) -> SVI:
        """Run both programs once, so that all parameters exist, and find out which estimators serve sites that are
        "auto"; called by the first step if you do not.
        """
        self._begin(args, kwargs)
        self._descent.follow_parameters()
        return self

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.bound.undecided:
            _doctor().decide(self.bound, *args, compiled=self._session is not None, **kwargs)
        else:
            self.bound.init(*args, **kwargs)

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """Which estimator serves which site, and why."""
        if self.bound.undecided:
            self._begin(args, kwargs)
        return self.bound.plan(*args, **kwargs)

    def recheck(self, *args: Any, **kwargs: Any) -> Plan:
        """Measure again which estimators serve the sites that are "auto", at the parameters as they are now.

        A site changes its estimator only for one that needs 1.2 times less variance x cost; where none does, the run
        goes on bit for bit as if nobody had looked.

        Raises:
            VarigradError: no estimator is "auto".
        """
        if self.bound.undecided:
            return self.plan(*args, **kwargs)
        before = self.bound.decided
        plan = _doctor().decide(self.bound, *args, compiled=self._session is not None, **kwargs)
        now = self.bound.decided
        changed = {s: c.key for s, c in before.items()} != {s: c.key for s, c in now.items()}
        if self._session is not None and changed:
            self._publish()
            self._session = Session(self._descent, self._session.wait)
        return plan

    def step(self, *args: Any, **kwargs: Any) -> float:
        """One gradient step; returns the loss before it. More figures are in `metrics`.

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
        return self._advance(1, args, kwargs).losses[0]

    def evaluate(self, *args: Any, particles: int = 1, **kwargs: Any) -> float:
        """The loss averaged over `particles` fresh runs; nothing is updated, no generator either."""
        if self.bound.undecided:
            self._begin(args, kwargs)
        return -self.bound.evaluate(*args, particles=particles, **kwargs)

    def run(
        self,
        steps: int,
        *args: Any,
        progress: bool | None = None,
        callback: Callable[[Metrics], object] | None = None,
        every: int = 1,
        compile: Compile | None = None,
        monitor: Gradients | None = None,
        recheck: int | None = None,
        **kwargs: Any,
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
            A `Fit`. After an interruption (Ctrl-C) it covers the steps taken.

        Raises:
            VarigradError: `steps` is not a whole number of at least 1, the loader is empty, or `monitor` is none.
        """
        check_whole("steps", steps)
        check_whole("every", every)
        if compile is not None and bool(compile) != (self._session is not None):
            self._use(compile, self.bound.source.fresh_seed())
        if monitor is not None and not isinstance(monitor, Gradients):
            raise VarigradError(f"monitor must be a Gradients(...), got {monitor!r}", try_="monitor=vg.Gradients()")
        if recheck is not None:
            check_whole("recheck", recheck)
        losses: list[float] = []
        skipped = 0
        watch = None if monitor is None else self._monitor(monitor)
        batches, alone = _batches(args)
        bar = Progress(steps, progress)
        start = time.perf_counter()
        try:
            while len(losses) < steps:
                args = next(batches)
                limit = 1 if alone else steps - len(losses)
                if callback is not None:
                    limit = min(limit, every - len(losses) % every)
                if watch is not None:
                    limit = min(limit, watch.room(len(losses)) or limit)
                if recheck is not None:
                    limit = min(limit, recheck - len(losses) % recheck)
                outcomes = self._advance(limit, args, kwargs)
                losses += outcomes.losses if all(outcomes.taken) else _blanked(outcomes)
                skipped += outcomes.taken.count(False)
                metrics = self.metrics
                assert metrics is not None
                if watch is not None and watch.due(len(losses)):
                    watch.look(args, kwargs)
                if recheck is not None and len(losses) % recheck == 0 and len(losses) < steps:
                    self.recheck(*args, **kwargs)
                note = "" if watch is None else watch.note
                bar.update(metrics.loss, metrics.gradient_norm, len(outcomes.losses), note)
                if self._session is not None and self._session.interrupted:
                    self._session.interrupted = False
                    raise KeyboardInterrupt
                if callback is not None and len(losses) % every == 0 and callback(metrics) is True:
                    break
        except KeyboardInterrupt:
            warnings.warn(f"interrupted after {len(losses)} of {steps} steps", stacklevel=2)
        finally:
            bar.close()
            self._publish()
        seconds = time.perf_counter() - start
        looks = None if watch is None else watch.looks
        return Fit(self.bound, torch.tensor(losses, dtype=torch.float64), seconds, skipped, args, kwargs, looks)

    def _monitor(self, config: Gradients) -> Monitor:
        """Looks at this run, which go on from those at the run before."""
        self._looks = Looks() if self._looks is None else copy.copy(self._looks)
        self._looks.looks = list(self._looks.looks)
        return Monitor(config, self.bound, self._looks)

    def state(self) -> dict[str, Any]:
        """All that changes from step to step, as one tree: parameters, optimiser, baselines, generator, looks."""
        self._publish()
        optimizer = self._descent.current_optimizer
        return {
            "bound": {k: v.clone() if isinstance(v, Tensor) else v for k, v in self.bound.state_dict().items()},
            "optimizer": None if optimizer is None else _copied(optimizer.state_dict()),
            "scheduler": None if self.scheduler is None else _copied(self.scheduler.state_dict()),
            "generator": self.bound.source.get_state(),
            "looks": None if self._looks is None else self._looks.state(),
            "decided": _doctor().named(self.bound.decided) if self.bound.decided else None,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to a state; the continuation is bit for bit the one that followed it.

        Raises:
            ParameterError: the state belongs to other programs, or parameters do not exist yet (call `init` first).
        """
        self._publish()
        if state.get("decided"):
            self.bound.decide({**self.bound.decided, **_doctor().from_names(state["decided"])})
        try:
            self.bound.load_state_dict(state["bound"])
        except RuntimeError as error:
            raise ParameterError(
                f"the state does not fit these programs: {error}", try_="svi.init(*args) before load_state"
            ) from error
        self._descent.follow_parameters()
        optimizer = self._descent.current_optimizer
        assert optimizer is not None
        if state["optimizer"] is not None:
            optimizer.load_state_dict(_copied(state["optimizer"]))
        if self.scheduler is not None and state["scheduler"] is not None:
            self.scheduler.load_state_dict(_copied(state["scheduler"]))
        self.bound.source.set_state(state["generator"])
        looks = state.get("looks")  # states of older versions have none
        self._looks = None if looks is None else Looks.from_state(looks)

    def _advance(self, limit: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcomes:
        """At least one step and at most `limit`, with the same arguments."""
        if self._descent.current_optimizer is None:
            if self.bound.is_empty:
                self._begin(args, kwargs)
            self._descent.follow_parameters()
        if self._session is None or self._descent.by_line_search:
            outcomes = self._descent.by_python(args, kwargs)
        else:
            if self.bound.look_again(args, kwargs):
                self._publish()
                self._session = Session(self._descent, self._session.wait)  # forms were recorded by what does not hold
            outcomes = self._session.advance(min(limit, self.bound.steps_to_look), args, kwargs)
        loss, norm, taken = outcomes.losses[-1], outcomes.norms[-1], outcomes.taken[-1]
        number = (0 if self.metrics is None else self.metrics.step) + len(outcomes.losses)
        self.metrics = Metrics(number, loss, norm, not taken)
        if not taken and not self.skip_nonfinite:
            what = "the loss" if not math.isfinite(loss) else "the gradient"
            raise NonFiniteError(
                f"step {number}: {what} is {loss if not math.isfinite(loss) else norm}",
                because=self.bound.diagnose(*args, **kwargs),
                try_="a smaller learning rate, clip_norm=10.0, or SVI(..., skip_nonfinite=True)",
            )
        return outcomes


def _doctor() -> Any:
    # Brings the tools for testing along, which those who leave nothing to be decided need not wait for.
    from varigrad.diagnostics import pilot

    return pilot


def _blanked(outcomes: Outcomes) -> list[float]:
    return [loss if taken else math.nan for loss, taken in zip(outcomes.losses, outcomes.taken, strict=True)]


def _batches(args: tuple[Any, ...]) -> tuple[Iterator[tuple[Any, ...]], bool]:
    """The same arguments for ever, or a loader's batches, round and round; and whether each serves one step."""
    if len(args) != 1 or not (hasattr(args[0], "dataset") and hasattr(args[0], "batch_sampler")):
        return itertools.repeat(args), False
    return _loaded(args[0]), True


def _loaded(loader: Any) -> Iterator[tuple[Any, ...]]:
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
        if empty:
            raise VarigradError("the loader is empty")


def _copied(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return tree.clone()
    if isinstance(tree, dict):
        return {k: _copied(v) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_copied(v) for v in tree)
    return tree
