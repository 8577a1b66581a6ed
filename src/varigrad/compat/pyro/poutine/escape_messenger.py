"""`escape`: stops a run at a site."""

from __future__ import annotations

from collections.abc import Callable

from varigrad.compat.pyro.poutine.messages import Dictionary, view
from varigrad.compat.pyro.poutine.messenger import Messenger
from varigrad.compat.pyro.poutine.runtime import NonlocalExit
from varigrad.language.messages import Forward, Message, Sample


class EscapeMessenger(Messenger):
    """Stops the run by `NonlocalExit` where `escape_fn(msg)` is true."""

    def __init__(self, escape_fn: Callable[[Dictionary], bool]) -> None:
        super().__init__()
        self.escape_fn = escape_fn

    def _handle(self, message: Message, forward: Forward) -> Message:
        if type(message) is Sample:
            msg = view(message)
            assert msg is not None
            if self.escape_fn(msg):
                raise NonlocalExit(msg)
        return forward(message)
