"""`do`: interventions; statements after a site use another value."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Number

import torch
from torch import Tensor

from varigrad.compat.pyro.poutine.messenger import Messenger
from varigrad.language.messages import Forward, Message, Sample, evolve


class DoMessenger(Messenger):
    """Statements after the named sites use the values in `data`; the sites themselves stay unchanged."""

    def __init__(self, data: Mapping[str, Tensor | float]) -> None:
        super().__init__()
        self.data = data

    def _handle(self, message: Message, forward: Forward) -> Message:
        answer = forward(message)
        if not isinstance(message, Sample) or not isinstance(answer, Sample) or message.name not in self.data:
            return answer
        given = self.data[message.name]
        if isinstance(given, Number):
            given = torch.full_like(answer.value, given)  # type: ignore[arg-type]
        if not isinstance(given, Tensor):
            raise NotImplementedError(f"{message.name!r}: an intervention is a tensor or a number, got {type(given)}")
        return evolve(answer, value=given)
