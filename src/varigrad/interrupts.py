"""Delays Ctrl-C until a step is complete, so that no step is interrupted halfway.

A step changes parameters, the optimiser's moments, baselines and counters one after the other, and they must stay
consistent. So Ctrl-C is delayed during a step: the signal is recorded, and its handler is called when the step is
complete. While a step has changed nothing yet, users can interrupt a program that takes too long: by a second Ctrl-C
while it runs eagerly, by the first one while the step waits for a loader, a callback or the compiler.

Only the main thread receives signals, so other threads delay nothing. Signal handlers that users have installed are
delayed as well.
"""

from __future__ import annotations

import _signal  # what Python's `signal` is made of, without its enumerations: a twentieth of the time, at every step
import math
import threading
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

import torch

Result = TypeVar("Result")

_ALL = math.inf


class Interrupts:
    """Delays Ctrl-C (SIGINT) while a call runs.

    Copies hold nothing back: the original does.
    """

    def __init__(self) -> None:
        self._held = 0.0
        """How many signals in a row are noted before one is delivered."""
        self._noted = 0
        self._last: tuple[int, FrameType | None] = (_signal.SIGINT, None)
        self._handler: Callable[[int, FrameType | None], object] | None = None
        """The handler that noted signals are delivered to."""
        self._installed = False

    def __reduce__(self) -> tuple[type[Interrupts], tuple[()]]:
        return type(self), ()

    def whole(self, call: Callable[..., Result], *given: object, quiet: bool = False) -> Result:
        """`call(*given)`, with signals held back; they are delivered at its end.

        Args:
            quiet: `forget` is asked then, and those for Python's own handler are not delivered.
        """
        held, self._held = self._held, _ALL  # first of all: from now on nothing is raised
        installed = False
        try:
            installed = self._install()
            return call(*given)
        finally:
            if installed:
                self._uninstall()
            self._held = held
            if not (quiet and self._handler is _signal.default_int_handler):
                self._deliver_if_more_than(held)

    def at_once(self, call: Callable[..., Result], *given: object) -> Result:
        """`call(*given)`, inside `whole`, where a signal is delivered at once, and one that has been noted first."""
        return self._until(0, call, given)

    def on_second(self, call: Callable[..., Result], *given: object) -> Result:
        """`call(*given)`, inside `whole`, where the second signal is delivered at once."""
        return self._until(1, call, given)

    def deliver(self) -> None:
        """Deliver signals that have been noted, inside `whole`, where it does no harm.

        Raises:
            KeyboardInterrupt: as Python's own handler does.
        """
        if self._noted:
            self._deliver_if_more_than(0)

    def forget(self) -> bool:
        """Drop a signal that has been noted for Python's own handler; returns whether there was one."""
        if self._handler is not _signal.default_int_handler or not self._noted:
            return False
        self._noted = 0
        return True

    def hold(self) -> None:
        """Inside `whole`: hold signals back again, after one has been raised."""
        self._held = _ALL

    def _until(self, count: int, call: Callable[..., Result], given: tuple[object, ...]) -> Result:
        """`call(*given)`, with at most `count` signals held back."""
        held, gradients = self._held, torch.is_grad_enabled()
        try:
            if count < held and self._installed:
                self._held = count
            if self._noted:
                self._deliver_if_more_than(self._held)
            return call(*given)
        except KeyboardInterrupt:  # which may come between what `torch.no_grad()` does and what it undoes
            torch.set_grad_enabled(gradients)
            raise
        finally:
            self._held = held

    def _install(self) -> bool:
        if self._installed or threading.current_thread() is not threading.main_thread():
            return False
        handler = _signal.getsignal(_signal.SIGINT)
        if not callable(handler):  # the process ends, or the signal is ignored: neither is for us to change
            return False
        self._handler, self._noted, self._installed = handler, 0, True
        _signal.signal(_signal.SIGINT, self._note)
        return True

    def _uninstall(self) -> None:
        if _signal.getsignal(_signal.SIGINT) == self._note:  # else the program has set another one meanwhile
            _signal.signal(_signal.SIGINT, self._handler)
        self._installed = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted += 1
        self._last = number, frame
        self._deliver_if_more_than(self._held)

    def _deliver_if_more_than(self, held: float) -> None:
        if self._noted > held and self._handler is not None:
            self._noted = 0
            self._handler(*self._last)
