"""Microseconds a step through Pyro's names: the seven workloads' Pyro programs on varigrad, beside native and Pyro.

    python -m benchmarks.compat [--quick] [--threads 1] [--workloads coin vae]

Writes benchmarks/results/compat.{json,md}; 1 if Pyro's names cost more than they may, or the work was not the same.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.measure import FULL, QUICK, Measured, measure
from benchmarks.workloads import WORKLOADS

SYSTEMS = ("varigrad", "compat", "pyro")
AT_MOST = 1.10
"""How many times as long as natively a step may take."""

HEADER = ("workload", "threads", "native us", "Pyro's names us", "Pyro us", "names/native", "Pyro/names", "same losses")


def row(result: Measured) -> dict[str, Any]:
    """Times, ratios, and whether the names cost no more than they may."""
    overhead = result.ratio("compat", "varigrad")
    return {
        "workload": result.workload,
        "threads": result.threads,
        "microseconds": {name: round(result.microseconds(name), 1) for name in SYSTEMS},
        "spread": {name: round(result.spread(name), 3) for name in SYSTEMS},
        "names_over_native": round(overhead, 3),
        "pyro_over_names": round(result.ratio("pyro", "compat"), 2),
        "cheap_enough": overhead <= AT_MOST,
        "same_work": all(d < report.AGREE for d in result.disagreement.values()),
        "detail": asdict(result),
    }


def cells(found: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table."""
    times = [f"{found['microseconds'][s]:.0f} ±{100 * found['spread'][s]:.0f}%" for s in SYSTEMS]
    return (
        found["workload"],
        str(found["threads"]),
        *times,
        f"{found['names_over_native']:.2f} {'ok' if found['cheap_enough'] else f'> {AT_MOST:g}'}",
        f"{found['pyro_over_names']:.2f}",
        "yes" if found["same_work"] else "NO",
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short blocks, noisy")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], metavar="N")
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS), metavar="NAME")
    options = parser.parse_args(arguments)

    where = report.context()
    print(f"{where['machine']}; load {where['load_average_before']}; {where['versions']}")
    widths = (18, 7, 13, 16, 13, 13, 10, 11)
    print("  ".join(h.ljust(w) for h, w in zip(HEADER, widths, strict=True)))
    found = []
    for threads in options.threads:
        for name in options.workloads:
            found.append(row(measure(name, SYSTEMS, threads, QUICK if options.quick else FULL)))
            line = zip(cells(found[-1]), widths, strict=True)
            print("  ".join(cell.ljust(width) for cell, width in line), flush=True)
    if not options.quick:
        folder = Path(__file__).parent / "results"
        (folder / "compat.json").write_text(json.dumps({"context": where, "rows": found}, indent=1) + "\n")
        (folder / "compat.md").write_text(markdown(where, found))
        print(f"wrote {folder / 'compat.md'}")
    return 0 if all(r["same_work"] and r["cheap_enough"] for r in found) else 1


def markdown(where: dict[str, Any], found: list[dict[str, Any]]) -> str:
    """The table with what one has to know to read it."""
    versions = ", ".join(f"{k} {v}" for k, v in where["versions"].items())
    table = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    table += ["| " + " | ".join(cells(r)) + " |" for r in found]
    return "\n".join(
        [
            "# Steps through Pyro's names",
            "",
            f"{where['date']}, commit {where['commit']}. {where['machine']}; Python {where['python']}, {versions}; "
            f"load average before the run {where['load_average_before']}.",
            "",
            *table,
            "",
            "The same program text, written for Pyro, on varigrad (`varigrad.compat.pyro.install()`) and on Pyro, and "
            "the same work written natively; medians over blocks taken in turns, each system in a process of its own. "
            "The native mixture has a decaying average for each element, Pyro's programs have one for all.",
            "",
            "Again: `python -m benchmarks.compat`.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
