"""Steps of models whose discrete choices are summed out, next to NumPyro's and Pyro's, by turns.

    make .venv/bench .venv-numpyro/ready
    .venv/bin/python -m benchmarks.summed_out --rounds 5 --numpyro .venv-numpyro/bin/python

Every system runs in a process of its own, with one thread, on the same data, and fits the same model with its own
`AutoNormal`. NumPyro's steps are `TraceEnum_ELBO` in one jitted `lax.scan`, Pyro's are `TraceEnum_ELBO`, ours are
`svi.run(compile="wait")`. The table has medians over rounds, in microseconds a step, and the mean loss of the last
tenth of the steps.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
STEPS = {"mixture": 2000, "large mixture": 500, "topics": 100, "sequences": 40, "chain of 1000": 60}
SLOW = 20
"""Pyro takes one step where the others take so many."""


def data(seed: int = 0) -> dict[str, np.ndarray]:
    """What all systems fit: points, words of documents, and sequences of chords."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 64, (1024, 32))
    sequences = (rng.random((129, 128, 8)) < 0.3).astype(np.float32)
    points = rng.normal(rng.integers(0, 10, 100_000) * 2.0, 0.7).astype(np.float32)
    few = rng.normal(rng.integers(0, 3, 500) * 4.0, 1.0).astype(np.float32)
    return {
        "few": few,
        "points": points,
        "words": words,
        "sequences": sequences,
        "chain": few[:, None].repeat(2, 1).ravel(),
    }


