"""`reparam`: replaces sites by other parametrisations, from outside the program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from varigrad.compat.pyro.poutine.messages import Dictionary, view
from varigrad.compat.pyro.poutine.messenger import Messenger
from varigrad.language.messages import Forward, Message, Record, Sample, evolve

if TYPE_CHECKING:
    from varigrad.compat.pyro.infer.reparam.reparam import Reparam


class ReparamMessenger(Messenger):
    """Replaces sites by the sites that `config[name]`, or `config(msg)`, draws.

    Args:
        config: reparametrisers by site, or a function of a message that returns one or None.
    """

    def __init__(self, config: Mapping[str, Reparam] | Callable[[Dictionary], Reparam | None]) -> None:
        super().__init__()
        self.config = config

    def _handle(self, message: Message, forward: Forward) -> Message:
        if type(message) is not Sample:
            return forward(message)
        msg = view(message)
        assert msg is not None
        chosen = self.config.get(message.name) if isinstance(self.config, Mapping) else self.config(msg)
        if chosen is None:
            return forward(message)
        if message.observed or message.value is not None:
            raise NotImplementedError(
                f"{message.name!r}: a site that is observed, or has a value, cannot be reparametrised here"
            )
        value = chosen.apply({key: msg[key] for key in ("name", "fn", "value", "is_observed", "infer")})["value"]
        forward(Record(message.name, value, message.plates))
        return evolve(message, value=value)
