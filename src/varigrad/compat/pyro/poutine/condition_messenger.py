"""`condition`: observes sites at given values."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from varigrad.compat.pyro.poutine.messenger import Messenger
from varigrad.compat.pyro.poutine.trace_struct import Trace
from varigrad.language.messages import Forward, Message, Sample, evolve


class ConditionMessenger(Messenger):
    """The named sites are observed at the values in `data`, a dictionary or a trace."""

    def __init__(self, data: Mapping[str, Tensor] | Trace) -> None:
        super().__init__()
        self.data = data

    def _handle(self, message: Message, forward: Forward) -> Message:
        if type(message) is Sample and message.name in self.data:
            found = self.data.nodes[message.name]["value"] if isinstance(self.data, Trace) else self.data[message.name]
            if found is not None:
                message = evolve(message, value=torch.as_tensor(found), observed=True, estimator=None)
        return forward(message)
