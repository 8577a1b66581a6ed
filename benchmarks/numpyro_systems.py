"""How a workload becomes a run on NumPyro. Runs in NumPyro's environment, which has no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import lax
from numpyro import infer

from benchmarks.numpyro_programs import PROGRAMS
from benchmarks.workload import Adam, Programs, Run, Start


def numpyro_call(workload: str, arrays: Mapping[str, Any], adam: Adam, block: int) -> Start:
    """`svi.update`, compiled, in a loop; losses come to Python at the end, so that calls may overlap."""
    programs, svi = _svi(workload, arrays, adam)
    update = jax.jit(svi.update)

    def start(seed: int) -> Run:
        state = svi.init(jax.random.key(seed), *programs.args)

        def run(count: int) -> list[float]:
            nonlocal state
            losses = []
            for _ in range(count):
                state, loss = update(state, *programs.args)
                losses.append(loss)
            return [float(loss) for loss in jax.device_get(losses)]

        return run

    return start


def numpyro_scan(workload: str, arrays: Mapping[str, Any], adam: Adam, block: int) -> Start:
    """`lax.scan` of `svi.update` over blocks of steps, compiled."""
    programs, svi = _svi(workload, arrays, adam)

    @jax.jit
    def many(state: Any, args: tuple[Any, ...]) -> tuple[Any, Any]:
        return lax.scan(lambda now, _: svi.update(now, *args), state, None, length=block)

    def start(seed: int) -> Run:
        state = svi.init(jax.random.key(seed), *programs.args)

        def run(count: int) -> list[float]:
            nonlocal state
            losses = []
            for _ in range(-(-count // block)):
                state, found = many(state, programs.args)
                losses.append(found)
            return [float(loss) for found in jax.device_get(losses) for loss in found]

        return run

    return start


def numpyro_run(workload: str, arrays: Mapping[str, Any], adam: Adam, block: int) -> Start:
    """`SVI.run` as users call it, without its progress bar, with which it takes longer. Compiles at every call."""
    programs, svi = _svi(workload, arrays, adam)

    def run(seed: int, count: int) -> list[float]:
        result = svi.run(jax.random.key(seed), count, *programs.args, progress_bar=False)
        return jax.device_get(result.losses).tolist()

    return lambda seed: lambda count: run(seed, count)


def _svi(workload: str, arrays: Mapping[str, Any], adam: Adam) -> tuple[Programs, infer.SVI]:
    programs = PROGRAMS[workload.partition(":")[0]](arrays)
    return programs, infer.SVI(programs.model, programs.guide, adam.numpyro(), getattr(infer, programs.loss)())


SYSTEMS: Mapping[str, Callable[[str, Mapping[str, Any], Adam, int], Start]] = {
    "numpyro-call": numpyro_call,
    "numpyro-scan": numpyro_scan,
    "numpyro-run": numpyro_run,
}
