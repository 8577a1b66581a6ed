"""Finds the choices that reach a jump of a log-density, as its value or by its parameters, in an exploring run.

Tracking records a program's own comparisons and roundings. A log-density is computed later, from plain tensors, so this
module looks for its comparisons: by a table for known families (`distributions.support_edges`), and by computing the
density once more, from tracked tensors, for classes that are not known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from varigrad.distributions.support_edges import Edges, edges_of, of_support, within
from varigrad.distributions.tensor_walk import is_known
from varigrad.errors import SiteError
from varigrad.language.messages import Factor, Forward, Handler, Message, Sample
from varigrad.language.runtime import run
from varigrad.objectives.checks.own_families import draw_steps
from varigrad.objectives.checks.sites import is_unchecked
from varigrad.terms.provenance import Escapes, get_blocked, get_provenance, untracked


@dataclass(frozen=True, eq=False)
class Marked:
    """A sample of an exploring run whose tensors still carry their provenance.

    Attributes:
        message: with its value.
        guide: whether the guide makes it.
        pathwise: whether the value carries a derivative.
    """

    message: Sample
    guide: bool = False
    pathwise: bool = True


def note_jumps(statements: list[Marked], escapes: Escapes) -> None:
    """Note in `escapes` what reaches a jump of a log-density, and what a log-density has no gradient to."""
    drawn = {s.message.name: s.message for s in statements if s.guide}
    for statement in statements:
        if is_known(statement.message.distribution):
            with _unheard(escapes):
                reached = list(_reached(statement, drawn))
            escapes.nondifferentiable |= get_provenance(*reached)
        else:
            _look_inside(statement, escapes)


def _reached(statement: Marked, drawn: Mapping[str, Sample]) -> Iterator[Tensor]:
    """The tensors through which a known log-density jumps."""
    message = statement.message
    value = message.value
    assert value is not None
    edges = edges_of(message.distribution)
    if statement.guide and statement.pathwise:
        # The draw moves with the ends of its support; what it can be carried over lies between them. A relaxed choice
        # lies between the values of a discrete family, where its density is continued.
        if edges.inside:
            yield from edges.movers
            if not _is_discrete(message):
                yield value
        return
    yield from edges.moving
    if statement.guide or (message.name in drawn and _cannot_leave(message, edges, drawn[message.name])):
        return
    if edges.inside or edges.ends:
        yield value


def _cannot_leave(message: Sample, edges: Edges, draw: Sample) -> bool:
    """Whether the guide's draws of a site stay inside the model's support, where there are no jumps."""
    if _is_discrete(draw):
        return True  # it is not moved by small steps
    if edges.inside:
        return False
    # Where values are checked, a guide that draws outside is an error by itself.
    return not is_unchecked(message.distribution) or within(edges_of(draw.distribution), edges)


def _is_discrete(draw: Sample) -> bool:
    try:
        support = draw.distribution.support
    except (NotImplementedError, AttributeError):
        return False
    return support is not None and bool(support.is_discrete)


def _look_inside(statement: Marked, escapes: Escapes) -> None:
    """Take a log-density of tracked tensors, so that what it compares and detaches is noted."""
    message = statement.message
    value = message.value
    assert value is not None
    if statement.guide and not statement.pathwise:
        value = untracked(value)
    if statement.guide and statement.pathwise and not hasattr(message.distribution, "score_part"):
        with _unheard(escapes):
            if draw_steps(message.distribution, value):
                own = frozenset(t for t in get_provenance(value) if t.site == message.name)
                escapes.nondifferentiable |= own
    with _unheard(escapes):
        try:
            edges = of_support(message.distribution)
        except Exception:
            edges = Edges()
    escapes.nondifferentiable |= get_provenance(*edges.moving)
    left = escapes.provenance
    try:
        log_prob = run(message.distribution.log_prob, (_refusing(message.name),), (value,), {})
    except StatementInDensity:
        raise
    except Exception:
        return
    finally:
        escapes.provenance = left
    escapes.blocked |= get_blocked(log_prob)


class StatementInDensity(SiteError):
    """A log-density makes a statement, which belongs to no run."""


def _refusing(site: str) -> Handler:
    """A handler for the log-density of a site, which refuses random choices and factors."""

    def handler(message: Message, forward: Forward) -> Message:
        if isinstance(message, (Sample, Factor)):
            raise StatementInDensity(
                f"the log-density of its distribution makes the statement {message.name!r}",
                site=site,
                because="log-densities are evaluated after the programs have run, so its term would be lost",
                try_="the statement in the program, and its value as an argument of the distribution",
            )
        return forward(message)

    return handler


@contextmanager
def _unheard(escapes: Escapes) -> Iterator[None]:
    """Inside, nothing is noted: the checks ask for values, not the program."""
    before = escapes.active, escapes.watch
    escapes.active = escapes.watch = False
    try:
        yield
    finally:
        escapes.active, escapes.watch = before
