"""`LogFactor`: a table of log-densities over the values of discrete sites; `Frame`: a plate around it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from varigrad.language.messages import Plate


@dataclass(frozen=True)
class Frame:
    """A plate, or one round of a sequential plate, around a factor.

    Attributes:
        name: the plate's.
        dim: the batch dimension it occupies, negative; None for a sequential plate.
        index: the round of a sequential plate.
        size: number of elements in use.
        scale: how many of the plate's elements one element in use stands for.
    """

    name: str
    dim: int | None
    index: int | None
    size: int
    scale: float


def frames_of(plates: Iterable[Plate]) -> frozenset[Frame]:
    """The frames of a statement. Rounds of a sequential plate that uses all of its elements need none."""
    frames = []
    for plate in plates:
        batch = plate.batch
        scale = 1.0 if plate.size is None or batch is None else plate.size / batch
        if plate.dim is not None or scale != 1.0:
            frames.append(Frame(plate.name, plate.dim, plate.index, batch or 1, scale))
    return frozenset(frames)


@dataclass(frozen=True, eq=False)
class LogFactor:
    """A table of log-densities over the values of discrete sites.

    Attributes:
        table: `[*(number of values of each site), lanes, *plates]`.
        sites: the sites, in the order of the leading dimensions.
        frames: the plates it is in.
        names: the statements whose log-densities it is made of.
    """

    table: Tensor
    sites: tuple[str, ...]
    frames: frozenset[Frame]
    names: tuple[str, ...]

    def along(self, sites: Sequence[str]) -> Tensor:
        """The table with one leading dimension for each of the named sites, of size 1 where it does not depend on it.

        Args:
            sites: all of its own, in the same order, and others between them.
        """
        count = len(self.sites)
        sizes = dict(zip(self.sites, self.table.shape[:count], strict=True))
        return self.table.reshape(*[sizes.get(site, 1) for site in sites], *self.table.shape[count:])
