"""Saves and loads the state of a run as one tree of tensors and plain values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypedDict, TypeVar, cast

import torch
from torch import Tensor

from varigrad.compile.step.saved_steps import SavedSteps, check_saved
from varigrad.distributions.rng import GeneratorState
from varigrad.errors import ParameterError
from varigrad.inference.eager_step import EagerSteps
from varigrad.objectives.bound import Bound

Tree = TypeVar("Tree")

_KEPT = ("bound", "optimizer", "scheduler", "generator")


class KeptState(TypedDict):
    """The part of a run's state that states of all versions have.

    Attributes:
        bound: parameters, buffers and the estimators' states, by name.
        optimizer, scheduler: what torch saves of them; None where there is none.
        generator: the state of the source of draws.
    """

    bound: dict[str, Tensor]
    optimizer: dict[str, Any] | None
    scheduler: dict[str, Any] | None
    generator: GeneratorState


class RunState(KeptState):
    """All that changes from step to step; states of older versions lack the last two.

    Attributes:
        decided: estimators chosen by a comparison, `site -> (estimator, why)`; None if there are none.
        compiled: the progress of compiled steps; None if steps are not compiled.
        looks: the history of the gradient's noise; None without a monitor.
        metrics: what the last step reported; None before the first.
    """

    decided: dict[str, tuple[str, str]] | None
    compiled: SavedSteps | None
    looks: dict[str, Any] | None
    metrics: dict[str, Any] | None


def state_of(bound: Bound, eager_steps: EagerSteps) -> KeptState:
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
        ParameterError: it is not, or the state is not whole.
    """
    missing = [k for k in _KEPT if k not in state] if isinstance(state, Mapping) else list(_KEPT)
    if missing:
        raise ParameterError(
            f"the state has no {missing[0]!r}",
            because="it is damaged, or no state of an SVI",
            try_="the state of this run, as svi.state() gave it",
        )
    if compiled:
        with reading("compiled"):
            known = state["bound"]
            check_saved(state.get("compiled"), known if isinstance(known, Mapping) else None)
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
        ParameterError: the state does not fit these programs, or is damaged; nothing has been changed.
    """
    before, generator = copied(dict(bound.state_dict())), bound.source.get_state()
    followers: list[tuple[Any, Any]] = []
    part = "the state does not fit these programs"
    try:
        bound.load_state_dict(copied(state["bound"]))
        eager_steps.follow_parameters()
        optimizer, scheduler = eager_steps.current_optimizer, eager_steps.scheduler
        assert optimizer is not None
        followers = [(f, copied(f.state_dict())) for f in (optimizer, scheduler) if f is not None]
        for name, follower in (("optimizer", optimizer), ("scheduler", scheduler)):
            part = f"the state's {name!r} cannot be loaded"
            if follower is optimizer:
                _check_optimizer(state[name], optimizer)
            elif (follower is None) != (state[name] is None) and state["optimizer"] is not None:
                own, other = ("no schedule", "one") if follower is None else ("a schedule", "none")
                raise ParameterError(
                    f"this SVI has {own}, and the run of the state had {other}",
                    because="the steps that follow would have other sizes than those of that run",
                    try_="load_state in an SVI whose optimiser has the same schedule=",
                )
            if follower is not None and state[name] is not None:
                follower.load_state_dict(copied(state[name]))
        if state["optimizer"] is None:  # taken before the first step
            optimizer.state.clear()
        part = "the state's 'generator' cannot be loaded"
        bound.source.set_state(state["generator"])
    except Exception as error:
        bound.load_state_dict(before)  # torch loads whatever fits
        for follower, own in followers:
            follower.load_state_dict(own)
        bound.source.set_state(generator)
        if isinstance(error, ParameterError):
            raise
        init = part.startswith("the state does")
        raise ParameterError(
            f"{part}: {error or type(error).__name__}",
            because="" if init else "it belongs to another run, or is damaged",
            try_="svi.init(*args) before load_state" if init else "the state of this run, as svi.state() gave it",
        ) from error


def _check_optimizer(saved: Any, optimizer: torch.optim.Optimizer) -> None:
    """Check what torch loads unseen: settings and moments of a saved optimiser.

    Raises:
        ValueError: they are not of the kinds that this optimiser has.
    """
    if saved is None:
        return
    own = optimizer.state_dict()["param_groups"]
    for ours, theirs in zip(own, saved["param_groups"], strict=True):
        lacking = sorted(ours.keys() - theirs.keys() - {"initial_lr"})  # which a schedule adds
        if lacking:
            raise ValueError(f"it has no {lacking[0]!r}: it is the state of another kind of optimiser")
        for key, value in ours.items():
            if key != "params" and key in theirs and not _is_alike(value, theirs[key]):
                raise ValueError(f"{key} is {theirs[key]!r}, and {value!r} in this run")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for i, moments in saved["state"].items():
        for key, value in moments.items():
            if not _is_tree(value):
                raise ValueError(f"{key} is {value!r}, which no optimiser keeps")
            average = key in ("exp_avg", "exp_avg_sq")
            if average and not (isinstance(value, Tensor) and value.shape == parameters[i].shape):
                raise ValueError(f"{key} is {value!r}, and its parameter has shape {tuple(parameters[i].shape)}")


def _is_tree(value: object) -> bool:
    """Whether a value is a tensor, a number, None, or a list of such, as optimisers keep them."""
    if isinstance(value, (tuple, list)):
        return all(map(_is_tree, value))
    return value is None or isinstance(value, (bool, int, float, Tensor))


def _is_alike(own: object, saved: object) -> bool:
    """Whether a setting could stand in the place of another: the same kind, and finite and not negative if that is."""
    if own is None or isinstance(own, Tensor):
        return saved is None or isinstance(saved, (bool, int, float, Tensor))
    if isinstance(own, bool):
        return saved is None or isinstance(saved, bool)
    if isinstance(own, (int, float)):
        number = saved.item() if isinstance(saved, Tensor) and saved.numel() == 1 else saved
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            return False
        return math.isfinite(number) and (number >= 0 or own < 0)
    if isinstance(own, (tuple, list)):
        return isinstance(saved, (tuple, list)) and len(own) == len(saved) and all(map(_is_alike, own, saved))
    return type(own) is type(saved)


@contextmanager
def reading(part: str) -> Iterator[None]:
    """Inside, a part of a state is read; what goes wrong is an error about that part.

    Raises:
        ParameterError: something does.
    """
    try:
        yield
    except Exception as error:
        raise ParameterError(
            f"the state's {part!r} cannot be read: {error or type(error).__name__}",
            because="it is damaged",
            try_="the state of this run, as svi.state() gave it",
        ) from error


def copied(tree: Tree) -> Tree:
    """A copy of a tree and of its tensors."""
    return cast(Tree, _copied(tree))


def _copied(tree: object) -> object:
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return {k: _copied(v) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        make: Callable[..., object] = type(tree)
        parts = [_copied(v) for v in tree]
        return make(*parts) if hasattr(tree, "_fields") else make(parts)
    return tree


def auto_select() -> ModuleType:
    """The module that chooses estimators; it takes time to import, and only sites that are "auto" need it."""
    from varigrad.diagnostics import auto_select

    return auto_select
