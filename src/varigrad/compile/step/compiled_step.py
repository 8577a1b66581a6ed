"""`CompiledStep`: a whole step as one traced function: both programs, gradient, baselines, clipping, optimiser.

Many steps in a row need nothing from Python: a counter in the graph selects the step's random numbers and settings from
rows drawn beforehand, and the row to which the step writes its loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from varigrad._torch_internals import own_parameters, pytree
from varigrad.compile.graph.errors import CaptureError
from varigrad.compile.step.flat_state import FlatState, flattened
from varigrad.compile.step.output_names import OutputNames
from varigrad.compile.step.signature import Call
from varigrad.compile.step.step_results import StepResults
from varigrad.compile.trace.guards import Guards
from varigrad.compile.trace.traced_function import TracedFunction
from varigrad.distributions.counter_rng import Kind, Noise, Rows
from varigrad.interrupts import Interrupts
from varigrad.objectives.bound import Bound
from varigrad.objectives.objective import Weight
from varigrad.optim.schedules import Scheduler

ROWS = 256
"""The largest number of steps in one call of a library,"""
NUMBERS = 2**19
"""and the largest number of random numbers that they take."""


class Host(Protocol):
    """Interface of the object that takes a run's steps in Python and holds the settings of the steps.

    Attributes:
        bound: the objective; its source is a `Noise`.
        current_optimizer: None where gradients are all that is wanted.
        scheduler: of learning rates, or None.
        skip_nonfinite: leave out steps that are not finite; else everything stands still after the first of them.
        clip_norm: of the gradient, or None.
        interrupts: holds Ctrl-C back while a step is taken.
    """

    bound: Bound
    interrupts: Interrupts
    scheduler: Scheduler | None
    skip_nonfinite: bool

    @property
    def current_optimizer(self) -> torch.optim.Optimizer | None: ...

    @property
    def clip_norm(self) -> float | None: ...

    def reached(self) -> list[nn.Parameter]:
        """The parameters that the last step's gradient reached."""

    def frozen(self) -> list[nn.Parameter]:
        """The parameters that required no gradient then."""

    def by_python(self, args: tuple[object, ...], kwargs: dict[str, object]) -> StepResults:
        """One step without a graph."""

    def tick(self) -> None:
        """Move the schedule on by one step."""

    def follow(self, parameters: list[nn.Parameter], grads: list[Tensor], finite: bool) -> None:
        """Use gradients, where the graph does not contain the optimiser."""


