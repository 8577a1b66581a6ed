"""`substitute`: sets parameters to given values."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from varigrad.compat.pyro.poutine.messenger import Messenger
from varigrad.language.messages import Forward, Message, Param, evolve


class SubstituteMessenger(Messenger):
    """The named parameters take the (constrained) values in `data`."""

    def __init__(self, data: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.data = data

    def _handle(self, message: Message, forward: Forward) -> Message:
        if type(message) is Param and message.name in self.data:
            message = evolve(message, value=self.data[message.name])
        return forward(message)
