r"""`AdagradRMSProp`: the step sizes of automatic differentiation variational inference, between Adagrad and RMSProp.

.. math:: s_k = t g_k^2 + (1 - t) s_{k-1}, \qquad \rho_k = \eta k^{-1/2 + \delta} / (1 + \sqrt{s_k})

References:
    Kucukelbir, Tran, Ranganath, Gelman, Blei (2017), Automatic differentiation variational inference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from varigrad.optim.fused_adam import Parameters


class AdagradRMSProp(torch.optim.Optimizer):
    """Step sizes that fall with the number of steps and with the size of recent gradients.

    Args:
        params: as for every optimiser of torch.
        eta: the scale of the steps.
        delta: what is added to the exponent -1/2 of the step's number.
        t: the weight of the newest squared gradient.
    """

    def __init__(self, params: Parameters, eta: float = 1.0, delta: float = 1e-16, t: float = 0.1) -> None:
        super().__init__(params, {"eta": eta, "delta": delta, "t": t})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state, square = self.state[p], p.grad.square()
                if not state:
                    state["step"], state["sum"] = 0, square
                else:
                    state["sum"] = torch.lerp(state["sum"], square, group["t"])
                state["step"] += 1
                size = group["eta"] * state["step"] ** (group["delta"] - 0.5)
                p.addcdiv_(p.grad, 1 + state["sum"].sqrt(), value=-size)
        return loss
