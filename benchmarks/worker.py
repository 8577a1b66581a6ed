"""One system at work: a process that starts a run, keeps it warm, and goes on with it when told."""

from __future__ import annotations

import os
import pickle
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.workload import Adam, Start

ROOT = Path(__file__).parent.parent
SEEDS = 6


@dataclass(frozen=True)
class Job:
    """What a process needs to know.

    Attributes:
        arrays: of the workload, for a system that does not have torch.
        block: steps in one compiled call, where the system leaves that open.
        pinned: stay on `threads` processors, for systems that do not count their threads by themselves.
    """

    workload: str
    system: str
    threads: int
    adam: Adam
    arrays: Mapping[str, Any]
    block: int
    pinned: bool = True

    def environment(self, **more: str) -> dict[str, str]:
        """Read by OpenMP and MKL when they are loaded."""
        count = str(self.threads)
        return {**os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "JAX_PLATFORMS": "cpu", **more}

    def start(self) -> Start:
        """The system's run; called in a process of its own, and loads what it needs."""
        if self.pinned and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-self.threads :])
        if self.system.startswith("numpyro"):
            from benchmarks.numpyro_systems import SYSTEMS as JAX_SYSTEMS

            return JAX_SYSTEMS[self.system](self.workload, self.arrays, self.adam, self.block)
        import torch

        from benchmarks.systems import SYSTEMS
        from benchmarks.workloads import find

        torch.set_num_threads(self.threads)
        return SYSTEMS[self.system](find(self.workload))


@dataclass(frozen=True)
class Checked:
    """What a system's steps come to.

    Attributes:
        first_result: seconds from building to the first step's loss.
        early, late: mean loss over the first tenth and over the second half of a short run, by seed.
    """

    first_result: float
    early: list[float]
    late: list[float]


@dataclass(frozen=True)
class Timed:
    """Seconds a step: by the clock, and of processors, which tells waiting from working on a busy machine."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Peak:
    """Largest resident memory in megabytes: of the process, and of the largest that it started (a compiler)."""

    own: float
    children: float


class WorkerError(RuntimeError):
    """The other process has died; what it had to say is on the terminal."""


def serve(pipe: Connection) -> None:
    """The process's main: answers `(command, number)` until told to stop."""
    job: Job = pipe.recv()
    before = time.perf_counter()
    start = job.start()
    run = start(0)
    run(1)
    first_result = time.perf_counter() - before
    while True:
        command, number = pipe.recv()
        if command == "stop":
            return
        if command == "check":
            losses = [list(start(seed)(number))[:number] for seed in range(SEEDS)]
            early = [statistics.fmean(run[: max(1, number // 10)]) for run in losses]
            late = [statistics.fmean(run[number // 2 :]) for run in losses]
            pipe.send(Checked(first_result, early, late))
            run = start(0)
        elif command == "time":
            before, cpu = time.perf_counter(), time.process_time()
            taken = len(run(number))
            pipe.send(Timed((time.perf_counter() - before) / taken, (time.process_time() - cpu) / taken))
        elif command == "peak":
            pipe.send(peak())


def peak() -> Peak:
    """Of this process so far. Linux's `ru_maxrss` would count what was there before `exec`; `VmHWM` does not."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = Path("/proc/self/status")
    if status.exists():
        kilobytes = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return Peak(kilobytes / 1024, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)


def launch(module: str, python: str, environment: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], Connection]:
    """A module as a process of its own, in a session of its own, and the pipe to it."""
    ours, theirs = Pipe()
    process = subprocess.Popen(
        [python, "-m", module, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        env=environment,
        cwd=ROOT,
        start_new_session=True,
    )
    theirs.close()
    return process, ours


class Worker:
    """The parent's end. Leaves the process waiting on its pipe between commands."""

    def __init__(self, job: Job, python: str) -> None:
        self.process, self.pipe = launch("benchmarks.worker", python, job.environment())
        self.pipe.send(job)

    def check(self, steps: int) -> Checked:
        """What `steps` steps from the start come to, for several seeds."""
        return self._ask("check", steps)

    def time(self, steps: int) -> Timed:
        """Seconds a step, over a run of `steps` or somewhat more."""
        return self._ask("time", steps)

    def peak(self) -> Peak:
        """How much memory it took."""
        return self._ask("peak", 0)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.pipe.send(("stop", 0))
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.pipe.close()

    def _ask(self, command: str, number: int) -> Any:
        try:
            self.pipe.send((command, number))
            return self.pipe.recv()
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise WorkerError(f"the process has ended ({self.process.wait()})") from error


if __name__ == "__main__":
    # Under its own name, so that what it unpickles and sends are the parent's classes.
    from benchmarks.worker import serve as main

    main(Connection(int(sys.argv[1])))
