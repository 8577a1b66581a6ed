"""The compiled comparison in words: tables of Markdown, and lines for the terminal."""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.reasons import REASONS
from benchmarks.workloads import find

Row = dict[str, Any]

NAMES = {
    "pyro": "Pyro",
    "numpyro-call": "NumPyro, `jit(update)`",
    "numpyro-scan": "NumPyro, `lax.scan`",
    "numpyro-run": "NumPyro, `SVI.run`",
    "hand-compiled": "by hand, `torch.compile`",
    "varigrad": "ours, eager",
    "varigrad-step": "ours, `svi.step`",
    "varigrad-run": "ours, `svi.run`",
    "varigrad-background": "ours, `svi.run`",
}
HELD_TO = {"target": "the plan's target", "numpyro-scan": "NumPyro's scan", "hand-compiled": "1.1 x by hand"}


def peers(python: Path) -> dict[str, str]:
    """Versions in NumPyro's environment."""
    names = ("numpyro", "jax", "jaxlib")
    code = f"from importlib.metadata import version as v; print(*(v(n) for n in {names}))"
    try:
        found = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return {}
    return dict(zip(names, found, strict=True))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of Markdown."""
    return ["| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *rows)]


def where(part: Mapping[str, Any]) -> str:
    """Date, machine and versions, in one paragraph."""
    context = part["context"]
    versions = ", ".join(f"{k} {v}" for k, v in {**context["versions"], **context["peers"]}.items())
    effort = "" if context["full"] else " **A quick run, with short blocks: only good for seeing that all works.**"
    return (
        f"{context['date']}, commit {context['commit']}. {context['machine']}; Python {context['python']}, {versions}; "
        f"load average before {context['load_average_before']}.{effort}"
    )


def steps(part: Mapping[str, Any]) -> list[str]:
    """Microseconds a step, which targets are missed and why, and memory."""
    rows = part["rows"]
    systems = [s for s in NAMES if any(s in r["microseconds"] for r in rows)]
    header = ["workload", "threads", *(NAMES[s] for s in systems), "target", "ours / scan", "ours / by hand"]
    lines = table([*header, "same losses"], (_step_cells(r, systems) for r in rows))
    missed = [(r, what) for r in rows for what, met in r["met"].items() if not met]
    failed = [f"* `{r['workload']}`, {r['threads']} threads: {s} did not run." for r in rows for s in r["failed"]]
    reasons = [
        f"* `{r['workload']}`, {r['threads']} thread{'s'[: r['threads'] > 1]}, {HELD_TO[what]}: {_missed(r, what)}. "
        f"{REASONS.get((r['workload'], what), 'No reason noted yet (benchmarks/reasons.py).')}"
        for r, what in missed
    ]
    named = {r["workload"]: find(r["workload"]) for r in rows}
    works = [f"* `{name}`: {w.title}; {w.estimator}." for name, w in named.items()]
    memory = table(
        ["workload", "threads", *(NAMES[s] for s in systems)],
        ([r["workload"], str(r["threads"]), *(_memory(r, s) for s in systems)] for r in rows),
    )
    return [
        "## Microseconds a step", "", where(part), "", *lines, "",
        "Medians over blocks taken in turns; each system warm in a process of its own, on as many processors as "
        "threads; ± is half the interquartile range, ratios are medians of the blocks' own. Same data, starting "
        "points, Adam, batch, one particle. Losses of all steps reach Python: one by one (Pyro, ours eager and "
        "`svi.step`), or at the end of a block. Where the estimator has a baseline, NumPyro's has none, because it "
        "does not offer one: it does a little less work for a noisier gradient. *Same losses*: they agree within "
        "their noise over seeds, after the same number of steps (without a baseline: where runs begin).", "",
        *works, "", "Missed:" if missed else "No target is missed.", "", *reasons, *failed, "",
        "## Peak memory", "",
        "Megabytes at most resident, of the process that takes the steps (in brackets: of the largest process that "
        "it started, a compiler).", "", *memory, "",
    ]  # fmt: skip


def _missed(row: Row, what: str) -> str:
    if what == "target":
        return f"{row['microseconds']['varigrad-run']:.1f} us for {row['target']:g}"
    return f"{row['ratios'][what]:.2f} times"


def _memory(row: Row, system: str) -> str:
    peak = row["peak"].get(system)
    if peak is None:
        return ""
    return f"{peak['own']:.0f}" + (f" ({peak['children']:.0f})" if peak["children"] else "")


def _step_cells(row: Row, systems: Sequence[str]) -> list[str]:
    micro, met = row["microseconds"], row["met"]

    def time(system: str) -> str:
        if system not in micro:
            return ""
        return f"{micro[system]:.{1 if micro[system] < 100 else 0}f} ±{100 * row['spread'][system]:.0f}%"

    def judged(what: str, text: str) -> str:
        return "" if what not in met else text if met[what] else f"**{text} MISSED**"

    ratios = [judged(s, f"{row['ratios'].get(s, 0):.2f}") for s in ("numpyro-scan", "hand-compiled")]
    differing = [s for s, same in row["same_losses"].items() if not same]
    target = judged("target", f"<= {row['target']:g}")
    same = f"NO: {', '.join(differing)}" if differing else "yes"
    return [row["workload"], str(row["threads"]), *map(time, systems), target, *ratios, same]


def cold(part: Mapping[str, Any]) -> list[str]:
    """Seconds from a cold start."""
    lines = ["## Seconds from a cold start", "", where(part), ""]
    for name in dict.fromkeys(r["workload"] for r in part["rows"]):
        rows = [r for r in part["rows"] if r["workload"] == name]
        counts = sorted({r["steps"] for r in rows})
        lines += [f"`{name}`, OMP_NUM_THREADS={rows[0]['threads']}", ""]
        found = []
        for system, cache in dict.fromkeys((r["system"], r["cache"]) for r in rows):
            mine = {r["steps"]: r for r in rows if (r["system"], r["cache"]) == (system, cache)}
            found.append([NAMES[system], cache, *(_seconds(mine[c]) for c in counts)])
        lines += [*table(["system", "cache", *(f"{c:,} steps" for c in counts)], found), ""]
    return [
        *lines,
        "Wall time of a process from launch to exit: interpreter, imports, building, compiling, all steps; medians. "
        "Cache: of compiled steps, on disk; *filled* by a process before (NumPyro's is JAX's persistent compilation "
        "cache, which is off by default and was switched on). Ours compiles in the background (`compile=True`), on "
        "whatever processor is free. ~: drawn on from the counts before.",
        "",
    ]


def _seconds(row: Row) -> str:
    if not row["seconds"]:
        return "not finished"
    return f"{'~' if row['extrapolated'] else ''}{statistics.median(row['seconds']):.1f}"


def chains(part: Mapping[str, Any]) -> list[str]:
    """Compile time and time a step against the number of sites."""
    rows = part["rows"]
    lengths = sorted({r["length"] for r in rows})
    found = []
    for system, cache in dict.fromkeys((r["system"], r["cache"]) for r in rows):
        mine = {r["length"]: r for r in rows if (r["system"], r["cache"]) == (system, cache)}
        found.append([NAMES[system], cache, *(_chain(mine.get(length)) for length in lengths)])
    return [
        "## Chains of T sites", "", where(part), "",
        *table(["system", "cache", *(f"T = {length}" for length in lengths)], found), "",
        "Seconds to be ready (recording, compiling, the first 30 steps), then microseconds a step. A process was ended "
        f"after {rows[0]['limit']:.0f} s; a system that was ended is not asked for longer chains. "
        f"OMP_NUM_THREADS={rows[0]['threads']}, both processors free for compilers.", "",
    ]  # fmt: skip


def _chain(row: Row | None) -> str:
    if row is None:
        return ""
    return f"{row['ready']:.1f} s, {row['each']:.1f} us" if row["ready"] is not None else f"> {row['limit']:.0f} s"


def anatomy(part: Mapping[str, Any]) -> list[str]:
    """Where a step's time goes."""
    header = (
        "workload", "threads", "step", "random numbers", "graph", "= call", "+ matrix products", "+ Adam", "+ the rest",
        "Python", "rate of the products", "of a large one",
    )  # fmt: skip
    found = []
    for r in part["rows"]:
        parts = ("step", "numbers", "graph", "call", "products", "optimiser", "others", "python")
        times = [f"{r[p]:.{1 if r['step'] < 1000 else 0}f}" for p in parts]
        rate = f"{r['flop'] / r['products'] / 1e3:.0f} GFLOP/s" if r["flop"] else ""
        large = f"{r['peak_rate'] / 1e9:.0f} GFLOP/s" if r["flop"] else ""
        found.append([r["workload"], str(r["threads"]), *times, rate, large])
    kernels = [
        f"* `{r['workload']}`, {r['threads']} thread{'s'[: r['threads'] > 1]}: "
        + "; ".join(f"{us:.2f} us `{_short(name)}`" for name, us in r.get("kernels", {}).items())
        for r in part["rows"]
    ]
    return [where(part), "", *table(header, found), "", "The slowest functions of the graphs:", "", *kernels, ""]


