"""Numbers to read: a table for the terminal, JSON, Markdown and a picture."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.measure import Measured
from benchmarks.workloads import WORKLOADS

AGREE = 5.0
"""Losses that differ by more standard errors than this were not computed by the same work."""


def context() -> dict[str, Any]:
    """Where and with what the numbers were taken."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "machine": f"{_cpu()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "load_average_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "pyro-ppl", "varigrad", "numpy")},
        "commit": _commit(),
    }


def rows(results: Sequence[Measured]) -> list[dict[str, Any]]:
    """One dictionary a workload and number of threads: times, ratios and whether the targets are met."""
    found = []
    for result in results:
        workload = WORKLOADS[result.workload]
        row: dict[str, Any] = {"workload": result.workload, "threads": result.threads}
        row["microseconds"] = {name: round(result.microseconds(name), 1) for name in result.seconds}
        row["spread"] = {name: round(result.spread(name), 3) for name in result.seconds}
        if {"pyro", "varigrad"} <= result.seconds.keys():
            ratio = result.ratio("pyro", "varigrad")
            row["pyro_over_ours"], row["at_least"] = round(ratio, 2), workload.at_least
            row["faster_enough"] = ratio >= workload.at_least
        if {"hand", "varigrad"} <= result.seconds.keys() and workload.at_most is not None:
            ratio = result.ratio("varigrad", "hand")
            row["ours_over_hand"], row["at_most"] = round(ratio, 2), workload.at_most
            row["near_enough"] = ratio <= workload.at_most
        row["same_work"] = all(d < AGREE for d in result.disagreement.values())
        row["detail"] = asdict(result)
        found.append(row)
    return found


HEADER = (
    "workload", "threads", "ours us", "Pyro us", "hand us", "Pyro/ours", "target", "ours/hand", "target", "same losses",
)  # fmt: skip


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table."""
    micro = row["microseconds"]

    def time(system: str) -> str:
        return f"{micro[system]:.0f} ±{100 * row['spread'][system]:.0f}%" if system in micro else ""

    def ratio(key: str, bound: str, sign: str, met: str) -> tuple[str, str]:
        if key not in row:
            return "", ""
        return f"{row[key]:.2f}", f"{sign} {row[bound]:g} {'met' if row[met] else 'MISSED'}"

    return (
        row["workload"],
        str(row["threads"]),
        time("varigrad"),
        time("pyro"),
        time("hand"),
        *ratio("pyro_over_ours", "at_least", ">=", "faster_enough"),
        *ratio("ours_over_hand", "at_most", "<=", "near_enough"),
        "yes" if row["same_work"] else "NO",
    )


def write(folder: Path, name: str, where: dict[str, Any], found: list[dict[str, Any]]) -> list[Path]:
    """`<name>.json`, `<name>.md` and `<name>.png` (where matplotlib is installed); returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.json", folder / f"{name}.md"]
    paths[0].write_text(json.dumps({"context": where, "rows": found}, indent=1) + "\n")
    paths[1].write_text(markdown(where, found))
    try:
        picture(folder / f"{name}.png", found)
    except ImportError:
        return paths
    return [*paths, folder / f"{name}.png"]


def markdown(where: dict[str, Any], found: list[dict[str, Any]]) -> str:
    """The table with what one has to know to read it."""
    versions = ", ".join(f"{k} {v}" for k, v in where["versions"].items())
    table = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    table += ["| " + " | ".join(cells(row)) + " |" for row in found]
    works = [
        f"* `{n}`: {w.title}; {w.estimator}." for n, w in WORKLOADS.items() if any(r["workload"] == n for r in found)
    ]
    return "\n".join(
        [
            "# Eager steps: varigrad, Pyro, hand-written torch",
            "",
            f"{where['date']}, commit {where['commit']}. {where['machine']}; Python {where['python']}, {versions}; "
            f"load average before the run {where['load_average_before']}. Threads: `OMP_NUM_THREADS` and "
            "`torch.set_num_threads` of every process.",
            "",
            *table,
            "",
            "Microseconds a step: medians over blocks taken in turns (A B C, C B A, ...), each system warm in a "
            "process of its own, garbage collection on; ± is half the interquartile range. Ratios are medians of the "
            "blocks' own ratios. Same data, parametrisation, starting point, estimator and optimiser (fused Adam) "
            "everywhere; Pyro with validation off. *Same losses*: after the same number of steps from the same start "
            "the systems' losses agree within their noise over seeds.",
            "",
            *works,
            "",
            "Again: `make bench-full`, or `python -m benchmarks.run --quick --workloads coin --threads 1 2`.",
            "",
        ]
    )


def picture(path: Path, found: list[dict[str, Any]]) -> None:
    """Bars: microseconds a step on a logarithmic scale."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    colours = {"hand": "#999999", "varigrad": "#0072b2", "pyro": "#d55e00"}
    names = {"hand": "hand-written torch", "varigrad": "varigrad", "pyro": "Pyro"}
    figure, axes = plt.subplots(figsize=(1.6 + 1.3 * len(found), 4.2))
    for offset, (system, colour) in enumerate(colours.items()):
        here = [(i, r["microseconds"][system]) for i, r in enumerate(found) if system in r["microseconds"]]
        if here:
            at, heights = [i + 0.27 * (offset - 1) for i, _ in here], [h for _, h in here]
            bars = axes.bar(at, heights, 0.26, color=colour, label=names[system])
            axes.bar_label(bars, [f"{h:,.0f}" for h in heights], fontsize=6, padding=1)
    many = len({r["threads"] for r in found}) > 1
    labels = [r["workload"].replace("_", "\n") + (f"\n{r['threads']} thr." if many else "") for r in found]
    axes.set_xticks(range(len(found)), labels, fontsize=8)
    axes.set_yscale("log")
    axes.set_ylabel("microseconds a step")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+changes" if git("status", "--porcelain", "src") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
