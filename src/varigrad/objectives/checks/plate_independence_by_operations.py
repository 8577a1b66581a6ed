"""Proves from a run's operations that plate elements or lanes stay independent (by `terms/independence`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from varigrad.language.messages import evolve
from varigrad.objectives.run_record import RunRecord, Vectorization
from varigrad.terms.independence.analysis import Follower, Verdict, follow_dimensions
from varigrad.terms.term import Term

MixedPlates = Mapping[str, frozenset[str]]
"""`site -> plates` along which a reader of the site combines elements: the density of one depends on others."""

Followed = Callable[[Vectorization, Follower, bool], RunRecord]
"""Runs the programs while a `Follower` follows dimensions; with plain draws (True), or with lanes side by side."""

UNSEEN = Verdict("unknown", "a run that could not be followed")


@dataclass(frozen=True)
class Structure:
    """The proven plates of each site: those whose elements are mixed, and those whose elements stay apart.

    Attributes:
        mixed, apart: plates whose elements an operation mixes, and those where none does, by site.
        sentences: how they are mixed, by site and plate.
    """

    mixed: dict[str, frozenset[str]] = field(default_factory=dict)
    apart: dict[str, frozenset[str]] = field(default_factory=dict)
    sentences: dict[tuple[str, str], str] = field(default_factory=dict)


def structure_of_plates(
    perform: Followed, collect: Callable[[RunRecord, Vectorization], list[Term]], vectorization: Vectorization
) -> Structure:
    """What the operations of a run with plain draws prove about plates; nothing, if they cannot be followed."""
    plain = vectorization.plain
    found = Structure()
    try:
        with follow_dimensions() as follower:
            verdicts = follower.plates(collect(perform(plain, follower, True), plain))
    except Exception:  # the follower is no part of the program: what it cannot take is left to the numbers
        return found
    for site, plates in verdicts.items():
        for plate, verdict in plates.items():
            if verdict.kind == "mixes":
                found.mixed[site] = found.mixed.get(site, frozenset()) | {plate}
                found.sentences[site, plate] = verdict.sentence()
            elif verdict.apart:
                found.apart[site] = found.apart.get(site, frozenset()) | {plate}
    return found


def structure_of_lanes(
    perform: Followed, collect: Callable[[RunRecord, Vectorization], list[Term]], vectorization: Vectorization
) -> Verdict:
    """Whether a run with particles and alternatives side by side keeps them apart."""
    try:
        with follow_dimensions() as follower:
            run = perform(vectorization, follower, False)
            return follower.lanes(collect(run, vectorization), vectorization.dims, run.tracker.escapes)
    except Exception:
        return UNSEEN


def with_upstream_sites(mixed: MixedPlates, run: RunRecord) -> dict[str, frozenset[str]]:
    """Add mixed plates to every site from which a site with mixed plates is drawn.

    If `b` is drawn from `a`, element by element, and something reads several elements of `b`, then it depends on
    several elements of `a`.
    """
    found = dict(mixed)
    for statement in reversed(run.guide):
        plates = found.get(statement.message.name, frozenset())
        for token in statement.upstream if plates else ():
            found[token.site] = found.get(token.site, frozenset()) | (
                plates & run.tracker.plates.get(token.site, plates)
            )
    return found


def joined_plates(*several: MixedPlates) -> dict[str, frozenset[str]]:
    """Unite several `site -> plates`."""
    sites: Iterable[str] = {site for mixed in several for site in mixed}
    return {site: frozenset().union(*(c.get(site, frozenset()) for c in several)) for site in sites}


def with_mixed_plates(terms: list[Term], mixed: MixedPlates) -> list[Term]:
    """Terms with the dependencies that they would have, had the plates been known to be mixed when the run began."""
    if not mixed:
        return terms
    nothing: frozenset[str] = frozenset()
    ups = [{site: plates | mixed.get(site, nothing) for site, plates in t.upstream.items()} for t in terms]
    return [evolve(term, upstream=upstream) for term, upstream in zip(terms, ups, strict=True)]
