"""Optimisers as configuration: `torch.optim` with options by parameter name, a schedule and gradient clipping.

    vg.optim.Adam(lr=1e-3, options=lambda name: {"lr": 1e-2} if name.startswith("baselines.") else {})

Any other optimiser of torch or of a third party: `vg.optim.Optimizer(torch.optim.SGD, {"lr": 0.1, "momentum": 0.9})`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from varigrad.errors import VarigradError
from varigrad.optim.fused_adam import FusedAdam, ParameterGroup
from varigrad.optim.schedules import Scheduler

Options = Callable[[str], Mapping[str, Any]]
Schedule = Callable[[torch.optim.Optimizer], Scheduler]


@dataclass(frozen=True)
class Optimizer:
    """A configuration from which a `torch.optim.Optimizer` is built.

    Args:
        kind: the class, called with parameter groups and `settings`.
        settings: its keyword arguments.
        options: name of a parameter -> keyword arguments that differ for it.
        clip_norm: scale the whole gradient down to at most this norm.
        schedule: makes a learning-rate scheduler of the optimiser; stepped once after every step.

    Raises:
        VarigradError: a learning rate or `clip_norm` that is not a positive, finite number.

    Example:
        >>> import torch, varigrad as vg
        >>> optim = vg.optim.Optimizer(torch.optim.RMSprop, {"lr": 0.01}, clip_norm=10.0)
        >>> optim.kind.__name__, optim.settings
        ('RMSprop', {'lr': 0.01})
    """

    kind: Callable[..., torch.optim.Optimizer]
    settings: Mapping[str, Any] = field(default_factory=dict)
    options: Options | None = None
    clip_norm: float | None = None
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        _check_rate(self.settings)
        if self.clip_norm is not None and not (math.isfinite(self.clip_norm) and self.clip_norm > 0):
            raise VarigradError(f"clip_norm must be positive and finite, got {self.clip_norm!r}")

    def build(self, named: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
        """Make the optimiser of these parameters, with one group for each distinct set of options."""
        return self.kind(self.groups(named), **self.settings)

    def groups(self, named: Iterable[tuple[str, nn.Parameter]]) -> list[ParameterGroup]:
        """Parameter groups: parameters with equal options together."""
        groups: list[ParameterGroup] = []
        for name, parameter in named:
            extra = dict(self.options(name)) if self.options is not None else {}
            _check_rate(extra)
            group = next((g for g in groups if {k: v for k, v in g.items() if k != "params"} == extra), None)
            if group is None:
                group = {"params": [], **extra}
                groups.append(group)
            group["params"].append(parameter)
        return groups


def Adam(  # noqa: N802 - it stands for a class of torch
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    *,
    options: Options | None = None,
    clip_norm: float | None = None,
    schedule: Schedule | None = None,
) -> Optimizer:
    """Adam, fused (several times faster on CPU, same numbers up to rounding).

    Args:
        lr: the learning rate.
        betas: decay of the averages of the gradient and of its square, in [0, 1).
        eps: added to the root of the second average.
        options: name of a parameter -> keyword arguments that differ for it.
        clip_norm: scale the whole gradient down to at most this norm.
        schedule: makes a learning-rate scheduler of the optimiser; stepped once after every step.

    Returns:
        A configuration, from which an `SVI` builds the optimiser.

    Example:
        >>> import varigrad as vg
        >>> vg.optim.Adam(lr=0.01, clip_norm=10.0).settings["lr"]
        0.01

    References:
        Kingma, Ba (2015), Adam: a method for stochastic optimization. arXiv:1412.6980.
    """
    settings = {"lr": lr, "betas": betas, "eps": eps, "fused": True}
    return Optimizer(FusedAdam, settings, options, clip_norm, schedule)


def SGD(  # noqa: N802
    lr: float,
    momentum: float = 0.0,
    *,
    options: Options | None = None,
    clip_norm: float | None = None,
    schedule: Schedule | None = None,
) -> Optimizer:
    """Stochastic gradient descent with momentum.

    Args:
        lr: the learning rate.
        momentum: decay of the sum of past gradients, in [0, 1).
        options: name of a parameter -> keyword arguments that differ for it.
        clip_norm: scale the whole gradient down to at most this norm.
        schedule: makes a learning-rate scheduler of the optimiser; stepped once after every step.

    Returns:
        A configuration, from which an `SVI` builds the optimiser.

    Example:
        >>> import varigrad as vg
        >>> vg.optim.SGD(lr=0.1, momentum=0.9).settings["momentum"]
        0.9
    """
    return Optimizer(torch.optim.SGD, {"lr": lr, "momentum": momentum}, options, clip_norm, schedule)


def _check_rate(settings: Mapping[str, object]) -> None:
    rate = settings.get("lr", 1.0)
    number = rate.item() if isinstance(rate, Tensor) and rate.numel() == 1 else rate
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not (math.isfinite(number) and number > 0):
        raise VarigradError(f"lr must be positive and finite, got {rate!r}", try_="lr=1e-3")
