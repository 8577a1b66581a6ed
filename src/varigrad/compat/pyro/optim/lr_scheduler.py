"""`PyroLRScheduler`: learning-rate schedules for a `PyroOptim`, whose parameters are added one by one."""

from __future__ import annotations

from collections.abc import Callable

import torch

from varigrad.compat.pyro.optim.optim import Options, OptionsByName, PyroOptim, _Group
from varigrad.errors import VarigradError


class PyroLRScheduler(PyroOptim):
    """A `PyroOptim` whose learning rates follow a schedule; call its `step()` once an epoch.

    Args:
        scheduler_constructor: a class of `torch.optim.lr_scheduler`.
        optim_args: `optimizer`, a class of `torch.optim`; `optim_args`, what `PyroOptim` takes; and the scheduler's
            own keyword arguments. A parameter's schedule begins when the parameter appears.
        clip_args: as for `PyroOptim`.

    Raises:
        VarigradError: (a `ValueError`) there is no optimiser, or no arguments for it.
    """

    def __init__(
        self,
        scheduler_constructor: Callable[..., torch.optim.lr_scheduler.LRScheduler],
        optim_args: Options,
        clip_args: OptionsByName | None = None,
    ) -> None:
        missing = [key for key in ("optimizer", "optim_args") if key not in optim_args]
        if missing:
            raise VarigradError(
                f"a scheduler needs the entry {missing[0]!r} in its arguments",
                try_='{"optimizer": torch.optim.Adam, "optim_args": {"lr": 1e-3}, "gamma": 0.9}',
            )
        self.pt_scheduler_constructor = scheduler_constructor
        self.kwargs: Options = {k: v for k, v in optim_args.items() if k not in ("optimizer", "optim_args")}
        super().__init__(optim_args["optimizer"], optim_args["optim_args"], clip_args)

    def step(self, *args: object, **kwargs: object) -> None:
        """Go on in every schedule; the arguments are handed on (the metric of `ReduceLROnPlateau`)."""
        for group in self._groups:
            group.scheduler.step(*args, **kwargs)

    def _equip(self, group: _Group) -> None:
        super()._equip(group)
        group.scheduler = self.pt_scheduler_constructor(group.optimizer, **self.kwargs)
