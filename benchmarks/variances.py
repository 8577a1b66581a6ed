"""Variances of our estimators beside published or independently measured ones. `python -m benchmarks.variances`.

A plate of many equal, independent elements is as many draws of an estimator, so one backward pass measures it. Only the
factor counts: the terms of the site itself have weight zero. "measured before" are float64 simulations made without
this package; where it says "-", there is none. Seconds, not minutes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import varigrad as vg
from varigrad import distributions as dist
from varigrad.distributions.rng import Source
from varigrad.estimators import (
    ARM,
    ARMS,
    Antithetic,
    DisARM,
    DoubleControlVariate,
    Estimator,
    GRep,
    GumbelRao,
    GumbelSoftmax,
    LeaveOneOut,
    LocalExpectation,
    MeasureValued,
    MovingAverage,
    MuProp,
    OptimalScore,
    Pathwise,
    Rebar,
    Rodeo,
    Rsvi,
    Score,
    SelfCritical,
    StochasticAD,
    StraightThrough,
    StraightThroughGumbel,
    SumAndSample,
    UnorderedSet,
)
from varigrad.objectives.plan import shown
from varigrad.shapes import table

REPEATS = 20
WARM_UP = 2
"""Steps after which averages over all elements are known."""
LEARNERS, LEARNING = (Rebar, MuProp, DoubleControlVariate, Rodeo), 300
"""Those with coefficients to learn, and for how many steps."""
Row = tuple[str, str, str, str, str]


def gradients(
    estimator: Estimator,
    family: Callable[..., Any],
    cost: Callable[[Tensor], Tensor],
    many: int,
    warm_up: int = WARM_UP,
    **values: Tensor,
) -> dict[str, Tensor]:
    """`parameter -> [REPEATS * many, ...]`, independent draws of the gradient of the mean cost."""

    def model() -> None:
        with vg.plate("n", many):
            z = vg.sample("z", family(**values))
            vg.factor("f", cost(z))

    def guide() -> None:
        with vg.plate("n", many):
            free = {k: vg.param(k, lambda v=v: v.expand(many, *v.shape).clone()) for k, v in values.items()}
            vg.sample("z", family(**free), estimator=estimator)

    source = Source(torch.Generator().manual_seed(20261123))
    particles = 1 if estimator.drawing.coupling is None else 2
    bound = vg.ELBO(particles, weights={"z": 0.0}).bind(
        model, guide, source
    )  # checks the programs, which takes the longest
    named = dict(bound.named_parameters())
    found = []
    for step in range(warm_up + REPEATS):
        result = bound.estimate()
        if step >= warm_up:
            found.append(torch.autograd.grad(result.surrogate, list(named.values())))
        bound.advance(result.state)
    return {name: torch.cat(parts) for name, parts in zip(named, zip(*found, strict=True), strict=True)}


def row(
    toy: str, name: str, before: str, estimator: Estimator, family: Any, cost: Any, many: int, **values: Tensor
) -> Row:
    """One line of the table: the variance, summed over a choice's parameters, averaged over an event's coordinates."""
    start = time.perf_counter()
    found = gradients(estimator, family, cost, many, LEARNING if isinstance(estimator, LEARNERS) else WARM_UP, **values)
    text = ", ".join(f"{float(_variance(g)):.3g}" for g in found.values())
    return toy, name, text, before, f"{time.perf_counter() - start:.1f} s"


def _variance(gradient: Tensor) -> Tensor:
    each = gradient.var(0)
    return each.mean() if each.numel() > 50 else each.sum()


def coin() -> Iterator[Row]:
    """Toy A: E[(b - t)^2] for one coin."""
    known = {
        "Score()": (Score(), "1.59e-2", "1.56e-2", "6.6e-3 (+-2)"),
        "OptimalScore()": (OptimalScore(), "0", "0", "0"),
        "LeaveOneOut(2)": (LeaveOneOut(2), "6.25e-4", "2.50e-5", "1.66e-5"),
        "LeaveOneOut(4)": (LeaveOneOut(4), "1.04e-4", "4.15e-6", "6.8e-6"),
        "ARM()": (ARM(), "2.08e-4", "8.34e-6", "1.42e-5"),
        "DisARM()": (DisARM(), "0", "0", "1.41e-5"),
        "ARMS(2)": (ARMS(2), "0", "0", "1.41e-5"),
        "ARMS(4)": (ARMS(4), "1.5e-5", "6.0e-7", "4.8e-6"),
        "LocalExpectation()": (LocalExpectation(), "0", "0", "-"),
        "StochasticAD()": (StochasticAD(), "0 (two-sided)", "0 (two-sided)", "6.1e-6 (two-sided)"),
        "SelfCritical()": (SelfCritical(), "-", "-", "-"),
        "MuProp()": (MuProp(), "1.56e-2", "1.56e-2", "4.9e-2"),
        "Rebar(eta=1), lambda .5": (Rebar(train=False), "2.27e-2", "2.23e-2", "1.2e-2"),
        "Rebar()": (Rebar(), "1.36e-2 (trained)", "-", "-"),
        "DoubleControlVariate(2)": (DoubleControlVariate(2), "6.1e-4", "2.5e-5", "2.6e-7"),
        "Rodeo(2)": (Rodeo(2), "0", "0", "0"),
        "GumbelSoftmax(0.5), biased": (GumbelSoftmax(0.5), "1.4e-2", "1.4e-2", "6.6e-3"),
        "StraightThroughGumbel(0.5), biased": (StraightThroughGumbel(0.5), "7.8e-2", "-", "-"),
        "GumbelRao(10, 0.5), biased": (GumbelRao(10, 0.5), "4.9e-2", "-", "-"),
        "StraightThrough(), biased": (StraightThrough(), "6.3e-2", "-", "-"),
    }
    for i, (t, theta) in enumerate(((0.45, 0.0), (0.49, 0.0), (0.49, 2.0))):
        for name, (estimator, *before) in known.items():
            family, cost = (lambda logits: dist.Bernoulli(logits=logits)), (lambda b, t=t: (b - t).square())
            yield row(
                f"coin, t={t}, theta={theta:g}", name, before[i], estimator, family, cost, 2_000, logits=_t(theta)
            )


def coins() -> Iterator[Row]:
    """Toy B: the mean of (b - 0.499)^2 over 200 coins; variance for each coordinate, averaged."""

    def family(logits: Tensor) -> Any:
        return dist.Bernoulli(logits=logits).to_event(1)

    def cost(b: Tensor) -> Tensor:
        return (b - 0.499).square().mean(-1)

    measured = {
        "LeaveOneOut(2)": ("1.24e-9", "1.12e-9", "7.7e-10", "2.2e-10"), "Score()": ("1.56e-2", "-", "-", "-"),
        "DisARM()": ("1.24e-9", "-", "-", "-"), "ARM()": ("1.65e-9", "-", "-", "-"),
        "LeaveOneOut(3)": ("6.2e-10", "-", "-", "-"), "ARMS(3)": ("6.2e-10", "-", "-", "-"),
        "LocalExpectation()": ("0", "-", "-", "-"), "Rebar()": ("7.6e-6 (lambda .1)", "-", "-", "-"),
        "DoubleControlVariate(2)": ("1.245e-9", "4.1e-11", "6.9e-12", "3.9e-13"),
        "Rodeo(2)": ("1.25e-9 (no constant)", "1.08e-9", "6.8e-10", "1.5e-10"),
    }  # fmt: skip
    for i, eta in enumerate((0.0, 0.5, 1.0, 2.0)):
        known = {name: values[i] for name, values in measured.items()}
        for estimator, many in (
            (Score(), 100), (LeaveOneOut(2), 100), (LeaveOneOut(3), 100), (DisARM(), 100), (ARM(), 100),
            (ARMS(3), 100), (StochasticAD(), 100), (LocalExpectation(), 2),
            (MuProp(MovingAverage()), 100), (Rebar(), 100),
            (DoubleControlVariate(2), 100), (Rodeo(2), 100),
        ):  # fmt: skip
            name = _name(estimator)
            logits = torch.full((200,), eta, dtype=torch.float64)
            yield row(
                f"200 coins, eta={eta:g}", name, known.get(name, "-"), estimator, family, cost, many, logits=logits
            )


def choice() -> Iterator[Row]:
    """One of five: our own logits and costs, so there is nothing to compare with but each other."""
    logits = torch.tensor([0.5, -0.3, 0.9, 0.0, -1.0], dtype=torch.float64)
    costs = torch.tensor([1.0, -0.5, 2.0, 0.3, -1.2], dtype=torch.float64)
    for estimator in (
        Score(), OptimalScore(), SelfCritical(), DisARM(), LeaveOneOut(2), LeaveOneOut(3), LeaveOneOut(4),
        UnorderedSet(2), UnorderedSet(3), SumAndSample(1), SumAndSample(2), StochasticAD(), LocalExpectation(),
    ):  # fmt: skip
        family, cost = (lambda logits: dist.Categorical(logits=logits)), (lambda z: costs[z])
        yield row("one of five", _name(estimator), "-", estimator, family, cost, 1_000, logits=logits)


def tutorial() -> Iterator[Row]:
    """Pyro's tutorial: six heads of ten, a prior of Beta(10, 10), a guide of Beta(15, 15) by its logarithms."""
    prior, guide = dist.Beta(_t(10.0), _t(10.0)), dist.Beta(_t(15.0), _t(15.0))

    def family(a: Tensor, b: Tensor) -> Any:
        return dist.Beta(a.exp(), b.exp())

    def cost(z: Tensor) -> Tensor:
        return prior.log_prob(z) + 6 * z.log() + 4 * torch.log1p(-z) - guide.log_prob(z)

    known = {
        Score(): "420, 389", Score(MovingAverage(0.0)): "2.32 (the mean)", OptimalScore(): "2.17",
        LeaveOneOut(2): "2.21", LeaveOneOut(4): ".76",
    }  # fmt: skip
    for estimator, before in known.items():
        start = _t(math.log(15.0))
        yield row(
            "Beta(15, 15), log a, log b", shown(estimator), before, estimator, family, cost, 2_000, a=start, b=start
        )


