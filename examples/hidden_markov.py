"""A hidden Markov model of the world's great earthquakes: the states of every year are summed out, then decoded.

Counts of earthquakes of magnitude 7 or more in the years 1900 to 2006 come from a chain of three states, each with its
own rate. The model has 107 discrete sites and the guide none of them. The fit is held to the maximum likelihood that
Zucchini and MacDonald publish for these counts, and to a forward recursion written in numpy.

    python examples/hidden_markov.py                        # half a minute; --quick: seconds

References:
    Zucchini, MacDonald (2009), Hidden Markov models for time series. doi:10.1201/9781420010893.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

import varigrad as vg
from varigrad import distributions as dist
from varigrad.distributions import constraints

STATES = 3
FIRST_YEAR = 1900
# fmt: off
COUNTS = [
    13, 14, 8, 10, 16, 26, 32, 27, 18, 32, 36, 24, 22, 23, 22, 18, 25, 21, 21, 14, 8, 11, 14, 23, 18, 17, 19, 20, 22,
    19, 13, 26, 13, 14, 22, 24, 21, 22, 26, 21, 23, 24, 27, 41, 31, 27, 35, 26, 28, 36, 39, 21, 17, 22, 17, 19, 15, 34,
    10, 15, 22, 18, 15, 20, 15, 22, 19, 16, 30, 27, 29, 23, 20, 16, 21, 21, 25, 16, 18, 15, 18, 14, 10, 15, 8, 15, 6,
    11, 8, 7, 18, 16, 13, 12, 13, 20, 15, 16, 12, 18, 15, 16, 13, 15, 16, 11, 11,
]
# fmt: on
PUBLISHED = [13.1, 19.7, 29.7]
"""Rates of maximum likelihood, for a chain that begins in its stationary distribution; its log-likelihood is -329.46,
and that of a chain with a free beginning, as here, can only be higher."""


def chain(counts: Tensor, rates: Tensor, start: Tensor, transition: Tensor) -> None:
    """The hidden Markov model, given its parameters: rates `[states]`, probabilities `[states]`, `[states, states]`."""
    rows = torch.cat([transition, start.unsqueeze(0)])  # the row after the last: where the chain begins

    def year(state: Tensor, count: Tensor) -> Tensor:
        state = vg.sample("state", dist.Categorical(rows[state]))
        vg.sample("count", dist.Poisson(rates[state]), obs=count)
        return state

    vg.scan(year, torch.tensor(STATES), counts)


def most_likely(counts: Tensor) -> None:
    """All parameters are learnt as numbers: the bound is the log-likelihood itself."""
    rates = vg.param("rates", torch.tensor([10.0, 20.0, 30.0]), constraint=constraints.positive)
    start = vg.param("start", torch.full((STATES,), 1 / STATES), constraint=constraints.simplex)
    stay = 0.8 * torch.eye(STATES) + 0.2 / STATES
    chain(counts, rates, start, vg.param("transition", stay, constraint=constraints.simplex))


def bayesian(counts: Tensor) -> None:
    """Rates and transitions have priors, and a guide."""
    with vg.plate("states", STATES):
        rates = vg.sample("rates", dist.LogNormal(torch.tensor([10.0, 20.0, 30.0]).log(), 0.3))
        transition = vg.sample("transition", dist.Dirichlet(torch.ones(STATES, STATES) + 4 * torch.eye(STATES)))
    chain(counts, rates, torch.full((STATES,), 1 / STATES), transition)


def nothing(counts: Tensor) -> None:
    """A guide without sites."""


def forward(counts: np.ndarray, rates: np.ndarray, start: np.ndarray, transition: np.ndarray) -> float:
    """The log-likelihood by the textbook's forward recursion, in numpy."""
    factorials = np.cumsum(np.log(np.maximum(np.arange(counts.max() + 1), 1)))
    densities = counts[:, None] * np.log(rates) - rates - factorials[counts][:, None]
    total, belief = 0.0, start
    for density in densities:
        joint = belief * np.exp(density)
        total, belief = total + np.log(joint.sum()), joint / joint.sum() @ transition
    return float(total)


def picture(counts: Tensor, rates: Tensor, probabilities: Tensor, decoded: Tensor) -> Figure:
    """The counts with the rate of the decoded state, over the posterior probabilities of the states."""
    years = FIRST_YEAR + np.arange(len(counts))
    colours = ["#0072B2", "#E69F00", "#D55E00"]
    figure, (above, below) = plt.subplots(2, 1, figsize=(9, 5.5), sharex=True, height_ratios=[2, 1])
    above.plot(years, counts, ".", color="0.4", label="earthquakes of magnitude 7 or more")
    above.step(years, rates[decoded], where="mid", color="black", label="rate of the most probable state")
    above.set_ylabel("earthquakes a year")
    above.legend(frameon=False, loc="upper left", bbox_to_anchor=(0.0, 1.14), ncols=2)
    order = rates.argsort()
    labels = [f"{rates[i]:.0f} a year" for i in order]
    below.stackplot(years, *probabilities[:, order].T, labels=labels, colors=colours)
    below.set(xlabel="year", ylabel="probability", ylim=(0, 1), xlim=(years[0], years[-1]))
    below.legend(frameon=False, loc="upper left", bbox_to_anchor=(0.0, -0.35), ncols=STATES, title="state")
    figure.tight_layout()
    return figure


def rounded(values: np.ndarray) -> list[float]:
    """Numbers in increasing order, to one decimal."""
    return [round(float(value), 1) for value in np.sort(values)]


def main(quick: bool, output: Path) -> None:
    """Fit both models, hold the first to the published fit, and draw the second."""
    counts = torch.tensor(COUNTS, dtype=torch.float32)
    steps = 60 if quick else 3000
    rate = vg.optim.Adam(lr=0.02)
    summed = vg.ELBO(marginal="state_*")
    fit = vg.SVI(most_likely, nothing, rate, summed, seed=0, compile=True).run(steps, counts)
    found = {name: value.numpy() for name, value in fit.parameters.items()}
    rates, start, transition = (found[name].astype(float) for name in ("rates", "start", "transition"))
    loglik = forward(np.array(COUNTS), rates, start, transition)
    print(f"rates of maximum likelihood: {rounded(rates)} (published: {PUBLISHED})")
    print(f"log-likelihood: {fit.bound.evaluate(counts):.2f}, by numpy's forward recursion {loglik:.2f}")

    guide = vg.guides.AutoNormal(bayesian, counts)
    fit = vg.SVI(bayesian, guide, rate, summed, seed=0, compile=True).run(steps, counts)
    means = fit.sample(200)["rates"].mean(0)
    print(f"posterior means of the rates: {rounded(means.numpy())}")
    probabilities = fit.marginals("state")
    best = fit.predict(50, counts, marginal="max")
    decoded = torch.stack([best[f"state_{t}"][:, 0] for t in range(len(counts))], 1).mode(0).values
    print(f"years in each state: {decoded.bincount(minlength=STATES)[means.argsort()].tolist()}")
    output.parent.mkdir(parents=True, exist_ok=True)
    picture(counts, means, probabilities, decoded).savefig(output, dpi=120)
    print(f"picture: {output}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps")
    parser.add_argument("--output", type=Path, default=Path("output/hidden_markov.png"), help="where the picture goes")
    arguments = parser.parse_args()
    main(arguments.quick, arguments.output)
