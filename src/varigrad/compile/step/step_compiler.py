"""Decides for each step whether Python, the traced graph or the compiled library runs it.

All steps, eager ones included, take their randomness from rows of numbers that are drawn beforehand. So the time at
which the compiler finishes does not change a run: every step sees the numbers that it would have seen anyway. The
stages of a specialisation and their transitions are in `stages.py`.
"""

from __future__ import annotations

import contextlib
import operator
import time
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, NamedTuple

from torch import Tensor

from varigrad.compile.graph.errors import CaptureError, as_capture_error, in_one_line
from varigrad.compile.step.compiled_step import CompiledStep, Host
from varigrad.compile.step.explain import explain
from varigrad.compile.step.flat_state import FlatState, flattened
from varigrad.compile.step.flat_state_pool import FlatStatePool
from varigrad.compile.step.saved_steps import SavedSpecialization, SavedSteps
from varigrad.compile.step.signature import Call, Signatures, arguments_in_words, layout_of, surroundings
from varigrad.compile.step.specialization import Specialization
from varigrad.compile.step.stages import CHECKED, Stage
from varigrad.compile.step.step_results import StepResults
from varigrad.distributions.counter_rng import Noise, Rows
from varigrad.distributions.rng import global_state, set_global_state
from varigrad.errors import VarigradError
from varigrad.optim.schedules import Schedule, load_schedule, schedule_of
from varigrad.user_warnings import warn_user

PATIENCE = 100
"""Eager steps before a program is traced: a short run never pays for it."""
MOST = 8
"""How many specialisations are kept."""
RESTARTS = 3
"""How often a program is traced anew because something that it reads has changed."""
MOMENT = 0.1
"""Seconds that steps in a row may take: Ctrl-C is obeyed after them."""
_POLL = 0.02


class CaptureWarning(UserWarning):
    """A step that was to be compiled runs eagerly, for the reason given."""


class _LastCall(NamedTuple):
    """The last call, kept so that a call with the very same tensors skips the search."""

    layouts: list[tuple[Hashable, ...]]
    surroundings: Hashable
    own: Specialization
    call: Call


class _Position(NamedTuple):
    """The state at the start of a block of steps: of the random numbers, and of the schedule."""

    noise: dict[Any, Any]
    schedule: Schedule


