"""torch's Adam without the wrappers around its fused kernel, which cost a small model as much as its gradient does."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class FusedAdam(torch.optim.Adam):
    """`torch.optim.Adam(fused=True)`: same kernel, same numbers, same `state_dict`, a tenth of the overhead.

    Anything out of the ordinary (hooks, closures, amsgrad, weight decay, gradients that are sparse, learning rates that
    are tensors) goes the way of its parent.
    """

    # The wrapper that torch has around it imports the whole of its compiler, 0.6 s, to say that it is not for it.
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        if closure is not None or not all(map(self._is_plain, self.param_groups)) or self._has_hooks():
            return super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                self._update(group)
        return None

    step.hooked = True  # type: ignore[attr-defined] # torch wraps `step` for its profiler unless told it has

    def _has_hooks(self) -> bool:
        return bool(self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks)

    @staticmethod
    def _is_plain(group: dict[str, Any]) -> bool:
        odd = group["amsgrad"] or group["weight_decay"] or group["maximize"] or group["capturable"]
        return not odd and type(group["lr"]) is float and all(p.layout is torch.strided for p in group["params"])

    def _update(self, group: dict[str, Any]) -> None:
        kinds: dict[tuple[torch.dtype, torch.device], tuple[list[Tensor], ...]] = {}
        for p in group["params"]:
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
                state["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
                state["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            lists = kinds.setdefault((p.dtype, p.device), ([], [], [], [], []))
            for entries, entry in zip(
                lists, (p, p.grad, state["exp_avg"], state["exp_avg_sq"], state["step"]), strict=True
            ):
                entries.append(entry)
        beta1, beta2 = group["betas"]
        for params, grads, averages, squares, steps in kinds.values():
            torch._foreach_add_(steps, 1)
            torch._fused_adam_(
                params, grads, averages, squares, [], steps,
                lr=group["lr"], beta1=beta1, beta2=beta2, weight_decay=0.0, eps=group["eps"],
                amsgrad=False, maximize=False,
            )  # fmt: skip
