"""Find out what a program is made of, and whether its particles and alternatives can run side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from varigrad.errors import VarigradError
from varigrad.language.messages import Plate, Sample
from varigrad.objectives.run import Layout, LayoutChanged, Pass
from varigrad.terms.term import Term

Again = Callable[[Layout, Pass | None, dict[str, Tensor]], Pass]
"""Runs the programs once more with a layout: like another run (its minibatches), with some values forced."""

Collect = Callable[[Pass, Layout], list[Term]]


def layout_of(run: Pass, particles: int) -> Layout:
    """The layout that an exploring run calls for."""
    statements = [*run.guide, *run.model]
    dims = max((-p.dim for s in statements for p in s.message.plates if p.dim is not None), default=0)
    lanes: dict[str, tuple[int, ...]] = {}
    start = 1
    for name, choice in run.choices.items():
        count = choice.estimator.alternatives(run.draws[name].distribution)
        if count:
            lanes[name] = tuple(range(start, start + count))
            start += count
    return Layout(dims, particles, lanes, tuple(run.draws))


def failure_side_by_side(perform: Again, collect: Collect, layout: Layout) -> str | None:
    """Why particles or alternatives cannot run side by side; None if they can.

    Runs them side by side, then replays the values of some lanes and particles one by one: every log-density has to
    come out the same. User code that sums, indexes or branches over the leading dimension does not survive this.
    """
    try:
        wide = perform(layout, None, {})
        terms = collect(wide, layout)
    except LayoutChanged as changed:
        return f"the sites or plates change from run to run ({changed})"
    except VarigradError as error:
        return str(error)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        return f"the program does not broadcast over leading dimensions: {type(error).__name__}: {error}"
    narrow = replace(layout, particles=1, lanes={})
    for lane, particle in _probed(layout):
        values = {name: _slice(wide, name, layout, lane, particle) for name in wide.draws}
        try:
            single = collect(perform(narrow, wide, values), narrow)
        except (LayoutChanged, VarigradError, RuntimeError, ValueError, IndexError, TypeError):
            return "a single lane's values do not run by themselves"
        together = {(t.name, t.sign): _entry(t.log_prob, layout, lane, particle) for t in terms}
        for term in single:
            other = together.get((term.name, term.sign))
            if other is None or not _same(term.log_prob, other):
                return f"the density of {term.name!r} mixes particles or alternatives"
    return None


def mixed_plates(perform: Again, collect: Collect, run: Pass, layout: Layout) -> dict[str, frozenset[str]]:
    """Plates whose elements are not independent after all, by site.

    A tensor operation inside a plate may reach across its elements (a sum, a flip, batch normalisation), and no
    provenance shows it. So some elements of each site are changed, with every other choice held, and the densities of
    the other elements have to stay what they were.
    """
    layout = Layout(plates=layout.plates, order=layout.order)
    values = {name: draw.value.detach() for name, draw in run.draws.items()}
    before = {(t.name, t.sign): t for t in collect(perform(layout, run, values), layout)}
    found: dict[str, frozenset[str]] = {}
    for statement in run.guide:
        message = statement.message
        if not isinstance(message, Sample) or not run.choices[message.name].estimator.needs_cost:
            continue
        for plate in message.plates:
            if plate.dim is None or (plate.batch or 2) < 2:
                continue
            other, changed = _changed(message, values[message.name], plate.dim)
            try:
                after = collect(perform(layout, run, {**values, message.name: other}), layout)
                mixed = any(_moved(before.get((t.name, t.sign)), t, plate, changed) for t in after)
            except (VarigradError, LayoutChanged, RuntimeError, ValueError, IndexError, TypeError):
                mixed = True
            if mixed:
                found[message.name] = found.get(message.name, frozenset()) | {plate.name}
    return found


def _changed(message: Sample, value: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The value with every other element along a plate replaced, and which those are, `[size]`."""
    event = len(message.distribution.event_shape)
    axis = dim - event
    size = value.shape[axis]
    changed = torch.arange(size) % 2 == 0
    distribution = message.distribution
    if distribution.has_enumerate_support:
        support = distribution.enumerate_support(expand=True)
        # The next value of the support, so that it is sure to be another one.
        at = (support == value).reshape(*support.shape[: support.dim() - event], -1).all(-1).to(torch.int64).argmax(0)
        following = ((at + 1) % len(support)).reshape(1, *at.shape, *(1,) * event).expand(1, *support.shape[1:])
        other = support.gather(0, following).squeeze(0)
    else:
        other = distribution.sample()
    shape = [1] * value.dim()
    shape[axis] = size
    return torch.where(changed.reshape(shape), other, value), changed


def _moved(before: Term | None, after: Term, plate: Plate, changed: Tensor) -> bool:
    """Whether the density of an element that was left alone has changed."""
    if before is None or before.log_prob.shape != after.log_prob.shape:
        return True
    if plate.name not in {p.name for p in after.plates}:
        return False
    assert plate.dim is not None
    left = (~changed).nonzero()[:, 0]
    a, b = before.log_prob.index_select(plate.dim, left), after.log_prob.index_select(plate.dim, left)
    return not _same(a, b)


def _probed(layout: Layout) -> Iterable[tuple[int, int]]:
    lanes = sorted({0, 1, layout.count // 2, layout.count - 1} & set(range(layout.count)))
    particles = sorted({0, layout.particles - 1})
    return [(lane, particle) for lane in lanes for particle in particles]


def _slice(run: Pass, name: str, layout: Layout, lane: int, particle: int) -> Tensor:
    message = next(s.message for s in run.guide if s.message.name == name)
    assert isinstance(message, Sample)
    value = run.draws[name].value.detach()
    return _entry(value, layout, lane, particle, len(message.distribution.event_shape))


def _entry(value: Tensor, layout: Layout, lane: int, particle: int, event: int = 0) -> Tensor:
    """One lane of one particle: `[*plates, *event]`."""
    batch = value.dim() - event
    if batch > layout.dims:
        value = value[lane]
        batch -= 1
    if layout.particles > 1 and batch == layout.dims:
        value = value[particle if value.shape[0] > 1 else 0]
    return value


def _same(a: Tensor, b: Tensor) -> bool:
    if a.numel() != b.numel():
        try:
            a, b = torch.broadcast_tensors(a, b)
        except RuntimeError:
            return False
    tolerance = 1e-9 if a.dtype == torch.float64 else 1e-3
    return bool(torch.isclose(a.reshape(-1), b.reshape(-1), rtol=tolerance, atol=tolerance, equal_nan=True).all())
