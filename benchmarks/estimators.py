"""Steps under each estimator beside hand-written torch loops of the same estimator. `python -m benchmarks.estimators`.

A discrete VAE of scikit-learn's digits, small enough that what a step costs besides arithmetic counts: 100 images of 64
pixels, 50 coins each, linear maps. Systems take turns; microseconds of processor time of one thread, medians.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torch.nn.functional import softplus
from tqdm import tqdm

import varigrad as vg
from benchmarks.coin_vae import CoinVAE
from varigrad.estimators import ARM, DisARM, Estimator, LeaveOneOut, MovingAverage, MuProp, Rebar, Score
from varigrad.shapes import table

RESULTS = Path(__file__).with_name("results") / "estimators.json"
COINS, BATCH, ROUNDS, STEPS = 50, 100, 15, 60
ETA, TEMPERATURE = 1.0, 0.5

Step = Callable[[], Any]


def vae_of() -> CoinVAE:
    """The same one every time."""
    torch.manual_seed(0)
    return CoinVAE(COINS, nn.Linear(64, COINS), nn.Linear(COINS, 64))


def cost_of(vae: CoinVAE, b: Tensor, logits: Tensor, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the coins cost, `[..., images]`: the model's part, the guide's density, their difference."""
    prior = (b * vae.prior - softplus(vae.prior)).sum(-1)
    pixels = vae.decoder(2 * b - 1)
    model = prior - cross_entropy(pixels, images.expand_as(pixels), reduction="none").sum(-1)
    log_q = (b * logits - softplus(logits)).sum(-1)
    return model, log_q, (model - log_q).detach()


def average(vae: CoinVAE, images: Tensor) -> Callable[[], Tensor]:
    baseline = torch.zeros(())

    def surrogate() -> Tensor:
        logits = vae.encoder(images)
        b = (torch.rand_like(logits) < logits.sigmoid()).float()
        model, log_q, cost = cost_of(vae, b, logits, images)
        value = model.sum() + ((cost - baseline) * log_q).sum()
        baseline.lerp_(cost.mean(), 0.1)
        return value

    return surrogate


def leave_one_out(k: int) -> Any:
    def build(vae: CoinVAE, images: Tensor) -> Callable[[], Tensor]:
        def surrogate() -> Tensor:
            logits = vae.encoder(images)
            b = (torch.rand(k, *logits.shape) < logits.sigmoid()).float()
            model, log_q, cost = cost_of(vae, b, logits, images)
            return model.mean(0).sum() + ((cost - cost.mean(0)) * log_q).sum() / (k - 1)

        return surrogate

    return build


