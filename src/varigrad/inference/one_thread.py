"""Refuses steps of one run in two threads at once: each would overwrite what the other has changed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from varigrad.errors import VarigradError

Result = TypeVar("Result")


class OneThread:
    """Lets one thread in at a time, and refuses the others; a copy lets in whom it likes."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a callback of a run may take steps of its own

    def __reduce__(self) -> tuple[type[OneThread], tuple[()]]:
        return type(self), ()

    def __call__(self, call: Callable[..., Result], *given: object) -> Result:
        """`call(*given)`, while no other thread is in here.

        Raises:
            VarigradError: one is.
        """
        if not self._lock.acquire(blocking=False):
            raise VarigradError(
                "another thread is taking steps of this SVI",
                because="both would change parameters, optimiser and generator, and updates would be lost",
                try_="an SVI for each thread, or a lock around svi.step and svi.run",
            )
        try:
            return call(*given)
        finally:
            self._lock.release()
