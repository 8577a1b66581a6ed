"""Writes the table that tells users which steps are compiled, which are not, and why."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from varigrad.compile.backends.cuda_graphs import CudaGraph
from varigrad.compile.backends.interfaces import Library
from varigrad.compile.step.compiled_step import CompiledStep
from varigrad.compile.step.specialization import Specialization
from varigrad.distributions.counter_rng import OURS, Kind
from varigrad.shapes import table


def explain(specializations: Collection[Specialization], patience: int) -> str:
    """Make a table with a row for each specialisation, and below them what torch computes and what draws each site.

    Args:
        patience: eager steps before a program is traced.
    """
    lines = [_row(number, own, patience) for number, own in enumerate(specializations)]
    if not lines:
        return "no step has been taken"
    found = [table(lines, ("form", "state", "recorded", "random numbers a step", "steps (Python + graph)"))]
    for number, own in enumerate(specializations):
        library = _library_of(own)
        compilation = None if own.step is None else own.step.traced.compilation
        if compilation is not None and compilation.fallback:
            found.append(f"form {number}, not compiled as C: {compilation.fallback}")
        if library is not None and library.calls:
            found.append(f"form {number}, left to torch: {', '.join(library.calls)}")
        for who in dict.fromkeys(own.drawn.values()):
            sites = ", ".join(site for site, how in own.drawn.items() if how == who)
            how = "our own functional samplers" if who == OURS else f"{who}, which has no functional form"
            found.append(f"form {number}, drawn by {how}: {sites}")
    return "\n".join(found)


def _row(number: int, own: Specialization, patience: int) -> tuple[object, ...]:
    step, library = own.step, _library_of(own)
    if own.refusal:
        state = f"eager: {own.refusal}"
    elif step is None:
        state = f"eager so far ({own.eager_steps} steps of {patience} before it is recorded)"
    elif library is None:
        state = "recorded, being compiled"
    elif isinstance(library, CudaGraph):
        state = library.how
    else:
        origin = "found in the cache" if library.found else f"compiled in {library.seconds:.1f} s"
        state = f"{origin} ({library.maker}), {library.kernels} kernels"
    size = "" if step is None else f"{step.traced.graph.size} operations in {own.tracing_seconds:.2f} s"
    draws = "" if own.demand is None else _demand_text(own.demand, step)
    return number, state, size, draws, f"{own.eager_steps} + {own.graph_steps}"


def _library_of(own: Specialization) -> Library | CudaGraph | None:
    compilation = None if own.step is None else own.step.traced.compilation
    return None if compilation is None else compilation.library


def _demand_text(demand: Mapping[Kind, int], step: CompiledStep | None) -> str:
    texts = [f"{n} {kind[0]}" for kind, n in demand.items()]
    if step is not None and step.random:
        texts.append("torch's own")
    return ", ".join(texts) or "none"
