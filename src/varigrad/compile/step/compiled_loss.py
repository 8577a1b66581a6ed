"""`Compiled`: a compiled loss and gradient for users who write their own training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from varigrad._torch_internals import Hook, hooks_of, set_hooks
from varigrad.compile.step.step_compiler import StepCompiler
from varigrad.compile.step.step_results import StepResults
from varigrad.distributions.counter_rng import Noise
from varigrad.distributions.rng import check_seed
from varigrad.errors import VarigradError
from varigrad.interrupts import Interrupts
from varigrad.objectives.bound import Bound
from varigrad.objectives.checks.untrained_leaves import UntrainedLeafCheck
from varigrad.optim.gradient_layout import downhill
from varigrad.optim.schedules import Scheduler


class Compiled(nn.Module):
    """An objective whose loss and gradient come from a compiled graph; its call gives the same loss as the bound's.

    Its parameters are the bound's, under `bound`.
    """

    scheduler: Scheduler | None = None
    skip_nonfinite = True
    current_optimizer = None
    clip_norm = None

    def __init__(self, bound: Bound, wait: bool, seed: int) -> None:
        super().__init__()
        self.bound = bound
        bound.draw_from(Noise(seed))
        self.interrupts: Interrupts = Interrupts()
        self._grads: dict[nn.Parameter, Tensor] = {}
        self.look: Callable[[Tensor, tuple[object, ...], Mapping[str, object]], None] = UntrainedLeafCheck(bound).look
        self._frozen: list[nn.Parameter] = []
        self._hooks = _Hooks()
        self._step_compiler = StepCompiler(self, wait)

    def forward(self, *args: object, **kwargs: object) -> Tensor:
        """Minus the bound, `[]`; its gradient is the estimators'."""
        if not torch.is_grad_enabled():
            return cast(Tensor, self.bound(*args, **kwargs))
        loss, grads = self.interrupts.whole(self._gradient, args, kwargs)
        first = next(iter(grads))
        number = first.new_tensor(loss, dtype=first.dtype.to_real())
        found = _Attach.apply(number, tuple(grads.values()), *grads)
        return cast(Tensor, found)

    def gradient(self, *args: object, **kwargs: object) -> tuple[float, dict[nn.Parameter, Tensor]]:
        """The loss, and its gradient by parameter after its hooks (tensors that the next call overwrites)."""
        loss, grads = self.interrupts.whole(self._gradient, args, kwargs)
        return loss, {p: _hooked(p, g) for p, g in grads.items()}

    def _gradient(
        self, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[float, dict[nn.Parameter, Tensor]]:
        if self.bound.is_empty:
            self.interrupts.at_once(partial(self.bound.init, *args, **kwargs))
        if self.interrupts.on_second(self.bound.look_again, args, kwargs):
            self._step_compiler.leave()  # what the graphs take for granted does not hold any more
            self._step_compiler = StepCompiler(self, self._step_compiler.wait)
        self._hooks.off(self._declared())
        try:
            results = self._step_compiler.advance(1, args, kwargs)
        finally:
            self._hooks.on()
        return results.losses[0], self._grads

    def _declared(self) -> list[nn.Parameter]:
        return [cast(nn.Parameter, p) for _, p in self.bound.owner.named_parameters()]

    def explain(self) -> str:
        """Say what is compiled and what is not, and why."""
        return self._step_compiler.explain()

    def reached(self) -> list[nn.Parameter]:
        """The parameters that the last gradient reached."""
        return list(self._grads)

    def frozen(self) -> list[nn.Parameter]:
        """The parameters that required no gradient in the last call in Python."""
        return self._frozen

    def by_python(self, args: tuple[object, ...], kwargs: dict[str, object]) -> StepResults:
        """Loss and gradient without a graph."""
        self._hooks.on()
        result = self.interrupts.on_second(partial(self.bound.estimate, *args, **kwargs))
        self.look(result.surrogate, args, kwargs)
        every = self._declared()
        self._hooks.off(every)
        leaves = [p for p in every if p.requires_grad]
        self._frozen = [p for p in every if not p.requires_grad]
        found = downhill(torch.autograd.grad(result.surrogate, leaves, allow_unused=True), leaves)
        self._grads = {p: g for p, g in zip(leaves, found, strict=True) if g is not None}
        self.bound.advance(result.state)
        return StepResults([-float(result.value)], [0.0], [True])

    def tick(self) -> None:
        """There is no schedule."""

    def follow(self, parameters: list[nn.Parameter], grads: list[Tensor], finite: bool) -> None:
        """Keep the gradients for `gradient` to return."""
        self._grads = dict(zip(parameters, grads, strict=True))


class _Hooks:
    """Hooks of `register_hook`, switched off, because `backward()` runs them on the attached gradient.

    The program itself runs with its parameters' hooks on, because it may register some, and remove others.
    """

    def __init__(self) -> None:
        self._off: list[tuple[Tensor, dict[int, Hook] | None]] = []

    def off(self, parameters: Iterable[Tensor]) -> None:
        """Switch off the hooks that there are now."""
        self._off = [(p, hooks_of(p)) for p in parameters]
        for p, hooks in self._off:
            if hooks is not None:
                set_hooks(p, None)

    def on(self) -> None:
        """Switch them on again; those that a traced run of the program has registered meanwhile go."""
        for p, hooks in self._off:
            if hooks_of(p) is not hooks:
                set_hooks(p, hooks)
        self._off = []


def _hooked(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient as the parameter's hooks leave it."""
    for hook in tuple((hooks_of(parameter) or {}).values()):
        changed = hook(gradient)
        gradient = gradient if changed is None else changed
    return gradient


class _Attach(torch.autograd.Function):
    """An autograd function that gives a number a gradient that has already been computed."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, grads: tuple[Tensor, ...], *parameters: Tensor) -> Tensor:
        ctx.grads = [g.clone() for g in grads]
        return loss

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(outer[0] * g for g in ctx.grads))


def compiled(bound: Bound, *, wait: bool = False, seed: int | None = None) -> Compiled:
    """Compile an objective for a user's training loop.

    Args:
        bound: such as `ELBO()(model, guide)`.
        wait: compile at the third call; else in the background, after a hundred calls.
        seed: of all draws; None: taken from torch's global generator.

    Returns:
        A module that is called with the programs' arguments and returns the loss, to be differentiated with
        `backward()`. As long as nothing is compiled, and where a program cannot be, it runs the programs.

    Raises:
        VarigradError: `bound` is not an objective applied to a model and a guide, or the seed is no whole number.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> def model():
        ...     vg.sample("z", dist.Normal(3.0, 1.0))
        >>> def guide():
        ...     vg.sample("z", dist.Normal(vg.param("m", 0.0), 1.0))
        >>> loss = vg.compiled(vg.ELBO()(model, guide), seed=0)
        >>> loss().backward()
        >>> bool(loss.bound.m.grad < 0)
        True
    """
    if not isinstance(bound, Bound):
        raise VarigradError(f"compiled() takes an objective, got {bound!r}", try_="compiled(ELBO()(model, guide))")
    check_seed(seed)
    return Compiled(bound, wait, int(torch.randint(2**62, ()).item()) if seed is None else int(seed))
