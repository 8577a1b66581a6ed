"""What a plate is worth: a Gaussian mixture on the petals of 150 irises, its assignments drawn by the guide.

Declared independent by a plate, each flower's assignment is charged for its own flower. Written as one event of 150
choices, the same program charges every assignment for all flowers: still unbiased, and many times noisier. Both are
measured here, then fitted under the same estimator.

    python examples/gaussian_mixture.py                     # half a minute; --quick: seconds
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture
from torch import Tensor
from tqdm import tqdm

import varigrad as vg
from varigrad import distributions as dist
from varigrad.distributions import constraints
from varigrad.errors import SiteError
from varigrad.estimators import Enumerate, Estimator, LeaveOneOut, MovingAverage, Score

ESTIMATORS: dict[str, Estimator] = {
    "score, no baseline": Score(),
    "score, decaying average": Score(MovingAverage(0.9)),
    "leave-one-out, 4 draws": LeaveOneOut(4),
    "enumerate": Enumerate(),
}


@dataclass(frozen=True)
class Mixture:
    """`components` Gaussians for numbers `x`, `[n]`; the assignments are in a plate, or one event of n choices."""

    components: int
    plate: bool

    def model(self, x: Tensor) -> None:
        middles = x.quantile((torch.arange(self.components) + 0.5) / self.components)
        weights = vg.param("weights", torch.ones(self.components) / self.components, constraint=constraints.simplex)
        means = vg.param("means", middles)
        widths = vg.param("widths", x.std().expand(self.components) / self.components, constraint=constraints.positive)
        with self.each(x):
            which = vg.sample("component", self.joint(dist.Categorical(weights).expand(x.shape)))
            vg.sample("x", self.joint(dist.Normal(means[which], widths[which])), obs=x)

    def guide(self, x: Tensor) -> None:
        logits = vg.param("logits", torch.zeros(len(x), self.components))
        with self.each(x):
            vg.sample("component", self.joint(dist.Categorical(logits=logits)))

    def each(self, x: Tensor) -> vg.plate | nullcontext[None]:
        return vg.plate("flowers", len(x)) if self.plate else nullcontext()

    def joint(self, choices: dist.Distribution) -> dist.Distribution:
        return choices if self.plate else choices.to_event(1)


def variance(mixture: Mixture, estimator: Estimator, x: Tensor, draws: int) -> float:
    """Mean variance of the gradient with respect to the guide's logits, at the start; NaN where it is refused."""
    try:
        loss = vg.ELBO(estimators={"component": estimator})(mixture.model, mixture.guide).init(x)
    except SiteError:
        return float("nan")
    for _ in range(50):  # a decaying average has to see some costs before it stands for them
        loss(x)
    logits = loss.get_parameter("logits")
    return torch.stack([torch.autograd.grad(loss(x), logits)[0] for _ in range(draws)]).var(0).mean().item()


def fit(mixture: Mixture, x: Tensor, steps: int) -> vg.Fit:
    """Maximise over components and assignments, with a learning rate that goes down to a hundredth."""
    optim = vg.optim.Adam(
        lr=0.1, schedule=lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.01 ** (1 / steps))
    )
    objective = vg.ELBO(estimators={"component": Score(MovingAverage(0.9))})
    return vg.SVI(mixture.model, mixture.guide, optim, objective, seed=0).run(steps, x)


def log_likelihood(x: Tensor, weights: Tensor, means: Tensor, widths: Tensor) -> float:
    """Of the mixture itself, the assignments summed out."""
    return dist.Normal(means, widths).log_prob(x[:, None]).add(weights.log()).logsumexp(1).sum().item()


def picture(x: Tensor, fits: dict[str, vg.Fit], path: Path) -> None:
    """Left the components of the first fit, right the bound of all fits over the steps."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    grid = torch.linspace(x.min() - 0.5, x.max() + 0.5, 300)
    left.hist(x.numpy(), bins=40, density=True, color="0.85")
    label, found = next(iter(fits.items()))
    values = found.parameters
    densities = values["weights"] * dist.Normal(values["means"], values["widths"]).log_prob(grid[:, None]).exp()
    left.plot(grid.numpy(), densities.numpy())
    left.plot(grid.numpy(), densities.sum(1).numpy(), color="black", linewidth=4, alpha=0.2)
    left.set(xlabel="petal length (cm)", ylabel="density", title=f"components, {label}")
    for label, found in fits.items():
        window = max(1, len(found.losses) // 50)
        right.plot(range(window, len(found.losses) + 1), -found.losses.unfold(0, window, 1).mean(1), label=label)
    right.set(xlabel="step", ylabel="ELBO (running mean)", title="the same estimator, with and without the plate")
    right.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--components", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4_000, help="steps of each fit")
    parser.add_argument("--draws", type=int, default=1_000, help="gradients that each variance is measured from")
    parser.add_argument("--output", type=Path, default=Path("output/gaussian_mixture.png"), help="the picture")
    parser.add_argument("--quick", action="store_true", help="a few seconds: 100 steps, 20 draws")
    args = parser.parse_args(argv)
    if args.quick:
        args.steps, args.draws = 100, 20

    x = torch.tensor(load_iris().data[:, 2]).float()
    mixtures = {"with the plate": Mixture(args.components, True), "without": Mixture(args.components, False)}
    pairs = [(e, m) for e in ESTIMATORS for m in mixtures]
    found = {p: variance(mixtures[p[1]], ESTIMATORS[p[0]], x, args.draws) for p in tqdm(pairs, unit="variance")}
    print("Variance of the gradient with respect to the assignments' logits (mean over logits, at the start)\n")
    print(f"{'estimator':26}" + "".join(f"{label:>16}" for label in mixtures) + f"{'ratio':>9}")
    for name in ESTIMATORS:
        plated, joint = (found[name, label] for label in mixtures)
        shown = f"{joint:16.3g}{joint / plated:9.0f}" if joint == joint else f"{'refused':>16}{'':9}"
        print(f"{name:26}{plated:16.3g}{shown}")

    fits = {label: fit(mixture, x, args.steps) for label, mixture in mixtures.items()}
    em = GaussianMixture(args.components, tol=1e-8, max_iter=10_000, random_state=0).fit(x[:, None].numpy())
    weights, means, covariances = (
        torch.tensor(v).float().reshape(-1) for v in (em.weights_, em.means_, em.covariances_)
    )
    results = {label: tuple(f.parameters[k] for k in ("weights", "means", "widths")) for label, f in fits.items()}
    results["scikit-learn's EM"] = (weights, means, covariances.sqrt())
    print(f"\n{'fit':20}{'log-likelihood':>15}   components: weight x Normal(mean, width)")
    for label, mixture in results.items():
        parts = sorted(zip(*(v.tolist() for v in mixture), strict=True), key=lambda part: part[1])
        shown = ",  ".join(f"{w:.2f} x N({m:.2f}, {s:.2f})" for w, m, s in parts)
        print(f"{label:20}{log_likelihood(x, *mixture):15.2f}   {shown}")
    picture(x, fits, args.output)
    print(f"\npicture: {args.output}")


if __name__ == "__main__":
    main()
