"""Tests by changing values whether plate elements are independent, and particles and alternatives can be vectorised."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from varigrad.distributions.delta import Delta
from varigrad.distributions.independent_utils import index_in, inner_of, listed
from varigrad.errors import VarigradError
from varigrad.language.messages import Factor, Plate, Sample
from varigrad.objectives.run_record import RunRecord, Vectorization, VectorizationChanged
from varigrad.terms.term import Term

Again = Callable[[Vectorization, RunRecord | None, dict[str, Tensor]], RunRecord]
"""Runs the programs once more with a vectorization: like another run (its minibatches), with some values forced."""

Collect = Callable[[RunRecord, Vectorization], list[Term]]

FAILURES = (Exception,)
"""What a program may raise at values, or in shapes, that it was not made for: any error, its own classes included."""


def vectorization_of(run: RunRecord, particles: int) -> Vectorization:
    """The vectorization that an exploring run calls for."""
    statements = [*run.guide, *run.model]
    dims = max((-p.dim for s in statements for p in s.message.plates if p.dim is not None), default=0)
    lanes: dict[str, tuple[int, ...]] = {}
    start = 1
    for name, choice in run.choices.items():
        count = choice.estimator.alternatives(run.draws[name].distribution)
        if count:
            lanes[name] = tuple(range(start, start + count))
            start += count
    return Vectorization(dims, particles, lanes, tuple(run.draws), guarded=run.tracker.escapes.swapped)


def failure_side_by_side(
    perform: Again, collect: Collect, vectorization: Vectorization, *, thorough: bool = True, others: int | None = None
) -> str | None:
    """Why particles or alternatives cannot run side by side; None if they can.

    Runs them side by side, then replays the values of some lanes and particles one by one: every log-density has to
    come out the same. User code that sums, indexes or branches over the leading dimension does not survive this.

    Args:
        thorough: False at values that the program may never see: an error there is no reason, and is raised.
        others: at how many other values than the drawn ones to look; None: as many as the size of the draws allows.

    Raises:
        Exception: what the program raises, unless the look is thorough.
    """
    generator = torch.Generator().manual_seed(0)
    ends = [(0, vectorization.particles - 1), (vectorization.count - 1, 0)]
    try:
        drawn = perform(vectorization, None, {})
        names = [s.message.name for s in drawn.guide if _finite(s.message) is not None]
        small = sum(drawn.draws[name].value.numel() for name in names) <= 256
        mixed = _mixed_density(perform, collect, vectorization, drawn, _probed(vectorization) if thorough else ends)
        if mixed is not None:
            return mixed
    except Exception as error:
        if not thorough:
            raise
        return _as_reason(error)
    # What is drawn may be the same in all lanes, and hide that they are mixed: so look at other values, too.
    count = (8 if small and thorough else 2) if others is None else others
    for _ in range(count * bool(names)):
        forced = {
            s.message.name: _scattered(s.message, drawn, generator) for s in drawn.guide if not _certain(s.message)
        }
        try:
            wide = perform(vectorization, drawn, forced)
            mixed = _mixed_density(perform, collect, vectorization, wide, ends)
        except FAILURES:
            return None  # values that are never drawn may be more than a program can take
        if mixed is not None:
            return mixed
    return None


def _as_reason(error: Exception) -> str:
    """The reason for a loop in what an error says; a program's own error comes again where it runs by itself."""
    if isinstance(error, VectorizationChanged):
        return f"the sites or plates change from run to run ({error})"
    if isinstance(error, VarigradError):
        return str(error)
    return f"the program does not broadcast over leading dimensions: {type(error).__name__}: {error}"


def _mixed_density(
    perform: Again, collect: Collect, vectorization: Vectorization, wide: RunRecord, probed: Iterable[tuple[int, int]]
) -> str | None:
    terms = collect(wide, vectorization)
    narrow = replace(vectorization, particles=1, lanes={})
    # The value of a point mass follows from others. Computed in another shape it is rounded in another way, and the
    # density of the value held would be zero: so it is computed anew, and compared itself.
    certain = [s.message.name for s in wide.guide if _certain(s.message)]
    for lane, particle in probed:
        values = {name: _slice(wide, name, vectorization, lane, particle) for name in wide.draws}
        follows = {name: values.pop(name) for name in certain}
        try:
            run = perform(narrow, wide, values)
            single = collect(run, narrow)
        except FAILURES:
            return "a single lane's values do not run by themselves"
        for name, value in follows.items():
            if not same(run.draws[name].value.detach(), value):
                return f"the value of {name!r} mixes particles or alternatives"
        together = {_key(t): _entry(t.log_prob, vectorization, lane, particle) for t in terms}
        for term in single:
            other = together.get(_key(term))
            if other is None or not same(term.log_prob, other):
                return f"the density of {term.name!r} mixes particles or alternatives"
    return None


