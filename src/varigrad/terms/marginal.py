"""Marginal sites: discrete choices of the model that are summed out; their log-densities become terms without them.

Every value of a marginal site lies along a leading dimension of its own, its *slot*: `[*slots, lanes, *plates]`. Sites
that no statement reads together share a slot, so a chain of any length needs two.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from varigrad.errors import ShapeError, SiteError
from varigrad.language.messages import Factor, Plate, Sample
from varigrad.terms.elimination.chains import ChainSites
from varigrad.terms.elimination.factors import LogFactor, frames_of
from varigrad.terms.elimination.plated import Elimination, eliminate
from varigrad.terms.elimination.reductions import Reduction, log_sum_exp


@dataclass(frozen=True, eq=False)
class MarginalSite:
    """A discrete choice of the model that is summed out.

    Attributes:
        name: the site's.
        values: all of its values, `[values, *event]`.
        plates: the plates it is in.
    """

    name: str
    values: Tensor
    plates: tuple[Plate, ...]

    def spread(self, slot: int, dims: int) -> Tensor:
        """The values along a slot: `[values, 1, ..., 1, *event]`.

        Args:
            slot: 0 for the dimension left of the lanes', 1 for the next, and so on.
            dims: number of plate dimensions.
        """
        return self.values.reshape(len(self.values), *(1,) * (slot + 1 + dims), *self.values.shape[1:])

    def masked(self, log_prob: Tensor, mask: Tensor) -> Tensor:
        """Its log-density; where a mask takes it out, its values share a probability of one equally."""
        return torch.where(mask, log_prob, -math.log(len(self.values)))


@dataclass(frozen=True, eq=False)
class Slots:
    """The marginal sites of a run, each with the dimension along which its values lie.

    Attributes:
        sites: by name, in the order of the model.
        slots: the dimension of each, counted from the lanes' to the left.
        dims: number of plate dimensions.
        lanes: number of lanes.
        chains: the chains among the sites.
    """

    sites: Mapping[str, MarginalSite]
    slots: Mapping[str, int]
    dims: int
    lanes: int
    chains: tuple[ChainSites, ...] = ()

    @property
    def count(self) -> int:
        """How many leading dimensions hold values."""
        return 1 + max(self.slots.values(), default=-1)


@dataclass(frozen=True, eq=False)
class JointDensity:
    """The log-density of a statement of the model, at all values of the marginal sites that it reads.

    Attributes:
        log_prob: `[*slots, lanes, *plates]`, masked and not scaled.
        raw: the same without the mask.
        sites: the marginal sites.
        upstream: `site -> plates with cross-element dependence`, marginal sites included.
    """

    message: Sample | Factor
    log_prob: Tensor
    raw: Tensor
    sites: tuple[str, ...]
    upstream: Mapping[str, frozenset[str]]


def slots_for(read: Iterable[Sequence[str]], sites: Iterable[str]) -> dict[str, int]:
    """A slot for every marginal site, so that no two sites that are read together have the same.

    Args:
        read: for every statement, the marginal sites that it reads.
        sites: all of them, in the order of the model.
    """
    beside: dict[str, set[str]] = {site: set() for site in sites}
    for together in read:
        for site in together:
            beside[site].update(together)
    found: dict[str, int] = {}
    for site, others in beside.items():
        taken = {found[other] for other in others if other in found}
        found[site] = next(slot for slot in range(len(taken) + 1) if slot not in taken)
    return found


def log_factor(density: JointDensity, slots: Slots) -> LogFactor:
    """The log-density as a table with one dimension for each of its marginal sites.

    Raises:
        SiteError: it reads a marginal site across the elements of a plate.
        ShapeError: it has a leading dimension of no marginal site that it reads.
    """
    message, table = density.message, density.log_prob
    frames = frames_of(message.plates)
    inside = {frame.name for frame in frames}
    for site in density.sites:
        across = {p.name for p in slots.sites[site].plates if p.dim is not None and p.name not in inside}
        across |= density.upstream[site] & inside
        if across:
            raise SiteError(
                f"depends on several elements of {site!r} at once",
                site=message.name,
                because=f"{site!r} is summed out separately for each element of plate {min(across)!r}",
                try_=f"{message.name!r} inside that plate, or {site!r} outside of it; or a guide for {site!r}",
            )
    full = table.reshape((1,) * (slots.count + 1 + slots.dims - table.dim()) + tuple(table.shape))
    leading = full.shape[: slots.count]
    own = {slots.count - 1 - slots.slots[site]: site for site in density.sites}
    for dim, size in enumerate(leading):
        if size != 1 and (dim not in own or size != len(slots.sites[own[dim]].values)):
            raise ShapeError(
                f"log-density has shape {tuple(table.shape)}, and dim {dim - full.dim()} (size {size}) belongs to no "
                "plate, and to no site that is summed out and read here",
                site=message.name,
                try_="plate(...) for each batch dimension, or .to_event(n)",
            )
    ordered = [site for site in slots.sites if site in density.sites]
    position = {site: dim for dim, site in own.items()}
    rest = [dim for dim in range(slots.count) if dim not in own]
    last = range(slots.count, full.dim())
    full = full.permute(*[position[site] for site in ordered], *rest, *last)
    full = full.reshape(*full.shape[: len(ordered)], *full.shape[slots.count :])
    return LogFactor(full, tuple(ordered), frames, (message.name,))


def eliminated(
    densities: Sequence[JointDensity],
    slots: Slots,
    *,
    reduce: Reduction = log_sum_exp,
    scaled: bool = True,
    added: Mapping[str, Tensor] | None = None,
) -> Elimination:
    """The sum of a product of densities over all values of all marginal sites.

    Args:
        densities: the statements that read marginal sites, the sites' own included.
        slots: the marginal sites.
        reduce: the sum, or what stands for it.
        scaled: whether products over a minibatch count for the whole plate.
        added: added to the own log-densities of marginal sites, `[values, lanes, *plates]`.
    """
    factors = [log_factor(density, slots) for density in densities]
    for site, extra in (added or {}).items():
        factors.append(LogFactor(extra, (site,), frames_of(slots.sites[site].plates), (site,)))
    frames = {name: frames_of(site.plates) for name, site in slots.sites.items()}
    sizes = {name: len(site.values) for name, site in slots.sites.items()}
    return eliminate(factors, frames, sizes, reduce=reduce, scaled=scaled, chains=slots.chains)


@dataclass(frozen=True, eq=False)
class SummedOut:
    """The log-density of a part of the model that is connected by marginal sites, without these.

    Attributes:
        name: its first marginal site.
        names: the statements in it.
        log_prob: `[lanes?, *plates]`, scaled.
        raw: the same without the scale.
        plates: the plates outside of all of it.
        upstream: `site -> plates with cross-element dependence`.
    """

    name: str
    names: tuple[str, ...]
    log_prob: Tensor
    raw: Tensor
    plates: tuple[Plate, ...]
    upstream: Mapping[str, frozenset[str]]


def summed_out(densities: Sequence[JointDensity], slots: Slots) -> list[SummedOut]:
    """The parts of the model that are connected by marginal sites, with these summed out.

    Raises:
        SiteError: they cannot be summed; or they are scaled in different ways.
    """
    by_name = {density.message.name: density for density in densities}
    parts = []
    for factor in eliminated(densities, slots).factors:
        members = [by_name[name] for name in factor.names]
        inside = {frame.name for frame in factor.frames}
        plates = {p.name: p for m in members for p in m.message.plates if p.name in inside}
        upstream: dict[str, frozenset[str]] = {}
        for member in members:
            for site, across in member.upstream.items():
                if site not in slots.sites:
                    upstream[site] = upstream.get(site, frozenset()) | across
        raw = factor.table if slots.lanes > 1 and factor.table.shape[0] > 1 else factor.table[0]
        scale = _own_scale(members, factor)
        for frame in factor.frames:
            scale = scale * frame.scale
        scaled = raw if isinstance(scale, float) and scale == 1.0 else raw * scale
        name = next(name for name in factor.names if name in slots.sites)
        parts.append(SummedOut(name, factor.names, scaled, raw, tuple(plates.values()), upstream))
    return parts


def _own_scale(densities: Sequence[JointDensity], whole: LogFactor) -> float | Tensor:
    """The one factor, besides those of minibatches, on the log-densities of a connected part of the model.

    Raises:
        SiteError: there are several; or it differs between elements that the sum joins.
    """
    first = _beside_minibatches(densities[0].message)
    for density in densities[1:]:
        other = _beside_minibatches(density.message)
        if isinstance(other, float) and isinstance(first, float):
            same = abs(other - first) <= 1e-9 * abs(first)
        else:
            same = isinstance(other, Tensor) and isinstance(first, Tensor) and _equal(first, other)
        if not same:
            raise SiteError(
                f"is scaled in another way than {densities[0].message.name!r}",
                site=density.message.name,
                because="a sum over values joins their densities, and a power of one of them alone is no density",
                try_="one scale around both, or a guide for the site that is summed out",
            )
    outside = {frame.dim for frame in whole.frames}
    if isinstance(first, Tensor) and any(first.shape[d] > 1 and d not in outside for d in range(-first.dim(), 0)):
        raise SiteError(
            "is scaled in another way from element to element",
            site=densities[0].message.name,
            because="a sum over values joins the densities of these elements",
            try_="one scale for all of them, or a guide for the site that is summed out",
        )
    return first


def _equal(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.shape == other.shape and bool((one.detach() == other.detach()).all()))


def _beside_minibatches(message: Sample | Factor) -> float | Tensor:
    scale = message.scale
    for plate in message.plates:
        if plate.subsample is not None and plate.size is not None and plate.batch:
            scale = scale / (plate.size / plate.batch)
    return scale if isinstance(scale, Tensor) else float(scale)
