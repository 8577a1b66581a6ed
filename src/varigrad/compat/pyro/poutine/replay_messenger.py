"""`replay`: gives sites their values from an earlier run."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from varigrad.compat.pyro.poutine.messenger import Messenger
from varigrad.compat.pyro.poutine.trace_struct import Trace
from varigrad.language.messages import Forward, Indices, Message, Param, Sample, evolve


class ReplayMessenger(Messenger):
    """Latent sites take the values of a trace, parameters those of `params`.

    Raises:
        ValueError: neither is given.
    """

    def __init__(self, trace: Trace | None = None, params: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        if trace is None and params is None:
            raise ValueError("must provide trace or params to replay against")
        self.trace = trace
        self.params = params

    def _handle(self, message: Message, forward: Forward) -> Message:
        if isinstance(message, (Sample, Indices)) and self.trace is not None and message.name in self.trace:
            if isinstance(message, Sample) and message.observed:
                return forward(message)
            node = self.trace.nodes[message.name]
            if node["type"] != "sample" or node["is_observed"]:
                raise RuntimeError(f"site {message.name} must be sampled in trace")
            changes = {"value": node["value"]}
            if isinstance(message, Sample) and node["infer"]:
                changes["notes"] = {**message.notes, **node["infer"]}
            message = evolve(message, **changes)
        elif isinstance(message, Param) and self.params is not None and message.name in self.params:
            message = evolve(message, value=self.params[message.name])
        return forward(message)
