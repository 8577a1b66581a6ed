"""`lift`: replaces parameters by random choices."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from torch import distributions as td

from varigrad.compat.pyro.poutine.messenger import Messenger
from varigrad.compat.pyro.poutine.util import is_validation_enabled
from varigrad.language.messages import Forward, Message, Param, Sample, evolve

Prior = td.Distribution | Callable[..., Any]


class LiftMessenger(Messenger):
    """Parameters become sites of the same name, drawn from `prior`.

    Args:
        prior: a distribution for all of them, a dictionary of distributions by name, or functions that draw, given the
            parameter's arguments.
    """

    def __init__(self, prior: Prior | Mapping[str, Prior]) -> None:
        super().__init__()
        self.prior = prior
        self._met: set[str] = set()

    def __enter__(self) -> Self:
        self._met = set()
        super().__enter__()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        if isinstance(self.prior, Mapping) and is_validation_enabled() and exc_type is None:
            extra = self.prior.keys() - self._met
            if extra:
                warnings.warn(
                    f"prior did not find params {extra}; those there are {sorted(self._met)}",
                    stacklevel=2,
                )
        return super().__exit__(exc_type, exc_value, traceback)

    def _handle(self, message: Message, forward: Forward) -> Message:
        if type(message) is not Param:
            return forward(message)
        prior: Any = self.prior
        if isinstance(prior, Mapping):
            # Parameters of a module may be named with its name in front or without.
            key = message.name if message.name in prior else message.name.split("$$$", 1)[-1]
            self._met.add(key)
            prior = prior.get(key)
        if prior is None:
            return forward(message)
        if isinstance(prior, td.Distribution):
            drawn = forward(Sample(message.name, prior, None, False))
            assert isinstance(drawn, Sample)
            return evolve(message, value=drawn.value)
        given = {"constraint": message.constraint, "event_dim": message.event_dim}
        return evolve(message, value=prior(message.init, **given))