def _key(term: Term) -> tuple[str, int, bool]:
    """A key that tells a term from others: a divergence in closed form has the name and sign of its site's density."""
    return term.name, term.sign, term.latent


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
    vectorization = Vectorization(plates=vectorization.plates, order=vectorization.order, guarded=vectorization.guarded)
    values = {name: draw.value.detach() for name, draw in run.draws.items()}
    before = {_key(t): t for t in collect(perform(vectorization, run, values), vectorization)}
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
    vectorization = Vectorization(plates=vectorization.plates, order=vectorization.order, guarded=vectorization.guarded)
    groups: dict[str, list[tuple[Sample, Plate]]] = {}
    for message, plate in open_plates(run, known):
        groups.setdefault(plate.name, []).append((message, plate))
    if not groups:
        return {}
    generator = torch.Generator().manual_seed(1)
    drawn = {name: draw.value.detach() for name, draw in run.draws.items()}
    apart = {m.name: _scattered(m, run, generator) for group in groups.values() for m, _ in group}
    found: dict[str, list[str]] = {}
    for values in (drawn, {**drawn, **apart}):
        before = {_key(t): t for t in collect(perform(vectorization, run, values), vectorization)}
        for name, group in groups.items():
            plate = group[0][1]
            if name in found or plate.dim is None:
                continue
            message = group[0][0]
            size = values[message.name].shape[plate.dim - len(message.distribution.event_shape)]
            for changed in _patterns(size):
                others = {m.name: _changed(m, values[m.name], plate.dim, changed) for m, _ in group}
                after = collect(perform(vectorization, run, {**values, **others}), vectorization)
                if any(_moved(before.get(_key(t)), t, plate, changed) for t in after):
                    found[name] = [m.name for m, _ in group]
                    break
    return found


def site_values(run: RunRecord, vectorization: Vectorization) -> dict[str, Tensor]:
    """What a run drew in its first lane and particle, by site: `[*plates, *event]`."""
    return {name: _slice(run, name, vectorization, 0, 0) for name in run.draws}


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
    support = _finite(message)
    if support is not None:
        event = support.dim() - 1
        starts += [support[i].expand(value.shape[: value.dim() - event] + support.shape[1:]) for i in (0, -1)]
        starts.append(_scattered(message, run, generator))
    for start in starts:
        try:
            if start is not value:
                known = collect(perform(vectorization, run, {**values, message.name: start}), vectorization)
                before = {_key(t): t for t in known}
            for changed in _patterns(size):
                other = _changed(message, start, plate.dim, changed)
                after = collect(perform(vectorization, run, {**values, message.name: other}), vectorization)
                if any(_moved(before.get(_key(t)), t, plate, changed) for t in after):
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


def _finite(message: Sample | Factor) -> Tensor | None:
    """All values of one choice, `[values, *event]` (an event of independent choices: of each); None if not listed."""
    return listed(inner_of(message.distribution)[0]) if isinstance(message, Sample) else None


def _certain(message: Sample | Factor) -> bool:
    """Whether a site is a point mass, whose value follows from other values."""
    return isinstance(message, Sample) and isinstance(inner_of(message.distribution)[0], Delta)


def _scattered(message: Sample | Factor, run: RunRecord, generator: torch.Generator) -> Tensor:
    """Values from all over a finite support, in the shape of the drawn ones; these, where the support is not finite."""
    value = run.draws[message.name].value.detach()
    support = _finite(message)
    if support is None:
        return value
    shape = value.shape[: value.dim() - (support.dim() - 1)]
    index = torch.randint(len(support), shape, generator=generator, device=generator.device)
    return support[index.to(support.device)]


def _changed(message: Sample, value: Tensor, dim: int, changed: Tensor) -> Tensor:
    """The value with some elements along a plate, `[size]`, replaced."""
    axis = dim - len(message.distribution.event_shape)
    support = _finite(message)
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


def _probed(vectorization: Vectorization) -> Iterable[tuple[int, int]]:
    lanes = sorted({0, 1, vectorization.count // 2, vectorization.count - 1} & set(range(vectorization.count)))
    particles = sorted({0, vectorization.particles - 1})
    return [(lane, particle) for lane in lanes for particle in particles]


def _slice(run: RunRecord, name: str, vectorization: Vectorization, lane: int, particle: int) -> Tensor:
    message = next(s.message for s in run.guide if s.message.name == name)
    assert isinstance(message, Sample)
    value = run.draws[name].value.detach()
    # In memory of its own, as it is where it runs by itself: a program may read the whole storage.
    return _entry(value, vectorization, lane, particle, len(message.distribution.event_shape)).clone()


def _entry(value: Tensor, vectorization: Vectorization, lane: int, particle: int, event: int = 0) -> Tensor:
    """One lane of one particle: `[*plates, *event]`."""
    batch = value.dim() - event
    if batch > vectorization.dims:
        value = value[lane]
        batch -= 1
    if vectorization.particles > 1 and batch == vectorization.dims:
        value = value[particle if value.shape[0] > 1 else 0]
    return value


TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3}
"""How far two computations of the same numbers may be apart by rounding; of coarser types, some units of rounding."""


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two log-densities are, up to rounding and broadcasting."""
    if a.numel() != b.numel():
        try:
            a, b = torch.broadcast_tensors(a, b)
        except RuntimeError:
            return False
    if not a.is_floating_point():
        return torch.equal(a.reshape(-1), b.reshape(-1))
    tolerance = TOLERANCES.get(a.dtype) or 32 * torch.finfo(a.dtype).eps
    a, b = a.reshape(-1).double(), b.reshape(-1).double()
    return bool(torch.isclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True).all())
