"""Each estimator's variance on one coin, among the others', for docs/estimators.md. `python -m benchmarks.gallery`.

The coin is toy A, E[(b - 0.45)^2], at logits from -3 to 3; a choice of two stands in for it where an estimator is for
categories. What counts is variance at equal cost, so it is multiplied by the evaluations.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from matplotlib import pyplot
from torch import Tensor
from tqdm import tqdm

from benchmarks.variances import gradients
from varigrad import distributions as dist
from varigrad.estimators import (
    ARM,
    ARMS,
    DisARM,
    DoubleControlVariate,
    Estimator,
    LeaveOneOut,
    LocalExpectation,
    MuProp,
    OptimalScore,
    Rebar,
    Rodeo,
    Score,
    SelfCritical,
    StochasticAD,
    SumAndSample,
    UnorderedSet,
)
from varigrad.estimators.baselines import MovingAverage
from varigrad.objectives.plan import shown

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "variances.png"
LOGITS = torch.linspace(-3, 3, 13, dtype=torch.float64)
MANY = 300

COINS: tuple[Estimator, ...] = (
    Score(), Score(MovingAverage()), OptimalScore(), SelfCritical(), LeaveOneOut(2), LeaveOneOut(4), ARM(), DisARM(),
    ARMS(4), LocalExpectation(), StochasticAD(), MuProp(MovingAverage()), Rebar(),
    DoubleControlVariate(2), Rodeo(2),
)  # fmt: skip
CHOICES: tuple[Estimator, ...] = (UnorderedSet(2), SumAndSample(1))


def curve(estimator: Estimator, of_two: bool) -> Tensor:
    """Variance times evaluations at each of the logits."""
    found = []
    warm_up = 300 if isinstance(estimator, (Rebar, MuProp, DoubleControlVariate, Rodeo)) else 60
    for logit in LOGITS:
        if of_two:
            values = {"logits": torch.stack([torch.zeros_like(logit), logit])}
            variance = gradients(estimator, _choice, _cost, MANY, warm_up, **values)["logits"][..., 1].var()
        else:
            variance = gradients(estimator, _coin, _cost, MANY, warm_up, logits=logit)["logits"].var()
        found.append(variance * _evaluations(estimator, of_two))
    return torch.stack(found).clamp(min=1e-9)


def _coin(logits: Tensor) -> Any:
    return dist.Bernoulli(logits=logits)


def _choice(logits: Tensor) -> Any:
    return dist.Categorical(logits=logits)


def _cost(b: Tensor) -> Tensor:
    return (b - 0.45).square()


def _evaluations(estimator: Estimator, of_two: bool) -> int:
    family = _choice(torch.zeros(2)) if of_two else _coin(torch.zeros(()))
    return 1 + estimator.alternatives(family)


def main() -> None:
    torch.set_num_threads(1)
    every = [(e, False) for e in COINS] + [(e, True) for e in CHOICES]
    curves = {shown(e): curve(e, of_two) for e, of_two in tqdm(every, unit="estimator")}
    columns = 5
    figure, panels = pyplot.subplots(
        -(-len(curves) // columns), columns, figsize=(13, 8), sharex=True, sharey=True, layout="constrained"
    )
    for panel, (name, own) in zip(panels.flat, curves.items(), strict=False):
        for other in curves.values():
            panel.semilogy(LOGITS, other, color="0.85", linewidth=1)
        panel.semilogy(LOGITS, own, color="C0", linewidth=2)
        panel.set_title(name, fontsize=9)
    for panel in panels.flat[len(curves) :]:
        panel.axis("off")
    figure.supxlabel("logit")
    figure.supylabel("variance x evaluations (below 1e-9: zero)")
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=80)
    print(PICTURE)


if __name__ == "__main__":
    main()
