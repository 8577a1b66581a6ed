"""`seed`: fixes the seeds of a run, so that it can be repeated."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from varigrad.compat.pyro.poutine.messenger import Messenger
from varigrad.compat.pyro.util import get_rng_state, set_rng_seed, set_rng_state


class SeedMessenger(Messenger):
    """Seeds the generators of torch, Python and numpy at the start, and restores them at the end."""

    def __init__(self, rng_seed: int) -> None:
        super().__init__()
        self.rng_seed = rng_seed
        self.old_states: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        self.old_states.append(get_rng_state())
        set_rng_seed(self.rng_seed)
        super().__enter__()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        set_rng_state(self.old_states.pop())
        return super().__exit__(exc_type, exc_value, traceback)
