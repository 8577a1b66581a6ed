"""The state of a run as one tree of tensors and plain values: saving and loading."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from varigrad.errors import ParameterError
from varigrad.inference.eager_step import EagerSteps
from varigrad.objectives.bound import Bound


def state_of(bound: Bound, eager_steps: EagerSteps) -> dict[str, Any]:
    """Copies of parameters, baselines, optimiser, schedule and generator, which no later step changes."""
    optimizer, scheduler = eager_steps.current_optimizer, eager_steps.scheduler
    return {
        "bound": copied(dict(bound.state_dict())),
        "optimizer": None if optimizer is None else copied(optimizer.state_dict()),
        "scheduler": None if scheduler is None else copied(scheduler.state_dict()),
        "generator": bound.source.get_state(),
    }


def check_kind(state: Mapping[str, Any], compiled: bool) -> None:
    """Check that a state is of compiled steps exactly if this run's are compiled: they draw other random numbers.

    Raises:
        ParameterError: it is not.
    """
    generator = state["generator"]
    if (isinstance(generator, Mapping) and "global" in generator) == compiled:
        return
    own, other = ("compiled", "not") if compiled else ("not compiled", "compiled")
    raise ParameterError(
        f"the steps of this SVI are {own}, and those of the state are {other}",
        because="they draw other random numbers, so it could not be gone on with",
        try_="load_state in an SVI with the same compile=, then run(..., compile=...) to change over",
    )


def load(state: Mapping[str, Any], bound: Bound, eager_steps: EagerSteps) -> None:
    """Go back to where `state_of` was called.

    Raises:
        ParameterError: the state does not fit these programs; nothing has been changed.
    """
    before = copied(dict(bound.state_dict()))
    try:
        bound.load_state_dict(copied(state["bound"]))
    except RuntimeError as error:
        bound.load_state_dict(before)  # torch loads whatever fits
        raise ParameterError(
            f"the state does not fit these programs: {error}", try_="svi.init(*args) before load_state"
        ) from error
    eager_steps.follow_parameters()
    optimizer = eager_steps.current_optimizer
    assert optimizer is not None
    if state["optimizer"] is not None:
        optimizer.load_state_dict(copied(state["optimizer"]))
    if eager_steps.scheduler is not None and state["scheduler"] is not None:
        eager_steps.scheduler.load_state_dict(copied(state["scheduler"]))
    bound.source.set_state(state["generator"])


def copied(tree: Any) -> Any:
    """A copy of a tree, with tensors of its own."""
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return {k: copied(v) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        parts = [copied(v) for v in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return tree
