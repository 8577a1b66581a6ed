"""One system at work: a process that builds a step, keeps it warm, and runs it when told."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.workload import Step

SEEDS = 6


@dataclass(frozen=True)
class Checked:
    """Seconds from building the step to its first loss; mean loss over the second half of a short run, by seed."""

    first_result: float
    losses: list[float]


def serve(pipe: Connection, workload: str, system: str, threads: int) -> None:
    """The process's main: answers `(command, number)` until told to stop."""
    import torch

    from benchmarks.workload import through_compat
    from benchmarks.workloads import WORKLOADS

    torch.set_num_threads(threads)
    systems = WORKLOADS[workload].systems
    build = through_compat(systems["pyro"]) if system == "compat" else systems[system]
    start = time.perf_counter()
    step = build(0)
    step()
    first_result = time.perf_counter() - start
    while True:
        command, number = pipe.recv()
        if command == "stop":
            return
        if command == "check":
            pipe.send(Checked(first_result, [_late_loss(build(seed), int(number)) for seed in range(SEEDS)]))
        elif command == "time":
            begin = time.perf_counter()
            for _ in range(int(number)):
                step()
            pipe.send((time.perf_counter() - begin) / int(number))


def _late_loss(step: Step, steps: int) -> float:
    losses = [step() for _ in range(steps)]
    return statistics.fmean(losses[steps // 2 :])


class Worker:
    """The parent's end. Leaves the process waiting on its pipe between commands."""

    def __init__(self, workload: str, system: str, threads: int) -> None:
        # Read by OpenMP and MKL when torch is loaded, which happens in the process that is started here.
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, workload, system, threads), daemon=True)
        self.process.start()
        theirs.close()

    def check(self, steps: int) -> Checked:
        """What `steps` steps from the start come to, for several seeds."""
        return self._ask("check", steps)

    def time(self, steps: int) -> float:
        """Seconds a step, over a loop of `steps`."""
        return self._ask("time", steps)

    def stop(self) -> None:
        if self.process.is_alive():
            self.pipe.send(("stop", 0))
            self.process.join(10)
        self.pipe.close()

    def _ask(self, command: str, number: int) -> Any:
        self.pipe.send((command, number))
        return self.pipe.recv()