class StepCompiler:
    """Takes steps, and traces and compiles them in the background.

    Args:
        host: whose steps they are; its bound's randomness comes from a `Noise`.
        wait: compile as soon as there is something to compile, and wait for it.
    """

    def __init__(self, host: Host, wait: bool) -> None:
        self.host = host
        self.wait = wait
        self.specializations: OrderedDict[Hashable, Specialization] = OrderedDict()
        self._flat_states = FlatStatePool(host)
        self._last: _LastCall | None = None
        self._signatures = Signatures()
        self._restarts = 0
        self._evicted = 0
        self._resumed: dict[str, SavedSpecialization] = {}
        self._warned: set[str] = set()
        self.stopped: BaseException | None = None
        """What has ended the last steps early: to be raised when they are on record."""

    @property
    def noise(self) -> Noise:
        """The source of all draws."""
        source = self.host.bound.source
        if not isinstance(source, Noise):
            raise VarigradError(
                "the objective draws from another source than the one that compiled steps need",
                because="another SVI has been made of the same bound since",
                try_="an objective for each SVI: vg.SVI(model, guide, optim, vg.ELBO())",
            )
        return source

    def advance(self, limit: int, args: tuple[object, ...], kwargs: dict[str, object]) -> StepResults:
        """Take at least one and at most `limit` steps with the same arguments."""
        own, call = self._specialization_for(args, kwargs)
        if self._graph_is_ready(own, call):
            return self._by_graph(own, limit, call)
        return self._by_python(own, call)

    def __getstate__(self) -> dict[str, object]:
        """The arguments: a copy traces steps of its own."""
        self.leave()
        return {"host": self.host, "wait": self.wait}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def leave(self) -> None:
        """Make everything visible where users look for it: they, or Python's step, go on from there."""
        self._flat_states.leave()

    def explain(self) -> str:
        """Say what is compiled, what is not, and why."""
        return explain(self.specializations.values(), PATIENCE)

    def state(self) -> SavedSteps:
        """The progress of all specialisations, as plain data."""
        names = {id(p): name for name, p in self.host.bound.named_parameters()}
        known = {repr(key): own.saved(names) for key, own in self.specializations.items() if own.eager_steps}
        return {"forms": {**self._resumed, **known}, "numbers": self._signatures.state()}

    def load_state(self, state: SavedSteps) -> None:
        """Go on from a saved state: graphs that were in force then are in force again from the first step on."""
        self.leave()
        self._last = None
        self._resumed = dict(state.get("forms", {}))
        self._signatures.load_state(state.get("numbers", {}))
        kept = {key: own for key, own in self.specializations.items() if repr(key) in self._resumed}
        named = dict(self.host.bound.named_parameters())
        for key, own in kept.items():
            own.resume(self._resumed.pop(repr(key)), named, self.noise)
        self.specializations = OrderedDict(kept)

    def _specialization_for(self, args: tuple[object, ...], kwargs: dict[str, object]) -> tuple[Specialization, Call]:
        """The specialisation for these arguments, which are not looked at again if they are those of the last call."""
        last, around = self._last, surroundings()
        if (
            last is not None
            and not kwargs
            and len(args) == len(last.call.args)
            and around == last.surroundings
            and all(map(operator.is_, args, last.call.args))
            and [layout_of(a) for a in args if isinstance(a, Tensor)] == last.layouts
        ):
            return last.own, last.call
        call, key = self._signatures.of(args, kwargs)
        own = self._kept(key, call.leaves)
        plain = not kwargs and all(type(a) is Tensor for a in args)
        layouts = [layout_of(a) for a in args if isinstance(a, Tensor)]
        self._last = _LastCall(layouts, around, own, call) if plain else None
        return own, call

    def _kept(self, key: Hashable, leaves: list[object]) -> Specialization:
        own = self.specializations.get(key)
        if own is None:
            own = self.specializations[key] = Specialization(arguments_in_words(leaves))
            saved = self._resumed.pop(repr(key), None) if self._resumed else None
            if saved is not None:
                own.resume(saved, dict(self.host.bound.named_parameters()), self.noise)
            if len(self.specializations) > MOST:
                self.specializations.popitem(last=False)
                self._evicted += 1
                if self._evicted == MOST:
                    self._warn_of_many_signatures()
        self.specializations.move_to_end(key)
        return own

    def _graph_is_ready(self, own: Specialization, call: Call) -> bool:
        """Whether the graph is to take the next step; moves the specialisation on as far as is possible now."""
        if own.stage is Stage.REFUSED or own.rows is None or own.eager_steps < (2 if self.wait else PATIENCE):
            return False
        if any(p.requires_grad for p in own.frozen):
            return False  # no longer frozen: to the graph it is a constant
        undeclared = self.host.bound.undeclared_flags
        if own.undeclared is None and (own.thawed is None or sum(undeclared) <= own.thawed):
            own.undeclared = undeclared  # a saved state does not know them one by one
        if own.undeclared != undeclared:
            own.progress = own.progress.forgotten()
            return False  # a tensor that is not declared requires a gradient: Python says what that means
        states = self.host.bound.estimator_states
        if not self._flat_states.has_installed(states) and not own.fits_structure(flattened(states)[1]):
            return False  # a state from before the first step: Python makes what is carried on
        try:
            return self._move_on(own, call)
        except CaptureError as error:
            self._refuse(own, str(error))
        except Exception as error:  # a mistake of ours: Python's steps are none the worse for it
            self._refuse(own, str(as_capture_error(error)))
        return False

    def _move_on(self, own: Specialization, call: Call) -> bool:
        """Trace, look whether the graph still holds, and ask for the library; whether the graph takes the next step."""
        flat_state = self._flat_states.enter(own, self.specializations.values())
        if not all(p.requires_grad for p in flat_state.parameters):
            return False  # frozen since: Python says what that means
        if own.stage is Stage.WARMING_UP:
            self._trace(own, flat_state, call)
        if own.step is None or self._has_changed(own, own.step):
            return False
        compilation = own.step.traced.compile()
        if compilation.elsewhere:
            self._warn(compilation.elsewhere)
        if own.stage in (Stage.TRACED, Stage.COMPILING):
            self._ask_for_library(own, own.step)
        return own.stage in (Stage.TRACED, Stage.CHECKING, Stage.IN_FORCE)

    def _trace(self, own: Specialization, flat_state: FlatState, call: Call) -> None:
        """Trace a step, on the random numbers of the last one in Python; nothing but the clock goes on meanwhile."""
        start = time.perf_counter()
        assert own.rows is not None
        generators, noise_state = global_state(), self.noise.get_state()
        try:
            step = CompiledStep(self.host, flat_state, own.rows, call)
            own.progress = own.progress.traced(step)
        except CaptureError as error:
            if not call.lifted:
                self._refuse(own, str(error))
                return
            self._signatures.lift_none(call.base, str(error))
        finally:
            set_global_state(generators)
            self.noise.set_state(noise_state)
            self.noise.measure()
            own.tracing_seconds = time.perf_counter() - start

    def _has_changed(self, own: Specialization, step: CompiledStep) -> bool:
        """Whether what the graph takes for granted has changed: it is forgotten then, and refused in the end."""
        change = step.changed()
        if not change:
            return False
        own.progress = own.progress.forgotten()
        self.host.bound.expect_changes()
        self._restarts += 1
        if self._restarts > RESTARTS:
            self._refuse(own, f"what the program reads changes again and again: {change}")
        return True

    def _ask_for_library(self, own: Specialization, step: CompiledStep) -> None:
        """Ask the compiler, now and then, whether it is done; or wait for it."""
        compilation, now = step.traced.compile(), time.perf_counter()
        wait = self.wait or own.waits
        if compilation.library is None and (wait or now - own.polled > _POLL):
            own.polled = now
            if self.host.interrupts.at_once(compilation.ready, wait) and compilation.failure:
                self._refuse(own, compilation.failure)
        if own.stage is not Stage.REFUSED and compilation.library is not None:
            own.progress = own.progress.library_came()
            if compilation.fallback:
                self._warn(f"Inductor compiles the steps, which takes longer, because C cannot: {compilation.fallback}")

    def _by_graph(self, own: Specialization, limit: int, call: Call) -> StepResults:
        """Steps of the graph, or one of Python's where the graph turns out to be wrong."""
        host, step, noise = self.host, own.step, self.noise
        assert step is not None
        check = own.stage in CHECKED
        count = 1 if check else self._steps_in_a_row(own, step, limit)
        before = _Position(noise.get_state(), schedule_of(host.scheduler)) if count > 1 else None
        ready = step.settle(count)
        rows: Rows = noise.rows(step.demand, ready)
        after_rows = noise.get_state() if check else None
        start = time.perf_counter()
        try:
            with noise.lent(step.device) if step.random else contextlib.nullcontext():
                results, difference = step.run(ready, rows, call.leaves, check)
        except Exception as error:
            if after_rows is not None:
                noise.set_state(after_rows)  # the check may have drawn more than its row
            return self._instead(own, error, rows, call)
        if check:
            self._judge(own, difference)
        bad = None if all(results.taken) else results.taken.index(False)
        if bad is not None and not host.skip_nonfinite:
            results = results.first(bad + 1)
        done = len(results.losses)
        if done and not check:
            own.at_once = max(1, int(MOMENT * done / (time.perf_counter() - start)))
        if done and step.flat_state.rule is None:
            host.follow(step.flat_state.parameters, step.flat_state.grads, bad is None)
        own.progress = own.progress.stepped(done)
        host.bound.advance(steps=sum(results.taken))
        noise.measure()
        if before is not None and done < count:
            rows = self._rewind(step, before, done, sum(results.taken))
        elif count == 1 and host.scheduler is not None and bad is None and done:
            host.tick()
        stopped, step.stopped = step.stopped, None
        if done:
            # An error is met again by the next call, in its first step. Ctrl-C is not.
            self.stopped = stopped if isinstance(stopped, KeyboardInterrupt) else None
            return results
        assert stopped is not None
        if isinstance(stopped, Exception):
            return self._instead(own, stopped, rows, call)
        raise stopped

    def _steps_in_a_row(self, own: Specialization, step: CompiledStep, limit: int) -> int:
        """The number of steps that the library may take in one call, up to its next check."""
        if (self.host.scheduler is not None or step.scheduled) and self.host.skip_nonfinite:
            return 1  # a step that is left out does not move the schedule on
        return min(limit, step.capacity, own.progress.next_check - own.graph_steps, own.at_once)

    def _rewind(self, step: CompiledStep, before: _Position, done: int, finite: int) -> Rows:
        """Go back to where `done` steps, taken one by one, leave random numbers and schedule.

        Args:
            before: where the block of steps began.
            finite: how many of the steps changed parameters, and move the schedule on.

        Returns:
            The random numbers of the steps that were taken, or of the first one if that failed.
        """
        noise, host = self.noise, self.host
        noise.set_state({**before.noise, "global": noise.get_state()["global"]})
        drawn = done or int(isinstance(step.stopped, Exception))  # Python takes the step that failed
        rows = noise.rows(step.demand, drawn) if drawn else {}
        noise.measure()
        if host.scheduler is not None:
            load_schedule(host.scheduler, before.schedule)
            for _ in range(finite):
                host.tick()
        return rows

    def _instead(self, own: Specialization, error: Exception, rows: Rows, call: Call) -> StepResults:
        """Python's step, on the numbers on which the graph's failed: what is wrong with the program it raises itself.

        If it does not, the graph is wrong.
        """
        results = self._by_python(own, call, rows)
        known = isinstance(error, CaptureError)
        self._refuse(own, str(error) if known else f"the graph fails where the program does not: {in_one_line(error)}")
        return results

    def _judge(self, own: Specialization, difference: str) -> None:
        """Note whether the graph agreed with Python; a graph that did not for the second time is refused."""
        own.progress = own.progress.checked(agrees=not difference)
        if difference:
            self.host.bound.expect_changes()
        if own.progress.is_wrong:
            self._refuse(
                own,
                f"the recorded step and the program do not agree: {difference} (after {own.graph_steps} steps by "
                f"graph, with {own.text}). Of all that is watched nothing has changed",
            )

    def _by_python(self, own: Specialization, call: Call, rows: Rows | None = None) -> StepResults:
        """One step in Python, on a row of random numbers once it is known how many a step takes."""
        self.leave()
        noise = self.noise
        if own.demand is None:
            noise.measure()
        else:
            rows = noise.rows(own.demand, 1) if rows is None else rows
            own.rows = {kind: row[0] for kind, row in rows.items()}
            noise.use(own.rows)
        first = next(self.host.bound.parameters(), None)
        with noise.lent() if first is None else noise.lent(first.device):
            results = self.host.by_python(call.args, call.kwargs)
        if own.demand is None:
            own.demand, own.drawn = noise.demand, noise.drawn
        elif noise.overdrawn and own.stage is not Stage.REFUSED:
            self._refuse(own, "the program draws more in some runs than in others")
        noise.measure()
        bound = self.host.bound
        own.note_eager_step(bound.estimator_states, self.host.reached(), self.host.frozen(), bound.undeclared_flags)
        return results

    def _refuse(self, own: Specialization, reason: str) -> None:
        own.progress = own.progress.refused(reason)
        self._warn(f"steps run eagerly. {reason}")

    def _warn_of_many_signatures(self) -> None:
        advice = "Try: batches of one size (drop_last=True), padding with a mask, or compile=False"
        reasons = self._signatures.unliftable.values()
        reason = "".join(f"A number among them stays one: {r}. " for r in reasons)
        self._warn(
            f"there are more than {2 * MOST} forms of arguments, and each is recorded and compiled anew. "
            f"{reason or advice}"
        )

    def _warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            warn_user(text, CaptureWarning)
