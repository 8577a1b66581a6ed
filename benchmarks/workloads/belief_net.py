"""A sigmoid belief net 784-200-200 on batches of 256 binary images, by the score function with a decaying average."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, linear

from benchmarks.workload import Adam, Formula, Programs, Workload
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


def varigrad() -> Programs:
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

    return Programs(model, guide, (images(),))


def pyro() -> Programs:
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

    return Programs(model, guide, (images(),), loss="TraceGraph_ELBO")


def formula() -> Formula:
    x = images()

    def log_prob(logits: Tensor, value: Tensor) -> Tensor:
        return -binary_cross_entropy_with_logits(logits, value, reduction="none").sum(-1)

    def draw(logits: Tensor) -> Tensor:
        return (torch.rand_like(logits) < logits.detach().sigmoid()).to(logits.dtype)

    def objective(p: Mapping[str, Tensor], average: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        def layer(name: str, given: Tensor) -> Tensor:
            return linear(given, p[f"{name}.weight"], p[f"{name}.bias"])

        bottom_q = layer("recogniser.bottom", x)
        bottom = draw(bottom_q)
        top_q = layer("recogniser.top", bottom)
        top = draw(top_q)
        q_bottom, q_top = log_prob(bottom_q, bottom), log_prob(top_q, top)
        above = log_prob(p["generator.top"].expand(BATCH, UNITS), top) + log_prob(
            layer("generator.bottom", top), bottom
        )
        below = log_prob(layer("generator.pixels", bottom), x)
        # All is downstream of the bottom layer; the pixels and q(bottom) are not downstream of the top one.
        cost = torch.stack([above + below - q_bottom - q_top, above - q_top]).detach()
        signal = cost - average
        surrogate = -(above + below + signal[0] * q_bottom + signal[1] * q_top).sum()
        return surrogate, (-cost[0].sum(), torch.lerp(average, cost, 0.1))

    return Formula(weights(), objective, torch.zeros(2, BATCH))


def weights() -> dict[str, Tensor]:
    """Those that training starts from."""
    generator, recogniser = networks()
    return dict(nn.ModuleDict({"generator": generator, "recogniser": recogniser}).state_dict())


WORKLOAD = Workload(
    "sigmoid belief net 784-200-200, batch 256",
    "score function, decaying average per element",
    ADAM,
    varigrad,
    pyro,
    formula,
    lambda: {"x": images().numpy(), **{name: value.numpy() for name, value in weights().items()}},
    target=1800.0,
    check_steps=40,
)
