"""Every optimiser and scheduler in `torch.optim` as a Pyro optimiser; new versions of torch add theirs."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from varigrad.compat.pyro.optim.lr_scheduler import PyroLRScheduler
from varigrad.compat.pyro.optim.optim import Options, OptionsByName, PyroOptim

M = TypeVar("M", bound=Callable[..., object])


def _optimizer(kind: type) -> Callable[..., PyroOptim]:
    def make(optim_args: OptionsByName, clip_args: OptionsByName | None = None) -> PyroOptim:
        return PyroOptim(kind, optim_args, clip_args)

    return _named(make, kind, f"`torch.optim.{kind.__name__}` for every parameter. See `PyroOptim`.")


def _scheduler(kind: type) -> Callable[..., PyroLRScheduler]:
    def make(optim_args: Options, clip_args: OptionsByName | None = None) -> PyroLRScheduler:
        return PyroLRScheduler(kind, optim_args, clip_args)

    return _named(make, kind, f"`{kind.__name__}` of `torch.optim.lr_scheduler`. See `PyroLRScheduler`.")


def _named(make: M, kind: type, doc: str) -> M:
    make.__name__ = make.__qualname__ = kind.__name__
    make.__doc__ = doc
    return make


def _classes(module: ModuleType, parent: type, without: tuple[str, ...]) -> dict[str, type]:
    return {
        name: kind
        for name, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, parent) and not name.startswith("_") and name not in without
    }


# LBFGS evaluates the objective again, which a `step` that gets gradients cannot.
OPTIMIZERS = _classes(torch.optim, torch.optim.Optimizer, ("Optimizer", "LBFGS"))
SCHEDULERS = _classes(torch.optim.lr_scheduler, torch.optim.lr_scheduler.LRScheduler, ())
globals().update({name: _optimizer(kind) for name, kind in OPTIMIZERS.items()})
globals().update({name: _scheduler(kind) for name, kind in SCHEDULERS.items()})

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
