"""Steps by graph: eager at first, recorded once it pays, compiled in the background, checked, and given up when wrong.

All randomness of a step comes from rows of numbers that are drawn beforehand, an eager step's too. So it does not
matter to a run when the compiler is done: every step sees the numbers it would have seen anyway.
"""

from __future__ import annotations

import contextlib
import operator
import time
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils import _pytree as pytree

from varigrad.compile.graph.errors import CaptureError, said_by
from varigrad.compile.graph.errors import explained as explained_error
from varigrad.compile.step.compiled_step import Host, Step
from varigrad.compile.step.flat_state import Memory, flattened, looked_at
from varigrad.compile.step.signature import Signatures, described, surroundings, told
from varigrad.compile.step.specialization import Form, explained
from varigrad.compile.step.step_results import Outcomes
from varigrad.distributions.counter_rng import Noise, Rows
from varigrad.distributions.rng import global_state, set_global_state
from varigrad.errors import VarigradError
from varigrad.optim.functional import rule_of, traits_of
from varigrad.optim.schedules import load_schedule, schedule_of

PATIENCE = 100
"""Eager steps before a program is recorded: a short run never pays for it."""
FORMS = 8
"""How many forms of call are kept."""
RESTARTS = 3
"""How often a program is recorded anew because something that it reads has changed."""
CHECKS = 2
"""How many steps in a row Python checks when a library is new, and how many disagreements end its use."""
MOMENT = 0.1
"""Seconds that steps in a row may take: Ctrl-C is obeyed after them."""
_POLL = 0.02


class CaptureWarning(UserWarning):
    """A step that was to be compiled runs eagerly, and why."""


class _Call(NamedTuple):
    """The last call, for the next one with the very same tensors."""

    args: tuple[Any, ...]
    shapes: list[Any]
    surroundings: tuple[Any, ...]
    form: Form
    base: Any
    leaves: list[Any]
    tree: Any
    lifted: frozenset[int]