def _short(name: str, most: int = 70) -> str:
    return name if len(name) <= most else f"{name[:most]}..."


def _title(part: Mapping[str, Any]) -> list[str]:
    return ["## Where a step's time goes", "", "Microseconds; explained in `docs/performance.md`.", "", *anatomy(part)]


SECTIONS: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "steps": steps,
    "cold": cold,
    "chains": chains,
    "anatomy": _title,
}


def markdown(document: Mapping[str, Any]) -> str:
    """All that was measured."""
    lines = ["# Compiled steps: varigrad, Pyro, NumPyro, hand-written torch", ""]
    for part, section in SECTIONS.items():
        if document.get(part, {}).get("rows"):
            lines += section(document[part])
    again = "Again: `make bench` (quick) or `make bench-full`; one part: `python -m benchmarks.compiled --parts cold`."
    return "\n".join([*lines, "![The same as pictures](compiled.png)", "", again, ""])


def update(path: Path, document: Mapping[str, Any]) -> None:
    """Put the tables of a part between its marks in a document, `<!-- anatomy -->` and `<!-- /anatomy -->`."""
    text = path.read_text()
    before, mark, rest = text.partition("<!-- anatomy -->\n")
    _, end, after = rest.partition("<!-- /anatomy -->")
    if mark and end and document.get("anatomy", {}).get("rows"):
        path.write_text(before + mark + "\n".join(anatomy(document["anatomy"])) + "\n" + end + after)


def _step_line(row: Row) -> str:
    times = "  ".join(f"{s} {us:.1f} (cpu {row['cpu'][s]:.1f})" for s, us in row["microseconds"].items())
    missed = [what for what, met in row["met"].items() if not met]
    differing = [s for s, same in row["same_losses"].items() if not same]
    notes = [
        f"{what}: {', '.join(names)}" for what, names in (("missed", missed), ("other losses", differing)) if names
    ]
    return f"{row['workload']}, {row['threads']} thr., us: {times}  {'; '.join(notes)}"


def _anatomy_line(row: Row) -> str:
    parts = ("step", "numbers", "graph", "call", "products", "optimiser", "others", "python")
    return f"{row['workload']}, {row['threads']} thr., us: " + "  ".join(f"{p} {row[p]:.1f}" for p in parts)


LINES: dict[str, Callable[[Row], str]] = {
    "steps": _step_line,
    "cold": lambda r: f"{r['workload']}, {r['system']}, cache {r['cache']}, {r['steps']} steps: {_seconds(r)} s",
    "chains": lambda r: f"T = {r['length']}, {r['system']}, cache {r['cache']}: {_chain(r)}",
    "anatomy": _anatomy_line,
}
