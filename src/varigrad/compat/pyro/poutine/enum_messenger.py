"""`enum`: enumerates all values of discrete sites, along dimensions left of the plates, to inspect densities."""

from __future__ import annotations

from typing import Self

from varigrad.compat.pyro.poutine.messenger import Messenger
from varigrad.language.messages import Forward, Message, Sample, evolve
from varigrad.language.runtime import expanded


class EnumMessenger(Messenger):
    """Gives sites marked `infer={"enumerate": "parallel"}` all their values, each site along a separate dimension.

    Args:
        first_available_dim: the first of these dimensions; negative, left of all plates.

    Raises:
        ValueError: it is not negative, or not left of a site's plates.
    """

    def __init__(self, first_available_dim: int | None = None) -> None:
        super().__init__()
        if first_available_dim is not None and not first_available_dim < 0:
            raise ValueError(f"first_available_dim must be negative, got {first_available_dim}")
        self.first_available_dim: int = -1 if first_available_dim is None else first_available_dim
        self._next = self.first_available_dim

    def __enter__(self) -> Self:
        self._next = self.first_available_dim
        super().__enter__()
        return self

    def _handle(self, message: Message, forward: Forward) -> Message:
        if (
            type(message) is not Sample
            or message.value is not None
            or message.observed
            or message.notes.get("enumerate") != "parallel"
        ):
            return forward(message)
        distribution = message.distribution
        count, event = message.notes.get("num_samples"), len(distribution.event_shape)
        if count is None:
            value = distribution.enumerate_support(expand=bool(message.notes.get("expand")))
        else:
            value = expanded(message).sample((count,))
        plates = value.shape[1 : value.dim() - event]
        dim, self._next = self._next, self._next - 1
        if len(plates) > -1 - dim:
            raise ValueError(
                f"{message.name!r}: dimension {dim} is not left of its plates; first_available_dim is too high"
            )
        between = (1,) * (-1 - dim - len(plates)) + tuple(plates)
        value = value.reshape(value.shape[0], *between, *distribution.event_shape)
        notes = {**message.notes, "_enumerate_dim": dim}
        return forward(evolve(message, value=value, notes=notes))
