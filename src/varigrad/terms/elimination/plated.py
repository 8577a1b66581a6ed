"""Variable elimination inside plates: sums sites in their innermost plates first, then multiplies over plates.

References:
    Obermeyer, Bingham, Jankowiak, Chiu, Pradhan, Rush, Goodman (2019), Tensor variable elimination for plated factor
    graphs. arXiv:1902.03210.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from varigrad.errors import SiteError
from varigrad.language.messages import evolve
from varigrad.terms.elimination.chains import ChainSites, chain_product
from varigrad.terms.elimination.contraction import Summed, contract
from varigrad.terms.elimination.factors import Frame, LogFactor
from varigrad.terms.elimination.reductions import Reduction, log_sum_exp


@dataclass(frozen=True, eq=False)
class Elimination:
    """What is left of a set of factors when all sites have been summed out.

    Attributes:
        factors: one for each part of the program that is connected by summed-out sites; they have no sites.
        scaled_inside: plates whose minibatch is scaled inside a sum over a site outside of them, with these sites.
        sums: the sums that were made, in order.
    """

    factors: list[LogFactor]
    scaled_inside: Mapping[str, frozenset[str]]
    sums: list[Summed]


def eliminate(
    factors: Iterable[LogFactor],
    frames: Mapping[str, frozenset[Frame]],
    sizes: Mapping[str, int],
    *,
    reduce: Reduction = log_sum_exp,
    scaled: bool = True,
    chains: Sequence[ChainSites] = (),
) -> Elimination:
    """Sum a product of factors over all of their sites.

    Args:
        factors: the factors; every one lies in all plates of its sites.
        frames: the plates of every site.
        sizes: the number of values of every site, in the order in which tables have them.
        reduce: the sum, or what stands for it.
        scaled: whether products over a minibatch count for the whole plate.
        chains: plates along which sites are handed on, so that products are those of matrices.

    Raises:
        SiteError: the sites cannot be summed without a table that grows exponentially in a plate's size.
    """
    pending = list(factors)
    done: list[LogFactor] = []
    sums: list[Summed] = []
    scaled_inside: dict[str, frozenset[str]] = {}
    handed_on = {site for chain in chains for _, *sites in chain.triples for site in sites}
    same_state = {before: after for chain in chains for _, before, after in chain.triples}
    by_plate = {chain.plate: chain for chain in chains}
    while pending:
        # A chain comes before its first round, which has as many plates.
        leaf = max((f.frames for f in pending), key=lambda fs: (len(fs), any(f.name in by_plate for f in fs)))
        here = [factor for factor in pending if factor.frames == leaf]
        pending = [factor for factor in pending if factor.frames != leaf]
        local = frozenset(site for factor in here for site in factor.sites if frames[site] == leaf)
        for group in connected(here, local, same_state):
            factor = contract(group, local - handed_on, sizes, reduce, sums)
            if not handed_on.isdisjoint(factor.sites):
                frame = next(frame for frame in leaf if frame.name in by_plate)
                pending.append(chain_product(factor, by_plate[frame.name], frame, frames, sizes, reduce))
                states = tuple(site for site in factor.sites if site in same_state.values())
                sums.append(Summed(states, factor.table.numel()))
                continue
            if not factor.sites:
                done.append(factor)
                continue
            outside = frozenset[Frame]().union(*(frames[site] for site in factor.sites))
            if outside == leaf:
                _refuse(factor, frames)
            for frame in leaf - outside:
                factor = _multiplied(factor, frame, scaled)
                if frame.scale != 1.0:
                    scaled_inside[frame.name] = scaled_inside.get(frame.name, frozenset()) | set(factor.sites)
            pending.append(evolve(factor, frames=outside))
    return Elimination(done, scaled_inside, sums)


def connected(factors: Sequence[LogFactor], sites: frozenset[str], same: Mapping[str, str]) -> list[list[LogFactor]]:
    """The factors, in groups that share none of these sites; `same` names sites that count as others."""
    groups: list[tuple[set[str], list[LogFactor]]] = []
    for factor in factors:
        touched, members = {same.get(site, site) for site in sites.intersection(factor.sites)}, [factor]
        rest = []
        for group in groups:
            if touched.isdisjoint(group[0]):
                rest.append(group)
            else:
                touched |= group[0]
                members = [*group[1], *members]
        groups = [*rest, (touched, members)]
    return [members for _, members in groups]


def _multiplied(factor: LogFactor, frame: Frame, scaled: bool) -> LogFactor:
    """The product over the elements of a plate."""
    table = factor.table
    if frame.dim is not None and table.dim() - len(factor.sites) >= -frame.dim:
        table = table.sum(frame.dim, keepdim=True) if table.shape[frame.dim] > 1 else table * frame.size
    elif frame.dim is not None:
        table = table * frame.size
    return evolve(factor, table=table * frame.scale if scaled and frame.scale != 1.0 else table)


def _refuse(factor: LogFactor, frames: Mapping[str, frozenset[Frame]]) -> None:
    plates = {site: sorted(frame.name for frame in frames[site]) for site in factor.sites}
    listed = "; ".join(f"{site!r} is in {', '.join(names) or 'no plate'}" for site, names in plates.items())
    raise SiteError(
        "cannot be summed out with the others",
        site=factor.sites[0],
        because=f"{', '.join(map(repr, factor.names))} couple every element of one plate with every element of "
        f"another ({listed}), so the sum has as many parts as all elements have joint values",
        try_="a guide for one of them, with LeaveOneOut(4) or Enumerate()",
    )
