"""A sigmoid belief net 784-200-200 on batches of 256 binary images, by the score function with a decaying average."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.workload import Adam, Programs, Step, Workload, pyro_step, varigrad_step
from benchmarks.workloads.vae import BATCH, PIXELS, images

ADAM = Adam(lr=1e-3)
UNITS = 200


class Generator(nn.Module):
    """Top layer to bottom layer to pixels, all as logits."""

    def __init__(self) -> None:
        super().__init__()
        self.top = nn.Parameter(torch.zeros(UNITS))
        self.bottom, self.pixels = nn.Linear(UNITS, UNITS), nn.Linear(UNITS, PIXELS)


class Recogniser(nn.Module):
    """Pixels to bottom layer to top layer, all as logits."""

    def __init__(self) -> None:
        super().__init__()
        self.bottom, self.top = nn.Linear(PIXELS, UNITS), nn.Linear(UNITS, UNITS)


def networks() -> tuple[Generator, Recogniser]:
    torch.manual_seed(0)
    return Generator(), Recogniser()


def varigrad(seed: int) -> Step:
    import varigrad as vg
    from varigrad import distributions as dist
    from varigrad.estimators import MovingAverage, Score

    generator, recogniser = networks()
    estimator = Score(MovingAverage(0.9, per_element=True))

    def model(x: Tensor) -> None:
        vg.module("generator", generator)
        with vg.plate("batch", BATCH):
            top = vg.sample("top", dist.Bernoulli(logits=generator.top).to_event(1))
            bottom = vg.sample("bottom", dist.Bernoulli(logits=generator.bottom(top)).to_event(1))
            vg.sample("x", dist.Bernoulli(logits=generator.pixels(bottom)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        vg.module("recogniser", recogniser)
        with vg.plate("batch", BATCH):
            bottom_q = dist.Bernoulli(logits=recogniser.bottom(x)).to_event(1)
            bottom = vg.sample("bottom", bottom_q, estimator=estimator)
            vg.sample("top", dist.Bernoulli(logits=recogniser.top(bottom)).to_event(1), estimator=estimator)

    return varigrad_step(Programs(model, guide, (images(),)), ADAM, seed)


def pyro(seed: int) -> Step:
    import pyro
    import pyro.distributions as dist

    generator, recogniser = networks()
    # Pyro's average has the shape of the cost: one for each element of the plate.
    decaying_average = {"baseline": {"use_decaying_avg_baseline": True, "baseline_beta": 0.9}}

    def model(x: Tensor) -> None:
        pyro.module("generator", generator)
        with pyro.plate("batch", BATCH):
            top = pyro.sample("top", dist.Bernoulli(logits=generator.top).to_event(1))
            bottom = pyro.sample("bottom", dist.Bernoulli(logits=generator.bottom(top)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=generator.pixels(bottom)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("recogniser", recogniser)
        with pyro.plate("batch", BATCH):
            bottom_q = dist.Bernoulli(logits=recogniser.bottom(x)).to_event(1)
            bottom = pyro.sample("bottom", bottom_q, infer=decaying_average)
            pyro.sample("top", dist.Bernoulli(logits=recogniser.top(bottom)).to_event(1), infer=decaying_average)

    return pyro_step(Programs(model, guide, (images(),)), ADAM, "TraceGraph_ELBO", seed)


WORKLOAD = Workload(
    "sigmoid belief net 784-200-200, batch 256",
    "score function, decaying average per element",
    {"varigrad": varigrad, "pyro": pyro},
    check_steps=40,
)
