"""Runs the rounds of a chain at once: the first by itself, and all others on all values of the round before each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from varigrad.errors import SiteError
from varigrad.language.chains import label_of, leaves, mapped, rounds, rows
from varigrad.language.messages import Chain, Plate, evolve
from varigrad.terms.elimination.chains import ChainSites
from varigrad.terms.marginal import MarginalSite


@dataclass(eq=False)
class AllRounds:
    """Runs a chain's step twice: on the first row, and on all others.

    Attributes:
        chain: the chain.
        sites: the marginal sites of the run so far, by name.
        values: the values that their `sample` statements have returned.
        put: makes the value of a site that has no statement: the state before each round.
        note: takes the sites that hand on from round to round.
    """

    chain: Chain
    sites: dict[str, MarginalSite]
    values: dict[str, Tensor]
    put: Callable[[MarginalSite], Tensor]
    note: Callable[[ChainSites], None]

    def __call__(self, step: Callable[[object, object], object], init: object, xs: object) -> None:
        """Run the chain.

        Raises:
            SiteError: what the step returns is not made of values of sites that are summed out.
        """
        chain, length = self.chain, self.chain.length
        with rounds(chain, 0, 1):
            carry = step(init, rows(xs, 0, 1))
        if length == 1:
            return
        first = self._sites_of(carry, "0")
        label, before = label_of(1, length), label_of(0, length - 1)
        plate = Plate(f"{chain.name}_{label}", length - 1, chain.dim)
        previous: dict[str, Tensor] = {}
        for base in first:
            site = self.sites[f"{base}_0"]
            plates = tuple(plate if p.name == f"{chain.name}_0" else p for p in site.plates)
            previous[base] = self.put(evolve(site, name=f"{base}_{before} before", plates=plates))
        given = iter([previous[base] for base in first])
        with rounds(chain, 1, length):
            carry = step(mapped(lambda _: next(given), carry), rows(xs, 1, length))
        following = self._sites_of(carry, label)
        if following != first:
            raise SiteError(
                f"scan's step hands on {', '.join(following)} after {', '.join(first)}",
                site=chain.name,
                because="every round hands on the same sites",
                try_="the same return value in every round",
            )
        triples = tuple((f"{b}_0", f"{b}_{before} before", f"{b}_{label}") for b in dict.fromkeys(first))
        self.note(ChainSites(plate.name, triples))

    def _sites_of(self, carry: object, label: str) -> list[str]:
        """The names, as the step has them, of the sites whose values make up a carry."""
        found = []
        for leaf in leaves(carry):
            name = next((n for n, value in self.values.items() if value is leaf and n.endswith(f"_{label}")), None)
            if name is None:
                raise SiteError(
                    "scan's step returns something else than values of sites that are summed out",
                    site=self.chain.name,
                    because="the rounds run at once, on all values of the round before, so what is handed on has to "
                    "be a value that sample() has returned in the step",
                    try_="return z for z = sample(...), and compute what follows from it at the step's beginning; or a "
                    "loop over rounds",
                )
            found.append(name.removesuffix(f"_{label}"))
        return found
