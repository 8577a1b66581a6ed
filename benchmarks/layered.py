"""Models with layers and awkward latents, beyond the seven workloads: a step in C, by Inductor, and eagerly.

    python -m benchmarks.layered

writes `benchmarks/results/layered.json` and `.md`: microseconds a step, and seconds until it was compiled.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import varigrad as vg
from benchmarks.report import context
from varigrad import distributions as dist
from varigrad.compile.backends.c import library
from varigrad.distributions import constraints
from varigrad.shapes import table

Programs = tuple[Callable[..., object], Callable[..., object], tuple[Tensor, ...]]
"""Model, guide, and what they are called with."""

RESULTS = Path(__file__).parent / "results" / "layered"


def cells() -> Programs:
    """Counts of 60 genes in 128 cells, a negative binomial VAE with batch norm and dropout."""
    counts, batch = torch.poisson(5 * torch.rand(128, 60)), torch.randint(0, 3, (128,))
    encoder = nn.Sequential(nn.Linear(63, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 12))
    decoder = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 60))

    def model(counts: Tensor, batch: Tensor) -> None:
        net = vg.module("decoder", decoder)
        dispersion = vg.param("dispersion", torch.ones(60), constraint=constraints.positive)
        with vg.plate("cells", len(counts)):
            z = vg.sample("z", dist.Normal(torch.zeros(5), 1.0).to_event(1))
            size = vg.sample("size", dist.LogNormal(5.0, 0.5))
            share = net(torch.cat([z, F.one_hot(batch, 3).float()], -1)).softmax(-1)
            logits = (size[..., None] * share + 1e-6).log() - dispersion.log()
            vg.sample("counts", dist.NegativeBinomial(dispersion, logits=logits).to_event(1), obs=counts)

    def guide(counts: Tensor, batch: Tensor) -> None:
        net = vg.module("encoder", encoder)
        with vg.plate("cells", len(counts)):
            out = net(torch.cat([counts.log1p(), F.one_hot(batch, 3).float()], -1))
            vg.sample("z", dist.Normal(out[:, :5], out[:, 5:10].exp()).to_event(1))
            vg.sample("size", dist.LogNormal(out[:, 10] + 5, out[:, 11].exp()))

    return model, guide, (counts, batch)


def topics() -> Programs:
    """20 documents of 30 words from 50, four topics: Dirichlets, and a category for every word."""
    words = torch.randint(0, 50, (20, 30))

    def model(words: Tensor) -> None:
        with vg.plate("topics", 4):
            topic = vg.sample("topic", dist.Dirichlet(0.5 * torch.ones(50)))
        with vg.plate("documents", 20, dim=-2):
            mixture = vg.sample("mixture", dist.Dirichlet(torch.ones(20, 1, 4)))
            with vg.plate("words", 30, dim=-1):
                z = vg.sample("z", dist.Categorical(mixture))
                vg.sample("word", dist.Categorical(topic[z]), obs=words)

    def guide(words: Tensor) -> None:
        topic = vg.param("a", torch.rand(4, 50) + 0.5, constraint=constraints.positive)
        mixture = vg.param("b", torch.rand(20, 1, 4) + 0.5, constraint=constraints.positive)
        logits = vg.param("logits", 0.1 * torch.randn(20, 30, 4))
        with vg.plate("topics", 4):
            vg.sample("topic", dist.Dirichlet(topic))
        with vg.plate("documents", 20, dim=-2):
            vg.sample("mixture", dist.Dirichlet(mixture))
            with vg.plate("words", 30, dim=-1):
                vg.sample("z", dist.Categorical(logits=logits))

    return model, guide, (words,)


def recurrent() -> Programs:
    """32 walks of ten steps, a GRU that guides all of them."""
    walks = torch.randn(32, 10, 3).cumsum(1)
    recurrent, head, emission = nn.GRU(3, 16, batch_first=True), nn.Linear(16, 4), nn.Linear(2, 3)

    def model(walks: Tensor) -> None:
        net = vg.module("emission", emission)
        with vg.plate("walks", len(walks)):
            z = torch.zeros(len(walks), 2)
            for t in range(10):
                z = vg.sample(f"z{t}", dist.Normal(0.9 * z, 0.3).to_event(1))
                vg.sample(f"x{t}", dist.Normal(net(z), 0.5).to_event(1), obs=walks[:, t])

    def guide(walks: Tensor) -> None:
        states, _ = vg.module("recurrent", recurrent)(walks)
        mean, scale = vg.module("head", head)(states).chunk(2, -1)
        with vg.plate("walks", len(walks)):
            for t in range(10):
                vg.sample(f"z{t}", dist.Normal(mean[:, t], scale[:, t].exp()).to_event(1))

    return model, guide, (walks,)


def attention() -> Programs:
    """40 queries, each of which looks at one of five keys."""
    queries, keys, found = torch.randn(40, 6), torch.randn(5, 6), torch.randn(40)
    net, values = nn.Linear(6, 5), nn.Embedding(5, 1)

    def model(queries: Tensor, found: Tensor) -> None:
        embedding = vg.module("values", values)
        with vg.plate("queries", 40):
            key = vg.sample("key", dist.Categorical(logits=queries @ keys.T))
            vg.sample("found", dist.Normal(embedding(key)[..., 0], 0.5), obs=found)

    def guide(queries: Tensor, found: Tensor) -> None:
        logits = vg.module("net", net)(queries)
        with vg.plate("queries", 40):
            vg.sample("key", dist.Categorical(logits=logits))

    return model, guide, (queries, found)


def process() -> Programs:
    """A Gaussian process at 30 points; its kernel is guessed."""
    x = torch.linspace(0, 1, 30)
    y = torch.sin(6 * x) + 0.1 * torch.randn(30)

    def model(y: Tensor) -> None:
        length = vg.sample("length", dist.LogNormal(-1.0, 0.5))
        height = vg.sample("height", dist.LogNormal(0.0, 0.5))
        noise = vg.sample("noise", dist.LogNormal(-2.0, 0.5))
        kernel = height**2 * torch.exp(-0.5 * ((x[:, None] - x) / length) ** 2) + (noise**2 + 1e-4) * torch.eye(30)
        factor = torch.linalg.cholesky(kernel)
        vg.sample("y", dist.MultivariateNormal(torch.zeros(30), scale_tril=factor), obs=y)

    return model, vg.guides.AutoNormal(model), (y,)


def images() -> Programs:
    """128 images of 28 x 28, a convolutional VAE."""
    pixels = (torch.rand(128, 1, 28, 28) > 0.5).float()
    encoder = nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 49, 32),
    )
    decoder = nn.Sequential(
        nn.Linear(16, 32 * 49), nn.ReLU(), nn.Unflatten(1, (32, 7, 7)), nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(16, 1, 4, 2, 1),
    )  # fmt: skip

    def model(pixels: Tensor) -> None:
        net = vg.module("decoder", decoder)
        with vg.plate("images", len(pixels)):
            z = vg.sample("z", dist.Normal(torch.zeros(16), 1.0).to_event(1))
            vg.sample("pixels", dist.Bernoulli(logits=net(z)).to_event(3), obs=pixels)

    def guide(pixels: Tensor) -> None:
        net = vg.module("encoder", encoder)
        with vg.plate("images", len(pixels)):
            mean, scale = net(pixels).chunk(2, -1)
            vg.sample("z", dist.Normal(mean, scale.exp()).to_event(1))

    return model, guide, (pixels,)


MODELS: dict[str, Callable[[], Programs]] = {
    "cells": cells,
    "topics": topics,
    "recurrent": recurrent,
    "attention": attention,
    "process": process,
    "images": images,
}


def prepared(make: Callable[[], Programs], how: str) -> tuple[Callable[[int], object], float]:
    """A run of so many steps, and the seconds that its first twenty took."""
    torch.manual_seed(0)
    model, guide, args = make()
    room = library.ROOM
    library.ROOM = 0 if how == "Inductor" else room  # nothing has room in C
    try:
        start = time.perf_counter()
        svi = vg.SVI(model, guide, vg.optim.Adam(lr=1e-3), seed=0, compile=False if how == "eager" else "wait")
        svi.run(20, *args, progress=False)
        return lambda count: svi.run(count, *args, progress=False), time.perf_counter() - start
    finally:
        library.ROOM = room


def measure(name: str, rounds: int = 9) -> dict[str, Any]:
    """Microseconds a step by turns, and the seconds of the first steps."""
    runs = {how: prepared(MODELS[name], how) for how in ("C", "Inductor", "eager")}
    times: dict[str, list[float]] = {how: [] for how in runs}
    for _ in range(rounds):
        for how, (run, _) in runs.items():
            start, count = time.perf_counter(), 64
            run(count)
            times[how].append((time.perf_counter() - start) / count * 1e6)
    return {
        "model": name,
        "microseconds": {how: round(statistics.median(found), 1) for how, found in times.items()},
        "first twenty": {how: round(seconds, 1) for how, (_, seconds) in runs.items()},
    }


def main() -> None:
    """Measure all of them, and write the table."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with tempfile.TemporaryDirectory() as cache:
        os.environ["VARIGRAD_CACHE"] = cache
        rows = [measure(name) for name in tqdm(MODELS)]
    where = context()
    header = ("model", "C us", "Inductor us", "eager us", "first 20 steps: C s", "Inductor s", "eager s")
    cells = [(r["model"], *r["microseconds"].values(), *r["first twenty"].values()) for r in rows]
    print(table(cells, header))
    threads = torch.get_num_threads()
    RESULTS.with_suffix(".json").write_text(json.dumps({"context": where, "threads": threads, "rows": rows}, indent=1))
    lines = [f"| {' | '.join(map(str, row))} |" for row in (header, ("---",) * len(header), *cells)]
    title = "Models with layers and awkward latents: our C, Inductor, and eager steps"
    text = f"Medians of nine rounds by turns, {threads} thread(s); {where['machine']}; {where['date']}."
    RESULTS.with_suffix(".md").write_text("\n".join([f"# {title}", "", text, "", *lines, ""]))


if __name__ == "__main__":
    main()
