"""`FusedAdam`: torch's fused Adam kernel without its wrappers, which cost as much as a small model's gradient."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from varigrad._torch_internals import foreach_add_, fused_adam_, has_step_hooks
from varigrad.optim.gradient_layout import fits

ParameterGroup: TypeAlias = dict[str, Any]
"""The parameters of a group, and the settings that its optimiser has for them."""


Parameters: TypeAlias = Iterable[Tensor] | Iterable[ParameterGroup] | Iterable[tuple[str, Tensor]]
"""What every optimiser of torch takes."""


class _Operands(NamedTuple):
    """The operands of the fused kernel, of one dtype and device."""

    params: list[Tensor]
    grads: list[Tensor]
    averages: list[Tensor]
    squares: list[Tensor]
    counts: list[Tensor]


class FusedAdam(torch.optim.Adam):
    """`torch.optim.Adam(fused=True)`: same kernel, same numbers, same `state_dict`, a tenth of the overhead.

    Anything out of the ordinary (hooks, closures, amsgrad, weight decay, learning rates that are tensors) goes the way
    of its parent. The kernel goes through memory from end to end, so a group with a parameter, gradient or moment that
    is laid out in another way goes without it.
    """

    # The wrapper that torch has around it imports the whole of its compiler, 0.6 s, to say that it is not for it.
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if has_step_hooks(self) or not all(map(self._is_plain, self.param_groups)):
            self._by_parent()
            return loss
        with torch.no_grad():
            ready = [self._arranged(group) for group in self.param_groups]
            if None in ready:
                self._by_parent()
                return loss
            for group, operands in zip(self.param_groups, ready, strict=True):
                assert operands is not None
                self._update(group, operands)
        return loss

    step.hooked = True  # type: ignore[attr-defined] # torch wraps `step` for its profiler unless told it has

    @staticmethod
    def _is_plain(group: ParameterGroup) -> bool:
        odd = group["amsgrad"] or group["weight_decay"] or group["maximize"] or group["capturable"]
        return not odd and type(group["lr"]) is float

    def _by_parent(self) -> None:
        """The parent's step; without the fused kernel for groups that it would misread."""
        misread = [g for g in self.param_groups if g.get("fused") and not all(map(self._is_readable, g["params"]))]
        try:
            for group in misread:
                group["fused"] = False
            parent: Callable[[Any], object] = torch.optim.Adam.step
            if not getattr(parent, "hooked", False):  # torch wraps it, hooks and all, where an Adam of its own is made
                parent = self.profile_hook_step(parent)
            parent(self)
        finally:
            for group in misread:
                group["fused"] = True

    def _is_readable(self, p: Tensor) -> bool:
        if p.grad is None:
            return True
        if p.is_complex():
            return False
        kept = [value for name, value in self.state.get(p, {}).items() if name != "step"]
        return all(fits(p, p.grad, value, value) for value in kept or [p])

    def _arranged(self, group: ParameterGroup) -> list[_Operands] | None:
        """The kernel's operands, by dtype and device; None if it would misread one of them."""
        found: dict[tuple[torch.dtype, torch.device], _Operands] = {}
        last = None
        for p in group["params"]:
            grad = p.grad
            if grad is None:
                continue
            state = self.state[p]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
                state["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
                state["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            average, square, count = state["exp_avg"], state["exp_avg_sq"], state["step"]
            kind = (p.dtype, p.device)
            if not fits(p, grad, average, square) or count.dtype is not torch.float32 or count.device != kind[1]:
                return None
            if kind != last:
                if kind[0].is_complex:  # which the kernel does not know
                    return None
                last = kind
                operands = found.get(kind)
                if operands is None:
                    operands = found[kind] = _Operands([], [], [], [], [])
                params, grads, averages, squares, counts = operands
            params.append(p)
            grads.append(grad)
            averages.append(average)
            squares.append(square)
            counts.append(count)
        return list(found.values())

    @staticmethod
    def _update(group: ParameterGroup, operands: list[_Operands]) -> None:
        beta1, beta2 = group["betas"]
        for params, grads, averages, squares, steps in operands:
            foreach_add_(steps, 1)
            fused_adam_(
                params, grads, averages, squares, [], steps,
                lr=group["lr"], beta1=beta1, beta2=beta2, weight_decay=0.0, eps=group["eps"],
                amsgrad=False, maximize=False,
            )  # fmt: skip
