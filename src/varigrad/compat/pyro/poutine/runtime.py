"""Pyro's interface to the handler stack: `effectful` functions, `apply_stack`, and users' own messages."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import overload

from torch import Tensor

from varigrad.compat.pyro.params.param_store import _PYRO_PARAM_STORE as _PYRO_PARAM_STORE
from varigrad.compat.pyro.poutine.mask_messenger import MaskMessenger
from varigrad.compat.pyro.poutine.messages import CondIndepStackFrame, Dictionary, Effect, _filled, frame_of, message_of
from varigrad.compat.pyro.poutine.messenger import Messenger
from varigrad.language.handlers import _mask
from varigrad.language.messages import Program
from varigrad.language.plates import InPlate
from varigrad.language.runtime import apply, handlers_in_force

Message = InferDict = Dictionary
"""What programs annotate messages, and the options of their sites, with."""


class NonlocalExit(Exception):
    """Stops a run at the message `site`."""

    def __init__(self, site: Dictionary, *args: object) -> None:
        super().__init__(site, *args)
        self.site = site

    def reset_stack(self) -> None:
        """Let the handlers in force forget the run that was stopped; the stack itself is put back by leaving blocks."""
        for handler in reversed(_PYRO_STACK[:]):
            if isinstance(handler, Messenger):
                handler._reset()


class _Stack(Sequence[object]):
    """A read-only sequence of the handlers in force, outermost first."""

    @overload
    def __getitem__(self, index: int) -> object: ...

    @overload
    def __getitem__(self, index: slice) -> list[object]: ...

    def __getitem__(self, index: int | slice) -> object:
        found: list[object] = [getattr(h, "__self__", h) for h in handlers_in_force()]
        return found[index]

    def __len__(self) -> int:
        return len(handlers_in_force())

    def __iter__(self) -> Iterator[object]:
        return iter(self[:])


_PYRO_STACK = _Stack()


def am_i_wrapped() -> bool:
    """Whether any handler is in force."""
    return bool(handlers_in_force())


def apply_stack(initial_msg: Dictionary) -> Dictionary:
    """Send a message through the handlers in force; returns it, with its value."""
    answer = apply(message_of(initial_msg))
    if not isinstance(answer, Effect):
        initial_msg = _filled(initial_msg)
        initial_msg.update(value=answer.value, done=True, is_observed=answer.observed, fn=answer.distribution)
        initial_msg.update(mask=answer.mask, scale=answer.scale, infer=dict(answer.notes))
        initial_msg["cond_indep_stack"] = tuple(frame_of(p) for p in answer.plates)
        return initial_msg
    return answer.message


def default_process_message(msg: Dictionary) -> None:
    """Answer a message that no handler has answered: call its function."""
    if not (msg["done"] or msg["is_observed"] or msg["value"] is not None):
        msg["value"] = msg["fn"](*msg["args"], **msg["kwargs"])
    msg["done"] = True


def effectful(fn: Program | None = None, type: str | None = None) -> Program:
    """A function whose calls are statements: handlers see them as messages of kind `type`.

    Calls take `name=`, `infer=` and `obs=` besides the function's own arguments.

    Raises:
        ValueError: there is no type, or it is "message".
    """
    if fn is None:
        return functools.partial(effectful, type=type)
    if getattr(fn, "_is_effectful", False):
        return fn
    if type is None or type == "message":
        raise ValueError(f"effectful needs the kind of its messages, got type={type!r}")

    @functools.wraps(fn)
    def statement(
        *args: object,
        name: str | None = None,
        infer: dict[str, object] | None = None,
        obs: object = None,
        **kwargs: object,
    ) -> object:
        if not am_i_wrapped():
            return fn(*args, **kwargs)
        message = _filled(
            {
                "type": type,
                "name": name,
                "fn": fn,
                "is_observed": obs is not None,
                "args": args,
                "kwargs": kwargs,
                "value": obs,
                "infer": {} if infer is None else infer,
            }
        )
        message["done"] = obs is not None
        apply(Effect(message))
        return message["value"]

    statement._is_effectful = True  # type: ignore[attr-defined]
    return statement


def get_mask() -> Tensor | bool | None:
    """The mask that the handlers around put on a site; None for none."""
    mask: Tensor | None = None
    for handler in handlers_in_force():
        owner = getattr(handler, "__self__", handler)
        given: Tensor | None = None
        if isinstance(owner, MaskMessenger):
            given = owner.tensor
        elif isinstance(owner, functools.partial) and owner.func is _mask:
            given = owner.args[0]
        if given is not None:
            mask = given if mask is None else mask & given
    return mask


def get_plates() -> tuple[CondIndepStackFrame, ...]:
    """The plates around this call, outermost first."""
    return tuple(frame_of(h.plate) for h in handlers_in_force() if isinstance(h, InPlate) and not h.is_over)
