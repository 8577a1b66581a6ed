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
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils import _pytree as pytree

from varigrad.capture.refusals import CaptureError
from varigrad.distributions.noise import Noise
from varigrad.distributions.source import global_state, set_global_state
from varigrad.errors import VarigradError
from varigrad.inference.forms import Form, explained
from varigrad.inference.memory import Memory, flattened, looked_at
from varigrad.inference.outcomes import Outcomes
from varigrad.inference.signatures import Signatures, described, surroundings
from varigrad.inference.step import Host, Step
from varigrad.inference.updates import rule_of, traits_of

PATIENCE = 100
"""Eager steps before a program is recorded: a short run never pays for it."""
FORMS = 8
"""How many forms of call are kept."""
RESTARTS = 3
"""How often a program is recorded anew because something that it reads has changed."""
CHECKS = 2
"""How many steps in a row Python checks when a library is new, and how many disagreements end its use."""
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
        self._warned: set[str] = set()
        self.interrupted = False
        """Whether Ctrl-C ended the last steps early; to be raised by whoever has put them on record."""

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
            form = self._form(key)
            same = not kwargs and all(type(a) is Tensor for a in args)
            shapes = [described(a) for a in args] if same else []
            self._last = _Call(args, shapes, around, form, base, leaves, tree, lifted) if same else None
        outcomes = self._by_graph(form, limit, leaves) if self._prepare(form, base, leaves, tree, lifted) else None
        return self._by_python(form, args, kwargs) if outcomes is None else outcomes

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

    def _form(self, key: Any) -> Form:
        form = self.forms.get(key)
        if form is None:
            form = self.forms[key] = Form()
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
        states = self.host.bound.estimator_states
        if states is not self._installed and flattened(states)[1] != form.carried:
            return False  # a state from before the first step: Python makes what is carried on
        try:
            self._enter(form)
        except CaptureError as error:
            self._refuse(form, str(error))
            return False
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
            self._restarts += 1
            if self._restarts > RESTARTS:
                self._refuse(form, f"what the program reads changes again and again: {change}")
            return False
        compilation = step.recorded.compile()
        now = time.perf_counter()
        if compilation.library is None and (self.wait or now - form.polled > _POLL):
            form.polled = now
            if compilation.ready(self.wait) and compilation.failure:
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
        if form.memory is not memory:
            form.forget()
        self._memory = form.memory = memory
        memory.take(states)
        bound.install(memory.tree())
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

    def _by_graph(self, form: Form, limit: int, leaves: list[Any]) -> Outcomes | None:
        """Steps of the graph; None if its check finds that there can be no graph."""
        host, step, noise = self.host, form.step, self.noise
        assert step is not None
        check = form.taken >= form.check
        alone = check or ((host.scheduler is not None or step.scheduled) and host.skip_nonfinite)
        count = 1 if alone else min(limit, step.rows, form.check - form.taken)
        before = (noise.get_state(), *_state_of(host.scheduler)) if count > 1 or check else None
        ready = step.settle(count)
        with noise.lent(step.device) if step.random else contextlib.nullcontext():
            try:
                outcomes, agreed = step.run(ready, noise.rows(step.demand, ready), leaves, check)
            except CaptureError as error:
                assert before is not None
                noise.set_state(before[0])
                self._refuse(form, str(error))
                return None
        if check:
            self._judge(form, agreed)
        bad = None if all(outcomes.taken) else outcomes.taken.index(False)
        if bad is not None and not host.skip_nonfinite:
            outcomes = outcomes.first(bad + 1)
        done = len(outcomes.losses)
        if step.memory.rule is None:
            host.follow(step.memory.parameters, step.memory.grads, bad is None)
        form.taken += done
        host.bound.__dict__["steps"] += sum(outcomes.taken)
        noise.measure()
        self.interrupted, step.interrupted = step.interrupted, False
        if before is not None and done < count:
            # As one by one: nothing after the last step has been drawn or scheduled.
            state, schedule, settings = before
            noise.set_state({**state, "global": noise.get_state()["global"]})
            noise.rows(step.demand, done)
            noise.measure()
            if host.scheduler is not None:
                host.scheduler.load_state_dict(schedule)
                for group, own in zip(host.scheduler.optimizer.param_groups, settings, strict=True):
                    group.update(own)
                for _ in range(sum(outcomes.taken)):
                    host.scheduler.step()
        elif count == 1 and host.scheduler is not None and bad is None:
            host.scheduler.step()
        if not done:
            raise KeyboardInterrupt
        return outcomes

    def _judge(self, form: Form, agreed: bool) -> None:
        """Check twice in a row at first, then at step 10, 100, 1000, and at once after a disagreement.

        A single one may be rounding that tipped a discrete draw; two are not.
        """
        form.agreed += agreed
        form.disagreed += not agreed
        if form.disagreed >= CHECKS:
            self._refuse(
                form,
                "the recorded step and the program no longer agree: the program depends on something that is neither "
                "an argument nor a variable that can be watched (a clock, a file, a generator of its own)",
            )
        soon = not agreed or form.agreed < CHECKS
        form.check = form.taken + 1 if soon else 10 * (form.taken + 1)

    def _by_python(self, form: Form, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcomes:
        self.leave()
        noise = self.noise
        if form.demand is None:
            noise.measure()
        else:
            form.rows = {kind: rows[0] for kind, rows in noise.rows(form.demand, 1).items()}
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


def _state_of(scheduler: Any) -> tuple[Any, Any]:
    """The scheduler's own, and the settings that it changes."""
    if scheduler is None:
        return None, None
    groups = [{k: v for k, v in group.items() if k != "params"} for group in scheduler.optimizer.param_groups]
    return dict(scheduler.state_dict()), groups
