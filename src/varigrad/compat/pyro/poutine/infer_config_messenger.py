"""`infer_config`: sets options of sites from outside the program."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from varigrad.compat.pyro.poutine.messages import Dictionary, view
from varigrad.compat.pyro.poutine.messenger import Messenger
from varigrad.language.messages import Forward, Message, Sample, evolve


class InferConfigMessenger(Messenger):
    """Adds the result of `config_fn(msg)` to `infer` at each site."""

    def __init__(self, config_fn: Callable[[Dictionary], Mapping[str, object]]) -> None:
        super().__init__()
        self.config_fn = config_fn

    def _handle(self, message: Message, forward: Forward) -> Message:
        if type(message) is Sample:
            msg = view(message)
            assert msg is not None
            added = self.config_fn(msg)
            notes = {**msg["infer"], **added}
            message = evolve(message, notes=notes, auxiliary=bool(notes.get("is_auxiliary")))
        return forward(message)
