"""A deep net of coins, where estimators earn their keep: a two-layer sigmoid belief network on images.

Every hidden unit is a coin, so nothing can be differentiated through. Each image's units sit in a plate, so a unit is
charged for its own image alone. One model and one guide are fitted under four estimators; the held-out bound is drawn
over time.

    python examples/sigmoid_belief_net.py                    # scikit-learn's digits; --quick: seconds
    python examples/sigmoid_belief_net.py --data mnist.npz   # binarised MNIST, `bits`: uint8, rows of packed bits
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from tqdm import tqdm

import varigrad as vg
from varigrad import distributions as dist
from varigrad import plots
from varigrad.estimators import DisARM, Estimator, LeaveOneOut, MovingAverage, NeuralBaseline, Score

Choice = Callable[[str, Tensor], Estimator]
"""The estimator of a layer, by its name and what the layer is drawn from, `[images, features]`."""


class BeliefNet(nn.Module):
    """Coins on coins: `top -> middle -> pixels` in the model, `pixels -> middle -> top` in the guide."""

    def __init__(self, pixels: Tensor, units: int, choice: Choice) -> None:
        super().__init__()
        size = pixels.shape[1]
        self.choice = choice
        self.top = nn.Parameter(torch.zeros(units))
        self.to_middle, self.to_pixels = nn.Linear(units, units), nn.Linear(units, size)
        self.from_pixels, self.from_middle = nn.Linear(size, units), nn.Linear(units, units)
        # Each pixel's own frequency, for a start: the weights have only the differences between images to learn.
        self.register_buffer("mean", pixels.mean(0).clamp(0.01, 0.99))
        with torch.no_grad():
            self.to_pixels.bias.copy_(self.mean.logit())

    def model(self, images: Tensor) -> None:
        with vg.plate("images", len(images)):
            top = vg.sample("top", coins(self.top))
            middle = vg.sample("middle", coins(self.to_middle(2 * top - 1)))
            vg.sample("pixels", coins(self.to_pixels(2 * middle - 1)), obs=images)

    def guide(self, images: Tensor) -> None:
        with vg.plate("images", len(images)):
            seen = 2 * (images - self.mean)
            middle = vg.sample("middle", coins(self.from_pixels(seen)), estimator=self.choice("middle", seen))
            below = 2 * middle - 1
            vg.sample("top", coins(self.from_middle(below)), estimator=self.choice("top", below))


def coins(logits: Tensor) -> dist.Distribution:
    """A layer: one event of independent coins."""
    return dist.Bernoulli(logits=logits).to_event(1)


def choices(pixels: int, units: int) -> dict[str, Choice]:
    """The estimators to compare. A layer's baseline network sees what the layer is drawn from, never its draw."""
    inputs = {"middle": pixels, "top": units}
    nets = {layer: nn.Sequential(nn.Linear(n, 100), nn.Tanh(), nn.Linear(100, 1)) for layer, n in inputs.items()}
    return {
        "decaying average": lambda layer, x: Score(MovingAverage(0.9)),
        "average + network": lambda layer, x: Score(MovingAverage(0.9) + NeuralBaseline(nets[layer], x)),
        "leave-one-out, 4 draws": lambda layer, x: LeaveOneOut(4),
        "DisARM": lambda layer, x: DisARM(),
    }


def rates(name: str) -> Mapping[str, Any]:
    """Options of a parameter, by its name: the baselines' networks may learn faster than the model they serve."""
    return {"lr": 3e-3} if name.startswith("baselines.") else {}


@dataclass(frozen=True)
class Curve:
    """The held-out bound in nats per image, `[points]`, after so many seconds of training."""

    seconds: list[float]
    bounds: list[float]


def points(steps: int) -> list[int]:
    """The steps at which the bound is measured."""
    return sorted({*range(0, steps, max(steps // 30, 1)), steps})


def fit(net: BeliefNet, curve: Curve, train: Tensor, test: Tensor, steps: int, batch: int) -> Iterator[None]:
    """Train on minibatches, and stop at every point of the curve; the clock stands still while it is measured."""
    optim = vg.optim.Adam(lr=1e-3, options=rates)
    svi = vg.SVI(net.model, net.guide, optim, seed=0).init(train[:batch])
    order = torch.Generator().manual_seed(0)
    spent = 0.0
    for begin, end in pairwise([0, *points(steps)]):
        start = time.perf_counter()
        for _ in range(begin, end):
            svi.step(train[torch.randint(len(train), (batch,), generator=order)])
        spent += time.perf_counter() - start
        curve.seconds.append(spent)
        curve.bounds.append(-svi.evaluate(test, particles=5) / len(test))
        yield


def load(path: Path | None) -> tuple[Tensor, Tensor]:
    """Binary images for training and for testing, `[images, pixels]`: a random tenth, at most 1,000, is held out."""
    if path is None:
        bits = torch.tensor(load_digits().data > 7).float()
    else:
        bits = torch.from_numpy(np.unpackbits(np.load(path)["bits"], axis=1)[:, :784]).float()
    bits = bits[torch.randperm(len(bits), generator=torch.Generator().manual_seed(0))]
    held_out = min(len(bits) // 10, 1000)
    return bits[held_out:], bits[:held_out]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="packed binarised MNIST (.npz); default: scikit-learn's digits")
    parser.add_argument("--steps", type=int, default=4_000, help="steps of each fit")
    parser.add_argument("--batch", type=int, default=100, help="images in a minibatch")
    parser.add_argument("--units", type=int, default=100, help="coins in each hidden layer")
    parser.add_argument("--output", type=Path, default=Path("output/sigmoid_belief_net.png"), help="the picture")
    parser.add_argument("--quick", action="store_true", help="a few seconds: 20 steps with 20 units")
    args = parser.parse_args(argv)
    if args.quick:
        args.steps, args.units = 20, 20

    train, test = load(args.data)
    print(f"{len(train)} images to learn from, {len(test)} held out, {train.shape[1]} pixels each")
    curves: dict[str, Curve] = {}
    fits: list[Iterator[None]] = []
    for name, choice in choices(train.shape[1], args.units).items():
        torch.manual_seed(0)  # the same weights to start from
        curves[name] = Curve([], [])
        fits.append(fit(BeliefNet(train, args.units, choice), curves[name], train, test, args.steps, args.batch))
    # All advance by turns, so that whatever else the machine does slows all of them alike.
    for _ in tqdm(zip(*fits, strict=True), total=len(points(args.steps)), unit="point"):
        pass

    print(f"\n{'estimator':26}{'held-out ELBO':>14}{'seconds':>9}{'us/step':>9}   (nats per image, {args.steps} steps)")
    for name, curve in curves.items():
        print(f"{name:26}{curve.bounds[-1]:14.2f}{curve.seconds[-1]:9.1f}{curve.seconds[-1] / args.steps * 1e6:9.0f}")
    series = {name: (torch.tensor(c.seconds), torch.tensor(c.bounds)) for name, c in curves.items()}
    figure = plots.curves(series, "seconds of training", "held-out ELBO (nats per image)", "Sigmoid belief network")
    figure.axes[0].set_ylim(bottom=min(min(c.bounds[1:]) for c in curves.values()))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output, dpi=150)
    print(f"\npicture: {args.output}")


if __name__ == "__main__":
    main()