class Session:
    """Takes the steps of somebody who wants them compiled.

    Args:
        host: whose steps they are; its bound's randomness comes from a `Noise`.
        wait: compile as soon as there is something to compile, and wait for it.
    """

    def __init__(self, host: Host, wait: bool) -> None:
        self.host, self.wait = host, wait
        self.forms: OrderedDict[Any, Form] = OrderedDict()
        self._memory: Memory | None = None
        self._memories: dict[frozenset[int], Memory] = {}
        self._inside = False
        self._last: _Call | None = None
        self._installed: Any = None
        self._signatures = Signatures()
        self._restarts = 0
        self._evicted = 0
        self._version = -1
        self._resumed: dict[str, Any] = {}
        self._warned: set[str] = set()
        self.stopped: BaseException | None = None
        """What has ended the last steps early: to be raised when they are on record."""

    @property
    def noise(self) -> Noise:
        """Where all draws come from."""
        source = self.host.bound.source
        if not isinstance(source, Noise):
            raise VarigradError(
                "the objective draws from another source than the one that compiled steps need",
                because="another SVI has been made of the same bound since",
                try_="an objective for each SVI: vg.SVI(model, guide, optim, vg.ELBO())",
            )
        return source

    def advance(self, limit: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcomes:
        """Take at least one and at most `limit` steps with the same arguments."""
        last, around = self._last, surroundings()
        known = last is not None and not kwargs and len(args) == len(last.args) and around == last.surroundings
        known = known and last is not None and all(map(operator.is_, args, last.args))
        if last is not None and known and [described(a) for a in args] == last.shapes:
            form, base, leaves, tree, lifted = last.form, last.base, last.leaves, last.tree, last.lifted
        else:
            leaves, tree = pytree.tree_flatten((args, kwargs))
            base, lifted, key = self._signatures.of(leaves, tree)
            form = self._form(key, leaves)
            same = not kwargs and all(type(a) is Tensor for a in args)
            shapes = [described(a) for a in args] if same else []
            self._last = _Call(args, shapes, around, form, base, leaves, tree, lifted) if same else None
        if self._prepare(form, base, leaves, tree, lifted):
            return self._by_graph(form, limit, leaves, args, kwargs)
        return self._by_python(form, args, kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """Whose steps; a copy records its own."""
        self.leave()
        return {"host": self.host, "wait": self.wait}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def leave(self) -> None:
        """Make everything visible where users look for it: they, or Python's step, go on from there."""
        if self._inside and self._memory is not None:
            self._memory.give()
        self._inside = False

    def explain(self) -> str:
        """What is compiled, what is not, and why."""
        return explained(self.forms.values(), PATIENCE)

    def standing(self) -> dict[str, Any]:
        """How far each form of call has come, as plain data."""
        names = {id(p): name for name, p in self.host.bound.named_parameters()}
        known = {repr(key): form.standing(names) for key, form in self.forms.items() if form.seen}
        return {"forms": {**self._resumed, **known}, "numbers": self._signatures.standing()}

    def stand(self, standing: Mapping[str, Any]) -> None:
        """Go on from there: graphs that were in force then are in force again from the first step on."""
        self.leave()
        self._last = None
        self._resumed = dict(standing.get("forms", {}))
        self._signatures.stand(standing.get("numbers", {}))
        kept = {key: form for key, form in self.forms.items() if repr(key) in self._resumed}
        named = dict(self.host.bound.named_parameters())
        for key, form in kept.items():
            form.stand(self._resumed.pop(repr(key)), named, self.noise)
        self.forms = OrderedDict(kept)

    def _form(self, key: Any, leaves: list[Any]) -> Form:
        form = self.forms.get(key)
        if form is None:
            form = self.forms[key] = Form(told(leaves))
            standing = self._resumed.pop(repr(key), None) if self._resumed else None
            if standing is not None:
                form.stand(standing, dict(self.host.bound.named_parameters()), self.noise)
            if len(self.forms) > FORMS:
                self.forms.popitem(last=False)
                self._evicted += 1
                if self._evicted == FORMS:
                    advice = "Try: batches of one size (drop_last=True), padding with a mask, or compile=False"
                    reasons = self._signatures.unliftable.values()
                    reason = "".join(f"A number among them stays one: {r}. " for r in reasons)
                    self._warn(
                        f"there are more than {2 * FORMS} forms of arguments, and each is recorded and compiled anew. "
                        f"{reason or advice}"
                    )
        self.forms.move_to_end(key)
        return form

    def _prepare(self, form: Form, base: Any, leaves: list[Any], tree: Any, lifted: frozenset[int]) -> bool:
        """Whether the graph is to take the next step; moves the form on as far as that is possible now."""
        if form.refusal or form.rows is None or form.seen < (2 if self.wait else PATIENCE):
            return False
        if any(p.requires_grad for p in form.frozen):
            return False  # no longer frozen: to the graph it is a constant
        if form.undeclared is None:  # the form of a state that was loaded
            form.undeclared = self.host.bound.undeclared_flags
        if form.undeclared != self.host.bound.undeclared_flags:
            form.forget()
            return False  # a tensor that is not declared requires a gradient: Python says what that means
        states = self.host.bound.estimator_states
        if states is not self._installed and not form.carries(flattened(states)[1]):
            return False  # a state from before the first step: Python makes what is carried on
        try:
            return self._get_ready(form, base, leaves, tree, lifted)
        except CaptureError as error:
            self._refuse(form, str(error))
        except Exception as error:  # a mistake of ours: Python's steps are none the worse for it
            self._refuse(form, str(explained_error(error)))
        return False

    def _get_ready(self, form: Form, base: Any, leaves: list[Any], tree: Any, lifted: frozenset[int]) -> bool:
        self._enter(form)
        assert self._memory is not None
        if not all(p.requires_grad for p in self._memory.parameters):
            return False  # frozen since: Python says what that means
        if form.step is None:
            self._record(form, base, leaves, tree, lifted)
        step = form.step
        if step is None:
            return False
        change = step.changed()
        if change:
            form.forget()
            self.host.bound.expect_changes()
            self._restarts += 1
            if self._restarts > RESTARTS:
                self._refuse(form, f"what the program reads changes again and again: {change}")
            return False
        compilation = step.recorded.compile()
        if compilation.elsewhere:
            self._warn(compilation.elsewhere)
        now = time.perf_counter()
        wait = self.wait or form.waits
        if compilation.library is None and (wait or now - form.polled > _POLL):
            form.polled = now
            if self.host.interrupts.at_once(compilation.ready, wait) and compilation.failure:
                self._refuse(form, compilation.failure)
                return False
            form.check = form.taken
        # The first step by graph comes before the library: it shows whether the graph is right.
        return compilation.library is not None or form.taken == 0

    def _record(self, form: Form, base: Any, leaves: list[Any], tree: Any, lifted: frozenset[int]) -> None:
        start = time.perf_counter()
        assert form.rows is not None and self._memory is not None
        generators, own = global_state(), self.noise.get_state()
        try:
            form.step = Step(self.host, self._memory, form.rows, leaves, tree, lifted)
        except CaptureError as error:
            if not lifted:
                self._refuse(form, str(error))
                return
            self._signatures.lift_none(base, str(error))
        finally:
            set_global_state(generators)
            self.noise.set_state(own)
            self.noise.measure()
            form.seconds = time.perf_counter() - start

    def _enter(self, form: Form) -> None:
        """Bring the state into the tensors that the form's captured steps work in.

        Forms whose gradients reach other parameters have tensors of their own: the optimiser leaves the rest alone.
        """
        bound, optimizer, memory = self.host.bound, self.host.current_optimizer, self._memory
        states = bound.estimator_states
        known = memory is not None and memory.optimizer is optimizer and bound.version == self._version
        if known and memory is not None and optimizer is not None:
            known = memory.traits == traits_of(optimizer)
        if memory is not None and known and memory is form.memory and self._inside and states is self._installed:
            displaced = memory.displaced()
            if not looked_at(displaced):
                memory.take_parameters(displaced)
                return
        self.leave()
        if not known:
            self._abandon(*self._memories)
            self._version = bound.version
        memory = self._memories.get(form.reached)
        if memory is not None and (not memory.fits(states) or looked_at(memory.displaced())):
            self._abandon(form.reached)
            memory = None
        if memory is None:
            wanted = {f.reached for f in self.forms.values()}
            self._abandon(*[name for name in self._memories if name not in wanted])  # a parameter was frozen since
            rule = None if optimizer is None else rule_of(optimizer)
            memory = self._memories[form.reached] = Memory(optimizer, rule, form.parameters, states)
        if form.memory is not memory and form.step is not None:
            form.forget()
        self._memory = form.memory = memory
        memory.take(states)
        bound.advance(memory.tree(), steps=0)
        self._installed = bound.estimator_states
        self._inside = True

    def _abandon(self, *names: frozenset[int]) -> None:
        """Let go of memory, so that nobody but its parameters holds it."""
        for name in names:
            memory = self._memories.pop(name)
            for form in self.forms.values():
                if form.memory is memory:
                    form.memory = None
                    form.forget()
        self._memory = None

    def _by_graph(
        self, form: Form, limit: int, leaves: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Outcomes:
        """Steps of the graph, or one of Python's where the graph turns out to be wrong."""
        host, step, noise = self.host, form.step, self.noise
        assert step is not None
        check = form.taken >= form.check
        alone = check or ((host.scheduler is not None or step.scheduled) and host.skip_nonfinite)
        count = 1 if alone else min(limit, step.rows, form.check - form.taken, form.ahead)
        before = (noise.get_state(), *schedule_of(host.scheduler)) if count > 1 else None
        ready = step.settle(count)
        rows = noise.rows(step.demand, ready)
        start = time.perf_counter()
        try:
            with noise.lent(step.device) if step.random else contextlib.nullcontext():
                outcomes, difference = step.run(ready, rows, leaves, check)
        except Exception as error:
            return self._instead(form, error, rows, args, kwargs)
        if check:
            self._judge(form, difference)
        bad = None if all(outcomes.taken) else outcomes.taken.index(False)
        if bad is not None and not host.skip_nonfinite:
            outcomes = outcomes.first(bad + 1)
        done = len(outcomes.losses)
        if done and not check:
            form.ahead = max(1, int(MOMENT * done / (time.perf_counter() - start)))
        if done and step.memory.rule is None:
            host.follow(step.memory.parameters, step.memory.grads, bad is None)
        form.taken += done
        host.bound.advance(steps=sum(outcomes.taken))
        noise.measure()
        if before is not None and done < count:
            # As one by one: nothing after the last step has been drawn or scheduled.
            state, schedule, settings = before
            noise.set_state({**state, "global": noise.get_state()["global"]})
            drawn = done or int(isinstance(step.stopped, Exception))  # Python takes the step that failed
            rows = noise.rows(step.demand, drawn) if drawn else {}
            noise.measure()
            if host.scheduler is not None:
                load_schedule(host.scheduler, schedule, settings)
                for _ in range(sum(outcomes.taken)):
                    host.tick()
        elif count == 1 and host.scheduler is not None and bad is None and done:
            host.tick()
        stopped, step.stopped = step.stopped, None
        if done:
            # An error is met again by the next call, in its first step. Ctrl-C is not.
            self.stopped = stopped if isinstance(stopped, KeyboardInterrupt) else None
            return outcomes
        assert stopped is not None
        if isinstance(stopped, Exception):
            return self._instead(form, stopped, rows, args, kwargs)
        raise stopped

    def _instead(
        self, form: Form, error: Exception, rows: Rows, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Outcomes:
        """Python's step, on the numbers on which the graph's failed: what is wrong with the program it raises itself.

        If it does not, the graph is wrong.
        """
        outcomes = self._by_python(form, args, kwargs, rows)
        known = isinstance(error, CaptureError)
        self._refuse(form, str(error) if known else f"the graph fails where the program does not: {said_by(error)}")
        return outcomes

    def _judge(self, form: Form, difference: str) -> None:
        """Check twice in a row at first, then at step 10, 100, 1000, and at once after a disagreement.

        A single one may be rounding that tipped a discrete draw; two are not.
        """
        form.agreed += not difference and form.planned is None
        form.disagreed += bool(difference)
        if difference:
            self.host.bound.expect_changes()
        if form.disagreed >= CHECKS:
            self._refuse(
                form,
                f"the recorded step and the program do not agree: {difference} (after {form.taken} steps by graph, "
                f"with {form.text}). Of all that is watched nothing has changed",
            )
        soon = bool(difference) or form.agreed < CHECKS
        form.check = form.taken + 1 if soon else 10 * (form.taken + 1)
        if form.planned is not None:
            form.check = form.taken + 1 if difference else max(form.planned, form.taken + 1)
            form.planned = None

    def _by_python(
        self, form: Form, args: tuple[Any, ...], kwargs: dict[str, Any], rows: Rows | None = None
    ) -> Outcomes:
        self.leave()
        noise = self.noise
        if form.demand is None:
            noise.measure()
        else:
            rows = noise.rows(form.demand, 1) if rows is None else rows
            form.rows = {kind: row[0] for kind, row in rows.items()}
            noise.use(form.rows)
        first = next(self.host.bound.parameters(), None)
        with noise.lent() if first is None else noise.lent(first.device):
            outcome = self.host.by_python(args, kwargs)
        if form.demand is None:
            form.demand, form.drawn = noise.demand, noise.drawn
        elif noise.overdrawn and not form.refusal:
            self._refuse(form, "the program draws more in some runs than in others")
        noise.measure()
        form.carried = flattened(self.host.bound.estimator_states)[1]
        form.parameters, form.frozen = tuple(self.host.reached()), tuple(self.host.frozen())
        form.undeclared = self.host.bound.undeclared_flags
        form.seen += 1
        return outcome

    def _refuse(self, form: Form, reason: str) -> None:
        form.forget()
        form.refusal = reason
        self._warn(f"steps run eagerly. {reason}")

    def _warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            warnings.warn(text, CaptureWarning, stacklevel=7)
