r"""`ClippedAdam`: Adam with gradients clipped entry by entry and a learning rate that decays with every step.

.. math::

    g &\leftarrow \operatorname{clamp}(g, -c, c) + \lambda \theta, \qquad \eta \leftarrow \eta d

    \theta &\leftarrow \theta - \eta \frac{\sqrt{1 - \beta_2^k}}{1 - \beta_1^k} \frac{m}{\sqrt{v} + \epsilon}
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from varigrad._torch_internals import (
    foreach_add,
    foreach_add_,
    foreach_addcdiv_,
    foreach_addcmul_,
    foreach_clamp_max_,
    foreach_clamp_min,
    foreach_lerp_,
    foreach_mul_,
    foreach_sqrt,
    foreach_sub,
)
from varigrad.optim.fused_adam import ParameterGroup, Parameters


class ClippedAdam(torch.optim.Optimizer):
    """Adam with gradient clipping and a decaying learning rate.

    Args:
        params: as for every optimiser of torch.
        lr, betas, eps, weight_decay: as for Adam, with `eps` added before the correction for the start.
        clip_norm: the largest absolute value of a gradient's entry.
        lrd: what the learning rate is multiplied with at every step.
        centered_variance: average the squares of the gradients' deviations from their mean, not of the gradients.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        clip_norm: float = 10.0,
        lrd: float = 1.0,
        centered_variance: bool = False,
    ) -> None:
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "clip_norm": clip_norm, "lrd": lrd,
            "centered_variance": centered_variance,
        }  # fmt: skip
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            group["lr"] *= group["lrd"]
            params = [p for p in group["params"] if p.grad is not None]
            kinds = {(p.dtype, p.device) for p in params}
            for kind in kinds:
                self._update(group, [p for p in params if (p.dtype, p.device) == kind])
        return loss

    def _update(self, group: ParameterGroup, params: list[Tensor]) -> None:
        for p in params:
            state = self.state[p]
            if not state:
                state["step"] = 0
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
            state["step"] += 1
        beta1, beta2 = group["betas"]
        # Not in place: a gradient may be seen, or held, by others.
        grads = list(foreach_clamp_min([p.grad for p in params], -group["clip_norm"]))  # type: ignore[misc]
        foreach_clamp_max_(grads, group["clip_norm"])
        if group["weight_decay"]:
            grads = list(foreach_add(grads, params, alpha=group["weight_decay"]))
        first = [self.state[p]["exp_avg"] for p in params]
        second = [self.state[p]["exp_avg_sq"] for p in params]
        foreach_lerp_(first, grads, 1 - beta1)
        foreach_mul_(second, beta2)
        size = list(foreach_sub(grads, first)) if group["centered_variance"] else grads
        foreach_addcmul_(second, size, size, 1 - beta2)
        steps = [int(self.state[p]["step"]) for p in params]
        roots = foreach_sqrt(second)
        foreach_add_(roots, group["eps"])
        sizes = [-group["lr"] * (1 - beta2**k) ** 0.5 / (1 - beta1**k) for k in steps]
        foreach_addcdiv_(params, first, roots, sizes)
