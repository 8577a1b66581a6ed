"""One process from its start to its end: what somebody waits for who runs a script."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.worker import Job, Peak, launch, peak


@dataclass(frozen=True)
class Once:
    """What a process took.

    Attributes:
        wall: seconds from its launch to its end, by the clock of the one who waits.
        loading: seconds for imports, in the process.
        runs: seconds for each run in turn; the first begins with building.
        loss: the last one.
        peak: memory.
    """

    wall: float
    loading: float
    runs: list[float]
    loss: float
    peak: Peak


def once(job: Job, counts: Sequence[int], python: str, cache: Path, limit: float) -> Once | None:
    """Run `counts` steps, one run after the other, in a fresh process.

    Args:
        cache: folder for whatever a compiler keeps on disk.
        limit: seconds after which it is ended.

    Returns:
        None if it did not finish.
    """
    # An entry of any size and compile time is worth keeping: ours keeps all.
    caches = {
        "VARIGRAD_CACHE": str(cache / "varigrad"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "JAX_COMPILATION_CACHE_DIR": str(cache / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    start = time.perf_counter()
    process, pipe = launch("benchmarks.once", python, job.environment(**caches))
    try:
        pipe.send((job, tuple(counts)))
        if not pipe.poll(limit):
            return None
        found = pipe.recv()
        process.wait(60)
        return Once(time.perf_counter() - start, *found)
    except (EOFError, OSError):
        return None
    finally:
        pipe.close()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # its compiler too
            process.wait()


def main(pipe: Connection) -> None:
    """The process."""
    job, counts = pipe.recv()
    before = time.perf_counter()
    start = job.start()
    marks = [time.perf_counter()]
    run = start(0)
    losses: Sequence[float] = ()
    for count in counts:
        losses = run(count)
        marks.append(time.perf_counter())
    runs = [later - earlier for earlier, later in pairwise(marks)]
    pipe.send((marks[0] - before, runs, float(losses[-1]), peak()))


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])))
