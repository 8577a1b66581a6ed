"""Terms: the signed log-densities whose sum is the objective."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch import distributions as td

from varigrad.distributions.mixin import filled, masked, unmasked
from varigrad.distributions.multilinear_extension import continued_log_prob
from varigrad.distributions.tensor_walk import replace_tensors
from varigrad.errors import PlateError, ShapeError
from varigrad.language.messages import Factor, Plate, Sample
from varigrad.language.runtime import full_size, plate_shape
from varigrad.shapes import join
from varigrad.terms.dependency_tracker import Statement, by_site
from varigrad.terms.marginal import JointDensity, Slots, summed_out
from varigrad.terms.provenance import NOTHING, Escapes, Provenance, get_provenance, untracked

_NO_SITES: Mapping[str, frozenset[str]] = MappingProxyType({})


@dataclass(frozen=True, eq=False, init=False)
class Term:
    """One summand of the objective.

    Attributes:
        name: its site.
        sign: +1 for the model, -1 for the guide.
        log_prob: `[lanes?, *plates]`, scaled and masked, without the sign.
        plates: the plates it is in.
        upstream: `site -> plates with cross-element dependence on the way`, for every tracked choice it depends on.
        raw: `[lanes?, *plates]`, the log-density before scaling and masking; what the draw really follows.
        latent: whether it belongs to a random choice that the guide makes.
        parts: where choices of the model have been summed out, the statements whose densities it joins.
    """

    name: str
    sign: int
    log_prob: Tensor
    plates: tuple[Plate, ...]
    upstream: Mapping[str, frozenset[str]]
    raw: Tensor
    latent: bool
    parts: tuple[str, ...] = ()

    def __init__(
        self,
        name: str,
        sign: int,
        log_prob: Tensor,
        plates: tuple[Plate, ...],
        upstream: Mapping[str, frozenset[str]],
        raw: Tensor,
        latent: bool,
        parts: tuple[str, ...] = (),
    ) -> None:
        # At once, as messages are filled (`language/messages.py`).
        self.__dict__.update(
            name=name,
            sign=sign,
            log_prob=log_prob,
            plates=plates,
            upstream=upstream,
            raw=raw,
            latent=latent,
            parts=parts,
        )

    def total(self, dims: int) -> Tensor:
        """The detached sum over all plates, `[]`, or `[lanes, 1, ..., 1]` with `dims` plate dimensions."""
        known = self.__dict__.get("_total")
        if known is None:
            density = self.log_prob.detach()
            if density.dim() > dims:
                known = density.sum(list(range(-dims, 0)), keepdim=True) if dims else density
            else:
                known = density.sum() if density.dim() else density
            self.__dict__["_total"] = known  # computed once, though several sites' costs contain it
        return known


def log_densities(
    guide: Iterable[Statement],
    model: Iterable[Statement],
    *,
    dims: int,
    fixed: Iterable[str],
    escapes: Escapes,
    relaxed: Iterable[str] = (),
    marginal: Slots | None = None,
) -> tuple[list[Term], list[JointDensity]]:
    """The log-densities of one run, each computed once, here: those that read no marginal site, and those that do.

    Args:
        guide, model: the statements of the two programs, in order.
        dims: number of batch dimensions that belong to plates; one more, to their left, may carry lanes.
        fixed: guide sites whose density is evaluated at parameters held constant (sticking the landing).
        escapes: what left torch during the run.
        relaxed: latent sites whose values may lie between those of their supports.
        marginal: the sites of the model that are summed out, if all of their values are there.

    Raises:
        ShapeError: a log-density has a batch dimension that no plate declares.
        PlateError: a log-density disagrees with a plate's size.
    """
    fixed, relaxed = frozenset(fixed), frozenset(relaxed)
    latent = {s.message.name for s in guide if isinstance(s.message, Sample)}
    terms: list[Term] = []
    densities, leading = [], 1 if marginal is None else 1 + marginal.count
    for sign, statements in ((-1, guide), (1, model)):
        for statement in statements:
            message = statement.message
            hold = sign < 0 and message.name in fixed
            raw, log_prob, upstream = _log_density(statement, hold, message.name in relaxed, escapes)
            upstream = statement.upstream | upstream if upstream else statement.upstream
            sites = by_site(upstream) if upstream else _NO_SITES
            shape = plate_shape(message)
            reads = [site for site in marginal.sites if site in sites] if marginal is not None and sites else ()
            check_batch(message, raw.shape, shape, dims, leading if reads else 1)
            if shape and tuple(raw.shape[-len(shape) :]) != shape:
                full = join(raw.shape, shape)
                raw, log_prob = raw.expand(full), log_prob.expand(full)
            if message.mask is not None:
                own = marginal.sites.get(message.name) if marginal is not None else None
                log_prob = masked(log_prob, message.mask) if own is None else own.masked(log_prob, message.mask)
            if reads:
                densities.append(JointDensity(message, log_prob, raw, tuple(reads), sites))
                continue
            if isinstance(message.scale, Tensor) or message.scale != 1.0:
                log_prob = log_prob * message.scale
            terms.append(Term(message.name, sign, log_prob, message.plates, sites, raw, message.name in latent))
    return terms, densities


def collect(
    guide: Iterable[Statement],
    model: Iterable[Statement],
    *,
    dims: int,
    fixed: Iterable[str],
    escapes: Escapes,
    relaxed: Iterable[str] = (),
    marginal: Slots | None = None,
) -> list[Term]:
    """The terms of one run, as `log_densities` has them, with marginal sites summed out.

    Raises:
        SiteError: sites cannot be summed out.
    """
    terms, densities = log_densities(
        guide, model, dims=dims, fixed=fixed, escapes=escapes, relaxed=relaxed, marginal=marginal
    )
    if marginal is not None and densities:
        for one in summed_out(densities, marginal):
            terms.append(Term(one.name, 1, one.log_prob, one.plates, one.upstream, one.raw, False, one.names))
    return terms


def _log_density(
    statement: Statement, hold: bool, relaxed: bool, escapes: Escapes
) -> tuple[Tensor, Tensor, Provenance]:
    """The density that draws follow, the density that counts (inner masks on), and provenance found on the way."""
    message = statement.message
    if isinstance(message, Factor):
        return message.log_factor, message.log_factor, NOTHING
    distribution: td.Distribution = message.distribution
    if hold:
        distribution = replace_tensors(distribution, Tensor.detach)
    assert message.value is not None
    value = message.value
    if message.mask is not None and message.observed:
        value = filled(distribution, value, message.mask)
    density = continued_log_prob if relaxed else _log_prob
    log_prob = density(distribution, value)
    bare = unmasked(distribution)
    raw = log_prob if bare is distribution else density(bare, value)
    if not statement.opaque:
        return raw, log_prob, NOTHING
    found = get_provenance(log_prob) | escapes.provenance
    return untracked(raw), untracked(log_prob), found


def _log_prob(distribution: td.Distribution, value: Tensor) -> Tensor:
    return distribution.log_prob(value)


def check_batch(
    message: Sample | Factor, batch: torch.Size, plates: tuple[int, ...], dims: int, leading: int = 1
) -> None:
    """Check that every batch dimension of a log-density belongs to a plate (or to the lanes) and has its size.

    Args:
        message: the statement.
        batch: the log-density's shape.
        plates: the shape that the plates around the statement demand.
        dims: number of plate dimensions of the program.
        leading: how many dimensions there may be to the left of them.

    Raises:
        ShapeError: a dimension belongs to no plate.
        PlateError: a dimension has another size than its plate.
    """
    if not batch:
        return
    declared = {p.dim: p for p in message.plates if p.dim is not None}
    for dim in range(-1, -min(len(batch), dims) - 1, -1):
        size = batch[dim]
        if size == 1:
            continue
        plate = declared.get(dim)
        if plate is None:
            raise ShapeError(
                f"log-density has shape {tuple(batch)}, and dim {dim} (size {size}) belongs to no plate",
                site=message.name,
                because="a batch dimension that is not declared independent would be summed without a word",
                try_=f"with plate(name, {size}, dim={dim}), or .to_event(n) if it is one event",
            )
        if plate.batch is not None and plate.batch != size:
            raise PlateError(
                f"site {message.name!r} has size {size} at dim {dim}, the plate has {plate.batch}",
                site=plate.name,
                try_=full_size(message, batch) or f"data and parameters of size {plate.batch} (or 1) at dim {dim}",
            )
    if len(batch) > dims + leading:
        raise ShapeError(
            f"log-density has shape {tuple(batch)}, more dimensions than its plates",
            site=message.name,
            try_="plate(...) for each batch dimension, or .to_event(n)",
        )
