"""`Messenger`, the interface of Pyro's handlers: around a program or a `with` block, it handles every message.

Messengers are handlers of the native stack. Pyro's own messengers change native messages (`_handle`); those that a
program defines have methods `_pyro_sample(msg)`, `_pyro_post_sample(msg)` and so on, and get dictionaries.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from torch import nn

from varigrad.compat.pyro.poutine.messages import Dictionary, taken_over, view
from varigrad.language.messages import Forward, Handler, Message, Program
from varigrad.language.runtime import Entered, _stack, default, enter, leave

P = ParamSpec("P")
R = TypeVar("R")
Listener = Callable[[Dictionary], object]
"""What a program registers for a kind of message."""


class Messenger:
    """A handler: `with messenger:`, `messenger(program)`, `@messenger`."""

    _listens = False

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        hears = ("_process_message", "_postprocess_message")
        cls._listens = any(
            name.startswith("_pyro_") or name in hears
            for kind in cls.__mro__
            if issubclass(kind, Messenger) and kind is not Messenger
            for name in vars(kind)
        )

    def __init__(self) -> None:
        return None

    @property
    def _entered(self) -> list[Entered]:
        found: list[Entered] = self.__dict__.setdefault("_blocks", [])
        return found

    def __enter__(self) -> Self:
        self._entered.append(enter(self._answer))
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        leave(self._entered.pop())
        return None

    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]:
        """The program with this handler around it."""
        if not callable(fn):
            raise ValueError(f"{fn!r} is not callable, did you mean to pass it as a keyword argument?")
        return around(fn, self)

    def _answer(self, message: Message, forward: Forward) -> Message:
        """What the native stack calls."""
        if not self._listens:
            return self._handle(message, forward)
        msg = view(message)
        if msg is None:
            return self._handle(message, forward)
        before = {**msg, "infer": dict(msg["infer"])}
        self._process_message(msg)
        message = taken_over(message, before, msg)
        answer = default(message) if msg["stop"] else self._handle(message, forward)
        after = view(answer)
        assert after is not None
        for key, value in after.items():
            if key not in ("stop", "continuation", "infer"):
                msg[key] = value
        msg["infer"] = {**msg["infer"], **after["infer"]}
        msg["done"] = True
        before = {**msg, "infer": dict(msg["infer"])}
        self._postprocess_message(msg)
        answer = taken_over(answer, before, msg)
        if msg["continuation"] is not None:
            msg["continuation"](msg)
        return answer

    def _handle(self, message: Message, forward: Forward) -> Message:
        """What a handler that comes with Pyro does."""
        return forward(message)

    def _process_message(self, msg: Dictionary) -> None:
        method = getattr(self, f"_pyro_{msg['type']}", None)
        if method is not None:
            method(msg)

    def _postprocess_message(self, msg: Dictionary) -> None:
        method = getattr(self, f"_pyro_post_{msg['type']}", None)
        if method is not None:
            method(msg)

    def _reset(self) -> None:
        """Called when a program is left by an exception that is no error."""

    @classmethod
    def register(
        cls, fn: Listener | None = None, type: str | None = None, post: bool | None = None
    ) -> Callable[..., Any]:
        """Add a method for messages of a kind: `@MyMessenger.register(type="sample")`.

        Raises:
            ValueError: it is not said for which kind.
        """
        if fn is None:
            return lambda method: cls.register(method, type, post)
        if type is None:
            raise ValueError("must specify type")
        setattr(cls, f"_pyro_{'post_' if post else ''}{type}", staticmethod(fn))
        cls._listens = True
        return fn

    @classmethod
    def unregister(cls, fn: Listener | None = None, type: str | None = None) -> Listener | None:
        """Take such methods away.

        Raises:
            ValueError: it is not said for which kind.
        """
        if type is None:
            raise ValueError("must specify type")
        for name in (f"_pyro_post_{type}", f"_pyro_{type}"):
            if name in vars(cls):
                delattr(cls, name)
        return fn


def around(fn: Callable[P, R], messenger: Messenger) -> Callable[P, R]:
    """A function, usable as a method too, that runs `fn` with the handler in force."""

    def handled(*args: P.args, **kwargs: P.kwargs) -> R:
        with messenger:
            return fn(*args, **kwargs)

    if not isinstance(fn, nn.Module):
        functools.update_wrapper(handled, fn, updated=())
    handled.program = fn  # type: ignore[attr-defined]
    handled.messenger = messenger  # type: ignore[attr-defined]
    return handled


def unwrap(fn: Program) -> Program:
    """The program inside all handlers."""
    while callable(getattr(fn, "program", None)) and not isinstance(fn, nn.Module):
        fn = fn.program  # type: ignore[attr-defined]
    return fn


@contextmanager
def block_messengers(predicate: Callable[[object], bool]) -> Iterator[list[object]]:
    """Take the handlers out of force for which `predicate` is true."""

    def owner(handler: Handler) -> object:
        return getattr(handler, "__self__", handler)

    blocked = [owner(h) for h in _stack.get() if predicate(owner(h))]
    token = _stack.set(tuple(h for h in _stack.get() if not predicate(owner(h))))
    try:
        yield blocked
    finally:
        _stack.reset(token)
