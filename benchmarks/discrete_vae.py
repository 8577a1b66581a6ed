"""Discrete VAEs of binarised MNIST under every estimator. `python -m benchmarks.discrete_vae --data FOLDER`.

200 coins for each image, a linear decoder or one with two hidden layers, Adam 1e-3, batches of 100, the decoder's bias
from the data and inputs centred: the setting of the papers on coupled and control-variate estimators. Held-out bounds
after so many steps and so many seconds of one thread's processor time (which other work on the machine does not
lengthen much), and whether the advice of `vg.compare` is good. Without `--data`: scikit-learn's digits.

Every fit is written to results/discrete_vae.json as soon as it is done, and done fits are not done again.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from tqdm import tqdm

import varigrad as vg
from benchmarks.coin_vae import Choice, CoinVAE
from varigrad import plots
from varigrad.estimators import (
    DisARM,
    DoubleControlVariate,
    Estimator,
    LeaveOneOut,
    MovingAverage,
    MuProp,
    NeuralBaseline,
    Rebar,
    Relax,
    Rodeo,
    Score,
)
from varigrad.shapes import table

RESULTS = Path(__file__).with_name("results") / "discrete_vae.json"
COINS, BATCH, POINTS = 200, 100, 10

BEFORE = {"MovingAverage": -140.3, "LeaveOneOut(2)": -133.7, "DisARM": -132.9, "LeaveOneOut(4)": -131.2}
"""Nats per image after 4000 steps, as measured before without this package."""


def vae_of(mean: Tensor, deep: bool, choice: Choice) -> CoinVAE:
    """With the decoder's bias from the data's mean, `[pixels]`."""
    pixels = len(mean)
    vae = CoinVAE(COINS, layers(pixels, COINS, deep), layers(COINS, pixels, deep), mean, choice)
    with torch.no_grad():
        vae.decoder[-1].bias.copy_(mean.clamp(0.001, 0.999).logit())
    return vae


def layers(inputs: int, outputs: int, deep: bool) -> nn.Sequential:
    """One linear map, or three with LeakyReLU between them."""
    sizes = [inputs, 200, 200, outputs] if deep else [inputs, outputs]
    parts: list[nn.Module] = []
    for a, b in pairwise(sizes):
        parts += [nn.Linear(a, b), nn.LeakyReLU(0.3)]
    return nn.Sequential(*parts[:-1])


def choices(pixels: int) -> dict[str, Choice]:
    """By the names that they have in the tables."""
    network = nn.Sequential(nn.Linear(pixels, 100), nn.Tanh(), nn.Linear(100, 1))
    relax = Relax(nn.Sequential(nn.Linear(COINS, 100), nn.Tanh(), nn.Linear(100, 1)))
    return {
        **{name: lambda seen, e=e: e for name, e in ESTIMATORS.items()},  # type: ignore[misc]
        "Relax": lambda seen: relax,
        "average + network": lambda seen: Score(MovingAverage() + NeuralBaseline(network, seen)),
    }


ESTIMATORS: Mapping[str, Estimator] = {
    "MovingAverage": Score(MovingAverage()),
    "LeaveOneOut(2)": LeaveOneOut(2),
    "LeaveOneOut(4)": LeaveOneOut(4),
    "DisARM": DisARM(),
    "MuProp": MuProp(MovingAverage()),
    "Rebar": Rebar(baseline=MovingAverage()),
    "DoubleControlVariate(2)": DoubleControlVariate(2),
    "Rodeo(2)": Rodeo(2),
}


def load(folder: Path | None) -> tuple[Tensor, Tensor]:
    """Images for training and testing, `[images, pixels]`, zeros and ones."""
    if folder is None:
        bits = torch.tensor(load_digits().data > 7).float()
        bits = bits[torch.randperm(len(bits), generator=torch.Generator().manual_seed(0))]
        return bits[200:], bits[:200]
    return tuple(
        torch.from_numpy(
            np.unpackbits(np.load(folder / f"binarized_mnist_{part}.npz")["bits"], axis=1)[:, :784]
        ).float()
        for part in ("train", "test")
    )  # type: ignore[return-value]


def batches(images: int) -> Iterator[Tensor]:
    """Every image once in each epoch."""
    generator = torch.Generator().manual_seed(0)
    while True:
        yield from torch.randperm(images, generator=generator)[: images - images % BATCH].split(BATCH)


def svi_of(mean: Tensor, deep: bool, choice: Choice, first: Tensor, compiled: bool) -> vg.SVI:
    torch.manual_seed(0)  # the same weights to start from
    vae = vae_of(mean, deep, choice)
    return vg.SVI(vae.model, vae.guide, vg.optim.Adam(lr=1e-3), seed=0, compile="wait" if compiled else False).init(
        first
    )


def fit(name: str, deep: bool, train: Tensor, test: Tensor, steps: int, compiled: bool) -> dict[str, list[float]]:
    """The curve of one estimator: steps, processor seconds, held-out bound in nats per image."""
    mean = train.mean(0)
    svi = svi_of(mean, deep, choices(train.shape[1])[name], train[:BATCH], compiled)
    order = batches(len(train))
    marks = sorted({*range(0, steps, max(steps // POINTS, 1)), steps})
    curve: dict[str, list[float]] = {"steps": [], "seconds": [], "bounds": []}
    spent = 0.0
    for begin, end in pairwise([0, *marks]):
        start = time.process_time()
        for _ in range(begin, end):
            svi.step(train[next(order)])
        spent += time.process_time() - start
        curve["steps"].append(end)
        curve["seconds"].append(spent)
        curve["bounds"].append(-svi.evaluate(test, particles=1) / len(test))
    return curve


def advice(deep: bool, train: Tensor, steps: int, budget: int) -> list[dict[str, Any]]:
    """At the start and halfway: what `vg.compare` recommends, and how good that is by ten times as many draws."""
    found = []
    mean, batch = train.mean(0), train[:BATCH]
    svi = svi_of(mean, deep, lambda seen: LeaveOneOut(2), batch, False)
    order = batches(len(train))
    for at in (0, steps // 2):
        while svi.bound.steps < at:
            svi.step(train[next(order)])
        model, guide = svi.bound.model_program, svi.bound.guide_program
        short, long = (
            vg.compare(model, guide, (batch,), {"z": list(ESTIMATORS.values())}, budget=n, at=svi.bound)
            for n in (budget, 10 * budget)
        )
        cost = {m.estimator: m.work for m in long.measured if m.verdict == "unbiased"}
        best = min(cost, key=lambda n: cost[n])
        picked = short.advice[0].estimator or ""
        found.append(
            {"step": at, "picked": picked, "best": best, "ratio": cost.get(picked, math.inf) / cost[best], "cost": cost}
        )
    return found


def report(results: Mapping[str, Any], steps: int, mnist: bool) -> str:
    """The tables, as Markdown."""
    lines = []
    for network in ("linear", "nonlinear"):
        known = results.get(f"{network}, {steps} steps")
        if not known:
            continue
        rows = [
            (
                name,
                f"{curve['bounds'][-1]:.1f}",
                f"{BEFORE[name]}" if mnist and network == "linear" and name in BEFORE else "-",
                f"{curve['seconds'][-1]:.0f}",
                f"{1e3 * curve['seconds'][-1] / curve['steps'][-1]:.1f}",
            )
            for name, curve in sorted(known.items(), key=lambda item: item[1]["bounds"][-1])
        ]
        header = ("estimator", "test ELBO", "measured before", "processor seconds", "ms a step")
        lines += [f"### {network}, {steps} steps", "", "```text", table(rows, header), "```", ""]
        for line in results.get(f"{network} advice", []):
            lines.append(
                f"Step {line['step']}: `compare` picks {line['picked']}; best by ten times as many draws: "
                f"{line['best']}; variance x time {line['ratio']:.2f} times the best's."
            )
        lines.append("")
    return "\n".join(lines)


def draw(results: Mapping[str, Any], steps: int, folder: Path) -> None:
    """Bounds against steps and against seconds."""
    for network in ("linear", "nonlinear"):
        known = results.get(f"{network}, {steps} steps")
        for axis, label in (("steps", "steps"), ("seconds", "processor seconds")) if known else ():
            series = {n: (torch.tensor(c[axis]), torch.tensor(c["bounds"])) for n, c in known.items()}
            figure = plots.curves(series, label, "test ELBO (nats per image)", f"{network} discrete VAE")
            low = min((c["bounds"][2] for c in known.values() if len(c["bounds"]) > 2), default=-200)
            figure.axes[0].set_ylim(bottom=low)
            figure.savefig(folder / f"discrete_vae_{network}_{axis}.png", dpi=110)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of binarized_mnist_{train,test}.npz; default: digits")
    parser.add_argument("--steps", type=int, default=4_000, help="steps of each fit")
    parser.add_argument("--networks", nargs="+", default=["linear", "nonlinear"], help="linear, nonlinear")
    parser.add_argument("--estimators", nargs="*", help="their names in the table; default: all; none: tables only")
    parser.add_argument("--compiled", action="store_true", help="compiled steps")
    parser.add_argument("--advice", type=int, default=0, help="gradients for each estimator of `compare`; 0: not")
    parser.add_argument("--output", type=Path, default=RESULTS, help="results so far, and where they go")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.set_flush_denormal(
        True
    )  # coins that are all but certain have derivatives of 1e-40, which processors crawl on
    train, test = load(args.data)
    results = json.loads(args.output.read_text()) if args.output.exists() else {}

    def keep() -> None:
        args.output.write_text(json.dumps(results, indent=1) + "\n")

    names = list(choices(train.shape[1])) if args.estimators is None else args.estimators
    jobs = [(network, name) for network in args.networks for name in names]
    for network, name in tqdm(jobs, unit="fit"):
        known = results.setdefault(f"{network}, {args.steps} steps", {})
        if name not in known:
            known[name] = fit(name, network == "nonlinear", train, test, args.steps, args.compiled)
            keep()
    for network in args.networks if args.advice else ():
        results[f"{network} advice"] = advice(network == "nonlinear", train, args.steps, args.advice)
        keep()
    draw(results, args.steps, args.output.parent)
    text = report(results, args.steps, args.data is not None)
    args.output.with_suffix(".md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
