"""`ForceEager`: makes compiled callables run eagerly while random choices are being tracked.

`torch.compile` specialises a function to plain tensors, so the tracker would not see the operations of compiled code on
tracked tensors. torch's stance towards compiled code is one variable of the process, which runs in several threads
share: the first run sets it, and the last one restores it.
"""

from __future__ import annotations

import threading
from typing import Any

from torch.compiler import set_stance

from varigrad._torch_internals import is_dynamo_loaded


class ForceEager:
    """A counted `set_stance("force_eager")`. It does nothing until torch has compiled something in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._stance: Any = None

    def enter(self) -> bool:
        """Count one run more that needs compiled code to run eagerly; returns whether `leave` has to be called."""
        if not is_dynamo_loaded():
            return False
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._stance = set_stance("force_eager")
                self._stance.__enter__()
        return True

    def leave(self) -> None:
        """Count one run less; the last one gives compiled code its own stance back."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._stance.__exit__(None, None, None)
                self._stance = None


FORCE_EAGER = ForceEager()
