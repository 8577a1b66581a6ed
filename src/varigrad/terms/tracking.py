"""Which random choices each statement of one run depends on.

A `Token` names a site and the plates whose elements have been mixed since it was drawn. Inside a plate, element `n`
of a cost depends on element `n` of a site only, unless the dependency went through a statement outside the plate
(a global latent that reads the sum of a plate's sites, say) or left torch: then it depends on all of them, the plate
is *crossed*, and the cost must not be taken per element.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from varigrad.distributions.parts import replace_tensors, tensors_of
from varigrad.language.messages import Factor, Plate, Sample, evolve
from varigrad.terms.provenance import (
    NOTHING,
    Escapes,
    Provenance,
    Tracked,
    get_provenance,
    track_provenance,
    untracked,
)


class Token(NamedTuple):
    """A random choice that something depends on."""

    site: str
    crossed: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class Statement:
    """A `Sample` or `Factor` of a run, with plain tensors, and everything upstream of its log-density."""

    message: Sample | Factor
    upstream: Provenance
    given: Provenance = NOTHING
    """The part of `upstream` that does not come through the site's own value."""
    opaque: bool = False
    """Whether the distribution is of a class that may hide tensors: its density has to be tracked itself."""


class Tracker:
    """Follows the tracked sites of one run of guide and model."""

    def __init__(self, watch: bool = False) -> None:
        self.escapes = Escapes(watch)
        self.plates: dict[str, frozenset[str]] = {}

    def examine(self, message: Sample | Factor) -> Statement:
        """The statement with its provenance read and taken off."""
        if not self.plates:
            return Statement(message, NOTHING)
        escaped = self.escapes.provenance
        upstream = get_provenance(message.mask, message.scale, *[p.subsample for p in message.plates])
        if escaped:
            upstream |= frozenset(Token(t.site, self.plates[t.site]) for t in escaped)
        changes: dict[str, object] = {}
        opaque, through_value = False, NOTHING
        if isinstance(message, Factor):
            upstream |= get_provenance(message.log_factor)
            changes["log_factor"] = untracked(message.log_factor)
        else:
            tensors, complete = tensors_of(message.distribution)
            inside, opaque = get_provenance(*tensors), not complete
            if inside:
                upstream |= inside
                if not opaque:
                    changes["distribution"] = replace_tensors(message.distribution, untracked)
            if type(message.value) is Tracked:
                through_value = message.value._provenance
                changes["value"] = untracked(message.value)
        if type(message.mask) is Tracked:
            changes["mask"] = untracked(message.mask)
        if type(message.scale) is Tracked:
            changes["scale"] = untracked(message.scale)
        if any(type(p.subsample) is Tracked for p in message.plates):
            changes["plates"] = tuple(evolve(p, subsample=_plain(p.subsample)) for p in message.plates)
        plain = evolve(message, **changes) if changes else message
        given = self._beyond(upstream, message.plates)
        through = self._beyond(through_value, message.plates)
        return Statement(plain, given | through if through else given, given, opaque)

    def mark(self, value: Tensor, site: Statement, own: bool) -> Tensor:
        """A drawn value that carries what its distribution depends on, and itself if it is to be followed.

        Provenance picked up while drawing (from a distribution that the engine cannot take apart) is kept.
        """
        name, plates = site.message.name, site.message.plates
        provenance = site.upstream
        if own:
            self.plates[name] = frozenset([p.name for p in plates if p.dim is not None])
            provenance = provenance | {Token(name)}
        if not provenance:
            return value
        return track_provenance(value, provenance, self.escapes)

    def finish(self) -> None:
        """Stop listening: what follows is differentiation."""
        self.escapes.active = False

    def _beyond(self, upstream: Provenance, plates: tuple[Plate, ...]) -> Provenance:
        """Upstream of a statement in `plates`: plates of a source that the statement is not in have been crossed."""
        if not upstream:
            return upstream
        here = {p.name for p in plates}
        if all(self.plates[t.site] <= here or self.plates[t.site] <= t.crossed for t in upstream):
            return upstream
        return frozenset(Token(t.site, t.crossed | (self.plates[t.site] - here)) for t in upstream)


def by_site(upstream: Provenance) -> Mapping[str, frozenset[str]]:
    """`site -> crossed plates`, over all ways in which the site is upstream."""
    sites: dict[str, frozenset[str]] = {}
    for token in upstream:
        sites[token.site] = sites.get(token.site, frozenset()) | token.crossed
    return sites


def _plain(value: object) -> object:
    return untracked(value) if type(value) is Tracked else value
