"""The state of a learning-rate scheduler and of the settings that it changes, and the way back to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def schedule_of(scheduler: Any) -> tuple[Any, Any]:
    """The scheduler's own state, and the settings that it changes."""
    if scheduler is None:
        return None, None
    groups = [{k: v for k, v in group.items() if k != "params"} for group in scheduler.optimizer.param_groups]
    return dict(scheduler.state_dict()), groups


def load_schedule(scheduler: Any, state: Mapping[str, Any], settings: Any) -> None:
    """Go back to where `schedule_of` was called."""
    scheduler.load_state_dict(state)
    for group, own in zip(scheduler.optimizer.param_groups, settings, strict=True):
        group.update(own)