def others() -> Iterator[Row]:
    """Continuous choices and counts."""

    def f(z: Tensor) -> Tensor:
        return z.square() + torch.sin(2 * z)

    for estimator, before in (
        (Score(), "10.6, 59.5"), (LeaveOneOut(2), "5.1, 22.7"), (Pathwise(), "2.08, 8.05"),
        (Pathwise(coupling=Antithetic()), ".50, 7.5"), (MeasureValued(), ".137, 3.48"),
    ):  # fmt: skip
        toy = "Normal(.5, .8), z^2 + sin 2z"
        yield row(toy, shown(estimator), before, estimator, dist.Normal, f, 2_000, loc=_t(0.5), scale=_t(0.8))

    def g(z: Tensor) -> Tensor:
        return z * torch.log1p(z)

    for estimator, before in (
        (Score(), "20.6, -"), (Pathwise(), "1.415, -"), (MeasureValued(), "-, -"), (GRep(), "2.62, -"),
        (Rsvi(0), "1.47, -"), (Rsvi(1), "1.55, -"), (Rsvi(4), "1.59, -"),
    ):  # fmt: skip
        toy, values = "Gamma(2.5, 1), z log(1 + z)", {"concentration": _t(2.5), "rate": _t(1.0)}
        yield row(toy, _name(estimator), before, estimator, dist.Gamma, g, 2_000, **values)

    def h(z: Tensor) -> Tensor:
        return torch.sqrt(1 + z)

    for estimator, before in ((Score(), "1.61"), (MeasureValued(), ".0031"), (StochasticAD(), ".0031")):
        yield row("Poisson(3), sqrt(1 + z)", _name(estimator), before, estimator, dist.Poisson, h, 2_000, rate=_t(3.0))
    for estimator in (Score(), StochasticAD()):
        family = lambda logits: dist.Binomial(10, logits=logits)  # noqa: E731
        yield row(
            "Binomial(10, .3), sqrt(1 + z)", _name(estimator), "-", estimator, family, h, 2_000, logits=_t(-0.847)
        )
        family = lambda logits: dist.Geometric(logits=logits)  # noqa: E731
        yield row("Geometric(.4), sqrt(1 + z)", _name(estimator), "-", estimator, family, h, 2_000, logits=_t(-0.405))


def _t(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _name(estimator: Estimator) -> str:
    size = next((getattr(estimator, k) for k in ("k", "n", "shape_augmentation") if hasattr(estimator, k)), "")
    return f"{type(estimator).__name__}({size})"


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    rows = [r for toy in (coin, coins, choice, tutorial, others) for r in toy()]
    print(table(rows, ("toy", "estimator", "variance", "measured before", "took")))


if __name__ == "__main__":
    main()
