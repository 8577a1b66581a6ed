"""Eager steps: gradient descent in Python by a torch optimiser, and the list of parameters that it updates."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from operator import attrgetter

import torch
from torch import Tensor, nn

from varigrad._torch_internals import foreach_norm
from varigrad.compile.step.step_results import StepResults
from varigrad.errors import ParameterError
from varigrad.estimators.base import State
from varigrad.interrupts import Interrupts
from varigrad.objectives.bound import Bound
from varigrad.objectives.checks.untrained_leaves import UntrainedLeafCheck, undeclared
from varigrad.optim.config import Optimizer
from varigrad.optim.fused_adam import FusedAdam
from varigrad.optim.gradient_layout import check_writable, downhill, laid_out_like, prepare_kernels
from varigrad.optim.schedules import Scheduler
from varigrad.user_warnings import warn_user

# Asked of every parameter in every step: without a loop in Python.
_REQUIRED, _ON_CUDA = attrgetter("requires_grad"), attrgetter("is_cuda")


class GradientWarning(UserWarning):
    """A parameter is not reached by any gradient."""


class EagerSteps:
    """Takes the gradient steps of a run in Python; compiled steps compute the same.

    Args:
        bound: the objective.
        optim: a configuration, or a function from a list of parameters to an optimiser.
        skip_nonfinite: leave out steps that are not finite, instead of raising.

    Attributes:
        current_optimizer, scheduler: torch's, as they stand; None before the parameters exist.
        interrupts: holds Ctrl-C back while a step is taken.
        late: what a schedule has raised after the last step, to be raised when the step is on record.
    """

    def __init__(
        self,
        bound: Bound,
        optim: Optimizer | Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        skip_nonfinite: bool,
    ) -> None:
        self.bound = bound
        self.optim = optim
        self.skip_nonfinite = skip_nonfinite
        self.current_optimizer: torch.optim.Optimizer | None = None
        self.scheduler: Scheduler | None = None
        self.interrupts: Interrupts = Interrupts()
        self.late: Exception | None = None
        self._leaves: list[nn.Parameter] = []
        self._frozen: list[nn.Parameter] = []
        self._offered: list[nn.Parameter] = []
        self._unreached: list[nn.Parameter] | None = None
        self._version = -1
        self._foreign = UntrainedLeafCheck(bound)
        self._new_states: Mapping[str, State] = {}

    @property
    def by_line_search(self) -> bool:
        """Whether a step evaluates the objective several times."""
        return isinstance(self.current_optimizer, torch.optim.LBFGS)

    def by_python(self, args: tuple[object, ...], kwargs: dict[str, object]) -> StepResults:
        """Take one step; parameters are left alone if loss or gradient is not finite."""
        assert self.current_optimizer is not None
        if self.by_line_search:
            return self._by_closure(args, kwargs)
        loss, norm = self.interrupts.on_second(self._differentiate, args, kwargs)
        finite = math.isfinite(loss) and math.isfinite(norm)
        if finite:
            self._update()
            self._accept()
        return StepResults([loss], [norm], [finite])

    def _update(self) -> None:
        assert self.current_optimizer is not None
        if type(self.current_optimizer) is not FusedAdam:  # which looks for itself
            prepare_kernels(self.current_optimizer)
        self.current_optimizer.step()

    def _by_closure(self, args: tuple[object, ...], kwargs: dict[str, object]) -> StepResults:
        """Take a step by line search, which evaluates several times, always on the same random numbers."""
        assert self.current_optimizer is not None
        source = self.bound.source
        before = source.get_state()
        seen: list[tuple[float, float]] = []

        def closure() -> float:
            source.set_state(before)
            seen.append(self._differentiate(args, kwargs))
            for leaf in self.reached():  # torch's line search sees them as vectors, in the order of their indices
                assert leaf.grad is not None
                leaf.grad = leaf.grad.contiguous()
            return seen[-1][0]

        values, state = [p.detach().clone() for p in self._leaves], copy.deepcopy(self.current_optimizer.state_dict())
        finite = False
        try:
            self.interrupts.on_second(self.current_optimizer.step, closure)
            loss, norm = seen[0]
            finite = math.isfinite(loss) and math.isfinite(norm)
        finally:
            if not finite:  # or an error, or Ctrl-C: the search has moved the parameters already
                with torch.no_grad():
                    for leaf, value in zip(self._leaves, values, strict=False):
                        leaf.copy_(value)
                self.current_optimizer.load_state_dict(state)
        if finite:
            self._accept()
        return StepResults([loss], [norm], [finite])

    def _differentiate(self, args: tuple[object, ...], kwargs: dict[str, object]) -> tuple[float, float]:
        """Put the gradient into `.grad` of the leaves; returns the loss and the gradient's norm."""
        result = self.bound.estimate(*args, **kwargs)
        if self._is_stale():
            self.follow_parameters()
        if not result.surrogate.requires_grad:
            raise ParameterError(
                "no parameter influences the objective",
                because="nothing in it requires a gradient",
                try_="param(...) or module(...) in the guide, and requires_grad left on",
            )
        self._foreign.look(result.surrogate, args, kwargs)
        leaves, unreached = self._leaves, []
        grads = downhill(torch.autograd.grad(result.surrogate, leaves, allow_unused=True), leaves)
        for leaf, grad in zip(leaves, grads, strict=True):
            leaf.grad = grad
            if grad is None:
                unreached.append(leaf)
        if unreached or self._unreached is None or self._unreached:
            self._note_unreached(unreached)
        self._new_states = result.state
        if self.clip_norm is not None:
            _check_dense(grads)
            norm = float(nn.utils.clip_grad_norm_(self._leaves, self.clip_norm))
        else:
            norm = _norm([g for g in grads if g is not None])
        return -result.value.item(), norm

    @property
    def clip_norm(self) -> float | None:
        """The limit of the gradient's norm; None if there is none."""
        return self.optim.clip_norm if isinstance(self.optim, Optimizer) else None

    def reached(self) -> list[nn.Parameter]:
        """The parameters that the last gradient reached."""
        return [p for p in self._leaves if p.grad is not None]

    def follow(self, parameters: list[nn.Parameter], grads: list[Tensor], finite: bool) -> None:
        """Take a step of the optimiser along gradients that were computed elsewhere."""
        if finite and self.current_optimizer is not None:
            found = {id(p): laid_out_like(g, p) for p, g in zip(parameters, grads, strict=True)}
            for leaf in self._leaves:
                leaf.grad = found.get(id(leaf))
            self._update()

    def _accept(self) -> None:
        self.bound.advance(self._new_states)
        if self.scheduler is not None:
            self.tick()

    def tick(self) -> None:
        """Move the schedule on by one step; an error of its own does not undo the step, and is kept in `late`."""
        assert self.scheduler is not None
        try:
            self.scheduler.step()
        except Exception as error:
            self.late = error

    def follow_parameters(self) -> None:
        """Give the optimiser the parameters that have come into being since."""
        every = list(self.bound.named_parameters())
        named = [(n, p) for n, p in every if p.requires_grad]
        if not named:
            other = undeclared(self.bound)
            but = "" if other is None else f" ({other.site!r} does, and {other.because})"
            raise ParameterError(
                "there is nothing to optimise",
                because=f"neither model nor guide declares a parameter that requires a gradient{but}",
                try_="param(name, init) or module(name, net) in the guide" if other is None else other.try_,
            )
        check_writable(named)
        known = {id(p) for p in self._offered}
        new = [(n, p) for n, p in named if id(p) not in known]
        if self.current_optimizer is None:
            self._build(named)
        elif new:
            groups = self.optim.groups(new) if isinstance(self.optim, Optimizer) else [{"params": [p for _, p in new]}]
            for group in groups:
                self.current_optimizer.add_param_group(group)
        self._offered += [p for _, p in new]
        self._leaves = [p for _, p in named]
        self._frozen = [p for _, p in every if not p.requires_grad]
        for p in self._frozen:
            p.grad = None  # an optimiser would go on along a gradient of old
        self._version = self.bound.version

    def _build(self, named: list[tuple[str, nn.Parameter]]) -> None:
        """Make the optimiser and its schedule; on an error neither."""
        if isinstance(self.optim, Optimizer):
            optimizer = self.optim.build(named)
        else:
            optimizer = self.optim([p for _, p in named])
        _check_foreign(optimizer, {id(p) for p in self.bound.parameters()})
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name, p in named:
            if id(p) not in held:
                _warn(
                    f"parameter {name!r} is not in the optimiser: it will not be learnt. requires_grad_(False) says so"
                )
        schedule = self.optim.schedule if isinstance(self.optim, Optimizer) else None
        self.scheduler = schedule(optimizer) if schedule is not None else None
        self.current_optimizer = optimizer

    def _is_stale(self) -> bool:
        """Whether parameters have come, or require a gradient no more or again, since the optimiser was told."""
        return (
            self.bound.version != self._version
            or not all(map(_REQUIRED, self._leaves))
            or any(map(_REQUIRED, self._frozen))
        )

    def frozen(self) -> list[nn.Parameter]:
        """The parameters that required no gradient in the last step in Python."""
        return self._frozen

    def _note_unreached(self, unreached: list[nn.Parameter]) -> None:
        """Warn of parameters that the gradient does not reach, at the first step.

        Raises:
            ParameterError: another parameter has been put in the place of one of them.
        """
        if self._unreached is not None and list(map(id, unreached)) == list(map(id, self._unreached)):
            return
        names = {id(p): n for n, p in self.bound.named_parameters()}
        for p in unreached:
            if id(p) not in names:
                raise ParameterError(
                    f"a parameter of shape {tuple(p.shape)} that the optimiser holds is the objective's no more",
                    because="another one was put in its place in a module",
                    try_="parameter.data.copy_(value), or a new SVI",
                )
            if self._unreached is None:
                _warn(
                    f"parameter {names[id(p)]!r} is not reached by any gradient: it will not be learnt. "
                    "Is it used, detached, or turned into a Python number?"
                )
        self._unreached = unreached


