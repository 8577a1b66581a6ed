"""The score-function estimator: any distribution, any cost, one draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch import distributions as td

from varigrad.estimators.base import Draw, Estimator, State, Surrogate
from varigrad.estimators.baselines import Baseline, NoBaseline


@dataclass(frozen=True)
class Score(Estimator):
    r"""REINFORCE with a baseline.

    .. math:: (f - b)\,\nabla \log q(z)

    Serves every distribution. One evaluation of the model. Unbiased.

    Args:
        baseline: subtracted from the cost; `MovingAverage()`, `NeuralBaseline(net, x)`, `ValueBaseline(b)`, sums.

    References:
        Williams (1992), Simple statistical gradient-following algorithms.
    """

    baseline: Baseline = field(default_factory=NoBaseline)

    def __post_init__(self) -> None:
        if not isinstance(self.baseline, Baseline):
            raise TypeError(f"baseline must be a Baseline such as MovingAverage(), got {self.baseline!r}")

    def refusal(self, distribution: td.Distribution) -> tuple[str, str] | None:
        return None

    def surrogate(self, draw: Draw, cost: Tensor, state: State) -> Surrogate:
        assert draw.log_q is not None
        guess = self.baseline.guess(cost, draw, state)
        # E[b grad log q] = 0 for any b independent of this draw.
        return Surrogate((cost - guess.value) * draw.log_q, guess.state, guess.regression)

    def parameters_of_baselines(self) -> Mapping[str, Any]:
        return self.baseline.modules()
