"""Arguments of each step: the same arguments, or the batches of a `DataLoader`, cycled."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from varigrad.errors import VarigradError


def batches(args: tuple[object, ...]) -> tuple[Iterator[tuple[object, ...]], bool]:
    """The arguments of one step after the other, and whether each tuple of them is for one step only."""
    if len(args) != 1 or not (hasattr(args[0], "dataset") and hasattr(args[0], "batch_sampler")):
        return itertools.repeat(args), False
    loader = args[0]
    assert isinstance(loader, Iterable)
    return _loaded(loader), True


def _loaded(loader: Iterable[object]) -> Iterator[tuple[object, ...]]:
    """The batches of a loader, cycled without end.

    Raises:
        VarigradError: the loader is empty.
    """
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
        if empty:
            raise VarigradError("the loader is empty")
