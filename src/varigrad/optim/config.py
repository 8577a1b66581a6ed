"""Optimisers as configuration: `torch.optim` with options by parameter name, a schedule and gradient clipping.

    vg.optim.Adam(lr=1e-3, options=lambda name: {"lr": 1e-2} if name.startswith("baselines.") else {})

Any other optimiser of torch or of a third party: `vg.optim.Optimizer(torch.optim.SGD, {"lr": 0.1, "momentum": 0.9})`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from varigrad.errors import VarigradError, did_you_mean
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
        norm = self.clip_norm
        if norm is not None and not (isinstance(norm, (int, float)) and math.isfinite(norm) and norm > 0):
            raise VarigradError(f"clip_norm must be positive and finite, got {norm!r}")
        for name, function in (("kind", self.kind), ("options", self.options), ("schedule", self.schedule)):
            if function is not None and not callable(function):
                raise VarigradError(
                    f"{name} must be callable, got {function!r}",
                    try_="options=lambda name: {...}, schedule=lambda optimizer: torch.optim.lr_scheduler...",
                )

    def build(self, named: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
        """Make the optimiser of these parameters, with one group for each distinct set of options."""
        return self.kind(self.groups(named), **self.settings)

    def groups(self, named: Iterable[tuple[str, nn.Parameter]]) -> list[ParameterGroup]:
        """Parameter groups: parameters with equal options together."""
        groups: list[ParameterGroup] = []
        for name, parameter in named:
            extra = self._options_of(name)
            group = next((g for g in groups if {k: v for k, v in g.items() if k != "params"} == extra), None)
            if group is None:
                group = {"params": [], **extra}
                groups.append(group)
            group["params"].append(parameter)
        return groups

    def _options_of(self, name: str) -> dict[str, Any]:
        """What differs for a parameter.

        Raises:
            VarigradError: `options` returns no mapping, or a setting that the optimiser does not have.
        """
        found = {} if self.options is None else self.options(name)
        if not isinstance(found, Mapping):
            raise VarigradError(f"options({name!r}) must return a dictionary of settings, got {found!r}")
        _check_rate(found)
        known = inspect.signature(self.kind).parameters.values()
        if all(p.kind is not p.VAR_KEYWORD for p in known):
            for key in found:
                if key not in (names := [p.name for p in known]):
                    raise VarigradError(
                        f"options({name!r}) names {key!r}, which is no setting of "
                        f"{getattr(self.kind, '__name__', self.kind)}{did_you_mean(key, names)}"
                    )
        return dict(found)


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
