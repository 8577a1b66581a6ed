"""Sums a product of factors over sites, two factors at a time, in an order that keeps the tables small.

References:
    Smith, Gray (2018), opt_einsum: a Python package for optimizing contraction order for einsum-like expressions.
    doi:10.21105/joss.00753.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import opt_einsum
from torch import Tensor

from varigrad.errors import SiteError
from varigrad.shapes import join
from varigrad.terms.elimination.factors import LogFactor
from varigrad.terms.elimination.reductions import Reduction

LARGEST = 2**28
"""A table has at most so many entries: one gigabyte in single precision."""


@dataclass(frozen=True)
class Contraction:
    """One product of factors, summed over some sites.

    Attributes:
        joined: the positions of the factors, in the list as it stands; the product goes to its end.
        union: the sites of the product, in order.
        summed: the positions, among these, of the sites to be summed.
        entries: the number of entries of the product's table.
    """

    joined: tuple[int, ...]
    union: tuple[str, ...]
    summed: tuple[int, ...]
    entries: int


@lru_cache(maxsize=4096)
def contractions(
    inputs: tuple[tuple[str, ...], ...], summed: frozenset[str], sizes: tuple[tuple[str, int], ...], batch: int
) -> tuple[Contraction, ...]:
    """The contractions that sum a product of factors over sites.

    Args:
        inputs: the sites of each factor.
        summed: the sites to be summed.
        sizes: the number of values of every site, in the order in which tables have them.
        batch: the number of entries that a table has for each joint value of its sites.
    """
    position = {site: i for i, (site, _) in enumerate(sizes)}
    size = dict(sizes)
    left = list(inputs)
    found = []
    for joined in _path(inputs, summed, size):
        parts = [left.pop(i) for i in sorted(joined, reverse=True)]
        union = tuple(sorted({site for part in parts for site in part}, key=position.__getitem__))
        elsewhere = {site for part in left for site in part}
        over = tuple(i for i, site in enumerate(union) if site in summed and site not in elsewhere)
        found.append(Contraction(tuple(joined), union, over, batch * prod(size[site] for site in union)))
        left.append(tuple(site for i, site in enumerate(union) if i not in over))
    return tuple(found)


def _path(inputs: Sequence[tuple[str, ...]], summed: frozenset[str], size: Mapping[str, int]) -> list[tuple[int, ...]]:
    """Which factors to join, one step after the other."""
    if len(inputs) == 1:
        return [(0,)]
    symbols = {site: opt_einsum.get_symbol(i) for i, site in enumerate(size)}
    output = [site for site in size if site not in summed and any(site in part for part in inputs)]
    words = ["".join(symbols[site] for site in part) for part in inputs]
    equation = ",".join(words) + "->" + "".join(symbols[site] for site in output)
    shapes = [tuple(size[site] for site in part) for part in inputs]
    path, _ = opt_einsum.contract_path(equation, *shapes, shapes=True, optimize="auto")
    return [tuple(step) for step in path]


@dataclass(frozen=True)
class Summed:
    """A sum over sites that an elimination has made.

    Attributes:
        sites: the sites that were summed.
        entries: the number of entries of the table that was summed.
    """

    sites: tuple[str, ...]
    entries: int


def contract(
    factors: Sequence[LogFactor],
    summed: frozenset[str],
    sizes: Mapping[str, int],
    reduce: Reduction,
    sums: list[Summed],
) -> LogFactor:
    """The product of factors in the same plates, summed over sites.

    Args:
        factors: at least one.
        summed: the sites to be summed.
        sizes: the number of values of every site, in the order in which tables have them.
        reduce: the sum, or what stands for it.
        sums: where to note the sums that were made.

    Raises:
        SiteError: the best order needs a table with more than `LARGEST` entries.
    """
    batch = join(*[f.table.shape[len(f.sites) :] for f in factors])
    mine = {site for factor in factors for site in factor.sites}
    steps = contractions(
        tuple(f.sites for f in factors),
        summed & mine,
        tuple((site, size) for site, size in sizes.items() if site in mine),
        prod(batch),
    )
    check_size(steps, sizes)
    left = list(factors)
    for step in steps:
        parts = [left.pop(i) for i in sorted(step.joined, reverse=True)]
        table = _product([part.along(step.union) for part in parts])
        if step.summed:
            table = reduce(table, step.summed)
            sums.append(Summed(tuple(step.union[i] for i in step.summed), step.entries))
        kept = tuple(site for i, site in enumerate(step.union) if i not in step.summed)
        names = tuple(dict.fromkeys(name for part in reversed(parts) for name in part.names))
        left.append(LogFactor(table, kept, parts[0].frames, names))
    return left[0]


def check_size(steps: Sequence[Contraction], sizes: Mapping[str, int]) -> None:
    """Refuse contractions that need too large a table, before memory is asked for.

    Raises:
        SiteError: one does; it names the sites.
    """
    worst = max(steps, key=lambda step: step.entries)
    if worst.entries <= LARGEST:
        return
    first = worst.union[worst.summed[0]] if worst.summed else worst.union[0]
    raise too_large(worst.entries, {site: sizes[site] for site in worst.union}, first)


def too_large(entries: int, sizes: Mapping[str, int], first: str) -> SiteError:
    """The error for a table that is too large.

    Args:
        entries: how many entries it would have.
        sizes: its sites, with the number of values of each.
        first: the site to name.
    """
    shape = " x ".join(f"{site} ({size})" for site, size in sizes.items())
    return SiteError(
        f"summing it out needs a table of {entries:.3g} entries",
        site=first,
        because=f"these sites have to be summed jointly: {shape}, times the elements of their plates and the lanes",
        try_="fewer values, a smaller minibatch, sites that depend on fewer others, or a guide for some of them with "
        "LeaveOneOut(4)",
    )


def _product(tables: Sequence[Tensor]) -> Tensor:
    product = tables[0]
    for table in tables[1:]:
        product = product + table
    return product
