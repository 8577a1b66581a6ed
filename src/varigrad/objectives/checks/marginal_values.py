"""Whether a model takes all values of a site at once: densities are compared with those of runs with single values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from varigrad.errors import SiteError, VarigradError
from varigrad.language.messages import evolve
from varigrad.language.runtime import shape_of
from varigrad.objectives.checks.replays import FAILURES, Again, same
from varigrad.objectives.run_record import RunRecord, Vectorization, VectorizationChanged
from varigrad.shapes import join
from varigrad.terms.marginal import JointDensity, eliminated, log_factor
from varigrad.terms.term import Term

Densities = Callable[[RunRecord, Vectorization], tuple[list[Term], list[JointDensity]]]
"""The log-densities of a run: those that read no site that is summed out, and those that do."""

ASSIGNMENTS = 6
"""At how many joint values of the sites the densities are compared."""


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
    joint = densities(drawn, plain)[1]
    factors = {d.message.name: log_factor(evolve(d, log_prob=d.raw), slots) for d in joint}
    eliminated(joint, slots)
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
                    try_="sum(-1) for sum(), table[k] for table[int(k)], Vindex-like indexing with the plate's own "
                    "index for elements; or a site of the guide",
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