def ours(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[Callable[..., None], tuple[Any, ...], str]]:
    """Our programs: model, arguments, sites to sum out."""
    import torch

    import varigrad as vg
    from varigrad import distributions as dist

    tensors = {name: torch.as_tensor(value) for name, value in arrays.items()}

    def mixture(kinds: int, batch: int | None) -> Callable[..., None]:
        def model(x: torch.Tensor) -> None:
            weights = vg.sample("weights", dist.Dirichlet(torch.ones(kinds)))
            with vg.plate("components", kinds):
                loc = vg.sample("loc", dist.Normal(0.0, 10.0))
            with vg.plate("points", len(x), subsample_size=batch):
                k = vg.sample("k", dist.Categorical(weights))
                vg.sample("x", dist.Normal(loc[k], 1.0), obs=vg.subsample(x, 0))

        return model

    def topics(words: torch.Tensor) -> None:
        with vg.plate("topics", 8):
            topic = vg.sample("topic", dist.Dirichlet(torch.ones(64)))
        with vg.plate("documents", 32):
            shares = vg.sample("shares", dist.Dirichlet(torch.ones(8)))
            with vg.plate("words", 1024):
                z = vg.sample("z", dist.Categorical(shares))
                vg.sample("word", dist.Categorical(topic[z]), obs=words)

    def markov(states: int, emit: Callable[..., None]) -> Callable[..., None]:
        def model(y: torch.Tensor) -> None:
            with vg.plate("states", states):
                transition = vg.sample("transition", dist.Dirichlet(torch.ones(states) + 4 * torch.eye(states)))
            emit(transition, y, states)

        return model

    def chords(transition: torch.Tensor, y: torch.Tensor, states: int) -> None:
        with vg.plate("notes of states", states):
            rate = vg.sample("rate", dist.Beta(0.1 * torch.ones(8), 0.9).to_event(1))
        with vg.plate("sequences", y.shape[1], dim=-1):

            def step(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
                z = vg.sample("z", dist.Categorical(transition[z]))
                vg.sample("y", dist.Bernoulli(rate[z]).to_event(1), obs=y)
                return z

            vg.scan(step, torch.tensor(0), y, dim=-2)

    def numbers(transition: torch.Tensor, y: torch.Tensor, states: int) -> None:
        with vg.plate("levels of states", states):
            level = vg.sample("level", dist.Normal(torch.linspace(0.0, 8.0, states), 3.0))

        def step(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            z = vg.sample("z", dist.Categorical(transition[z]))
            vg.sample("y", dist.Normal(level[z], 1.0), obs=y)
            return z

        vg.scan(step, torch.tensor(0), y)

    return {
        "mixture": (mixture(3, None), (tensors["few"],), "k"),
        "large mixture": (mixture(10, 1000), (tensors["points"],), "k"),
        "topics": (topics, (tensors["words"],), "z"),
        "sequences": (markov(16, chords), (tensors["sequences"],), "z_*"),
        "chain of 1000": (markov(16, numbers), (tensors["chain"],), "z_*"),
    }


def run_ours(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Seconds a step and the last losses of our compiled steps."""
    import varigrad as vg

    found = {}
    for name, (model, args, sites) in ours(arrays).items():
        guide = vg.guides.AutoNormal(model, *args)
        svi = vg.SVI(model, guide, vg.optim.Adam(0.01), vg.ELBO(marginal=sites), seed=0, compile="wait")
        svi.run(20, *args)
        began = time.perf_counter()
        fit = svi.run(STEPS[name], *args)
        found[name] = (time.perf_counter() - began) / STEPS[name], float(fit.losses[-STEPS[name] // 10 :].mean())
    return found


def run_numpyro(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """The same of NumPyro: `TraceEnum_ELBO` in a `lax.scan`."""
    import jax
    import jax.numpy as jnp
    import numpyro
    from jax import lax
    from numpyro import distributions as dist
    from numpyro.contrib.control_flow import scan
    from numpyro.infer import SVI, TraceEnum_ELBO
    from numpyro.infer.autoguide import AutoNormal

    def mixture(kinds: int, batch: int | None) -> Callable[..., None]:
        def model(x: Any) -> None:
            weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(kinds)))
            with numpyro.plate("components", kinds):
                loc = numpyro.sample("loc", dist.Normal(0.0, 10.0))
            with numpyro.plate("points", len(x), subsample_size=batch) as index:
                k = numpyro.sample("k", dist.Categorical(weights), infer={"enumerate": "parallel"})
                numpyro.sample("x", dist.Normal(loc[k], 1.0), obs=x[index])

        return model

    def topics(words: Any) -> None:
        with numpyro.plate("topics", 8):
            topic = numpyro.sample("topic", dist.Dirichlet(jnp.ones(64)))
        with numpyro.plate("documents", 32):
            shares = numpyro.sample("shares", dist.Dirichlet(jnp.ones(8)))
            with numpyro.plate("words", 1024):
                z = numpyro.sample("z", dist.Categorical(shares), infer={"enumerate": "parallel"})
                numpyro.sample("word", dist.Categorical(topic[z]), obs=words)

    def markov(states: int, emit: Callable[..., None]) -> Callable[..., None]:
        def model(y: Any) -> None:
            with numpyro.plate("states", states):
                prior = dist.Dirichlet(jnp.ones(states) + 4 * jnp.eye(states))
                transition = numpyro.sample("transition", prior)
            emit(transition, y, states)

        return model

    def chords(transition: Any, y: Any, states: int) -> None:
        with numpyro.plate("notes of states", states):
            rate = numpyro.sample("rate", dist.Beta(0.1 * jnp.ones(8), 0.9).to_event(1))

        def step(z: Any, y: Any) -> tuple[Any, None]:
            with numpyro.plate("sequences", y.shape[0], dim=-1):
                z = numpyro.sample("z", dist.Categorical(transition[z]), infer={"enumerate": "parallel"})
                numpyro.sample("y", dist.Bernoulli(rate[z]).to_event(1), obs=y)
            return z, None

        scan(step, jnp.zeros(y.shape[1], int), y)

    def numbers(transition: Any, y: Any, states: int) -> None:
        with numpyro.plate("levels of states", states):
            level = numpyro.sample("level", dist.Normal(jnp.linspace(0.0, 8.0, states), 3.0))

        def step(z: Any, y: Any) -> tuple[Any, None]:
            z = numpyro.sample("z", dist.Categorical(transition[z]), infer={"enumerate": "parallel"})
            numpyro.sample("y", dist.Normal(level[z], 1.0), obs=y)
            return z, None

        scan(step, 0, y)

    programs = {
        "mixture": (mixture(3, None), arrays["few"]),
        "large mixture": (mixture(10, 1000), arrays["points"]),
        "topics": (topics, arrays["words"]),
        "sequences": (markov(16, chords), arrays["sequences"]),
        "chain of 1000": (markov(16, numbers), arrays["chain"]),
    }
    found = {}
    for name, (model, array) in programs.items():
        y = jnp.asarray(array)
        hidden = numpyro.handlers.block(model, hide=["k", "z"])
        svi = SVI(model, AutoNormal(hidden), numpyro.optim.Adam(0.01), TraceEnum_ELBO())
        state = svi.init(jax.random.PRNGKey(0), y)

        def many(state: Any, svi: Any = svi, y: Any = y, count: int = STEPS[name]) -> tuple[Any, Any]:
            return lax.scan(lambda s, _: svi.update(s, y), state, None, length=count)

        steps = jax.jit(many)
        jax.block_until_ready(steps(state))
        began = time.perf_counter()
        losses = jax.block_until_ready(steps(state))[1]
        found[name] = (time.perf_counter() - began) / STEPS[name], float(losses[-STEPS[name] // 10 :].mean())
    return found


def run_pyro(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """The same of Pyro, eager, without validation."""
    import pyro
    import torch
    from pyro import distributions as dist
    from pyro import poutine
    from pyro.infer import SVI, TraceEnum_ELBO
    from pyro.infer.autoguide import AutoNormal

    pyro.enable_validation(False)
    parallel = {"enumerate": "parallel"}

    def mixture(kinds: int, batch: int | None) -> Callable[..., None]:
        def model(x: torch.Tensor) -> None:
            weights = pyro.sample("weights", dist.Dirichlet(torch.ones(kinds)))
            with pyro.plate("components", kinds):
                loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
            with pyro.plate("points", len(x), subsample_size=batch) as index:
                k = pyro.sample("k", dist.Categorical(weights), infer=parallel)
                pyro.sample("x", dist.Normal(loc[k], 1.0), obs=x[index])

        return model

    def topics(words: torch.Tensor) -> None:
        with pyro.plate("topics", 8):
            topic = pyro.sample("topic", dist.Dirichlet(torch.ones(64)))
        with pyro.plate("documents", 32):
            shares = pyro.sample("shares", dist.Dirichlet(torch.ones(8)))
            with pyro.plate("words", 1024):
                z = pyro.sample("z", dist.Categorical(shares), infer=parallel)
                pyro.sample("word", dist.Categorical(topic[z]), obs=words)

    def chords(y: torch.Tensor) -> None:
        with pyro.plate("states", 16):
            transition = pyro.sample("transition", dist.Dirichlet(torch.ones(16) + 4 * torch.eye(16)))
        with pyro.plate("notes of states", 16):
            rate = pyro.sample("rate", dist.Beta(0.1 * torch.ones(8), 0.9).to_event(1))
        z: Any = 0
        with pyro.plate("sequences", y.shape[1], dim=-1):
            for t in pyro.markov(range(len(y))):
                z = pyro.sample(f"z_{t}", dist.Categorical(transition[z]), infer=parallel)
                pyro.sample(f"y_{t}", dist.Bernoulli(rate[z]).to_event(1), obs=y[t])

    programs = {
        "mixture": (mixture(3, None), arrays["few"], 1),
        "large mixture": (mixture(10, 1000), arrays["points"], 1),
        "topics": (topics, arrays["words"], 2),
        "sequences": (chords, arrays["sequences"], 1),
    }
    found = {}
    for name, (model, array, plates) in programs.items():
        pyro.clear_param_store()
        y, count = torch.as_tensor(array), max(3, STEPS[name] // SLOW)
        hidden = poutine.block(model, hide_fn=lambda site: site["infer"].get("enumerate") == "parallel")
        svi = SVI(model, AutoNormal(hidden), pyro.optim.Adam({"lr": 0.01}), TraceEnum_ELBO(max_plate_nesting=plates))
        svi.step(y)
        began = time.perf_counter()
        losses = [svi.step(y) for _ in range(count)]
        found[name] = (time.perf_counter() - began) / count, float(np.mean(losses[-count // 10 :]))
    return found


SYSTEMS = {"varigrad": run_ours, "NumPyro": run_numpyro, "Pyro": run_pyro}


def main() -> None:
    """Run every system by turns, or one of them as a worker."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--numpyro", help="Python with NumPyro and funsor")
    parser.add_argument("--pyro", help="Python with Pyro")
    parser.add_argument("--worker", choices=SYSTEMS)
    parser.add_argument("--data", type=Path)
    given = parser.parse_args()
    if given.worker:
        with np.load(given.data) as arrays:
            print(json.dumps(SYSTEMS[given.worker](dict(arrays))))
        return
    pythons = {"varigrad": sys.executable, "NumPyro": given.numpyro, "Pyro": given.pyro}
    environment = os.environ | {"OMP_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
    results: dict[str, dict[str, list[tuple[float, float]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        np.savez(path, **data())
        for _ in range(given.rounds):
            for system, python in pythons.items():
                if python is None:
                    continue
                command = [python, "-m", "benchmarks.summed_out", "--worker", system, "--data", str(path)]
                done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
                if done.returncode:
                    print(f"{system}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                    pythons[system] = None
                    continue
                for name, figures in json.loads(done.stdout.splitlines()[-1]).items():
                    results.setdefault(name, {}).setdefault(system, []).append(tuple(figures))
    systems = [system for system in SYSTEMS if any(system in row for row in results.values())]
    print("| model | " + " | ".join(f"{s}, us a step (loss)" for s in systems) + " |")
    print("|---" * (1 + len(systems)) + "|")
    for name, row in results.items():
        cells = []
        for system in systems:
            if system in row:
                seconds = statistics.median(figures[0] for figures in row[system])
                cells.append(f"{seconds * 1e6:.0f} ({row[system][0][1]:.6g})")
            else:
                cells.append("-")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
