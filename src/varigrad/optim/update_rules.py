"""Functional optimisers: compute new parameters and moments from parameters, gradient and moments.

They replace the torch optimisers that a compiled step can contain. Any other optimiser runs eagerly on compiled
gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from varigrad._torch_internals import has_step_hooks
from varigrad.optim.fused_adam import FusedAdam, ParameterGroup

Update = Callable[[Tensor, Tensor, Sequence[Tensor], Tensor, Tensor], tuple[Tensor, list[Tensor]]]
"""`(parameter, gradient, moments, steps so far, numbers) -> (parameter, moments)`; numbers in double precision."""


@dataclass(frozen=True)
class Rule:
    """The update of an optimiser as a pure function.

    Attributes:
        moments: names of the tensors that the optimiser keeps for each parameter, in its `state`.
        numbers: the settings of a parameter group that the step uses; they may change from step to step.
        update: the step.
    """

    moments: tuple[str, ...]
    numbers: Callable[[ParameterGroup], list[float]]
    update: Update


def rule_of(optimizer: torch.optim.Optimizer) -> Rule | None:
    """The rule of an optimiser; None if the optimiser has to run as it is."""
    kind, groups = _RULES.get(type(optimizer)), optimizer.param_groups
    odd = any(group.get(flag) for group in groups for flag in _ODD) or any(
        isinstance(g.get("lr"), Tensor) for g in groups
    )
    mixed = any(len({bool(group.get(trait)) for group in groups}) > 1 for trait in _ALIKE)
    if kind is None or odd or mixed or _hooks(optimizer):
        return None
    return kind(groups)


def traits_of(optimizer: torch.optim.Optimizer) -> tuple[object, ...]:
    """The settings that a rule was made for and that are no inputs of a step, and the members of each group."""
    flags = (*_ODD, *_ALIKE, "weight_decay")
    groups = [tuple(bool(group.get(flag)) for flag in flags) for group in optimizer.param_groups]
    members = [tuple(map(id, group["params"])) for group in optimizer.param_groups]
    return (_hooks(optimizer), *groups, *members)


def _hooks(optimizer: torch.optim.Optimizer) -> bool:
    return has_step_hooks(optimizer)


def _adam(groups: Sequence[ParameterGroup]) -> Rule:
    """The rule of Adam, and of AdamW.

    References:
        Kingma, Ba (2015), Adam: a method for stochastic optimization.
        Loshchilov, Hutter (2019), Decoupled weight decay regularization.
    """
    decays = any(group["weight_decay"] for group in groups)
    decoupled = bool(groups[0].get("decoupled_weight_decay"))

    def update(
        value: Tensor, grad: Tensor, moments: Sequence[Tensor], count: Tensor, numbers: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        lr, beta1, beta2, eps, decay = numbers.unbind()
        steps = count + 1
        # 1 - beta ** t loses its digits in the first steps.
        corrected1, corrected2 = -torch.expm1(steps * beta1.log()), -torch.expm1(steps * beta2.log())
        rate, root = (lr / corrected1).to(value.dtype), corrected2.sqrt().to(value.dtype)
        if decays and decoupled:
            value = value * (1 - lr * decay).to(value.dtype)
        elif decays:
            grad = grad + decay.to(value.dtype) * value
        first, second = moments
        first = torch.lerp(first, grad, (1 - beta1).to(value.dtype))
        second = torch.lerp(second, grad * grad, (1 - beta2).to(value.dtype))
        return value - rate * first / (second.sqrt() / root + eps.to(value.dtype)), [first, second]

    names = ("lr", "betas", "eps", "weight_decay")
    return Rule(("exp_avg", "exp_avg_sq"), lambda group: _flat(group[n] for n in names), update)


def _sgd(groups: Sequence[ParameterGroup]) -> Rule:
    """The rule of stochastic gradient descent with momentum, as torch has it."""
    nesterov = bool(groups[0]["nesterov"])
    moves = any(group["momentum"] for group in groups)

    def update(
        value: Tensor, grad: Tensor, moments: Sequence[Tensor], count: Tensor, numbers: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        lr, momentum, dampening, decay = numbers.to(value.dtype).unbind()
        grad = grad + decay * value
        if not moves:
            return value - lr * grad, []
        buffer = torch.where(count == 0, grad, momentum * moments[0] + (1 - dampening) * grad)
        grad = grad + momentum * buffer if nesterov else buffer
        return value - lr * grad, [buffer]

    names = ("lr", "momentum", "dampening", "weight_decay")
    return Rule(("momentum_buffer",) if moves else (), lambda group: _flat(group[n] for n in names), update)


def _flat(values: Iterable[float | tuple[float, ...]]) -> list[float]:
    return [float(x) for v in values for x in (v if isinstance(v, tuple) else (v,))]


_ODD = ("amsgrad", "maximize", "capturable", "differentiable")
_ALIKE = ("nesterov", "momentum", "decoupled_weight_decay")
"""Settings that have to be the same in all groups."""

_RULES: dict[type, Callable[[Sequence[ParameterGroup]], Rule]] = {
    FusedAdam: _adam,
    torch.optim.Adam: _adam,
    torch.optim.AdamW: _adam,
    torch.optim.SGD: _sgd,
}
