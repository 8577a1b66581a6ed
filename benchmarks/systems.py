"""How a workload becomes a run on each system of torch. NumPyro's are in `benchmarks/numpyro_systems.py`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.by_hand import compiled
from benchmarks.workload import Adam, Programs, Run, Start, Step, Workload

ROOT = Path(__file__).parent.parent
NUMPYRO_PYTHON = ROOT / ".venv-numpyro" / "bin" / "python"
"""NumPyro has an environment of its own, made by `make .venv-numpyro/ready`, without torch."""


def one_by_one(step: Step) -> Run:
    """A run as a loop over steps."""
    return lambda count: [step() for _ in range(count)]


def svi_of(programs: Programs, adam: Adam, seed: int, compile: Any = False) -> Any:
    """A `vg.SVI` whose parameters exist. Compiled steps that become eager ones are an error: they are not timed."""
    import varigrad as vg
    from varigrad.compile.step.step_compiler import CaptureWarning

    if compile:
        warnings.simplefilter("error", CaptureWarning)
    svi = vg.SVI(programs.model, programs.guide, adam.varigrad(), vg.ELBO(), seed=seed, compile=compile)
    return svi.init(*programs.args)


def varigrad_step(programs: Programs, adam: Adam, seed: int, compile: Any = False) -> Step:
    """A step of `vg.SVI`."""
    svi = svi_of(programs, adam, seed, compile)
    return lambda: svi.step(*programs.args)


def varigrad_steps(workload: Workload, compile: Any = False) -> Start:
    """`svi.step` in a loop."""
    return lambda seed: one_by_one(varigrad_step(workload.varigrad(), workload.adam, seed, compile))


def varigrad_runs(workload: Workload, compile: Any) -> Start:
    """`svi.run`, which takes many steps a call."""

    def start(seed: int) -> Run:
        programs = workload.varigrad()
        svi = svi_of(programs, workload.adam, seed, compile)
        return lambda count: svi.run(count, *programs.args, progress=False).losses.tolist()

    return start


def pyro_steps(workload: Workload) -> Start:
    """`svi.step` of Pyro in a loop, validation off (also that of `torch.distributions`)."""

    def start(seed: int) -> Run:
        import pyro
        from pyro import infer

        pyro.enable_validation(False)
        pyro.clear_param_store()
        programs = workload.pyro()  # networks are made with a seed of their own
        pyro.set_rng_seed(seed)
        svi = infer.SVI(programs.model, programs.guide, workload.adam.pyro(), getattr(infer, programs.loss)())
        return one_by_one(lambda: svi.step(*programs.args))

    return start


def compat_steps(workload: Workload) -> Start:
    """The same, where `import pyro` means `varigrad.compat.pyro`."""

    def start(seed: int) -> Run:
        import varigrad.compat.pyro as compat

        compat.install()
        return pyro_steps(workload)(seed)

    return start


def hand_steps(workload: Workload) -> Start:
    """By hand, with torch's distributions, autograd and fused Adam."""
    hand = workload.hand
    assert hand is not None
    return lambda seed: one_by_one(hand(seed))


def hand_compiled(workload: Workload) -> Start:
    """By hand, gradient and Adam in one function, by torch.compile."""
    return compiled(workload.formula(), workload.adam, torch.compile)


SYSTEMS: Mapping[str, Callable[[Workload], Start]] = {
    "varigrad": varigrad_steps,
    "varigrad-step": partial(varigrad_steps, compile="wait"),
    "varigrad-run": partial(varigrad_runs, compile="wait"),
    "varigrad-background": partial(varigrad_runs, compile=True),
    "pyro": pyro_steps,
    "compat": compat_steps,
    "hand": hand_steps,
    "hand-compiled": hand_compiled,
}
NUMPYRO = ("numpyro-call", "numpyro-scan", "numpyro-run")


def python_for(system: str) -> str:
    """The interpreter in whose environment the system is."""
    return str(NUMPYRO_PYTHON) if system in NUMPYRO else sys.executable


def available(workload: Workload, system: str) -> bool:
    """Whether the workload is written for the system, and the system is there."""
    if system in NUMPYRO:
        return NUMPYRO_PYTHON.exists()
    return system != "hand" or workload.hand is not None
