"""Eager steps: microseconds on the seven workloads, ours against Pyro's and hand-written torch.

    python -m benchmarks.run [--quick] [--threads 1 2] [--workloads coin vae] [--systems varigrad pyro]

Writes benchmarks/results/eager.{json,md,png}, or another name with `--name`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import report
from benchmarks.measure import FULL, QUICK, measure
from benchmarks.systems import available
from benchmarks.workloads import WORKLOADS

SYSTEMS = ("varigrad", "pyro", "hand")


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; 1 if systems did different work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short blocks: half a minute in all, noisy")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], metavar="N")
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS), metavar="NAME")
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS, metavar="NAME")
    parser.add_argument("--name", default="eager", help="of the files in benchmarks/results")
    options = parser.parse_args(arguments)

    where = report.context()
    print(f"{where['machine']}; load {where['load_average_before']}; {where['versions']}")
    widths = [18, 7, 12, 12, 12, 9, 11, 9, 13, 11]
    print("  ".join(h.ljust(w) for h, w in zip(report.HEADER, widths, strict=True)))
    found = []
    for threads in options.threads:
        for name in options.workloads:
            systems = [s for s in options.systems if available(WORKLOADS[name], s)]
            found += report.rows([measure(name, systems, threads, QUICK if options.quick else FULL)])
            line = zip(report.cells(found[-1]), widths, strict=True)
            print("  ".join(cell.ljust(width) for cell, width in line), flush=True)
    for path in report.write(Path(__file__).parent / "results", options.name, where, found):
        print(f"wrote {path}")
    return 0 if all(row["same_work"] for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
