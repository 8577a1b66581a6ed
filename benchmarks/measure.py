"""Measure one workload: systems in turns, so that whatever else the machine does hits all of them alike."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from benchmarks.systems import NUMPYRO, python_for
from benchmarks.worker import Checked, Job, Peak, Timed, Worker, WorkerError
from benchmarks.workload import Workload
from benchmarks.workloads import find


@dataclass(frozen=True)
class Effort:
    """How long to measure: `rounds` turns of every system, each a loop of about `seconds`."""

    rounds: int
    seconds: float
    warm_up: float


FULL = Effort(rounds=15, seconds=1.0, warm_up=2.0)
QUICK = Effort(rounds=5, seconds=0.2, warm_up=0.3)


@dataclass(frozen=True)
class Measured:
    """What came out for one workload at one number of threads.

    Attributes:
        seconds, cpu: `system -> seconds a step, one number a round`, by the clock and of processors.
        first_result: `system -> seconds from building to the first step's loss`.
        losses: `system -> mean loss over the second half of a short run from the start, one number a seed`.
        disagreement: `system -> how far its losses are from ours, in standard errors`.
        peak: `system -> memory`.
        failed: systems whose process died.
    """

    workload: str
    threads: int
    seconds: Mapping[str, Sequence[float]]
    cpu: Mapping[str, Sequence[float]]
    first_result: Mapping[str, float]
    losses: Mapping[str, Sequence[float]]
    disagreement: Mapping[str, float]
    peak: Mapping[str, Peak]
    failed: Sequence[str] = ()

    def microseconds(self, system: str) -> float:
        """Median over the rounds."""
        return 1e6 * statistics.median(self.seconds[system])

    def ratio(self, over: str, under: str) -> float:
        """Median of the rounds' own ratios: what slowed a round slowed both."""
        pairs = zip(self.seconds[over], self.seconds[under], strict=True)
        return statistics.median(a / b for a, b in pairs)

    def spread(self, system: str) -> float:
        """Half the interquartile range over the median."""
        low, middle, high = statistics.quantiles(self.seconds[system], n=4)
        return (high - low) / 2 / middle


def job(name: str, system: str, threads: int, **more: Any) -> Job:
    """What the process of a system is told about a workload."""
    workload = find(name)
    arrays = workload.arrays() if system in NUMPYRO else {}
    return Job(name, system, threads, workload.adam, arrays, workload.check_steps, **more)


def measure(name: str, systems: Sequence[str], threads: int, effort: Effort) -> Measured:
    """Run the systems of a workload against each other."""
    workload = find(name)
    workers: dict[str, Worker] = {}
    checked: dict[str, Checked] = {}
    steps: dict[str, int] = {}
    failed: list[str] = []
    parts = len(systems) + effort.rounds
    bar = tqdm(total=parts, desc=f"{name}, {threads} thr.", unit="part", leave=False, disable=None)
    try:
        for system in systems:
            bar.set_postfix_str(f"start {system}")
            workers[system] = Worker(job(name, system, threads), python_for(system))
            try:
                checked[system] = workers[system].check(workload.check_steps)
                steps[system] = _calibrated(workers[system], effort)
            except WorkerError:
                failed.append(system)
            bar.update()
        timed: dict[str, list[Timed]] = {system: [] for system in steps}
        for number in range(effort.rounds):
            # Forwards and backwards, so that no system always comes right after the same other.
            for system in list(steps) if number % 2 == 0 else list(reversed(steps)):
                bar.set_postfix_str(system)
                timed[system].append(workers[system].time(steps[system]))
            bar.update()
        peaks = {system: workers[system].peak() for system in steps}
    finally:
        bar.close()
        for worker in workers.values():
            worker.stop()
    return Measured(
        name,
        threads,
        {system: [t.wall for t in found] for system, found in timed.items()},
        {system: [t.cpu for t in found] for system, found in timed.items()},
        {system: found.first_result for system, found in checked.items()},
        {system: found.late for system, found in checked.items()},
        _disagreements(workload, checked),
        peaks,
        failed,
    )


def disagreement(left: Sequence[float], right: Sequence[float]) -> float:
    """Distance of two systems' losses in standard errors over seeds; a tenth of a percent counts as none."""
    mean = statistics.fmean(left) - statistics.fmean(right)
    if abs(mean) < 1e-3 * abs(statistics.fmean(right)):
        return 0.0
    error = math.sqrt(statistics.variance(left) / len(left) + statistics.variance(right) / len(right))
    return abs(mean) / error if error > 0 else math.inf


def _disagreements(workload: Workload, checked: Mapping[str, Checked]) -> dict[str, float]:
    """Without a baseline a run learns another way, so NumPyro's then has to agree only where it begins."""
    ours = checked.get("varigrad") or next(iter(checked.values()))
    found = {}
    for system, other in checked.items():
        found[system] = disagreement(other.early, ours.early)
        if not (workload.has_baseline and system in NUMPYRO):
            found[system] = max(found[system], disagreement(other.late, ours.late))
    return found


def _calibrated(worker: Worker, effort: Effort) -> int:
    """Steps that take about `effort.seconds`, found while warming up: the first may cost far more than the rest."""
    worker.time(3)
    steps, spent = 3, 0.0
    while True:
        each = worker.time(steps).wall
        spent += steps * each
        if steps * each > effort.seconds / 2 and spent > effort.warm_up:
            return max(3, round(effort.seconds / each))
        steps = min(10 * steps, max(3, round(effort.seconds / each)))
