"""Score-function estimators (REINFORCE), which serve any distribution and any cost with one draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch import distributions as td

from varigrad.distributions.finite_support import inner_of
from varigrad.distributions.rng import Source
from varigrad.estimators.base import Draw, Estimator, Lanes, State, Surrogate, tensor_of, tuple_of
from varigrad.estimators.baselines import Baseline, NoBaseline
from varigrad.estimators.traits import Promises


@dataclass(frozen=True)
class Score(Estimator):
    r"""REINFORCE with a baseline.

    .. math:: (f - b)\,\nabla \log q(z)

    Serves every distribution. One evaluation of the model. Unbiased unless `normalise`.

    Args:
        baseline: subtracted from the cost; `MovingAverage()`, `NeuralBaseline(net, x)`, `ValueBaseline(b)`, sums.
        normalise: divide by :math:`\max(1, \sqrt v)`, v a decaying average of past :math:`(f - b)^2`. Every gradient
            then has its direction right on average and its length not, and differently at each site: not unbiased.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist, testing
        >>> from varigrad.estimators import Score
        >>> def model():
        ...     z = vg.sample("z", dist.Bernoulli(0.3))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.5))
        >>> def guide():
        ...     vg.sample("z", dist.Bernoulli(logits=vg.param("w", 0.0)), estimator=Score())
        >>> bound = vg.ELBO()(model, guide)
        >>> _, exact = testing.exact_gradient(bound)
        >>> testing.largest_difference(testing.expected_gradient(bound).mean, exact) < 1e-6
        True

    References:
        Williams (1992), Simple statistical gradient-following algorithms. doi:10.1007/BF00992696.
        Mnih, Gregor (2014), Neural variational inference and learning in belief networks (`normalise`).
        arXiv:1402.0030.
    """

    baseline: Baseline = field(default_factory=NoBaseline)
    normalise: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.baseline, Baseline):
            raise TypeError(f"baseline must be a Baseline such as MovingAverage(), got {self.baseline!r}")
        if not isinstance(self.normalise, bool):
            raise TypeError(f"normalise must be True or False, got {self.normalise!r}")

    @property
    def promises(self) -> Promises:
        return _ANY_LENGTH if self.normalise else _UNBIASED

    def refusal(self, distribution: td.Distribution) -> tuple[str, str] | None:
        return None

    def surrogate(self, draw: Draw, cost: Tensor, state: State) -> Surrogate:
        assert draw.log_q is not None
        if not self.normalise:
            guess = self.baseline.guess(cost, draw, state)
            # E[b grad log q] = 0 for any b independent of this draw.
            return Surrogate((cost - guess.value) * draw.log_q, guess.state, guess.regression, guess.value)
        inner, before = (None, cost.new_zeros(())) if state is None else tuple_of(state)
        spread = tensor_of(before).to(cost)
        guess = self.baseline.guess(cost, draw, inner)
        signal = cost - guess.value
        # The average *before* this draw, so that it is a factor of the mean and nothing else.
        value = signal * draw.log_q / spread.sqrt().clamp(min=1)
        fresh = signal.square().mean() if signal.dim() else signal.square()
        return Surrogate(value, (guess.state, torch.lerp(spread, fresh, 1 - DECAY)), guess.regression, guess.value)

    def parameters_of_baselines(self) -> Mapping[str, nn.Module]:
        return self.baseline.modules()


DECAY = 0.9
"""Decay of the average that `normalise` divides by."""

_UNBIASED, _ANY_LENGTH = Promises(), Promises(unbiased=False)


@dataclass(frozen=True)
class SelfCritical(Estimator):
    r"""REINFORCE with the cost at the distribution's mode for a baseline.

    .. math:: (f(b) - f(\operatorname{mode} q))\, \nabla \log q(b)

    Serves Bernoulli, Categorical, OneHotCategorical, Binomial, Poisson, Geometric, NegativeBinomial and Normal, also
    with `.to_event`: families whose mode always exists, with a positive density. Two evaluations. Unbiased, also where
    costs are joint: all elements of a plate are at their modes together, and none of that depends on the draw. Where
    the model holds the mode to be impossible, the baseline is zero.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist, testing
        >>> from varigrad.estimators import SelfCritical
        >>> def model():
        ...     z = vg.sample("z", dist.Bernoulli(0.3))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.5))
        >>> def guide():
        ...     vg.sample("z", dist.Bernoulli(logits=vg.param("w", 0.0)), estimator=SelfCritical())
        >>> bound = vg.ELBO()(model, guide)
        >>> _, exact = testing.exact_gradient(bound)
        >>> testing.largest_difference(testing.expected_gradient(bound).mean, exact) < 1e-6
        True

    References:
        Rennie, Marcheret, Mroueh, Ross, Goel (2017), Self-critical sequence training for image captioning.
        arXiv:1612.00563.
    """

    def refusal(self, distribution: td.Distribution) -> tuple[str, str] | None:
        inner, _ = inner_of(distribution)
        if not isinstance(inner, _WITH_MODE):
            name = type(inner).__name__
            return (
                f"{name} is not known to have a mode of positive density",
                "LeaveOneOut(2), or Score(MovingAverage())",
            )
        return None

    def alternatives(self, distribution: td.Distribution) -> int:
        return 1

    def draw(self, distribution: td.Distribution, lanes: Lanes | None, source: Source, state: State) -> Draw:
        assert lanes is not None
        value = lanes.begin(distribution, source)
        inner, _ = inner_of(distribution)
        with torch.no_grad():
            # torch's mode of a fair coin is NaN.
            mode = (inner.probs >= 0.5).to(value.dtype) if isinstance(inner, td.Bernoulli) else inner.mode
            value[lanes.own[0]] = mode[0]
        return Draw(distribution, value, lanes)

    def surrogate(self, draw: Draw, cost: Tensor, state: State) -> Surrogate:
        assert draw.log_q is not None
        baseline = torch.where(cost[1].isfinite(), cost[1], 0.0)
        return Surrogate((cost[0] - baseline) * draw.log_q[0])


_WITH_MODE = (
    td.Bernoulli,
    td.Categorical,
    td.OneHotCategorical,
    td.Binomial,
    td.Poisson,
    td.Geometric,
    td.NegativeBinomial,
    td.Normal,
)
