"""Whether a model takes all values of a site at once: densities are compared with those of runs with single values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from varigrad.errors import SiteError, VarigradError
from varigrad.language.messages import evolve
from varigrad.language.runtime import shape_of
from varigrad.objectives.checks.replays import FAILURES, Again, same
from varigrad.objectives.run_record import RunRecord, Vectorization, VectorizationChanged
from varigrad.shapes import join
from varigrad.terms.elimination.factors import LogFactor
from varigrad.terms.marginal import JointDensity, Slots, eliminated, log_factor
from varigrad.terms.term import Term

Densities = Callable[[RunRecord, Vectorization], tuple[list[Term], list[JointDensity]]]
"""The log-densities of a run: those that read no site that is summed out, and those that do."""

ASSIGNMENTS = 6
"""At how many joint values of the sites the densities are compared."""
ROUNDS = 5
"""How many rounds of a chain are run one after the other as well."""


Index = Mapping[str, Tensor]
"""Which of its values each site has, `[*plates]`."""


@dataclass(frozen=True, eq=False)
class Spread:
    """A run with all values of the sites that are summed out.

    Attributes:
        run: the run.
        guide: what the guide drew, by site.
        others: the terms that read no site which is summed out.
        factors: the log-densities that do, by statement.
        slots: the sites that are summed out.
    """

    run: RunRecord
    guide: Mapping[str, Tensor]
    others: Sequence[Term]
    factors: Mapping[str, LogFactor]
    slots: Slots


def check_marginal_values(perform: Again, densities: Densities, vectorization: Vectorization) -> None:
    """Check that a run with all values of the sites that are summed out has the densities of runs with one value each.

    A program that sums, indexes or branches over leading dimensions, or that reads a site across the elements of its
    plate, does not.

    Raises:
        SiteError: the densities differ, the program fails with all values at once, or these cannot be summed.
    """
    plain, single = vectorization.plain, evolve(vectorization.plain, slots={})
    drawn = _with_all_values(perform, plain)
    slots = drawn.slots(plain)
    assert slots is not None
    guide = {name: draw.value.detach() for name, draw in drawn.draws.items()}
    others, joint = densities(drawn, plain)
    factors = {d.message.name: log_factor(evolve(d, log_prob=d.raw), slots) for d in joint}
    eliminated(joint, slots)
    spread = Spread(drawn, guide, others, factors, slots)
    generator = torch.Generator().manual_seed(0)
    for attempt in range(ASSIGNMENTS):
        index = {}
        for name, site in slots.sites.items():
            table = factors[name].table if name in factors else None
            shape = shape_of(site.plates) if table is None else table.shape[table.dim() - slots.dims :]
            if attempt < 2:  # neighbours have different values, so that one read for the other is noticed
                chosen = (torch.arange(prod(shape)) + attempt).reshape(shape) % len(site.values)
            else:
                chosen = torch.randint(len(site.values), shape, generator=generator)
            index[name] = chosen.to(site.values.device)
        values = {name: slots.sites[name].values[chosen] for name, chosen in index.items()}
        if slots.chains and attempt >= ASSIGNMENTS - 2:
            _check_rounds(perform, densities, spread, single, index)
        run = perform(single, drawn, {**guide, **values})
        for term in densities(run, single)[0]:
            factor = factors.get(term.name) if term.sign > 0 else None
            if factor is not None and not same(_entry(factor.table, factor.sites, index), term.raw):
                raise SiteError(
                    "cannot be summed out",
                    site=factor.sites[0],
                    because=f"with all of its values along a leading dimension, the density of {term.name!r} is "
                    "another one than with one value at a time: the program reads elements of its plate together, or "
                    "does not leave leading dimensions alone",
                    try_="sum(-1) for sum(), table[k] for table[int(k)], one element of the plate at a time; or a "
                    "site of the guide",
                )


def _check_rounds(perform: Again, densities: Densities, spread: Spread, single: Vectorization, index: Index) -> None:
    """Check that the first rounds of each chain have the densities that they have at once.

    A step that computes something from several rows, or that keeps something by other ways than its carry, does not.

    Args:
        single: the vectorization of a run with single values.
        index: which value each site has; the states before rounds are made those after the rounds before.

    Raises:
        SiteError: the densities differ.
    """
    slots, index, values = spread.slots, dict(index), dict(spread.guide)
    spans: dict[str, tuple[str, int]] = {}
    for chain in slots.chains:
        name, _, label = chain.plate.rpartition("_")
        for first, before, after in chain.triples:
            dim = next(p.dim for p in slots.sites[after].plates if p.name == chain.plate)
            assert dim is not None
            spans[name] = label, dim
            states = torch.cat([index[first], index[after]], dim)
            index[before] = states.narrow(dim, 0, states.shape[dim] - 1)
            for t, one in enumerate(states.split(1, dim)[:ROUNDS]):
                values[f"{first.removesuffix('_0')}_{t}"] = slots.sites[first].values[one]
    in_chains = {site for chain in slots.chains for triple in chain.triples for site in triple}
    values.update({name: slots.sites[name].values[i] for name, i in index.items() if name not in in_chains})
    known = {term.name: term.raw for term in spread.others if term.sign > 0}
    known.update({name: _entry(factor.table, factor.sites, index) for name, factor in spread.factors.items()})
    one_by_one = evolve(single, rounds=ROUNDS)
    for term in densities(perform(one_by_one, spread.run, values), one_by_one)[0]:
        chain_of = next((n for n in (p.name.rpartition("_")[0] for p in term.plates) if n in spans), None)
        if chain_of is None or term.sign < 0:
            continue
        label, dim = spans[chain_of]
        base, _, number = term.name.rpartition("_")
        at_once = known.get(f"{base}_0" if number == "0" else f"{base}_{label}")
        if at_once is not None and number != "0" and at_once.dim() >= -dim and at_once.shape[dim] > 1:
            at_once = at_once.narrow(dim, int(number) - 1, 1)
        if at_once is None or not same(at_once, term.raw):
            raise SiteError(
                f"scan's step gives {base!r} another density in round {number} by itself than with the other rounds",
                site=chain_of,
                because="where sites are summed out, all rounds but the first run at once",
                try_="a step that treats each row by itself (no sum over rows) and hands on what it needs in its carry",
            )


def _with_all_values(perform: Again, plain: Vectorization) -> RunRecord:
    """Run the programs with all values at once, and say what is wrong if that fails."""
    try:
        return perform(plain, None, {})
    except (VarigradError, VectorizationChanged):
        raise
    except FAILURES as error:
        raise SiteError(
            "cannot be summed out",
            site=next(iter(plain.slots)),
            because="the program does not take all of its values at once, along a leading dimension: "
            f"{type(error).__name__}: {error}",
            try_="operations that broadcast over leading dimensions; or a site of the guide",
        ) from error


def _entry(table: Tensor, sites: Sequence[str], index: Mapping[str, Tensor]) -> Tensor:
    """The entries of a table at one value of each site for every element of the plates: `[lanes, *plates]`."""
    for site in sites:
        if len(table) == 1:
            table = table[0]
            continue
        chosen = index[site]
        shape = join(table.shape[1:], chosen.shape)
        table = table.expand(len(table), *shape).gather(0, chosen.expand(1, *shape))[0]
    return table
