"""The handler stack, in a `ContextVar`: each thread and task has a separate stack, which exceptions restore."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar, assert_never

import torch
from torch import distributions as td
from torch import nn

from varigrad.distributions.rng import Source
from varigrad.errors import PlateError, SiteError
from varigrad.language.messages import (
    Chain,
    Extension,
    Factor,
    Forward,
    Handler,
    Indices,
    InUse,
    Message,
    Module,
    Param,
    Plate,
    Program,
    Record,
    Sample,
    Subsample,
    evolve,
)
from varigrad.language.parameter_transforms import initial_value
from varigrad.shapes import join

_stack: ContextVar[tuple[Handler, ...]] = ContextVar("varigrad_handlers", default=())


M = TypeVar("M", bound=Message)


def apply(message: M) -> M:
    """Send a message outward through every handler in force, innermost first; returns the answered message.

    Raises:
        SiteError: a handler answered with something else than a message of the same kind.
    """
    answer = _forward(_stack.get(), message)
    if not isinstance(answer, type(message)):
        raise SiteError(
            f"a handler answered {type(message).__name__} with {type(answer).__name__}",
            site=getattr(message, "name", None),
            because="a handler returns the message that it was given, changed or not, after sending it on",
            try_="return forward(message)",
        )
    return answer


def handlers_in_force() -> tuple[Handler, ...]:
    """The handlers of this thread or task, outermost first."""
    return _stack.get()


def _forward(stack: tuple[Handler, ...], message: Message) -> Message:
    if not stack:
        return default(message)
    rest = stack[:-1]
    return stack[-1](message, partial(_forward, rest) if rest else default)


def default(message: Message) -> Message:
    """Answer a message that no handler has answered: draw (with gradients, where the family has them) from the
    distribution as it stands, take the initial value.
    """
    if isinstance(message, Sample):
        if message.value is not None:
            return message
        distribution = expanded(message)
        smooth = distribution.has_rsample and torch.is_grad_enabled()
        return evolve(message, value=Source().draw(distribution, reparameterised=smooth))
    if isinstance(message, Param):
        if message.value is not None:
            return message
        return evolve(message, value=(message.fallback or initial_value)(message))
    if isinstance(message, Indices):
        if message.value is not None:
            return message
        return evolve(message, value=Source().subset(message.size, message.batch))
    if isinstance(message, Extension):
        message.act()
        return message
    if isinstance(message, (Factor, Module, Record, InUse, Subsample, Chain)):
        return message
    assert_never(message)


def expanded(message: Sample) -> td.Distribution:
    """The site's distribution, with a batch dimension for every plate around it.

    Raises:
        PlateError: its batch shape does not fit the plates.
        SiteError: its class cannot be expanded.
    """
    distribution = message.distribution
    shape, batch = plate_shape(message), distribution.batch_shape
    if not shape or shape == tuple(batch):
        return distribution
    try:
        full = join(shape, batch)
        if full != batch:
            distribution = distribution.expand(full)
        return distribution
    except NotImplementedError as error:
        raise SiteError(
            f"{type(distribution).__name__} has no expand method",
            site=message.name,
            because=f"its batch shape is {tuple(batch)}, and the plates around it need {shape}",
            try_="parameters of the plates' full shape",
        ) from error
    except RuntimeError as error:
        plates = ", ".join(f"{p.name!r} ({p.batch} at dim {p.dim})" for p in message.plates if p.dim is not None)
        raise PlateError(
            f"{type(distribution).__name__} has batch shape {tuple(batch)}, its plates are {plates}",
            site=message.name,
            try_=full_size(message, batch)
            or "parameters of the plates' sizes (or 1), or .to_event(n) for dimensions that are no plates",
        ) from error


def full_size(message: Sample | Factor, batch: Sequence[int]) -> str:
    """The advice where a subsampled plate meets values of its full size; empty where that is not what is wrong."""
    for plate in message.plates:
        if plate.dim is None or plate.subsample is None or len(batch) < -plate.dim:
            continue
        if batch[plate.dim] == plate.size != plate.batch:
            return (
                f"vg.subsample(data) inside plate {plate.name!r}, whose {plate.batch} of {plate.size} elements are "
                "this run's minibatch"
            )
    return ""


def plate_shape(message: Sample | Factor) -> tuple[int, ...]:
    """The batch shape that the plates around a site demand; 1 where a plate leaves its size open."""
    return shape_of(message.plates)


def shape_of(plates: tuple[Plate, ...]) -> tuple[int, ...]:
    """The batch shape of some plates; 1 where a plate leaves its size open."""
    if not plates:
        return ()
    if len(plates) == 1 and plates[0].dim == -1:
        return (plates[0].batch or 1,)
    dims = {p.dim: p.batch for p in plates if p.dim is not None}
    if not dims:
        return ()
    return tuple(dims.get(d) or 1 for d in range(min(dims), 0))


Entered = tuple[tuple[Handler, ...], tuple[Handler, ...]]
"""The handlers in force before a block was entered, and inside it."""


def enter(handler: Handler) -> Entered:
    """Put a handler in force, innermost, until `leave`."""
    before = _stack.get()
    inside = (*before, handler)
    _stack.set(inside)
    return before, inside


def leave(entered: Entered) -> None:
    """Take the handler of a block out of force, and nothing else.

    A block may be left out of order: by a generator that is collected after its program has ended, say. What was in
    force when it was entered may be over by then.
    """
    before, inside = entered
    now = _stack.get()
    if now is inside:
        _stack.set(before)
        return
    last = next((i for i in reversed(range(len(now))) if now[i] is inside[-1]), None)
    if last is not None:
        _stack.set((*now[:last], *now[last + 1 :]))


class Scope:
    """A handler that is in force inside a `with` block, or around a program."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self._entered: list[Entered] = []

    def __enter__(self) -> Scope:
        self._entered.append(enter(self.handler))
        return self

    def __exit__(self, *error: object) -> None:
        leave(self._entered.pop())


