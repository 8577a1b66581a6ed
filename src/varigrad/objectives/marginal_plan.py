"""`MarginalPlan`: which sites of the model are summed out, in which order, and at what cost; a part of the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from varigrad.terms.marginal import JointDensity, Slots, eliminated


@dataclass(frozen=True)
class MarginalPlan:
    """A sum over sites of the model that the guide lacks.

    Attributes:
        sites: the sites that are summed at once.
        values: how many values each of them has.
        plates: the plates of the first, in each of whose elements the sum is made.
        entries: the number of entries of the table that is summed.
    """

    sites: tuple[str, ...]
    values: tuple[int, ...]
    plates: tuple[str, ...]
    entries: int

    def __str__(self) -> str:
        sites = ", ".join(f"{site} ({values} values)" for site, values in zip(self.sites, self.values, strict=True))
        where = f" in each element of {', '.join(self.plates)}" if self.plates else ""
        return f"{sites}: summed out{where}, a table of {self.entries:,} entries"


def shortened(plans: Sequence[MarginalPlan], most: int = 12) -> list[str]:
    """A line for each; of many, the first and last ones, and how many were left out."""
    lines = [str(plan) for plan in plans]
    if len(lines) <= most:
        return lines
    half = most // 2
    return [*lines[:half], f"... {len(lines) - 2 * half} more of these ...", *lines[-half:]]


def marginal_plans(densities: Sequence[JointDensity], slots: Slots) -> tuple[tuple[MarginalPlan, ...], tuple[str, ...]]:
    """What is summed out, in order, and sentences about minibatches that are scaled inside a sum."""
    found = eliminated(densities, slots)
    plans = []
    for one in found.sums:
        plates = tuple(p.name for p in slots.sites[one.sites[0]].plates)
        plans.append(MarginalPlan(one.sites, tuple(len(slots.sites[s].values) for s in one.sites), plates, one.entries))
    sentences = [
        f"{', '.join(sorted(sites))}: summed out outside of plate {plate!r}, of which a minibatch is used; the "
        "logarithm of the sum is not linear in what the minibatch stands for, so this is another bound than that of "
        "all data, and its gradient is biased for that one"
        for plate, sites in found.scaled_inside.items()
    ]
    return tuple(plans), tuple(sentences)
