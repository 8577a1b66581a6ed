"""Steps down the gradient in Python: torch's optimiser, and the parameters that it follows."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from varigrad.errors import ParameterError
from varigrad.inference.interrupts import Interrupts
from varigrad.inference.laid_out import downhill, laid_out_like
from varigrad.inference.leaves import Leaves
from varigrad.inference.optim import Optimizer
from varigrad.inference.outcomes import Outcomes
from varigrad.objectives.bound import Bound


class GradientWarning(UserWarning):
    """A parameter is not reached by any gradient."""


class Descent:
    """Gradient steps of a run: whoever captures them does as this does.

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
        self.bound, self.optim, self.skip_nonfinite = bound, optim, skip_nonfinite
        self.current_optimizer: torch.optim.Optimizer | None = None
        self.scheduler: Any = None
        self.interrupts = Interrupts()
        self.late: Exception | None = None
        self._leaves: list[nn.Parameter] = []
        self._version = -1
        self._warned = False
        self._foreign = Leaves(bound)
        self._new_states: Any = None

    @property
    def by_line_search(self) -> bool:
        """Whether a step evaluates the objective several times."""
        return isinstance(self.current_optimizer, torch.optim.LBFGS)

    def by_python(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcomes:
        """One step; parameters are left alone if loss or gradient is not finite."""
        assert self.current_optimizer is not None
        if self.by_line_search:
            return self._by_closure(args, kwargs)
        loss, norm = self.interrupts.on_second(self._differentiate, args, kwargs)
        finite = math.isfinite(loss) and math.isfinite(norm)
        if finite:
            self.current_optimizer.step()
            self._accept()
        return Outcomes([loss], [norm], [finite])

    def _by_closure(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcomes:
        """Line-search optimisers evaluate several times: always on the same random numbers."""
        assert self.current_optimizer is not None
        source = self.bound.source
        before = source.get_state()
        seen: list[tuple[float, float]] = []

        def closure() -> float:
            source.set_state(before)
            seen.append(self._differentiate(args, kwargs))
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
        return Outcomes([loss], [norm], [finite])

    def _differentiate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[float, float]:
        """Leave the gradient in `.grad` of the leaves; returns the loss and the gradient's norm."""
        result = self.bound.estimate(*args, **kwargs)
        if self.bound.version != self._version:
            self.follow_parameters()
        if not result.surrogate.requires_grad:
            raise ParameterError(
                "no parameter influences the objective",
                because="nothing in it requires a gradient",
                try_="param(...) or module(...) in the guide, and requires_grad left on",
            )
        self._foreign.look(result.surrogate, args, kwargs)
        grads = downhill(torch.autograd.grad(result.surrogate, self._leaves, allow_unused=True), self._leaves)
        for leaf, grad in zip(self._leaves, grads, strict=True):
            leaf.grad = grad
        if not self._warned:
            self._warned = True
            self._warn_unreached(grads)
        self._new_states = result.state
        if self.clip_norm is not None:
            norm = float(nn.utils.clip_grad_norm_(self._leaves, self.clip_norm))
        else:
            norm = _norm([g for g in grads if g is not None])
        return -result.value.item(), norm

    @property
    def clip_norm(self) -> float | None:
        """Limit of the gradient's norm."""
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
            self.current_optimizer.step()

    def _accept(self) -> None:
        self.bound.advance(self._new_states)
        if self.scheduler is not None:
            self.tick()

    def tick(self) -> None:
        """Move the schedule on by one step; an error of its own does not undo the step, and is kept in `late`."""
        try:
            self.scheduler.step()
        except Exception as error:
            self.late = error

    def follow_parameters(self) -> None:
        """Give the optimiser the parameters that have come into being."""
        named = [(n, p) for n, p in self.bound.named_parameters() if p.requires_grad]
        if not named:
            raise ParameterError(
                "there is nothing to optimise",
                because="neither model nor guide declares a parameter that requires a gradient",
                try_="param(name, init) or module(name, net) in the guide",
            )
        known = {id(p) for p in self._leaves}
        new = [(n, p) for n, p in named if id(p) not in known]
        if self.current_optimizer is None:
            scheduler = None
            if isinstance(self.optim, Optimizer):
                optimizer = self.optim.build(named)
                scheduler = self.optim.schedule(optimizer) if self.optim.schedule else None
            else:
                optimizer = self.optim([p for _, p in named])
            _check_foreign(optimizer, {id(p) for p in self.bound.parameters()})
            self.current_optimizer, self.scheduler = optimizer, scheduler  # both or, after an error, neither
        elif new:
            groups = self.optim.groups(new) if isinstance(self.optim, Optimizer) else [{"params": [p for _, p in new]}]
            for group in groups:
                self.current_optimizer.add_param_group(group)
        self._leaves = [p for _, p in named]
        self._version = self.bound.version

    def _warn_unreached(self, grads: list[Tensor | None]) -> None:
        names = {id(p): n for n, p in self.bound.named_parameters()}
        for leaf, grad in zip(self._leaves, grads, strict=True):
            if grad is None:
                warnings.warn(
                    f"parameter {names[id(leaf)]!r} is not reached by any gradient: it will not be learnt. "
                    "Is it used, detached, or turned into a Python number?",
                    GradientWarning,
                    stacklevel=4,
                )


def _norm(grads: list[Tensor]) -> float:
    """The norm of the whole gradient."""
    if len(grads) < 8 and not any(g.is_cuda for g in grads):  # reading a few numbers is cheaper than an operation
        return math.hypot(*[torch.linalg.vector_norm(g).item() if g.dim() else g.item() for g in grads])
    norms = torch._foreach_norm(grads)
    return torch.stack([n.to(norms[0]) for n in norms]).norm().item()


def _check_foreign(optimizer: torch.optim.Optimizer, own: set[int]) -> None:
    for group in optimizer.param_groups:
        if any(id(p) not in own for p in group["params"]):
            raise ParameterError(
                "the optimiser holds parameters that are not the objective's",
                try_="lambda parameters: torch.optim.Adam(parameters, ...)",
            )
