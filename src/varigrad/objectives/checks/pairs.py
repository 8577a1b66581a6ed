"""Checks a site of the guide against the model's site of the same name: shapes, plates and supports."""

from __future__ import annotations

import math
from collections.abc import Sequence

from varigrad.distributions.delta import Delta
from varigrad.errors import ShapeError, SupportError
from varigrad.language.messages import Sample
from varigrad.objectives.checks.sites import example_of, in_support, is_unchecked, table_of
from varigrad.objectives.support_intervals import interval_of
from varigrad.shapes import broadcasts, join
from varigrad.user_warnings import warn_user


class SupportWarning(UserWarning):
    """A guide cannot reach all values that the model allows."""


def _without_leading_ones(shape: Sequence[int]) -> Sequence[int]:
    while shape and shape[0] == 1:
        shape = shape[1:]
    return shape


def check_pair(q: Sample, p: Sample, guide: dict[str, Sample], model: dict[str, Sample]) -> None:
    """Check that a site has equal shapes and plates in guide and model, and that the model allows the guide's draws."""
    name = q.name
    q_event, p_event = tuple(q.distribution.event_shape), tuple(p.distribution.event_shape)
    if len(q_event) != len(p_event):
        raise ShapeError(
            f"has event dims {len(q_event)} in the guide and {len(p_event)} in the model{table_of(guide, model)}",
            site=name,
            because="their log-densities would be summed over different dimensions",
            try_=".to_event(n) in one of them",
        )
    if q_event != p_event:
        raise ShapeError(
            f"has event shape {q_event} in the guide and {p_event} in the model{table_of(guide, model)}", site=name
        )
    assert q.value is not None
    batch = tuple(q.value.shape[: q.value.dim() - len(q_event)])
    own, given = _without_leading_ones(p.distribution.batch_shape), _without_leading_ones(batch)
    if not broadcasts(own, given) and not broadcasts(given, own):
        raise ShapeError(
            f"has batch shape {batch} in the guide and {tuple(p.distribution.batch_shape)} in the model"
            f"{table_of(guide, model)}",
            site=name,
            try_="the same plates in both",
        )
    if join(p.distribution.batch_shape, batch).numel() > math.prod(batch):
        raise ShapeError(
            f"the guide draws batch shape {batch}, the model has {tuple(p.distribution.batch_shape)}"
            f"{table_of(guide, model)}",
            site=name,
            because="one draw would be counted several times",
            try_="the same plates in both",
        )
    if _named(q) != _named(p):
        raise ShapeError(
            f"is in plates {_named(q) or 'none'} in the guide and {_named(p) or 'none'} in the model", site=name
        )
    if isinstance(q.distribution, Delta):
        ok = in_support(p.distribution, q.value.expand(batch + q_event))
    else:
        ok = in_support(p.distribution, q.value)
    if ok is not None and not bool(ok.all()):
        raise SupportError(
            f"the guide ({type(q.distribution).__name__}) draws values outside the model's support "
            f"({type(p.distribution).__name__}), such as {example_of(q.value, ~ok)}",
            site=name,
            because="the bound is then minus infinity",
            try_="a guide distribution on the same support",
        )
    _check_reach(q, p)


def _check_reach(q: Sample, p: Sample) -> None:
    """Compare the two supports, beyond the values that happened to be drawn."""
    ours, theirs = interval_of(q.distribution), interval_of(p.distribution)
    if ours is None or theirs is None:
        return
    families = f"the guide's {type(q.distribution).__name__} and the model's {type(p.distribution).__name__}"
    if ours.discrete is not theirs.discrete:
        raise SupportError(
            f"of {families} one is discrete and the other continuous",
            site=q.name,
            because="a mass and a density cannot be compared",
            try_="a guide distribution of the model's kind",
        )
    try:
        wider = bool((ours.low < theirs.low).any() or (ours.high > theirs.high).any())
        narrower = bool((ours.low > theirs.low).any() or (ours.high < theirs.high).any())
    except RuntimeError:  # bounds that do not broadcast: shapes have been compared already
        return
    if wider and not is_unchecked(p.distribution):
        raise SupportError(
            f"the guide ({type(q.distribution).__name__}) can draw values outside the model's support "
            f"({type(p.distribution).__name__}): {ours} against {theirs}",
            site=q.name,
            because="the bound is then minus infinity",
            try_="a guide distribution on the same support",
        )
    if narrower:
        warn_user(
            f"{q.name!r}: of {families} the guide's cannot reach all values: {ours} against {theirs}. What the "
            "posterior has outside is lost. Try: a guide distribution on the same support",
            SupportWarning,
        )


def _named(message: Sample) -> tuple[str, ...]:
    return tuple(sorted(p.name for p in message.plates))
