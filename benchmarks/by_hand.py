"""A whole step by hand: gradient, Adam and average as one function that overwrites its state, for a compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.workload import Adam, Formula, Run, Start

EPS = 1e-8


def compiled(formula: Formula, adam: Adam, compiler: Callable[..., Any]) -> Start:
    """Compiled once; each start begins anew.

    References:
        Kingma, Ba (2015), Adam: a method for stochastic optimization.
    """
    beta1, beta2 = adam.betas
    gradient = torch.func.grad(formula.objective, has_aux=True)

    def step(
        parameters: dict[str, Tensor], first: dict[str, Tensor], second: dict[str, Tensor], count: Tensor, average: Any
    ) -> tuple[Tensor, Any]:
        gradients, (loss, average) = gradient(parameters, average)
        count.add_(1)
        rate, root = adam.lr / (1 - beta1**count), (1 - beta2**count).sqrt()
        for name, g in gradients.items():
            m, v = first[name].lerp(g, 1 - beta1), second[name].lerp(g * g, 1 - beta2)
            parameters[name].sub_(rate * m / (v.sqrt() / root + EPS))
            first[name].copy_(m)
            second[name].copy_(v)
        return loss, average

    whole = compiler(step, fullgraph=True)

    def start(seed: int) -> Run:
        torch.manual_seed(seed)
        parameters = {name: value.detach().clone() for name, value in formula.parameters.items()}
        first = {name: torch.zeros_like(value) for name, value in parameters.items()}
        second = {name: torch.zeros_like(value) for name, value in parameters.items()}
        count, average = torch.zeros(()), formula.average

        @torch.no_grad()
        def run(steps: int) -> list[float]:
            nonlocal average
            losses = []
            for _ in range(steps):
                loss, average = whole(parameters, first, second, count, average)
                losses.append(loss)
            return torch.stack(losses).tolist()

        return run

    return start