class CompiledStep:
    """A traced step for arguments of one signature.

    Args:
        host: whose step it is; it has taken one with such arguments.
        flat_state: holds the state, which has been brought into it.
        rows: the random numbers of one step, to trace with, `kind -> [length]`.
        call: the arguments; numbers among them that are lifted become inputs of the graph.

    Attributes:
        capacity: how many steps one call of `run` may take.
        demand: how many random numbers a step takes, by kind.
        stopped: what has ended the last steps early.

    Raises:
        CaptureError: the step cannot be traced.
    """

    def __init__(self, host: Host, flat_state: FlatState, rows: Rows, call: Call) -> None:
        self.host = host
        self.flat_state = flat_state
        self.stopped: BaseException | None = None
        self._tree, self._lifted = call.tree, call.lifted
        leaves = call.leaves
        self._settings = host.skip_nonfinite, host.clip_norm
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        self.device: torch.device = _device_of([*flat_state.parameters, *tensors])
        _refuse_arguments(tensors)
        self.demand: dict[Kind, int] = {kind: len(row) for kind, row in rows.items()}
        self.capacity: int = max(1, min(ROWS, NUMBERS // max(sum(self.demand.values()), 1))) if flat_state.rule else 1
        self._noise = {kind: row.to(self.device).repeat(self.capacity, 1) for kind, row in rows.items()}
        self._index = torch.zeros((), dtype=torch.int64, device=self.device)
        self._alive = torch.ones((), dtype=torch.bool, device=self.device)
        self._scheduled = _schedules(host.bound.config.weights)
        self._written_row: list[float] | None = None
        width = max(len(self._row(0)), 1)
        self._numbers = torch.zeros(self.capacity, width, dtype=torch.float64, device=self.device)
        self._metrics = torch.zeros(self.capacity, 3, dtype=torch.float64, device=self.device)
        flats = [m for b in flat_state.buckets for m in (b.flat, *b.moments)]
        kept = [*flats, *flat_state.grads, *flat_state.states]
        self._overwritten = {k.untyped_storage().data_ptr() for k in kept if k.numel()}
        self._arguments = [self._argument(i, leaf) for i, leaf in enumerate(leaves)]
        self.settle(1)
        self.traced: TracedFunction = self._trace()
        self._positions = [None if not isinstance(a, Tensor) else self.traced.position(a) for a in self._arguments]
        self._given: dict[int, tuple[Tensor, int]] = {}
        """Arguments that are in place as they are, and their addresses."""

    @property
    def scheduled(self) -> bool:
        """Whether weights depend on the step's number."""
        return bool(self._scheduled)

    @property
    def random(self) -> bool:
        """Whether the graph draws from torch's global generator."""
        return self.traced.graph.random

    def changed(self) -> str:
        """The first thing that is no longer as it was when the step was traced; empty if all is."""
        if self._settings != (self.host.skip_nonfinite, self.host.clip_norm):
            return "skip_nonfinite, or clip_norm"
        return self.guards.changed()

    def settle(self, count: int) -> int:
        """Write down the settings of the coming steps; the scheduler goes ahead when there is more than one.

        Args:
            count: how many steps are to come, at most `capacity`.

        Returns:
            How many steps have their settings: fewer than `count` where a schedule raises an error, which it will raise
            again when it is that step's turn.
        """
        first, scheduler = self.host.bound.steps, self.host.scheduler
        if scheduler is None and not self._scheduled:
            row = self._row(first)
            if row != self._written_row and row:
                self._numbers.copy_(torch.tensor(row, dtype=torch.float64))
                self._written_row = row
            return count
        rows: list[list[float]] = []
        ready = 0
        try:
            while ready < count:
                rows.append(self._row(first + ready) or [0.0])
                if scheduler is not None and count > 1:
                    scheduler.step()
                ready += 1
        except Exception:
            if not rows:
                raise
            ready = max(ready, 1)
        self._numbers[:ready] = torch.tensor(rows[:ready], dtype=torch.float64)
        return ready

    def run(self, count: int, rows: Rows, leaves: list[object], check: bool = False) -> tuple[StepResults, str]:
        """Take `count` steps that have been settled, with the given random numbers, `kind -> [count, length]`.

        Returns:
            The results (those before an error, which is then in `stopped`), and in which quantity Python disagreed
            (empty if in none, and without a check, which is for one step).

        Raises:
            Exception: a check failed, in Python or in the graph; nothing has been changed.
        """
        for kind, block in self._noise.items():
            block[:count].copy_(rows[kind])
        self._index.zero_()
        for i, leaf in enumerate(leaves):
            if self._positions[i] is not None:
                self._put(i, leaf)
        difference, before, self.stopped = "", None, None
        if check:
            found = self.traced.agrees()
            difference = "" if found is None else self._output_names.in_words(found)
        else:
            # What goes on after a step that fails: a module's averages, and a generator.
            if count > 1 and not self.host.skip_nonfinite and (self.traced.mutated or self.random):
                before = self.traced.snapshot()
            try:
                self.traced.run(count)
            except (Exception, KeyboardInterrupt) as error:
                count, self.stopped = int(self._index), error  # raised when the steps that were taken are on record
        # Lists of numbers, not a tuple for each step: those would keep Python's garbage collector busy.
        losses, norms, taken = self._metrics[:count].t().tolist() if count else ([], [], [])
        if not all(taken):
            if before is not None:  # stop at the first one that fails
                self.traced.restore(before)
                self.traced.run(taken.index(0.0) + 1)
            self._alive.fill_(True)
        return StepResults(losses, norms, list(map(bool, taken))), difference

    def _put(self, i: int, leaf: object) -> None:
        """Bring an argument to where the graph reads it."""
        position = self._positions[i]
        assert position is not None
        if isinstance(leaf, Tensor):
            given, at = self._given.get(i, (None, 0))
            if given is leaf and leaf.data_ptr() == at:
                return
            own = self._arguments[i] = self._own(leaf)  # for Python, when it checks
            self.traced.inputs[position] = own.detach()
            self._given[i] = (leaf, own.data_ptr())
        else:
            number = self._arguments[i]
            assert isinstance(number, Tensor)
            number.fill_(leaf)  # type: ignore[call-overload] # numbers of numpy are numbers too

    def _own(self, leaf: Tensor) -> Tensor:
        """A new tensor object for an argument: the program may also see the same tensor some other way, which stays.

        Its memory is the argument's; a copy if that is a part of what the step overwrites.
        """
        own = leaf.detach().resolve_conj().resolve_neg()
        if own.untyped_storage().data_ptr() in self._overwritten:
            own = own.clone()
        return own.requires_grad_() if leaf.requires_grad else own

    def _argument(self, i: int, leaf: object) -> object:
        """An argument as the traced program sees it."""
        if i not in self._lifted:
            return self._own(leaf) if isinstance(leaf, Tensor) else leaf
        dtype = torch.int64 if isinstance(leaf, int) else self.flat_state.parameters[0].dtype
        return torch.tensor(leaf, dtype=dtype, device=self.device)

    def _row(self, step: int) -> list[float]:
        """The numbers that may change from step to step: weights that are schedules, the optimiser's settings."""
        numbers = [float(weight(step)) for _, weight in self._scheduled]
        rule, optimizer = self.flat_state.rule, self.flat_state.optimizer
        for bucket in self.flat_state.buckets:
            assert rule is not None and optimizer is not None
            numbers += rule.numbers(optimizer.param_groups[bucket.group])
        return numbers

    def _trace(self) -> TracedFunction:
        """Trace one step, under guards for what the program reads from Python."""
        flat_state, bound = self.flat_state, self.host.bound
        buffers = [b for b in bound.program_buffers() if b.numel()]
        moments = [m for b in flat_state.buckets for m in (b.flat, *b.moments, b.count)]
        self._targets = [*moments, *flat_state.grads, *flat_state.states, self._alive, self._metrics, self._index]
        given = [a for a in self._arguments if isinstance(a, Tensor)]
        inputs = [*flat_state.parameters, *self._targets, *self._noise.values(), self._numbers, *given, *buffers]
        unique = list({id(i): i for i in inputs}.values())
        loose = [b.flat for b in flat_state.buckets if b.moments]
        others = [a for a in self._arguments if not isinstance(a, Tensor)]
        declared = map(own_parameters, bound.modules())
        guards = Guards((bound.model_program, bound.guide_program, *declared, *others))
        self._output_names = OutputNames(bound, flat_state, buffers)
        version = bound.version
        traced = TracedFunction(self._compute, unique, self._targets, flat_state.slices, buffers, loose)
        if bound.version != version:
            raise CaptureError("a parameter came into being while the step was recorded")
        source = guards.randomness_used()
        if source:
            raise CaptureError(f"the program draws from {source}", try_="sample(), or torch's random functions")
        change = guards.changed()
        if change:
            raise CaptureError(
                f"the program changes what it reads: {change}",
                because="a graph would do so once, and never again",
                try_="an argument of the program, or a tensor",
            )
        # A replay has the CPU's numbers in it as they were.
        elsewhere = [c for c in traced.graph.constants if c.device != self.device]
        guards.hold([*traced.graph.constants, *buffers], [*traced.graph.read, *elsewhere])
        self.guards = guards
        return traced

    def _compute(self) -> list[Tensor]:
        """One step, from the values in the inputs: the new values of the targets."""
        host, flat_state = self.host, self.flat_state
        bound, noise = host.bound, host.bound.source
        assert isinstance(noise, Noise)
        at = self._index.reshape(1)
        noise.use({kind: block.index_select(0, at).squeeze(0) for kind, block in self._noise.items()})
        numbers = list(self._numbers.index_select(0, at).squeeze(0).unbind())
        args, kwargs = pytree.tree_unflatten(self._arguments, self._tree)
        like = flat_state.parameters[0]
        weights = dict(bound.config.weights)
        for pattern, _ in self._scheduled:
            weights[pattern] = numbers.pop(0).to(like.dtype)
        with bound.captured(weights), torch.enable_grad():
            result = bound.estimate(*args, **kwargs)
            found = torch.autograd.grad(result.surrogate, flat_state.parameters, allow_unused=True)
        if noise.overdrawn:
            raise CaptureError("the program draws more in some runs than in others")
        grads = [-g.detach() for g in found if g is not None]
        if len(grads) < len(flat_state.parameters):
            raise CaptureError("the gradient does not reach the same parameters in every run")
        loss = -result.value.detach()
        norm = torch.stack([_squared_norm(g).to(_wide(loss.dtype)) for g in grads]).sum().sqrt()
        go = loss.isfinite() & norm.isfinite() & self._alive
        limit = host.clip_norm
        if limit is not None:
            grads = [g * (limit / (norm + 1e-6)).clamp(max=1.0).to(g.dtype) for g in grads]
        new = self._updated(grads, numbers, go) if flat_state.rule is not None else grads
        states, _ = flattened(result.state)
        if not flat_state.keeps(result.state):
            raise CaptureError("the estimators' state changes its shape")
        new += [torch.where(go, n.detach(), o) for n, o in zip(states, flat_state.states, strict=True)]
        alive = self._alive.clone() if host.skip_nonfinite else go
        outcome = torch.stack([loss.double(), norm.double(), go.double()]).unsqueeze(0)
        return [*new, alive, self._metrics.index_copy(0, at, outcome), self._index + 1]

    def _updated(self, grads: list[Tensor], numbers: list[Tensor], go: Tensor) -> list[Tensor]:
        """The optimiser's update of every bucket.

        Args:
            grads: by parameter, in the order of the flat state.
            numbers: the optimiser's settings, bucket after bucket.
            go: `[]`, whether the step is finite; else everything stays as it is.
        """
        rule, by_id = self.flat_state.rule, {id(p): g for p, g in zip(self.flat_state.parameters, grads, strict=True)}
        assert rule is not None
        new: list[Tensor] = []
        width = len(numbers) // len(self.flat_state.buckets)
        for i, bucket in enumerate(self.flat_state.buckets):
            own = torch.stack(numbers[i * width : (i + 1) * width])
            value, moments = rule.update(bucket.flat, bucket.joined(by_id), bucket.moments, bucket.count, own)
            olds = [bucket.flat, *bucket.moments]
            new += [torch.where(go, n, o) for n, o in zip([value, *moments], olds, strict=True)]
            new.append(bucket.count + go)
        return new


def _squared_norm(gradient: Tensor) -> Tensor:
    """The squared norm of a gradient, in single precision at least: in half precision the square of 256 is infinite."""
    return gradient.to(_wide(gradient.dtype)).square().sum()


def _wide(kind: torch.dtype) -> torch.dtype:
    return torch.promote_types(kind, torch.float32)


def _schedules(weights: Mapping[str, Weight]) -> list[tuple[str, Callable[[int], float | Tensor]]]:
    """The weights that are functions of the step's number, by pattern."""
    return [(k, w) for k, w in weights.items() if callable(w) and not isinstance(w, Tensor)]


def _refuse_arguments(tensors: list[Tensor]) -> None:
    for tensor in tensors:
        if tensor.layout is not torch.strided:
            raise CaptureError(f"an argument is {tensor.layout}", try_="a dense tensor, or compile=False")
        if tensor.grad_fn is not None:
            raise CaptureError(
                "an argument has been computed from what requires a gradient",
                because="its history is another one at every call",
                try_="the same computation inside the program, or .detach()",
            )


def _device_of(tensors: list[Tensor]) -> torch.device:
    """The device that all of these tensors lie on.

    Raises:
        CaptureError: they lie on several, or on one on which steps are not captured.
    """
    device = tensors[0].device
    other = next((t.device for t in tensors if t.device != device), None)
    if other is not None:
        raise CaptureError(
            f"one parameter or argument lies on {device}, another on {other}",
            because="a captured step works on one device",
            try_=f".to({str(device)!r})",
        )
    if device.type not in ("cpu", "cuda"):
        raise CaptureError(
            f"the parameters lie on {device}", because="steps are captured on the CPU and on CUDA so far"
        )
    return device
