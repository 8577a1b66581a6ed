"""Handlers: functions that change the effect of a program's statements (`condition`, `do`, `mask`, `scale`, ...).

Each takes the program first and returns a changed program, or, without a program, opens a `with` block:

    conditioned = condition(model, {"z": z})
    with mask(mask=observed): ...

They compose in any order; the one applied last is outermost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, TypeVar, overload

import torch
from torch import Tensor
from torch import distributions as td

from varigrad.distributions.rng import Source
from varigrad.errors import SiteError
from varigrad.language.messages import (
    Factor,
    Forward,
    Handler,
    Indices,
    Message,
    Names,
    Param,
    Program,
    Record,
    Sample,
    evolve,
)
from varigrad.language.runtime import Handled, Scope, default, expanded, run
from varigrad.language.trace import Recorder, Trace
from varigrad.language.value_conversion import as_numbers

V = TypeVar("V")


def _in_force(handler: Handler, program: Program | None) -> Scope | Handled:
    return Scope(handler) if program is None else Handled(program, handler)


def trace(program: Program) -> Callable[..., Trace]:
    """A function that runs `program` and returns the `Trace` of the run.

    Raises:
        SiteNameError: (when run) a site's name is used twice.
    """

    def traced(*args: object, **kwargs: object) -> Trace:
        recorder = Recorder()
        result = run(program, (recorder,), args, kwargs)
        return Trace(recorder.messages, result)

    return traced


def _replay(values: Mapping[str, Message | Tensor], message: Message, forward: Forward) -> Message:
    if isinstance(message, (Sample, Indices)) and message.value is None and message.name in values:
        recorded = values[message.name]
        if not isinstance(recorded, (Tensor, Sample, Indices, Param, Record)):
            raise SiteError(
                f"cannot take its value from a {type(recorded).__name__}",
                site=message.name,
                because="only a random choice, a minibatch, a parameter or a recorded value has one",
                try_="another name for one of the two statements",
            )
        message = evolve(message, value=recorded if isinstance(recorded, Tensor) else recorded.value)
    return forward(message)


@overload
def replay(program: None = None, trace: Mapping[str, Message | Tensor] | None = None) -> Scope: ...
@overload
def replay(program: Program, trace: Mapping[str, Message | Tensor] | None = None) -> Handled: ...
def replay(program: Program | None = None, trace: Mapping[str, Message | Tensor] | None = None) -> Scope | Handled:
    """Latent sites take the values recorded in `trace` (messages or tensors by name) and stay latent."""
    return _in_force(partial(_replay, _given(trace, "trace")), program)


def _condition(data: Mapping[str, Tensor], message: Message, forward: Forward) -> Message:
    if isinstance(message, Sample) and message.name in data:
        message = evolve(
            message, value=as_numbers(message.name, data[message.name], "its value"), observed=True, estimator=None
        )
    return forward(message)


@overload
def condition(program: None = None, data: Mapping[str, Tensor] | None = None) -> Scope: ...
@overload
def condition(program: Program, data: Mapping[str, Tensor] | None = None) -> Handled: ...
def condition(program: Program | None = None, data: Mapping[str, Tensor] | None = None) -> Scope | Handled:
    """The named sites are observed at the given values."""
    return _in_force(partial(_condition, _given(data, "data")), program)


def _uncondition(message: Message, forward: Forward) -> Message:
    if isinstance(message, Sample) and message.observed:
        message = evolve(message, value=None, observed=False)
    return forward(message)


@overload
def uncondition(program: None = None) -> Scope: ...
@overload
def uncondition(program: Program) -> Handled: ...
def uncondition(program: Program | None = None) -> Scope | Handled:
    """Observed sites are drawn instead: predictions from a model that was written with data in it."""
    return _in_force(_uncondition, program)


def _substitute(values: Mapping[str, Tensor], message: Message, forward: Forward) -> Message:
    if isinstance(message, (Param, Sample)) and message.value is None and message.name in values:
        message = evolve(message, value=as_numbers(message.name, values[message.name], "its value"))
    return forward(message)


@overload
def substitute(program: None = None, values: Mapping[str, Tensor] | None = None) -> Scope: ...
@overload
def substitute(program: Program, values: Mapping[str, Tensor] | None = None) -> Handled: ...
def substitute(program: Program | None = None, values: Mapping[str, Tensor] | None = None) -> Scope | Handled:
    """Parameters (constrained) and latent sites take the given values; latent sites stay latent."""
    return _in_force(partial(_substitute, _given(values, "values")), program)


def _do(values: Mapping[str, Tensor], message: Message, forward: Forward) -> Message:
    answer = forward(message)
    if isinstance(answer, Sample) and isinstance(message, Sample) and message.name in values:
        return evolve(answer, value=as_numbers(message.name, values[message.name], "its value"))
    return answer


@overload
def do(program: None = None, values: Mapping[str, Tensor] | None = None) -> Scope: ...
@overload
def do(program: Program, values: Mapping[str, Tensor] | None = None) -> Handled: ...
def do(program: Program | None = None, values: Mapping[str, Tensor] | None = None) -> Scope | Handled:
    """Intervene: what follows the named sites sees the given values; the sites themselves are left alone.

    References:
        Pearl (2009), Causality.
    """
    return _in_force(partial(_do, _given(values, "values")), program)


def _block(hidden: Callable[[Message], bool], message: Message, forward: Forward) -> Message:
    return default(message) if hidden(message) else forward(message)


@overload
def block(
    program: None = None,
    *,
    hide: Names | None = None,
    expose: Names | None = None,
    hide_if: Callable[[Message], bool] | None = None,
) -> Scope: ...
@overload
def block(
    program: Program,
    *,
    hide: Names | None = None,
    expose: Names | None = None,
    hide_if: Callable[[Message], bool] | None = None,
) -> Handled: ...
def block(
    program: Program | None = None,
    *,
    hide: Names | None = None,
    expose: Names | None = None,
    hide_if: Callable[[Message], bool] | None = None,
) -> Scope | Handled:
    """Hide sites from the handlers outside; by default, all sites.

    Args:
        program: the program; None: a `with` block.
        hide: names (globs) of the sites to hide.
        expose: names (globs) of the sites not to hide.
        hide_if: whether to hide a message.

    Raises:
        SiteError: more than one of the three is given.
    """
    if sum(option is not None for option in (hide, expose, hide_if)) > 1:
        raise SiteError("block takes one of hide, expose and hide_if")
    if hide is not None:
        names = (hide,) if isinstance(hide, str) else tuple(hide)
        return _in_force(partial(_block, partial(_named, names, True)), program)
    if expose is not None:
        names = (expose,) if isinstance(expose, str) else tuple(expose)
        return _in_force(partial(_block, partial(_named, names, False)), program)
    return _in_force(partial(_block, hide_if or _everything), program)


def _everything(message: Message) -> bool:
    return True


def _named(names: Names, wanted: bool, message: Message) -> bool:
    name = getattr(message, "name", None)
    return name is not None and any(fnmatchcase(name, n) for n in names) is wanted


def _mask(mask: Tensor, message: Message, forward: Forward) -> Message:
    if isinstance(message, (Sample, Factor)):
        message = evolve(message, mask=mask if message.mask is None else message.mask & mask)
    return forward(message)


@overload
def mask(program: None = None, *, mask: Tensor | bool) -> Scope: ...
@overload
def mask(program: Program, *, mask: Tensor | bool) -> Handled: ...
def mask(program: Program | None = None, *, mask: Tensor | bool) -> Scope | Handled:
    """Log-densities count only where `mask`, bool, broadcastable to `[*plates]`, is True."""
    mask = torch.as_tensor(mask)
    if mask.dtype != torch.bool:
        raise SiteError(f"mask must be a bool tensor, got {mask.dtype}", try_="mask.bool()")
    return _in_force(partial(_mask, mask), program)


def _scale(factor: Tensor | float, message: Message, forward: Forward) -> Message:
    if isinstance(message, (Sample, Factor)):
        message = evolve(message, scale=message.scale * factor)
    return forward(message)


@overload
def scale(program: None = None, *, scale: Tensor | float) -> Scope: ...
@overload
def scale(program: Program, *, scale: Tensor | float) -> Handled: ...
def scale(program: Program | None = None, *, scale: Tensor | float) -> Scope | Handled:
    """Log-densities are multiplied by `scale`, a number or a tensor broadcastable to `[*plates]`."""
    if not isinstance(scale, Tensor) and not (isinstance(scale, (int, float)) and 0 <= scale < math.inf):
        raise SiteError(f"scale must be a tensor or a finite number of at least 0, got {scale!r}")
    return _in_force(partial(_scale, scale), program)


class _Seeded:
    def __init__(self, seed: int) -> None:
        self.source = Source(torch.Generator().manual_seed(seed))

    def __call__(self, message: Message, forward: Forward) -> Message:
        if isinstance(message, Sample) and message.value is None:
            message = evolve(message, value=self.source.draw(expanded(message)))
        elif isinstance(message, Indices) and message.value is None:
            message = evolve(message, value=self.source.subset(message.size, message.batch))
        return forward(message)


@overload
def seed(program: None = None, *, seed: int) -> Scope: ...
@overload
def seed(program: Program, *, seed: int) -> SeededProgram: ...
def seed(program: Program | None = None, *, seed: int) -> Scope | SeededProgram:
    """Draws come from a separate generator that starts from `seed` (again at every run of a wrapped program)."""
    if program is None:
        return Scope(_Seeded(seed))
    return SeededProgram(program, seed)


class SeededProgram:
    """A program that draws the same numbers in every run."""

    def __init__(self, program: Program, seed: int) -> None:
        self.program: Program = program
        self.seed: int = seed

    def __call__(self, *args: object, **kwargs: object) -> Any:
        return run(self.program, (_Seeded(self.seed),), args, kwargs)


def _lift(priors: Mapping[str, td.Distribution], message: Message, forward: Forward) -> Message:
    if isinstance(message, Param) and message.name in priors:
        drawn = forward(Sample(message.name, priors[message.name], None, False))
        assert isinstance(drawn, Sample)
        return evolve(message, value=drawn.value)
    return forward(message)


@overload
def lift(program: None = None, priors: Mapping[str, td.Distribution] | None = None) -> Scope: ...
@overload
def lift(program: Program, priors: Mapping[str, td.Distribution] | None = None) -> Handled: ...
def lift(program: Program | None = None, priors: Mapping[str, td.Distribution] | None = None) -> Scope | Handled:
    """The named parameters become random choices with the given priors."""
    return _in_force(partial(_lift, _given(priors, "priors")), program)


def _given(values: Mapping[str, V] | None, what: str) -> Mapping[str, V]:
    if values is None:
        raise SiteError(f"{what} is missing", try_=f"a dictionary {what}={{name: value}}")
    return values


__all__ = [
    "Record", "block", "condition", "do", "lift", "mask", "replay", "scale", "seed", "substitute", "trace",
    "uncondition",
]  # fmt: skip
