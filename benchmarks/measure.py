"""Measure one workload: systems in turns, so that whatever else the machine does hits all of them alike."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.worker import Worker


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
        seconds: `system -> seconds a step, one number a round`.
        first_result: `system -> seconds from building to the first step's loss`.
        losses: `system -> mean loss over the second half of a short run from the start, one number a seed`.
        disagreement: `system -> how far its losses are from ours, in standard errors`.
    """

    workload: str
    threads: int
    seconds: Mapping[str, Sequence[float]]
    first_result: Mapping[str, float]
    losses: Mapping[str, Sequence[float]]
    disagreement: Mapping[str, float]

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


def measure(workload: str, systems: Sequence[str], threads: int, effort: Effort, check_steps: int) -> Measured:
    """Run the systems of a workload against each other."""
    workers: dict[str, Worker] = {}
    checked = {}
    try:
        for name in systems:
            workers[name] = Worker(workload, name, threads)
            checked[name] = workers[name].check(check_steps)
        steps = {name: _calibrated(worker, effort) for name, worker in workers.items()}
        seconds: dict[str, list[float]] = {name: [] for name in systems}
        for number in range(effort.rounds):
            # Forwards and backwards, so that no system always comes right after the same other.
            turn = list(systems) if number % 2 == 0 else list(reversed(systems))
            for name in turn:
                seconds[name].append(workers[name].time(steps[name]))
    finally:
        for worker in workers.values():
            worker.stop()
    losses = {name: found.losses for name, found in checked.items()}
    ours = losses.get("varigrad", losses[systems[0]])
    return Measured(
        workload,
        threads,
        seconds,
        {name: found.first_result for name, found in checked.items()},
        losses,
        {name: disagreement(found, ours) for name, found in losses.items()},
    )


def disagreement(left: Sequence[float], right: Sequence[float]) -> float:
    """Distance of two systems' losses in standard errors over seeds; a tenth of a percent counts as none."""
    mean = statistics.fmean(left) - statistics.fmean(right)
    if abs(mean) < 1e-3 * abs(statistics.fmean(right)):
        return 0.0
    error = math.sqrt(statistics.variance(left) / len(left) + statistics.variance(right) / len(right))
    return abs(mean) / error if error > 0 else math.inf


def _calibrated(worker: Worker, effort: Effort) -> int:
    """Steps that take about `effort.seconds`, found while warming up."""
    each = worker.time(3)
    each = worker.time(max(3, round(effort.warm_up / each)))
    return max(3, round(effort.seconds / each))
