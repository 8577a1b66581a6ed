"""How many steps does a gradient estimator need? The coin of the SVI tutorial, under five of them.

Six heads and four tails under a Beta(10, 10) prior: the posterior is Beta(16, 14), so a run can be stopped when the
guide, Beta(a, b) from (15, 15), is within 0.8 of it. Model and guide are written once; the estimator comes from
outside, through `vg.ELBO(estimators=...)`.

    python examples/coin.py                     # about a minute and a half; --quick: seconds
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

import varigrad as vg
from varigrad import distributions as dist
from varigrad import plots
from varigrad.estimators import Estimator, LeaveOneOut, MovingAverage, Pathwise, Score

TOSSES = torch.tensor([1.0] * 6 + [0.0] * 4)
POSTERIOR = {"a": 16.0, "b": 14.0}
TOLERANCE = 0.8

ESTIMATORS: dict[str, Estimator] = {
    "score, no baseline": Score(),
    "score, decaying average": Score(MovingAverage(0.9)),
    "leave-one-out, 2 draws": LeaveOneOut(2),
    "pathwise": Pathwise(),
    "pathwise, sticking the landing": Pathwise(sticking_the_landing=True),
}


def model(tosses: Tensor) -> None:
    fairness = vg.sample("fairness", dist.Beta(10.0, 10.0))
    with vg.plate("tosses", len(tosses)):
        vg.sample("toss", dist.Bernoulli(fairness), obs=tosses)


def guide(tosses: Tensor) -> None:
    a = vg.param("a", 15.0, constraint=dist.constraints.positive)
    b = vg.param("b", 15.0, constraint=dist.constraints.positive)
    vg.sample("fairness", dist.Beta(a, b))


@dataclass(frozen=True)
class Run:
    """One fit: the larger of the two parameters' errors after each step, `[steps]`, and each step's seconds."""

    errors: list[float]
    seconds: list[float]

    @property
    def steps(self) -> int:
        """How many were taken; the tutorial, which counts from 0, prints one less."""
        return len(self.errors)


def fit(estimator: Estimator, seed: int, most: int) -> Run:
    """Steps until the guide is within the tolerance of the posterior, at most `most` of them."""
    optim = vg.optim.Adam(lr=5e-4, betas=(0.93, 0.999))
    svi = vg.SVI(model, guide, optim, vg.ELBO(estimators={"fairness": estimator}), seed=seed).init(TOSSES)
    errors: list[float] = []
    seconds: list[float] = []
    while len(errors) < most and (not errors or errors[-1] >= TOLERANCE):
        start = time.perf_counter()
        svi.step(TOSSES)
        seconds.append(time.perf_counter() - start)
        errors.append(max(abs(v.item() - POSTERIOR[name]) for name, v in svi.bound.constrained_values().items()))
    return Run(errors, seconds)


def variance_at_start(estimator: Estimator, draws: int) -> Tensor:
    """Variance of the gradient with respect to (log a, log b), `[2]`, before any step is taken."""
    loss = vg.ELBO(estimators={"fairness": estimator})(model, guide).init(TOSSES)
    for _ in range(100):  # a decaying average has to see some costs before it stands for them
        loss(TOSSES)
    # A positive parameter is stored as its logarithm: that is the space in which it is optimised.
    leaves = list(loss.parameters())
    return torch.stack([torch.stack(torch.autograd.grad(loss(TOSSES), leaves)) for _ in range(draws)]).var(0)


def picture(runs: dict[str, list[Run]], path: Path) -> None:
    """Error against steps, median and middle 80 %; a run that has arrived stays where it stopped."""
    series = {}
    for name, found in runs.items():
        longest = max(len(run.errors) for run in found)
        held = [run.errors + run.errors[-1:] * (longest - len(run.errors)) for run in found]
        series[name] = (torch.arange(1, longest + 1), torch.tensor(held))
    figure = plots.curves(series, "step", "error of (a, b)", "Beta-Bernoulli coin: way to the posterior", log="x")
    figure.axes[0].legend(loc="upper left")
    figure.axes[0].axhline(TOLERANCE, color="0.5", linestyle=":", linewidth=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=60, help="runs of each estimator")
    parser.add_argument("--max-steps", type=int, default=10_000, help="give a run up after this many steps")
    parser.add_argument("--draws", type=int, default=4_000, help="gradients that each variance is measured from")
    parser.add_argument("--output", type=Path, default=Path("output/coin.png"), help="where the picture goes")
    parser.add_argument("--quick", action="store_true", help="a few seconds: 2 runs of at most 50 steps")
    args = parser.parse_args(argv)
    if args.quick:
        args.seeds, args.max_steps, args.draws = 2, 50, 50

    runs: dict[str, list[Run]] = {name: [] for name in ESTIMATORS}
    variances: dict[str, Tensor] = {}
    with tqdm(total=len(ESTIMATORS) * (args.seeds + 1), unit="run") as bar:
        for name, estimator in ESTIMATORS.items():
            bar.set_description(f"{name:30}")
            variances[name] = variance_at_start(estimator, args.draws)
            bar.update()
            for seed in range(args.seeds):
                runs[name].append(fit(estimator, seed, args.max_steps))
                bar.update()

    print(f"Steps until |a - 16| and |b - 14| < {TOLERANCE}; {args.seeds} runs, gradient variance at (15, 15)\n")
    print(f"{'estimator':32}{'median':>7}{'10 %':>7}{'90 %':>7}{'var d/dlog a':>14}{'d/dlog b':>10}{'us/step':>9}")
    for name, found in runs.items():
        steps = torch.tensor([float(run.steps) for run in found])
        low, middle, high = steps.quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
        a, b = variances[name].tolist()
        cost = torch.tensor([s for run in found for s in run.seconds]).median().item() * 1e6
        print(f"{name:32}{middle:7.0f}{low:7.0f}{high:7.0f}{a:14.3g}{b:10.3g}{cost:9.0f}")
    for name, found in runs.items():
        if late := sum(run.errors[-1] >= TOLERANCE for run in found):
            print(f"{name}: {late} of {args.seeds} runs were given up after {args.max_steps} steps")
    picture(runs, args.output)
    print(f"\npicture: {args.output}")


if __name__ == "__main__":
    main()
