"""The product of a chain's factors along its rounds: each is a matrix from the state before a round to that after it.

References:
    Särkkä, García-Fernández (2021), Temporal parallelization of Bayesian smoothers. arXiv:1905.13002.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from varigrad.errors import SiteError
from varigrad.terms.elimination.contraction import LARGEST
from varigrad.terms.elimination.factors import Frame, LogFactor
from varigrad.terms.elimination.reductions import Reduction

SHORT = 16
"""Chains of fewer rounds are multiplied one round after the other;"""
WIDE = 128
"""and so are those with at least so many rows of states in each round, which have work enough for one round,"""
LONG = 256
"""unless they have more rounds than these: each is some operations of its own."""


@dataclass(frozen=True)
class ChainSites:
    """The sites that a chain hands on from round to round.

    Attributes:
        plate: the plate of all rounds but the first.
        triples: for each site handed on, its names in the first round, before each other round, and in it.
    """

    plate: str
    triples: tuple[tuple[str, str, str], ...]


def chain_product(
    factor: LogFactor,
    chain: ChainSites,
    frame: Frame,
    frames: Mapping[str, frozenset[Frame]],
    sizes: Mapping[str, int],
    reduce: Reduction,
) -> LogFactor:
    """Multiply a chain's matrices and sum over the state after the last round.

    Args:
        factor: the product of the factors of all rounds but the first, over the states before and after each round, and
            over sites outside of the chain.
        chain: the chain.
        frame: the plate of these rounds.
        frames: the plates of every site.
        sizes: the number of values of every site, in the order in which tables have them.
        reduce: the sum, or what stands for it.

    Returns:
        A factor over the state of the first round, and over the sites outside.

    Raises:
        SiteError: the matrices of all rounds have more than `LARGEST` entries.
    """
    assert frame.dim is not None
    triples = [t for t in chain.triples if t[1] in factor.sites or t[2] in factor.sites]
    first, before, after = ([t[i] for t in triples] for i in range(3))
    outside = [site for site in factor.sites if site not in before and site not in after]
    states = prod(sizes[site] for site in first)
    order = [*outside, *before, *after]
    table = factor.along([site for site in sizes if site in order])
    position = {site: i for i, site in enumerate(site for site in sizes if site in order)}
    batch = table.shape[len(order) :]
    table = table.permute(*[position[site] for site in order], *range(len(order), table.dim()))
    entries = states**2 * frame.size * prod(table.shape[: len(outside)]) * prod(batch) // batch[frame.dim]
    if entries > LARGEST:
        raise SiteError(
            f"summing it out needs a table of {entries:.3g} entries",
            site=after[0],
            because=f"there is a matrix of {states} by {states} states for each of {frame.size} rounds, times the "
            "elements of plates and the lanes",
            try_="fewer states, a smaller minibatch, or sites that are handed on separately",
        )
    both = [sizes[site] for site in (*before, *after)]
    table = table.expand(*table.shape[: len(outside)], *both, *batch)
    table = table.reshape(*table.shape[: len(outside)], states, states, *batch)
    if table.shape[frame.dim] == 1:
        shape = list(table.shape)
        shape[frame.dim] = frame.size
        table = table.expand(shape)
    left = _row_sums(table, len(outside), frame.dim, reduce)
    left = left.reshape(*left.shape[: len(outside)], *[sizes[site] for site in first], *left.shape[len(outside) + 1 :])
    names = [*outside, *first]
    kept = tuple(site for site in sizes if site in names)
    left = left.permute(*[names.index(site) for site in kept], *range(len(names), left.dim()))
    inside = frozenset[Frame]().union(*(frames[site] for site in first))
    return LogFactor(left, kept, (factor.frames - {frame}) | inside, factor.names)


def _row_sums(matrices: Tensor, row: int, dim: int, reduce: Reduction) -> Tensor:
    """The sums of the rows of a product of matrices.

    Args:
        matrices: `[..., states, states, *batch]`, with the rounds along `dim`.
        row: the dimension of the rows; columns are next to it.
        dim: the dimension of the rounds, negative.

    Returns:
        `[..., states, *batch]`, with size one along `dim`.
    """
    count = matrices.shape[dim]
    states = matrices.shape[row]
    entries = matrices.numel() // 2 * states
    in_pairs = entries <= LARGEST and (count > LONG or matrices.numel() < WIDE * states * count)
    while count >= SHORT and in_pairs:  # half as many rounds are left
        half = count // 2
        pairs = matrices.narrow(dim, 0, 2 * half).unflatten(dim, (half, 2))
        odd = matrices.narrow(dim, 2 * half, count - 2 * half)
        one, two = pairs.unbind(dim)
        product = reduce(one.unsqueeze(row + 2) + two.unsqueeze(row), [row + 1])
        matrices = torch.cat([product, odd], dim) if count % 2 else product
        count = half + count % 2
    *earlier, last = matrices.split(1, dim)  # its derivative is made once, and not as a sum over rounds
    left = reduce(last, [row + 1])
    for matrix in reversed(earlier):
        left = reduce(matrix + left.unsqueeze(row), [row + 1])
    return left