class Handled:
    """A program with a handler around it. `program` is the one inside."""

    def __init__(self, program: Program, handler: Handler) -> None:
        self.program: Program = program
        self.handler: Handler = handler

    def __call__(self, *args: object, **kwargs: object) -> Any:
        with Scope(self.handler):
            return self.program(*args, **kwargs)


def run(program: Program, handlers: tuple[Handler, ...], args: tuple[object, ...], kwargs: dict[str, object]) -> Any:
    """Call a program with handlers around it.

    Args:
        program: the program.
        handlers: the first is the outermost; all lie inside those that are in force already.
        args, kwargs: what the program is called with.

    Returns:
        What the program returns.
    """
    token = _stack.set((*_stack.get(), *handlers))
    try:
        return program(*args, **kwargs)
    finally:
        _stack.reset(token)


def lasting() -> AbstractContextManager[object]:
    """A context around what a program makes once and keeps (a guide's parameters, say).

    An engine may run a program to find out about it, and put all random generators back afterwards. What is drawn
    inside this block is kept, so it counts as drawn: inside, generators stand where they stand outside of such a run.
    """
    for handler in reversed(_stack.get()):
        found = getattr(handler, "lasting", None)
        if found is not None:
            context: AbstractContextManager[object] = found()
            return context
    return nullcontext()


def takes_no_arguments(program: Program) -> bool:
    """Whether a program has no parameters at all."""
    found = signature_of(program)
    return found is not None and not found.parameters


def can_do_without_arguments(program: Program) -> bool:
    """Whether a program can be called without arguments."""
    found = signature_of(program)
    if found is None:
        return False
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(p.default is not p.empty or p.kind in variable for p in found.parameters.values())


def signature_of(program: Program) -> inspect.Signature | None:
    """The signature of a program, looked for behind handlers; None if Python cannot tell."""
    while not isinstance(program, nn.Module) and callable(getattr(program, "program", None)):
        program = program.program  # type: ignore[attr-defined]  # a handler takes what the program inside takes
    try:
        return inspect.signature(program.forward if isinstance(program, nn.Module) else program)
    except (TypeError, ValueError):
        return None


def modules_of(program: Program) -> list[nn.Module]:
    """The modules a program is made of: itself, its owner if it is a bound method, those inside its wrappers."""
    if isinstance(program, nn.Module):
        return [program]
    inner: Callable[..., Any] | None = getattr(program, "program", None) or getattr(program, "func", None)
    owner = getattr(program, "__self__", None)
    found = modules_of(inner) if callable(inner) else []
    return found + ([owner] if isinstance(owner, nn.Module) else [])


__all__ = [
    "Forward", "Handled", "Scope", "apply", "can_do_without_arguments", "default", "expanded", "handlers_in_force",
    "lasting", "modules_of", "plate_shape", "run", "signature_of", "takes_no_arguments",
]  # fmt: skip