def _warn(text: str) -> None:
    warn_user(text, GradientWarning)


def _norm(grads: list[Tensor]) -> float:
    """The norm of the whole gradient, over all parameters."""
    grads = [g.values() if g.is_sparse else g for g in grads]
    if len(grads) < 8 and not any(map(_ON_CUDA, grads)):  # reading a few numbers is cheaper than an operation
        norms = [torch.linalg.vector_norm(g).item() if g.dim() else abs(g.item()) for g in grads]
        norm = math.hypot(*norms)
        # That of inf and NaN is inf; torch says NaN.
        return math.nan if norm == math.inf and any(map(math.isnan, norms)) else norm
    parts = foreach_norm(grads)
    return float(torch.stack([n.to(parts[0]) for n in parts]).norm())


def _check_dense(grads: list[Tensor | None]) -> None:
    if any(g is not None and g.is_sparse for g in grads):
        raise ParameterError(
            "clip_norm does not take sparse gradients",
            because="torch's clip_grad_norm_ does not",
            try_="nn.Embedding(..., sparse=False)",
        )


def _check_foreign(optimizer: torch.optim.Optimizer, own: set[int]) -> None:
    for group in optimizer.param_groups:
        if any(id(p) not in own for p in group["params"]):
            raise ParameterError(
                "the optimiser holds parameters that are not the objective's",
                try_="lambda parameters: torch.optim.Adam(parameters, ...)",
            )
