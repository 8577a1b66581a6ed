"""`uncondition`: draws sites that are observed."""

from __future__ import annotations

from varigrad.compat.pyro.poutine.messenger import Messenger
from varigrad.language.messages import Forward, Message, Sample, evolve


class UnconditionMessenger(Messenger):
    """Draws observed sites; their data is in `infer["obs"]`."""

    def _handle(self, message: Message, forward: Forward) -> Message:
        if type(message) is Sample and message.observed:
            notes = {**message.notes, "was_observed": True, "obs": message.value}
            message = evolve(message, value=None, observed=False, notes=notes)
        return forward(message)
