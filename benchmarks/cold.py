"""Seconds from a cold start to the end of a run, by number of steps, with an empty and with a filled cache."""

from __future__ import annotations

import compileall
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from benchmarks.measure import job
from benchmarks.once import once
from benchmarks.systems import available, python_for
from benchmarks.workloads import find
from varigrad import __file__ as package

WORKLOADS = ("coin", "gaussian_mixture", "eight_schools", "logistic", "vae", "belief_net", "chain")
CACHED = ("varigrad-background", "numpyro-run", "hand-compiled")
"""Systems that keep compiled steps on disk. NumPyro's cache is JAX's own, which has to be asked for."""
PLAIN = ("pyro",)
LIMIT = 900.0


@dataclass(frozen=True)
class Plan:
    """How much to measure.

    Attributes:
        counts: of steps.
        longest: seconds; where more are to be expected, time grows as it did before.
        rounds: repetitions of everything.
    """

    counts: Sequence[int]
    longest: float
    rounds: int


FULL = Plan((100, 1_000, 10_000, 100_000), longest=100.0, rounds=1)
QUICK = Plan((100, 1_000, 10_000), longest=10.0, rounds=1)


@dataclass
class Cold:
    """One point: `seconds` of each round, for a process of `steps` steps.

    Attributes:
        cache: "empty", "filled", or "none" where there is none.
        losses: the last of each round.
        extrapolated: not measured but drawn on from the two counts before.
    """

    workload: str
    system: str
    cache: str
    steps: int
    threads: int
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    extrapolated: bool = False


def measure(workloads: Sequence[str], plan: Plan, threads: int) -> Iterator[list[Cold]]:
    """The points of one workload after the other; systems in turns.

    Our modules are compiled beforehand, as an installer does it: the peers' are.
    """
    for folder in (Path(package).parent, Path(__file__).parent):
        compileall.compile_dir(folder, quiet=1)
    for name in workloads:
        systems = [s for s in (*CACHED, *PLAIN) if available(find(name), s)]
        points = {
            (system, cache, steps): Cold(name, system, cache, steps, threads)
            for system in systems
            for cache in (("empty", "filled") if system in CACHED else ("none",))
            for steps in plan.counts
        }
        turns = [(s, steps) for _ in range(plan.rounds) for steps in plan.counts for s in systems]
        for system, steps in tqdm(turns, desc=f"cold start, {name}", unit="run", leave=False, disable=None):
            rows = [
                [p for p in points.values() if (p.system, p.cache) == (system, c)] for c in ("empty", "filled", "none")
            ]
            if any(row and _expected(row, steps) > plan.longest for row in rows):
                continue
            if system in CACHED:
                with tempfile.TemporaryDirectory() as folder:
                    _add(points[system, "empty", steps], Path(folder))
                    _fill(name, system, steps, threads, Path(folder))
                    _add(points[system, "filled", steps], Path(folder))
            else:
                _add(points[system, "none", steps], Path(tempfile.gettempdir()))
        for point in points.values():
            row = [p for p in points.values() if (p.system, p.cache) == (point.system, point.cache)]
            if not point.seconds and any(p.seconds for p in row):
                point.seconds, point.extrapolated = [_expected(row, point.steps)], True
        yield list(points.values())


def _add(point: Cold, cache: Path) -> None:
    work = job(point.workload, point.system, point.threads, pinned=False)
    found = once(work, [point.steps], python_for(point.system), cache, LIMIT)
    if found is not None:
        point.seconds.append(found.wall)
        point.losses.append(found.loss)


def _fill(name: str, system: str, steps: int, threads: int, cache: Path) -> None:
    """Ours has compiled nothing if the run was short; the others have just filled theirs."""
    if system == "varigrad-background":
        once(job(name, "varigrad-run", threads, pinned=False), [4], python_for(system), cache, LIMIT)


def _expected(row: Sequence[Cold], steps: int) -> float:
    """Seconds that so many steps will take, by the last difference that was measured; 0 without one."""
    measured = [p for p in row if p.seconds and not p.extrapolated and p.steps < steps]
    if len(measured) < 2:
        return 0.0
    (early, first), (late, last) = ((p.steps, statistics.median(p.seconds)) for p in measured[-2:])
    return last + (last - first) / (late - early) * (steps - late)
