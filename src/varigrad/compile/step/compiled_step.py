"""The whole step as one function of tensors: both programs, gradient, baselines, clipping, optimiser.

Many steps in a row need nothing from Python: a counter in the graph picks the step's random numbers and settings from
rows drawn beforehand, and losses go into rows of their own.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from varigrad.compile.graph.errors import CaptureError
from varigrad.compile.step.flat_state import Memory, flattened
from varigrad.compile.step.output_names import Quantities
from varigrad.compile.step.step_results import Outcomes
from varigrad.compile.trace.guards import Watch
from varigrad.compile.trace.traced_function import Recorded
from varigrad.distributions.counter_rng import Kind, Noise, Rows
from varigrad.interrupts import Interrupts
from varigrad.objectives.bound import Bound

ROWS = 256
"""At most so many steps in a row,"""
NUMBERS = 2**19
"""and at most so many random numbers."""


class Host(Protocol):
    """Whose steps are captured.

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
    scheduler: Any
    skip_nonfinite: bool

    @property
    def current_optimizer(self) -> torch.optim.Optimizer | None: ...

    @property
    def clip_norm(self) -> float | None: ...

    def reached(self) -> list[nn.Parameter]:
        """The parameters that the last step's gradient reached."""

    def frozen(self) -> list[nn.Parameter]:
        """The parameters that required no gradient then."""

    def by_python(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcomes:
        """One step without a graph."""

    def tick(self) -> None:
        """Move the schedule on by one step."""

    def follow(self, parameters: list[nn.Parameter], grads: list[Tensor], finite: bool) -> None:
        """Use gradients, where the graph does not contain the optimiser."""


class Step:
    """A captured step for one form of its arguments.

    Args:
        host: whose step it is; has taken one of this form.
        memory: holds its state; in force.
        rows: the random numbers of a step of this form, to record with.
        leaves: the arguments, flattened; numbers among them that are listed in `lifted` become inputs of the graph.

    Raises:
        CaptureError: it cannot be recorded.
    """

    def __init__(
        self, host: Host, memory: Memory, rows: Rows, leaves: list[Any], tree: Any, lifted: frozenset[int]
    ) -> None:
        self.host, self.memory = host, memory
        self.stopped: BaseException | None = None
        """What has ended the last steps early."""
        self._tree, self._lifted = tree, lifted
        self._settings = host.skip_nonfinite, host.clip_norm
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        self.device = _device_of([*memory.parameters, *tensors])
        _refuse_arguments(tensors)
        demand: dict[Kind, int] = {kind: len(row) for kind, row in rows.items()}
        self.demand = demand
        self.rows = max(1, min(ROWS, NUMBERS // max(sum(demand.values()), 1))) if memory.rule else 1
        self._noise = {kind: row.to(self.device).repeat(self.rows, 1) for kind, row in rows.items()}
        self._index = torch.zeros((), dtype=torch.int64, device=self.device)
        self._alive = torch.ones((), dtype=torch.bool, device=self.device)
        self._scheduled: list[tuple[str, Any]] = [
            (k, w) for k, w in host.bound.config.weights.items() if _is_schedule(w)
        ]
        self._written_row: list[float] | None = None
        own: dict[str, Any] = {"dtype": torch.float64, "device": self.device}
        self._numbers = torch.zeros(self.rows, max(len(self._row(0)), 1), **own)
        self._metrics = torch.zeros(self.rows, 3, **own)
        flats = [m for b in memory.buckets for m in (b.flat, *b.moments)]
        kept = [*flats, *memory.grads, *memory.states]
        self._overwritten = {k.untyped_storage().data_ptr() for k in kept if k.numel()}
        self._arguments = [self._argument(i, leaf) for i, leaf in enumerate(leaves)]
        self.settle(1)
        self.recorded = self._record()
        self._positions = [None if not isinstance(a, Tensor) else self.recorded.position(a) for a in self._arguments]
        self._given: dict[int, tuple[Tensor, int]] = {}
        """Arguments that are in place as they are, and where they lie."""

    @property
    def scheduled(self) -> bool:
        """Whether weights depend on the step's number."""
        return bool(self._scheduled)

    @property
    def random(self) -> bool:
        """Whether the graph draws from torch's global generator."""
        return self.recorded.graph.random

    def changed(self) -> str:
        """What is no longer as it was when the step was recorded; empty if all is."""
        if self._settings != (self.host.skip_nonfinite, self.host.clip_norm):
            return "skip_nonfinite, or clip_norm"
        return self.watch.changed()

    def settle(self, count: int) -> int:
        """Settings of the coming steps; the scheduler goes ahead when there is more than one.

        Returns:
            How many steps have theirs: fewer than `count` (at most `self.rows`) where a schedule raises an error, which
            it will do again when it is that step's turn.
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

    def run(self, count: int, rows: Rows, leaves: list[Any], check: bool = False) -> tuple[Outcomes, str]:
        """Take `count` steps that have been settled, with the given random numbers, `kind -> [count, length]`.

        Returns:
            Their outcomes (those before an error, which is then in `stopped`), and in which quantity Python disagreed
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
            found = self.recorded.agrees()
            difference = "" if found is None else self._quantities.told(found)
        else:
            # What goes on after a step that fails: a module's averages, and a generator.
            if count > 1 and not self.host.skip_nonfinite and (self.recorded.written or self.random):
                before = self.recorded.state()
            try:
                self.recorded.run(count)
            except (Exception, KeyboardInterrupt) as error:
                count, self.stopped = int(self._index), error  # raised when the steps that were taken are on record
        # Lists of numbers, not a tuple for each step: those would keep Python's garbage collector busy.
        losses, norms, taken = self._metrics[:count].t().tolist() if count else ([], [], [])
        if not all(taken):
            if before is not None:  # stop at the first one that fails
                self.recorded.go_back(before)
                self.recorded.run(taken.index(0.0) + 1)
            self._alive.fill_(True)
        return Outcomes(losses, norms, list(map(bool, taken))), difference

    def _put(self, i: int, leaf: Any) -> None:
        position = self._positions[i]
        assert position is not None
        if isinstance(leaf, Tensor):
            given, at = self._given.get(i, (None, 0))
            if given is leaf and leaf.data_ptr() == at:
                return
            own = self._arguments[i] = self._own(leaf)  # for Python, when it checks
            self.recorded.inputs[position] = own.detach()
            self._given[i] = (leaf, own.data_ptr())
        else:
            self._arguments[i].fill_(leaf)

    def _own(self, leaf: Tensor) -> Tensor:
        """An argument under a name of its own: the program may see the same tensor some other way, which stays.

        A copy, if it is a view of what the step overwrites.
        """
        own = leaf.detach().resolve_conj().resolve_neg()
        if own.untyped_storage().data_ptr() in self._overwritten:
            own = own.clone()
        return own.requires_grad_() if leaf.requires_grad else own

    def _argument(self, i: int, leaf: Any) -> Any:
        if i not in self._lifted:
            return self._own(leaf) if isinstance(leaf, Tensor) else leaf
        dtype = torch.int64 if isinstance(leaf, int) else self.memory.parameters[0].dtype
        return torch.tensor(leaf, dtype=dtype, device=self.device)

    def _row(self, step: int) -> list[float]:
        """The numbers that may change from step to step: weights that are schedules, the optimiser's settings."""
        numbers = [float(weight(step)) for _, weight in self._scheduled]
        rule, optimizer = self.memory.rule, self.memory.optimizer
        for bucket in self.memory.buckets:
            assert rule is not None and optimizer is not None
            numbers += rule.numbers(optimizer.param_groups[bucket.group])
        return numbers

    def _record(self) -> Recorded:
        memory, bound = self.memory, self.host.bound
        buffers = [b for b in bound.program_buffers() if b.numel()]
        moments = [m for b in memory.buckets for m in (b.flat, *b.moments, b.count)]
        self._targets = [*moments, *memory.grads, *memory.states, self._alive, self._metrics, self._index]
        given = [a for a in self._arguments if isinstance(a, Tensor)]
        inputs = [*memory.parameters, *self._targets, *self._noise.values(), self._numbers, *given, *buffers]
        unique = list({id(i): i for i in inputs}.values())
        loose = [b.flat for b in memory.buckets if b.moments]
        others = [a for a in self._arguments if not isinstance(a, Tensor)]
        watch = Watch((bound.model_program, bound.guide_program, *(m._parameters for m in bound.modules()), *others))
        self._quantities = Quantities(bound, memory, buffers)
        version = bound.version
        recorded = Recorded(self._compute, unique, self._targets, memory.places, buffers, loose)
        if bound.version != version:
            raise CaptureError("a parameter came into being while the step was recorded")
        source = watch.randomness_used()
        if source:
            raise CaptureError(f"the program draws from {source}", try_="sample(), or torch's random functions")
        change = watch.changed()
        if change:
            raise CaptureError(
                f"the program changes what it reads: {change}",
                because="a graph would do so once, and never again",
                try_="an argument of the program, or a tensor",
            )
        # A replay has the CPU's numbers in it as they were.
        elsewhere = [c for c in recorded.graph.constants if c.device != self.device]
        watch.hold([*recorded.graph.constants, *buffers], [*recorded.graph.read, *elsewhere])
        self.watch = watch
        return recorded

    def _compute(self) -> list[Tensor]:
        """New values for the targets."""
        host, memory = self.host, self.memory
        bound, noise = host.bound, host.bound.source
        assert isinstance(noise, Noise)
        at = self._index.reshape(1)
        noise.use({kind: block.index_select(0, at).squeeze(0) for kind, block in self._noise.items()})
        numbers = list(self._numbers.index_select(0, at).squeeze(0).unbind())
        args, kwargs = pytree.tree_unflatten(self._arguments, self._tree)
        like = memory.parameters[0]
        weights = dict(bound.config.weights)
        for pattern, _ in self._scheduled:
            weights[pattern] = numbers.pop(0).to(like.dtype)
        with bound.captured(weights), torch.enable_grad():
            result = bound.estimate(*args, **kwargs)
            found = torch.autograd.grad(result.surrogate, memory.parameters, allow_unused=True)
        if noise.overdrawn:
            raise CaptureError("the program draws more in some runs than in others")
        grads = [-g.detach() for g in found if g is not None]
        if len(grads) < len(memory.parameters):
            raise CaptureError("the gradient does not reach the same parameters in every run")
        loss = -result.value.detach()
        norm = torch.stack([_squared_norm(g).to(_wide(loss.dtype)) for g in grads]).sum().sqrt()
        go = loss.isfinite() & norm.isfinite() & self._alive
        limit = host.clip_norm
        if limit is not None:
            grads = [g * (limit / (norm + 1e-6)).clamp(max=1.0).to(g.dtype) for g in grads]
        new = self._updated(grads, numbers, go) if memory.rule is not None else grads
        states, _ = flattened(result.state)
        if not memory.keeps(result.state):
            raise CaptureError("the estimators' state changes its shape")
        new += [torch.where(go, n.detach(), o) for n, o in zip(states, memory.states, strict=True)]
        alive = self._alive.clone() if host.skip_nonfinite else go
        outcome = torch.stack([loss.double(), norm.double(), go.double()]).unsqueeze(0)
        return [*new, alive, self._metrics.index_copy(0, at, outcome), self._index + 1]

    def _updated(self, grads: list[Tensor], numbers: list[Tensor], go: Tensor) -> list[Tensor]:
        rule, by_id = self.memory.rule, {id(p): g for p, g in zip(self.memory.parameters, grads, strict=True)}
        assert rule is not None
        new: list[Tensor] = []
        width = len(numbers) // len(self.memory.buckets)
        for i, bucket in enumerate(self.memory.buckets):
            own = torch.stack(numbers[i * width : (i + 1) * width])
            value, moments = rule.update(bucket.flat, bucket.joined(by_id), bucket.moments, bucket.count, own)
            olds = [bucket.flat, *bucket.moments]
            new += [torch.where(go, n, o) for n, o in zip([value, *moments], olds, strict=True)]
            new.append(bucket.count + go)
        return new


def _squared_norm(gradient: Tensor) -> Tensor:
    """Of 16-bit numbers, in single precision: the square of 256 is infinite in half precision."""
    return gradient.to(_wide(gradient.dtype)).square().sum()


def _wide(kind: torch.dtype) -> torch.dtype:
    return torch.promote_types(kind, torch.float32)


def _is_schedule(weight: Any) -> bool:
    return callable(weight) and not isinstance(weight, Tensor)


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
    """Where all of them lie."""
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
