"""Checks of `SVI`'s arguments: reports arguments of a wrong kind before any program runs."""

from __future__ import annotations

from typing import Literal

import torch

from varigrad.distributions.rng import check_seed
from varigrad.errors import VarigradError, whole_number
from varigrad.inference.gradient_monitor import Gradients
from varigrad.objectives.bound import Bound

Compile = bool | Literal["wait"]


def check_arguments(optim: object, objective: object, seed: object, skip_nonfinite: object) -> None:
    """Check the kinds of `SVI`'s arguments.

    Raises:
        VarigradError: one is of a wrong kind; the error says which one, and what to write.
    """
    if isinstance(optim, (torch.optim.Optimizer, type)):
        raise VarigradError(
            f"optim must be a configuration, got {optim!r}",
            because="the parameters to optimise are known only once the programs have run",
            try_="vg.optim.Adam(lr=1e-3), or lambda parameters: torch.optim.SGD(parameters, lr=0.1)",
        )
    if not (callable(optim) or hasattr(optim, "build")):
        raise VarigradError(
            f"optim must be a configuration, or a function from parameters to an optimiser, got {optim!r}",
            try_="vg.optim.Adam(lr=1e-3)",
        )
    if isinstance(objective, type) or not (isinstance(objective, Bound) or hasattr(objective, "bind")):
        raise VarigradError(f"objective must be an ELBO(...) or a bound, got {objective!r}", try_="vg.ELBO()")
    check_seed(seed)
    if not isinstance(skip_nonfinite, bool):
        raise VarigradError(f"skip_nonfinite must be True or False, got {skip_nonfinite!r}")


def check_compile(compile: object) -> None:
    """Check the argument `compile`.

    Raises:
        VarigradError: it is none of True, False and "wait".
    """
    if not (isinstance(compile, bool) or (isinstance(compile, str) and compile == "wait")):
        raise VarigradError(f'compile must be False, True or "wait", got {compile!r}')


def check_run(
    steps: int, every: int, callback: object, compile: object, monitor: object, recheck: int | None
) -> tuple[int, int, int | None]:
    """Check the arguments of `SVI.run`; returns `steps`, `every` and `recheck` as whole numbers of Python.

    Raises:
        VarigradError: one is of a wrong kind; the error says which one, and what to write.
    """
    steps, every = whole_number("steps", steps), whole_number("every", every)
    if callback is not None and not callable(callback):
        raise VarigradError(f"callback must be a function of the metrics, got {callback!r}")
    if compile is not None:
        check_compile(compile)
    if monitor is not None and not isinstance(monitor, Gradients):
        raise VarigradError(f"monitor must be a Gradients(...), got {monitor!r}", try_="monitor=vg.Gradients()")
    return steps, every, None if recheck is None else whole_number("recheck", recheck)
