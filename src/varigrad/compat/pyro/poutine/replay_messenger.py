"""`replay`: gives sites their values from an earlier run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from varigrad.compat.pyro.poutine.messenger import Messenger
from varigrad.compat.pyro.poutine.trace_struct import Trace
from varigrad.language.messages import Forward, Indices, Param, Sample, evolve


class ReplayMessenger(Messenger):
    """Latent sites take the values of a trace, parameters those of `params`.

    Raises:
        ValueError: neither is given.
    """

    def __init__(self, trace: Trace | None = None, params: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        if trace is None and params is None:
            raise ValueError("must provide trace or params to replay against")
        self.trace, self.params = trace, params

    def _handle(self, message: Any, forward: Forward) -> Any:
        kind = type(message)
        if kind in (Sample, Indices) and self.trace is not None and message.name in self.trace:
            if kind is Sample and message.observed:
                return forward(message)
            node = self.trace.nodes[message.name]
            if node["type"] != "sample" or node["is_observed"]:
                raise RuntimeError(f"site {message.name} must be sampled in trace")
            changes = {"value": node["value"]}
            if kind is Sample and node["infer"]:
                changes["notes"] = {**message.notes, **node["infer"]}
            message = evolve(message, **changes)
        elif kind is Param and self.params is not None and message.name in self.params:
            message = evolve(message, value=self.params[message.name])
        return forward(message)
