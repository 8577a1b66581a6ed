"""`Trace`: the frozen record of one run of a program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, assert_never

from torch import Tensor

from varigrad.errors import SiteNameError
from varigrad.language.messages import (
    Chain,
    Extension,
    Factor,
    Forward,
    Indices,
    InUse,
    Message,
    Module,
    Named,
    Param,
    Record,
    Sample,
    Subsample,
    evolve,
)
from varigrad.shapes import table


class Trace(Mapping[str, Named]):
    """Ordered, read-only `name -> message`, with the program's return value in `result`."""

    def __init__(self, messages: Mapping[str, Named], result: Any) -> None:
        self._messages = dict(messages)
        self.result = result

    def __getitem__(self, name: str) -> Named:
        return self._messages[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._messages)

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def samples(self) -> dict[str, Sample]:
        """The random choices, observed ones included, in program order."""
        return {n: m for n, m in self._messages.items() if isinstance(m, Sample)}

    @property
    def latents(self) -> dict[str, Tensor]:
        """Values of the latent choices that are not auxiliary, in program order."""
        return {n: m.value for n, m in self.samples.items() if not (m.observed or m.auxiliary) and m.value is not None}

    def __repr__(self) -> str:
        rows = []
        for name, m in self._messages.items():
            kind = type(m).__name__.lower()
            if isinstance(m, Sample):
                kind = "observed" if m.observed else "auxiliary" if m.auxiliary else "latent"
            family = type(m.distribution).__name__ if isinstance(m, Sample) else ""
            value = getattr(m, "value", None)
            shape = tuple(value.shape) if isinstance(value, Tensor) else ""
            plates = ", ".join(p.name for p in getattr(m, "plates", ()))
            rows.append((name, kind, family, shape, plates))
        return table(rows, ("site", "kind", "distribution", "shape", "plates"))


class Recorder:
    """The handler that collects a trace."""

    def __init__(self) -> None:
        self.messages: dict[str, Named] = {}

    def __call__(self, message: Message, forward: Forward) -> Message:
        if isinstance(message, (Param, Indices)) and message.value is None:
            before = self.messages.get(message.name)
            if isinstance(before, (Param, Indices)) and type(before) is type(message):
                return evolve(message, value=before.value)  # one name, one value in a run
        answer = forward(message)
        if isinstance(answer, (Sample, Factor, Record, Param, Module, Indices)):
            known = self.messages.setdefault(answer.name, answer)
            once = isinstance(answer, (Sample, Factor, Record))
            if known is not answer and (once or type(known) is not type(answer)):
                raise SiteNameError(
                    "is used twice in one run",
                    site=answer.name,
                    because="sites are told apart by name, and a trace has one entry for each",
                    try_=f'names that differ, such as f"{answer.name}_{{i}}" in a loop',
                )
            return answer
        if isinstance(answer, (InUse, Subsample, Chain, Extension)):
            return answer
        assert_never(answer)
