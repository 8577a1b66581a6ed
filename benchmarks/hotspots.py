"""Where a step's time goes: cProfile over warm steps. `python -m benchmarks.hotspots coin [--by cumulative]`."""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time

import torch

from benchmarks.run import SYSTEMS as NAMES
from benchmarks.systems import SYSTEMS
from benchmarks.workloads import WORKLOADS


def main() -> None:
    """Print the hottest functions with their microseconds a step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", choices=list(WORKLOADS))
    parser.add_argument("--system", choices=NAMES, default="varigrad")
    parser.add_argument("--by", choices=("tottime", "cumulative"), default="tottime")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rows", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    run = SYSTEMS[options.system](WORKLOADS[options.workload])(0)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < options.seconds / 2 or count < 3:
        run(1)
        count += 1
    bare = (time.perf_counter() - start) / count
    profile = cProfile.Profile()
    with profile:
        run(count)
    stats = pstats.Stats(profile)
    total = stats.total_tt / count  # type: ignore[attr-defined]
    print(f"{1e6 * bare:.0f} us a step; {1e6 * total:.0f} us under the profiler, which the columns below add up to")
    print(f"{'own us':>9}{'all us':>9}{'calls':>8}  function")
    key = 2 if options.by == "tottime" else 3
    rows = sorted(stats.stats.items(), key=lambda item: item[1][key], reverse=True)  # type: ignore[attr-defined]
    for (path, line, name), (_, calls, own, cumulative, _) in rows[: options.rows]:
        where = "/".join(path.split("/")[-3:])
        print(f"{1e6 * own / count:9.1f}{1e6 * cumulative / count:9.1f}{calls / count:8.1f}  {where}:{line} {name}")


if __name__ == "__main__":
    main()
