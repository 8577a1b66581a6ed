"""The compiled comparison in pictures: bars a step, seconds against steps, chains against their length."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.compiled_tables import NAMES

COLOURS = {
    "pyro": "#d55e00",
    "numpyro-call": "#7fcdb0",
    "numpyro-scan": "#009e73",
    "numpyro-run": "#009e73",
    "hand-compiled": "#999999",
    "varigrad": "#9fc9e6",
    "varigrad-step": "#56b4e9",
    "varigrad-run": "#0072b2",
    "varigrad-background": "#0072b2",
}
STYLES = {"empty": "--", "filled": "-", "none": "-"}

ACROSS = 4
"""Panels in a row."""


def draw(path: Path, document: Mapping[str, Any]) -> None:
    """One file with all that was measured."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    parts = {name: part["rows"] for name, part in document.items() if part["rows"]}
    kinds = [name for name in ("steps", "cold", "chains") if name in parts]
    if not kinds:
        return
    heights = [len(_rows_of(parts[kind])) if kind == "cold" else 1 for kind in kinds]
    figure = plt.figure(figsize=(14, 4.2 * sum(heights)), layout="constrained")
    places = figure.subfigures(len(kinds), 1, squeeze=False, height_ratios=heights)[:, 0]
    for kind, row in zip(kinds, places, strict=True):
        {"steps": _bars, "cold": _cold, "chains": _chains}[kind](row, parts[kind])
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _bars(figure: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Microseconds a step; thin marks are the targets."""
    axes = figure.subplots()
    threads = min(r["threads"] for r in rows)
    rows = [r for r in rows if r["threads"] == threads]
    systems = [s for s in COLOURS if any(s in r["microseconds"] for r in rows)]
    width = 0.85 / len(systems)
    for k, system in enumerate(systems):
        here = [(i + (k - (len(systems) - 1) / 2) * width, r["microseconds"].get(system)) for i, r in enumerate(rows)]
        at, heights = zip(*[(x, h) for x, h in here if h is not None], strict=True)
        bars = axes.bar(at, heights, width, color=COLOURS[system], label=NAMES[system].replace("`", ""))
        axes.bar_label(bars, [f"{h:,.{1 if h < 10 else 0}f}" for h in heights], fontsize=5, rotation=90, padding=2)
    for i, r in enumerate(rows):
        axes.plot([i - 0.45, i + 0.45], [r["target"]] * 2, color="black", linewidth=0.8)
    axes.set_xticks(range(len(rows)), [r["workload"].replace("_", "\n") for r in rows], fontsize=8)
    axes.set_title(f"a step, {threads} thread; line: target", fontsize=9, loc="left")
    _finish(axes, "", "microseconds", across=False)
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _cold(figure: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Seconds against steps, a panel for each workload."""
    lines = _rows_of(rows)
    names = [name for line in lines for name in line]
    panels = figure.subplots(len(lines), len(lines[0]), squeeze=False).reshape(-1)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(panels, names, strict=False):
        mine = [r for r in rows if r["workload"] == name and r["seconds"]]
        for system, cache in dict.fromkeys((r["system"], r["cache"]) for r in mine):
            line = [r for r in mine if (r["system"], r["cache"]) == (system, cache)]
            at, seconds = [r["steps"] for r in line], [statistics.median(r["seconds"]) for r in line]
            label = NAMES[system].replace("`", "") + ("" if cache == "none" else f", {cache} cache")
            axes.plot(at, seconds, STYLES[cache], color=COLOURS[system], label=label, linewidth=1.3)
            for x, y, r in zip(at, seconds, line, strict=True):
                face = "white" if r["extrapolated"] else COLOURS[system]
                axes.plot(x, y, "o", color=COLOURS[system], markerfacecolor=face, markersize=4)
        axes.set_title(f"{name}: cold start to exit (hollow: extrapolated)", fontsize=9, loc="left")
        _finish(axes, "steps", "seconds")
    panels[len(lines[0]) - 1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _rows_of(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Workloads, so many in a row of panels."""
    names = list(dict.fromkeys(r["workload"] for r in rows))
    return [names[i : i + ACROSS] for i in range(0, len(names), ACROSS)]


def _chains(figure: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Seconds until ready, and microseconds a step, against the length."""
    panels = figure.subplots(1, 2)
    for axes, key, unit in zip(panels, ("ready", "each"), ("seconds until ready", "microseconds a step"), strict=True):
        for system, cache in dict.fromkeys((r["system"], r["cache"]) for r in rows):
            line = [
                r for r in rows if (r["system"], r["cache"]) == (system, cache) and r[key] is not None
            ]  # those that were ended are missing
            label = f"{NAMES[system].replace('`', '')}, {cache} cache"
            at, values = [r["length"] for r in line], [r[key] for r in line]
            axes.plot(at, values, STYLES[cache], marker="o", markersize=4, color=COLOURS[system], label=label)
        axes.set_title(f"chain of T sites: {unit}", fontsize=9, loc="left")
        _finish(axes, "T", unit)
    panels[-1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _finish(axes: Any, x: str, y: str, across: bool = True) -> None:
    if across:
        axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
