"""Learning-rate schedulers: their interface, and saving and restoring one with the settings that it changes."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch


class Scheduler(Protocol):
    """Interface of schedulers: torch's, and others with the same methods."""

    optimizer: torch.optim.Optimizer

    def step(self) -> None:
        """Move on by one step."""

    def state_dict(self) -> dict[str, Any]:
        """The state, without the optimiser."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go back to a state."""


class Schedule(NamedTuple):
    """A scheduler's state, and the settings of each parameter group; both None without a scheduler."""

    state: dict[str, Any] | None
    settings: list[dict[str, Any]] | None


def schedule_of(scheduler: Scheduler | None) -> Schedule:
    """The scheduler's own state, and the settings that it changes."""
    if scheduler is None:
        return Schedule(None, None)
    groups = [{k: v for k, v in group.items() if k != "params"} for group in scheduler.optimizer.param_groups]
    return Schedule(dict(scheduler.state_dict()), groups)


def load_schedule(scheduler: Scheduler, schedule: Schedule) -> None:
    """Go back to where `schedule_of` was called."""
    assert schedule.state is not None and schedule.settings is not None
    scheduler.load_state_dict(schedule.state)
    for group, own in zip(scheduler.optimizer.param_groups, schedule.settings, strict=True):
        group.update(own)
