"""What following provenance costs: eager steps with the tracker at work against steps told the answers beforehand.

    python -m benchmarks.tracker [--quick]

On programs whose dependencies are the same in every step, the statements' upstream sites are recorded once and then
replayed, so that nothing is followed and the gradient is still the same. The difference is the tracker's share.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.systems import varigrad_step
from benchmarks.workload import Adam, Programs, Step
from benchmarks.workloads import WORKLOADS
from varigrad.objectives import execute as engine
from varigrad.terms.dependency_tracker import Statement, Tracker

SITES = 30


def discrete_chain(seed: int) -> Step:
    """Thirty two-state sites, each depending on the one before, each observed: all in each other's costs."""
    import varigrad as vg
    from varigrad import distributions as dist
    from varigrad.estimators import MovingAverage, Score

    rows = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    means = torch.tensor([-1.0, 1.0])
    data = torch.randn(SITES, generator=torch.Generator().manual_seed(0)).unbind()

    def model() -> None:
        z = torch.tensor(0)
        for t in range(SITES):
            z = vg.sample(f"z{t}", dist.Categorical(rows[z]))
            vg.sample(f"x{t}", dist.Normal(means[z], 1.0), obs=data[t])

    def guide() -> None:
        logits = vg.param("logits", lambda: torch.zeros(SITES, 2))
        for t, row in enumerate(logits):
            vg.sample(f"z{t}", dist.Categorical(logits=row), estimator=Score(MovingAverage()))

    return varigrad_step(Programs(model, guide), Adam(lr=1e-2), seed)


def of_workload(name: str, seed: int) -> Step:
    """The eager step of a workload."""
    return varigrad_step(WORKLOADS[name].varigrad(), WORKLOADS[name].adam, seed)


PROGRAMS: dict[str, Callable[[int], Step]] = {
    **{name: partial(of_workload, name) for name in ("coin", "gaussian_mixture", "belief_net")},
    "discrete_chain": discrete_chain,
}


@contextmanager
def replaced(tracker: Callable[..., Tracker]) -> Iterator[None]:
    """The engine makes its trackers with `tracker` inside this block."""
    original = engine.Tracker
    engine.Tracker = tracker  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        engine.Tracker = original  # type: ignore[misc]


class Recording(Tracker):
    """Follows as ever and keeps what it found."""

    found: list[Statement]

    def examine(self, message: Any) -> Statement:
        statement = super().examine(message)
        self.found.append(statement)
        return statement


class Told(Tracker):
    """Follows nothing: the statements come in the order in which they were recorded."""

    known: Iterator[Statement]

    def examine(self, message: Any) -> Statement:
        known = next(self.known)
        return Statement(message, known.upstream, known.given, known.opaque)

    def mark(self, value: Tensor, site: Statement, own: bool, pathwise: bool = True) -> Tensor:
        return value


def record(step: Step) -> list[Statement]:
    """What the tracker finds in one step."""
    found: list[Statement] = []

    def tracker(*args: Any, **kwargs: Any) -> Tracker:
        made = Recording(*args, **kwargs)
        made.found = found
        return made

    with replaced(tracker):
        step()
    return found


def told(known: list[Statement]) -> Callable[..., Tracker]:
    """Makes trackers that replay."""

    def tracker(*args: Any, **kwargs: Any) -> Tracker:
        made = Told(*args, **kwargs)
        made.known = iter(known)
        return made

    return tracker


def share(build: Callable[[int], Step], rounds: int, seconds: float) -> tuple[float, float]:
    """Microseconds a step as it is, and the tracker's share of them (median over rounds, taken in turns)."""
    step, other = build(0), build(0)
    known = record(step)
    with replaced(told(record(other))):
        losses = [other() for _ in range(3)]
    if losses != [step() for _ in range(3)]:
        raise AssertionError("the replayed steps are not the same steps")
    count = max(3, round(seconds / _timed(step, 5)))
    shares, times = [], []
    for _ in range(rounds):
        with replaced(told(known)):
            without = _timed(step, count)
        times.append(_timed(step, count))
        shares.append(1 - without / times[-1])
    return 1e6 * statistics.median(times), statistics.median(shares)


def _timed(step: Step, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - start) / count


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    print(f"{'program':18}{'us a step':>10}{'tracker':>10}   at most 25 %")
    for name, build in PROGRAMS.items():
        each, part = share(build, 5 if quick else 21, 0.1 if quick else 0.5)
        print(f"{name:18}{each:10.0f}{100 * part:9.1f}%   {'met' if part <= 0.25 else 'MISSED'}", flush=True)


if __name__ == "__main__":
    main()
