"""Whether lanes and particles are independent: runs side by side are compared with runs one by one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from varigrad.errors import VarigradError
from varigrad.language.messages import Sample
from varigrad.objectives.checks.replays import (
    FAILURES,
    Again,
    Collect,
    is_certain,
    listed_values,
    same,
    scattered_values,
    term_key,
)
from varigrad.objectives.run_record import RunRecord, Vectorization, VectorizationChanged


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
        names = [s.message.name for s in drawn.guide if listed_values(s.message) is not None]
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
            s.message.name: scattered_values(s.message, drawn, generator)
            for s in drawn.guide
            if not is_certain(s.message)
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
    certain = [s.message.name for s in wide.guide if is_certain(s.message)]
    for lane, particle in probed:
        values = {name: slice_of(wide, name, vectorization, lane, particle) for name in wide.draws}
        follows = {name: values.pop(name) for name in certain}
        try:
            run = perform(narrow, wide, values)
            single = collect(run, narrow)
        except FAILURES:
            return "a single lane's values do not run by themselves"
        for name, value in follows.items():
            if not same(run.draws[name].value.detach(), value):
                return f"the value of {name!r} mixes particles or alternatives"
        together = {term_key(t): _entry(t.log_prob, vectorization, lane, particle) for t in terms}
        for term in single:
            other = together.get(term_key(term))
            if other is None or not same(term.log_prob, other):
                return f"the density of {term.name!r} mixes particles or alternatives"
    return None


def site_values(run: RunRecord, vectorization: Vectorization) -> dict[str, Tensor]:
    """What a run drew in its first lane and particle, by site: `[*plates, *event]`."""
    return {name: slice_of(run, name, vectorization, 0, 0) for name in run.draws}


def _probed(vectorization: Vectorization) -> Iterable[tuple[int, int]]:
    lanes = sorted({0, 1, vectorization.count // 2, vectorization.count - 1} & set(range(vectorization.count)))
    particles = sorted({0, vectorization.particles - 1})
    return [(lane, particle) for lane in lanes for particle in particles]


def slice_of(run: RunRecord, name: str, vectorization: Vectorization, lane: int, particle: int) -> Tensor:
    """What a run drew at a site in one lane of one particle: `[*plates, *event]`."""
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
