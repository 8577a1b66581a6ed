"""Whether a plate's elements are independent: some are changed, and the densities of the others have to stay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from varigrad.distributions.finite_support import index_in
from varigrad.language.messages import Plate, Sample
from varigrad.objectives.checks.replays import FAILURES, Again, Collect, listed_values, same, scattered_values, term_key
from varigrad.objectives.run_record import RunRecord, Vectorization
from varigrad.terms.term import Term


def mixed_plates(
    perform: Again,
    collect: Collect,
    run: RunRecord,
    vectorization: Vectorization,
    known: Mapping[str, frozenset[str]] | None = None,
) -> dict[str, frozenset[str]]:
    """Plates whose elements are not independent after all, by site.

    A tensor operation inside a plate may reach across its elements (a sum, a flip, batch normalisation), and no
    provenance shows it. So some elements of each site are changed, with every other choice held, and the densities of
    the other elements have to stay what they were: for every pair of elements, with several values in the others.

    Args:
        known: plates that are known to be mixed, by site; they are not looked at again.
    """
    if not open_plates(run, known or {}):
        return {}
    vectorization = vectorization.plain
    values = {name: draw.value.detach() for name, draw in run.draws.items()}
    before = {term_key(t): t for t in collect(perform(vectorization, run, values), vectorization)}
    found: dict[str, frozenset[str]] = {}
    for message, plate in open_plates(run, known or {}):
        if _mixes(perform, collect, vectorization, run, message, plate, values, before):
            found[message.name] = found.get(message.name, frozenset()) | {plate.name}
    return found


def open_plates(run: RunRecord, known: Mapping[str, frozenset[str]]) -> list[tuple[Sample, Plate]]:
    """Sites whose costs are taken element by element along a plate, as far as is known."""
    scored = {name for name, choice in run.choices.items() if choice.estimator.needs.cost}
    return [
        (message, plate)
        for message, upstream in ((s.message, s.upstream) for s in run.guide)
        # What mixes a site mixes those that it is drawn from, too.
        if isinstance(message, Sample) and (message.name in scored or any(t.site in scored for t in upstream))
        for plate in message.plates
        if plate.dim is not None and (plate.batch or 2) >= 2 and plate.name not in known.get(message.name, ())
    ]


def moves_anywhere(
    perform: Again, collect: Collect, run: RunRecord, vectorization: Vectorization, known: Mapping[str, frozenset[str]]
) -> dict[str, list[str]]:
    """`plate -> sites` where elements of all the sites at once were changed, and the density of others moved.

    The same question as `mixed_plates` for all sites together, at a fraction of the runs.
    """
    vectorization = vectorization.plain
    groups: dict[str, list[tuple[Sample, Plate]]] = {}
    for message, plate in open_plates(run, known):
        groups.setdefault(plate.name, []).append((message, plate))
    if not groups:
        return {}
    generator = torch.Generator().manual_seed(1)
    drawn = {name: draw.value.detach() for name, draw in run.draws.items()}
    apart = {m.name: scattered_values(m, run, generator) for group in groups.values() for m, _ in group}
    found: dict[str, list[str]] = {}
    for values in (drawn, {**drawn, **apart}):
        before = {term_key(t): t for t in collect(perform(vectorization, run, values), vectorization)}
        for name, group in groups.items():
            plate = group[0][1]
            if name in found or plate.dim is None:
                continue
            message = group[0][0]
            size = values[message.name].shape[plate.dim - len(message.distribution.event_shape)]
            for changed in _patterns(size):
                others = {m.name: _changed(m, values[m.name], plate.dim, changed) for m, _ in group}
                after = collect(perform(vectorization, run, {**values, **others}), vectorization)
                if any(_moved(before.get(term_key(t)), t, plate, changed) for t in after):
                    found[name] = [m.name for m, _ in group]
                    break
    return found


def _mixes(
    perform: Again,
    collect: Collect,
    vectorization: Vectorization,
    run: RunRecord,
    message: Sample,
    plate: Plate,
    values: dict[str, Tensor],
    before: dict[tuple[str, int, bool], Term],
) -> bool:
    """Whether some density in the plate follows other elements of the site than its own."""
    assert plate.dim is not None
    generator = torch.Generator().manual_seed(0)
    value = values[message.name]
    size = value.shape[plate.dim - len(message.distribution.event_shape)]
    # A product may be zero, and a sum the same, whatever one changes: so change other values than the drawn, too.
    starts = [value]
    support = listed_values(message)
    if support is not None:
        event = support.dim() - 1
        starts += [support[i].expand(value.shape[: value.dim() - event] + support.shape[1:]) for i in (0, -1)]
        starts.append(scattered_values(message, run, generator))
    for start in starts:
        try:
            if start is not value:
                known = collect(perform(vectorization, run, {**values, message.name: start}), vectorization)
                before = {term_key(t): t for t in known}
            for changed in _patterns(size):
                other = _changed(message, start, plate.dim, changed)
                after = collect(perform(vectorization, run, {**values, message.name: other}), vectorization)
                if any(_moved(before.get(term_key(t)), t, plate, changed) for t in after):
                    return True
        except FAILURES:
            if start is value:  # values that are never drawn may be more than a program can take
                return True
    return False


SINGLY = 8
"""Plates up to this size have their elements changed one at a time."""


def _patterns(size: int) -> Iterable[Tensor]:
    """Masks `[size]` of elements to change: for any two elements, some mask changes the first and leaves the second."""
    index = torch.arange(size)
    if size <= SINGLY:
        return [index == i for i in range(size)]
    bits = [(index >> b) % 2 == 1 for b in range((size - 1).bit_length())]
    return [*bits, *[~b for b in bits]]


def _changed(message: Sample, value: Tensor, dim: int, changed: Tensor) -> Tensor:
    """The value with some elements along a plate, `[size]`, replaced."""
    axis = dim - len(message.distribution.event_shape)
    support = listed_values(message)
    if support is not None:
        # The next value of the support, so that it is sure to be another one.
        other = support[(index_in(support, value) + 1) % len(support)]
    else:
        other = message.distribution.sample()
    shape = [1] * value.dim()
    shape[axis] = value.shape[axis]
    return torch.where(changed.to(value.device).reshape(shape), other, value)


def _moved(before: Term | None, after: Term, plate: Plate, changed: Tensor) -> bool:
    """Whether the density of an element that was left alone has changed."""
    if before is None or before.log_prob.shape != after.log_prob.shape:
        return True
    if plate.name not in {p.name for p in after.plates}:
        return False
    assert plate.dim is not None
    left = (~changed).nonzero()[:, 0].to(after.log_prob.device)
    a, b = before.log_prob.index_select(plate.dim, left), after.log_prob.index_select(plate.dim, left)
    return not same(a, b)
