"""How compile time and time a step grow with the number of sites: chains of more and more of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from benchmarks.measure import job
from benchmarks.once import once
from benchmarks.systems import available, python_for
from benchmarks.worker import Peak
from benchmarks.workloads import find

FULL = (10, 30, 100, 300, 1_000)
QUICK = (10, 30, 100)
SYSTEMS = ("varigrad-run", "numpyro-scan", "hand-compiled")
RUNS = (30, 300, 300, 300)


@dataclass(frozen=True)
class Chain:
    """One length on one system.

    Attributes:
        cache: "empty" or "filled".
        ready: seconds from building to the end of the first 30 steps: recording, compiling, checking. None: not
            finished within the limit.
        each: microseconds a step after that, the best of three runs.
    """

    length: int
    system: str
    cache: str
    limit: float
    ready: float | None = None
    each: float | None = None
    peak: Peak | None = None


def measure(lengths: Sequence[int], threads: int, limit: float) -> Iterator[list[Chain]]:
    """The points of one length after the other. A system that did not finish one is not asked for longer ones."""
    late: set[str] = set()
    turns = [(length, system) for length in lengths for system in SYSTEMS]
    for length, system in tqdm(turns, desc="chains", unit="chain", leave=False, disable=None):
        name = f"chain:{length}"
        if not available(find(name), system):
            continue
        with tempfile.TemporaryDirectory() as folder:
            found = []
            for cache in ("empty", "filled"):
                point = Chain(length, system, cache, limit)
                if system not in late:
                    point = _measured(point, name, threads, Path(folder))
                if point.ready is None:
                    late.add(system)
                found.append(point)
            yield found


def _measured(point: Chain, name: str, threads: int, cache: Path) -> Chain:
    work = job(name, point.system, threads, pinned=False)
    found = once(work, RUNS, python_for(point.system), cache, point.limit)
    if found is None:
        return point
    each = 1e6 * min(found.runs[1:]) / RUNS[1]
    return Chain(point.length, point.system, point.cache, point.limit, found.runs[0], each, found.peak)
