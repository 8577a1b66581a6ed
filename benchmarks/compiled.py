"""`make bench`: compiled steps, ours against NumPyro's, Pyro's and hand-written torch's.

    python -m benchmarks.compiled [--full] [--parts steps cold chains anatomy] [--threads 1 2] [--workloads coin vae]

Four parts: microseconds a step and memory; seconds from a cold start; chains of more and more sites; where a step's
time goes. Each part that is measured replaces the same part of benchmarks/results/compiled.json, row by row as rows
are done, and the Markdown, the picture and the tables in docs/performance.md are made anew from all parts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import anatomy, chains, cold, compiled_pictures, compiled_tables, report
from benchmarks.measure import Effort, Measured, measure
from benchmarks.systems import NUMPYRO_PYTHON, available
from benchmarks.workloads import WORKLOADS, find

SYSTEMS = (
    "pyro", "numpyro-call", "numpyro-scan", "hand-compiled", "varigrad", "varigrad-step", "varigrad-run",
)  # fmt: skip
FULL = Effort(rounds=11, seconds=0.4, warm_up=1.0)
QUICK = Effort(rounds=3, seconds=0.1, warm_up=0.1)
AT_MOST = {"numpyro-scan": 1.0, "hand-compiled": 1.1}
"""How many times another system's time ours may be."""

Row = dict[str, Any]


def steps(options: argparse.Namespace) -> Iterator[Row]:
    """Microseconds a step and memory, by workload and number of threads."""
    for threads in options.threads:
        for name in options.workloads or WORKLOADS:
            systems = [s for s in SYSTEMS if available(find(name), s)]
            yield step_row(measure(name, systems, threads, FULL if options.full else QUICK))


def step_row(found: Measured) -> Row:
    """Times, ratios and which targets are met."""
    ours, target = "varigrad-run", find(found.workload).target
    row: Row = {"workload": found.workload, "threads": found.threads, "target": target}
    row["microseconds"] = {s: round(found.microseconds(s), 2) for s in found.seconds}
    row["spread"] = {s: round(found.spread(s), 3) for s in found.seconds}
    row["cpu"] = {s: round(1e6 * statistics.median(each), 2) for s, each in found.cpu.items()}
    row["ratios"], row["met"] = {}, {}
    if ours in found.seconds:
        row["met"]["target"] = row["microseconds"][ours] <= target
        for other, most in AT_MOST.items():
            if other in found.seconds:
                row["ratios"][other] = round(found.ratio(ours, other), 3)
                row["met"][other] = row["ratios"][other] <= most
    row["same_losses"] = {s: d < report.AGREE for s, d in found.disagreement.items()}
    row["peak"] = {s: asdict(p) for s, p in found.peak.items()}
    row["failed"] = list(found.failed)
    row["detail"] = {"seconds": found.seconds, "losses": found.losses, "disagreement": found.disagreement}
    return row


def cold_starts(options: argparse.Namespace) -> Iterator[Row]:
    """Seconds from a cold start."""
    names = [n for n in options.workloads or cold.WORKLOADS if n in cold.WORKLOADS]
    for points in cold.measure(names, cold.FULL if options.full else cold.QUICK, options.threads[0]):
        yield from map(asdict, points)


def long_chains(options: argparse.Namespace) -> Iterator[Row]:
    """Compile time and time a step against the number of sites."""
    for points in chains.measure(chains.FULL if options.full else chains.QUICK, options.threads[0], options.limit):
        yield from ({**asdict(p), "threads": options.threads[0]} for p in points)


def anatomies(options: argparse.Namespace) -> Iterator[Row]:
    """Where a step's time goes."""
    for threads in options.threads:
        rate = anatomy.peak_rate(threads)
        for name in [n for n in options.workloads or anatomy.NAMES if n in anatomy.NAMES]:
            found = anatomy.dissect(name, threads, 2.0 if options.full else 0.3)
            yield {**asdict(found), "others": found.others, "python": found.python, "peak_rate": rate}


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    "steps": steps,
    "cold": cold_starts,
    "chains": long_chains,
    "anatomy": anatomies,
}


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; 1 if systems did different work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="long blocks, all counts and lengths: over an hour")
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS), metavar="PART")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="cold, chains: the first")
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), metavar="NAME", help="those of the part")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds that a chain may take")
    parser.add_argument("--name", default="compiled", help="of the files in benchmarks/results")
    options = parser.parse_args(arguments)

    folder = Path(__file__).parent / "results"
    path = folder / f"{options.name}.json"
    document: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if not NUMPYRO_PYTHON.exists():
        print(f"without NumPyro: {NUMPYRO_PYTHON} is not there (make .venv-numpyro/ready)")
    print(f"threads {options.threads}; OMP_NUM_THREADS here {os.environ.get('OMP_NUM_THREADS', 'not set')}")
    for part in options.parts:
        where = {**report.context(), "full": options.full, "peers": compiled_tables.peers(NUMPYRO_PYTHON)}
        print(f"\n{part}: {where['machine']}; load {where['load_average_before']}", flush=True)
        document[part] = {"context": where, "rows": []}
        for row in PARTS[part](options):
            document[part]["rows"].append(row)
            print(compiled_tables.LINES[part](row), flush=True)
            path.write_text(json.dumps(document, indent=1) + "\n")
    (folder / f"{options.name}.md").write_text(compiled_tables.markdown(document))
    compiled_tables.update(Path(__file__).parent.parent / "docs" / "performance.md", document)
    compiled_pictures.draw(folder / f"{options.name}.png", document)
    print(f"wrote {path} with its .md and .png, and docs/performance.md")
    return 0 if all(all(row["same_losses"].values()) for row in document.get("steps", {}).get("rows", ())) else 1


if __name__ == "__main__":
    sys.exit(main())