def pair(weigh: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Any:
    """Antithetic pairs: ARM and DisARM differ in the weight for each logit."""

    def build(vae: CoinVAE, images: Tensor) -> Callable[[], Tensor]:
        def surrogate() -> Tensor:
            logits = vae.encoder(images)
            u, p = torch.rand_like(logits), logits.detach().sigmoid()
            b = torch.stack([u > 1 - p, u < p]).float()
            model, _, cost = cost_of(vae, b, logits, images)
            field = weigh(u, b, logits.detach())
            return model.mean(0).sum() + ((cost[0] - cost[1]) * (field * logits).sum(-1)).sum()

        return surrogate

    return build


def _arm(u: Tensor, b: Tensor, logits: Tensor) -> Tensor:
    return u - 0.5


def _disarm(u: Tensor, b: Tensor, logits: Tensor) -> Tensor:
    return 0.5 * (1 - 2 * b[1]) * (b[0] != b[1]) * logits.abs().sigmoid()


def muprop(vae: CoinVAE, images: Tensor) -> Callable[[], Tensor]:
    def surrogate() -> Tensor:
        logits = vae.encoder(images)
        p = logits.detach().sigmoid()
        both = torch.stack([(torch.rand_like(p) < p).float(), p]).requires_grad_()
        model, log_q, cost = cost_of(vae, both, logits, images)
        (slope,) = torch.autograd.grad((model - log_q)[1].sum(), both, retain_graph=True)
        residual = cost[0] - cost[1] - (slope[1] * (both[0].detach() - p)).sum(-1)
        own = (both[0].detach() * logits - softplus(logits)).sum(-1)
        return model[0].sum() + (residual * own).sum() + (slope[1] * logits.sigmoid()).sum()

    return surrogate


def rebar(vae: CoinVAE, images: Tensor) -> Callable[[], Tensor]:
    def surrogate() -> Tensor:
        logits = vae.encoder(images)
        leaf = logits.detach().requires_grad_()
        u, v, p = torch.rand_like(leaf), torch.rand_like(leaf), leaf.sigmoid()
        z = leaf + u.logit(eps=1e-6)
        b = (z > 0).float().detach()
        again = leaf + torch.where(b > 0, v * p + 1 - p, v * (1 - p)).logit(eps=1e-6)
        soft = torch.stack([z, again]).div(TEMPERATURE).sigmoid()
        lanes = torch.cat([b[None], soft.detach()]).requires_grad_()
        model, log_q, cost = cost_of(vae, lanes, logits, images)
        (slope,) = torch.autograd.grad((model - log_q)[1:].sum(), lanes, retain_graph=True)
        (path,) = torch.autograd.grad((slope[1] * soft[0] - slope[2] * soft[1]).sum(), leaf)
        field = (cost[0] - ETA * cost[2])[:, None] * (b - p.detach()) + ETA * path
        return model[0].sum() + (field * logits).sum()

    return surrogate


BY_HAND: Mapping[str, tuple[Estimator, Any]] = {
    "Score(MovingAverage())": (Score(MovingAverage()), average),
    "LeaveOneOut(2)": (LeaveOneOut(2), leave_one_out(2)),
    "LeaveOneOut(4)": (LeaveOneOut(4), leave_one_out(4)),
    "ARM()": (ARM(), pair(_arm)),
    "DisARM()": (DisARM(), pair(_disarm)),
    "MuProp()": (MuProp(), muprop),
    "Rebar(train=False)": (Rebar(ETA, TEMPERATURE, train=False), rebar),
}


def systems(estimator: Estimator, build: Any, images: Tensor) -> dict[str, Step]:
    """A step of each."""
    vae = vae_of()
    optimiser = torch.optim.Adam(vae.parameters(), lr=1e-3, fused=True)
    surrogate = build(vae, images)

    def by_hand() -> None:
        optimiser.zero_grad()
        (-surrogate()).backward()
        optimiser.step()

    elbo = vg.ELBO(estimators={"z": estimator})
    one, two = vae_of(), vae_of()
    eager = vg.SVI(one.model, one.guide, vg.optim.Adam(lr=1e-3), elbo, seed=0).init(images)
    fast = vg.SVI(two.model, two.guide, vg.optim.Adam(lr=1e-3), elbo, seed=0, compile="wait").init(images)
    # As people write them: a loop by hand is a loop of calls, a compiled run is one.
    return {
        "by hand": lambda: [by_hand() for _ in range(STEPS)],
        "eager": lambda: [eager.step(images) for _ in range(STEPS)],
        "compiled": lambda: fast.run(STEPS, images, progress=False),
    }


def main() -> None:
    torch.set_num_threads(1)
    images = torch.tensor(load_digits().data[:BATCH] > 7).float()
    found: dict[str, dict[str, float]] = {}
    for name, (estimator, build) in tqdm(BY_HAND.items(), unit="estimator"):
        steps = systems(estimator, build, images)
        for step in steps.values():
            step()
            step()
        seconds: dict[str, list[float]] = {system: [] for system in steps}
        for _ in range(ROUNDS):
            for system, step in steps.items():
                start = time.process_time()
                step()
                seconds[system].append((time.process_time() - start) / STEPS)
        found[name] = {system: 1e6 * statistics.median(s) for system, s in seconds.items()}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    header = ("estimator", "by hand, us", "eager, us", "compiled, us", "speed: eager / by hand", "compiled / by hand")
    rows = [
        (
            name,
            *(f"{times[s]:.0f}" for s in ("by hand", "eager", "compiled")),
            *(f"{times['by hand'] / times[s]:.2f}" for s in ("eager", "compiled")),
        )
        for name, times in found.items()
    ]
    text = table(rows, header)
    RESULTS.with_suffix(".md").write_text(f"```text\n{text}\n```\n")
    print(text)


if __name__ == "__main__":
    main()
