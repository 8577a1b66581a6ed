"""What the steps of a run are called with: the same arguments for ever, or a loader's batches, round and round."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from varigrad.errors import VarigradError


def batches(args: tuple[Any, ...]) -> tuple[Iterator[tuple[Any, ...]], bool]:
    """The arguments of one step after the other, and whether each serves one step only."""
    if len(args) != 1 or not (hasattr(args[0], "dataset") and hasattr(args[0], "batch_sampler")):
        return itertools.repeat(args), False
    return _loaded(args[0]), True


def _loaded(loader: Any) -> Iterator[tuple[Any, ...]]:
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
        if empty:
            raise VarigradError("the loader is empty")
