"""`MarginalPlan`: which sites of the model are summed out, in which order, and at what cost; `AllValues`: what a run
with all of their values shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from varigrad.objectives.run_record import RunRecord, Vectorization
from varigrad.objectives.surrogate import densities_of
from varigrad.terms.marginal import JointDensity, Slots, eliminated
from varigrad.terms.term import Term


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


@dataclass(frozen=True, eq=False)
class AllValues:
    """What a run with all values of the sites that are summed out shows.

    Attributes:
        terms: the terms, with these sites summed out.
        densities: the log-densities that read them.
        slots: the sites.
    """

    terms: list[Term]
    densities: list[JointDensity]
    slots: Slots

    def plans(self) -> tuple[tuple[MarginalPlan, ...], tuple[str, ...]]:
        """What is summed out, in order, and sentences about minibatches that are scaled inside a sum."""
        slots = self.slots
        found = eliminated(self.densities, slots)
        plans = []
        for one in found.sums:
            plates = tuple(p.name for p in slots.sites[one.sites[0]].plates)
            values = tuple(len(slots.sites[site].values) for site in one.sites)
            plans.append(MarginalPlan(one.sites, values, plates, one.entries))
        sentences = [
            f"{', '.join(sorted(sites))}: summed out outside of plate {plate!r}, of which a minibatch is used; the "
            "logarithm of the sum is not linear in what the minibatch stands for, so this is another bound than that "
            "of all data, and its gradient is biased for that one"
            for plate, sites in found.scaled_inside.items()
        ]
        return tuple(plans), tuple(sentences)

    def first_impossible(self) -> str | None:
        """A sentence about the first sum over values that is not finite: which statement is to blame, and where."""
        for term in self.terms:
            if not term.parts or bool(term.log_prob.isfinite().all()):
                continue
            densities = [density for density in self.densities if density.message.name in term.parts]
            names = [density.message.name for density in densities]
            values = f"all values of {', '.join(repr(name) for name in names if name in self.slots.sites)}"
            for name, density in zip(names, densities, strict=True):
                best = self._best(density)
                bad = ~best.isfinite()
                if bool(bad.any()):
                    where = f" at index {tuple(bad.nonzero()[0].tolist())} of its plates" if bad.dim() else ""
                    return f"the model's log-density of site {name!r} is {best[bad][0].item()}{where} for {values}"
            return f"the model's log-density of {', '.join(map(repr, names))} together is not finite for {values}"
        return None

    def _best(self, density: JointDensity) -> Tensor:
        """A statement's largest log-density over all values of what it reads, `[*plates]`; NaN where one is NaN."""
        table = density.log_prob
        return table.reshape(-1, *table.shape[max(0, table.dim() - self.slots.dims) :]).amax(0)


def all_values(run: RunRecord, vectorization: Vectorization, terms: list[Term]) -> AllValues:
    """What a run with all values of the sites that are summed out shows.

    Args:
        run: the run.
        vectorization: how its leading dimensions are used.
        terms: its terms.
    """
    slots = run.slots(vectorization)
    assert slots is not None
    return AllValues(terms, densities_of(run, vectorization)[1], slots)
