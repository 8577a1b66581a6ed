"""Find out what a program is made of, and whether its particles and alternatives can run side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from varigrad.errors import VarigradError
from varigrad.language.messages import Sample
from varigrad.objectives.run import Layout, LayoutChanged, Pass
from varigrad.terms.term import Term

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


def failure_side_by_side(
    perform: Callable[[Layout, Pass | None, dict[str, Tensor]], Pass], collect: Collect, layout: Layout
) -> str | None:
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
