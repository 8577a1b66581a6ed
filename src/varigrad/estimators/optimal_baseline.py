"""`OptimalScore`: REINFORCE with the variance-minimising constant baseline for each distribution parameter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributions as td

from varigrad.distributions import families
from varigrad.distributions.finite_support import inner_of
from varigrad.distributions.mixin import unmasked
from varigrad.errors import BaselineError
from varigrad.estimators.base import Draw, Estimator, State, Surrogate, first, tensor_of, tuple_of
from varigrad.estimators.baselines import Baseline, NoBaseline
from varigrad.shapes import sum_rightmost


@dataclass(frozen=True)
class OptimalScore(Estimator):
    r"""REINFORCE with a constant baseline of least variance for each parameter of the distribution.

    .. math:: \sum_i (f - c_i)\, s_i\, \nabla \eta_i, \qquad
              s_i = \frac{\partial \log q(z)}{\partial \eta_i}, \qquad c_i = \frac{E[f s_i^2]}{E[s_i^2]}

    The expectations are decaying averages over *past* draws, so that :math:`c_i` does not depend on this one, and
    :math:`E[s_i] = 0` makes it a baseline. There is one :math:`c_i` for each coordinate of an event, each logit of a
    choice (normalised, so that noise along the direction that changes nothing is left out), each of several parameters,
    and the elements of a plate share it: what differs between them is for `baseline`, and :math:`f` above is the cost
    that it leaves.

    Serves Bernoulli, Categorical, OneHotCategorical, Binomial, Geometric and NegativeBinomial (by their logits),
    Poisson, Exponential, Gamma, Beta, Dirichlet, Normal, LogNormal and Laplace, also with `.to_event`. One evaluation.
    Unbiased.

    Args:
        baseline: subtracted from the cost first.
        decay: of the averages, in [0, 1). They are of few draws if it is small, and then noisy.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist, testing
        >>> from varigrad.estimators import OptimalScore
        >>> def model():
        ...     z = vg.sample("z", dist.Bernoulli(0.3))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.5))
        >>> def guide():
        ...     vg.sample("z", dist.Bernoulli(logits=vg.param("w", 0.0)), estimator=OptimalScore())
        >>> bound = vg.ELBO()(model, guide)
        >>> _, exact = testing.exact_gradient(bound)
        >>> testing.largest_difference(testing.expected_gradient(bound).mean, exact) < 1e-6
        True

    References:
        Greensmith, Bartlett, Baxter (2004), Variance reduction techniques for gradient estimates in reinforcement
        learning.
        Ranganath, Gerrish, Blei (2014), Black box variational inference. arXiv:1401.0118.
    """

    baseline: Baseline = field(default_factory=NoBaseline)
    decay: float = 0.99

    def __post_init__(self) -> None:
        if not isinstance(self.baseline, Baseline):
            raise TypeError(f"baseline must be a Baseline such as MovingAverage(), got {self.baseline!r}")
        if not 0 <= self.decay < 1:
            raise BaselineError(f"decay must be in [0, 1), got {self.decay!r}", site="OptimalScore")

    def refusal(self, distribution: td.Distribution) -> tuple[str, str] | None:
        inner, _ = inner_of(unmasked(distribution))
        if _free(inner) is None:
            name = type(inner).__name__
            return f"the free parameters of {name} are not listed", "Score(MovingAverage()), or LeaveOneOut(4)"
        failures = getattr(inner, "total_count", None)
        if isinstance(failures, Tensor) and failures.requires_grad:
            return "total_count is trained, and only the logits have a constant", "Score(MovingAverage())"
        return None

    def surrogate(self, draw: Draw, cost: Tensor, state: State) -> Surrogate:
        inner_state, averages = (None, None) if state is None else tuple_of(state)
        guess = self.baseline.guess(cost, draw, inner_state)
        signal = cost - guess.value
        parts, following = [], []
        for i, (parameter, score, dims) in enumerate(_scores(draw)):
            f = signal.reshape(signal.shape + (1,) * dims)
            square = score.square()
            fresh = torch.stack([_pooled(f * square, dims), _pooled(square, dims)])
            average = torch.zeros_like(fresh) if averages is None else tensor_of(tuple_of(averages)[i]).to(fresh)
            constant = torch.where(average[1] > 0, average[0] / average[1], 0.0)
            weight = (f - constant) * score
            # A logit of minus infinity has no score: it shall not make a NaN of zero.
            part = weight * torch.where(score != 0, parameter, 0.0)
            parts.append(sum_rightmost(part, dims))
            following.append(torch.lerp(average, fresh, 1 - self.decay))
        return Surrogate(sum(parts[1:], parts[0]), (guess.state, tuple(following)), guess.regression, guess.value)

    def parameters_of_baselines(self) -> Mapping[str, nn.Module]:
        return self.baseline.modules()


def _scores(draw: Draw) -> list[tuple[Tensor, Tensor, int]]:
    """Each free parameter, `[*plates, *own]`, the score with respect to it, of the same shape, and how many are own."""
    inner, coordinates = inner_of(unmasked(draw.distribution))
    found = _free(inner)
    assert found is not None
    kind, names = found
    value = first(draw.value, draw, len(draw.distribution.event_shape)).detach()
    fixed = {}
    if "total_count" in kind.arg_constraints:
        fixed["total_count"] = first(inner.total_count, draw, coordinates)
    dims = [coordinates + kind.arg_constraints[name].event_dim for name in names]
    parameters = [first(getattr(inner, name), draw, d) for name, d in zip(names, dims, strict=True)]
    leaves = [p.detach().requires_grad_() for p in parameters]
    with torch.enable_grad():
        # Built anew, so that parameters that depend on each other, such as normalised logits, are free to move.
        twin = kind(**dict(zip(names, leaves, strict=True)), **fixed, validate_args=False)
        scores = torch.autograd.grad(twin.log_prob(value).sum(), leaves)
    return list(zip(parameters, scores, dims, strict=True))


def _pooled(value: Tensor, dims: int) -> Tensor:
    """Mean over all but the `dims` rightmost dimensions."""
    return value.reshape((-1, *value.shape[value.dim() - dims :])).mean(0)


_FREE: Mapping[Any, tuple[str, ...]] = {
    td.Bernoulli: ("logits",),
    td.Categorical: ("logits",),
    td.OneHotCategorical: ("logits",),
    td.Binomial: ("logits",),
    td.Geometric: ("logits",),
    td.NegativeBinomial: ("logits",),
    td.Poisson: ("rate",),
    td.Exponential: ("rate",),
    td.Gamma: ("concentration", "rate"),
    td.Beta: ("concentration1", "concentration0"),
    td.Dirichlet: ("concentration",),
    td.Normal: ("loc", "scale"),
    td.LogNormal: ("loc", "scale"),
    td.Laplace: ("loc", "scale"),
}


def _free(distribution: td.Distribution) -> tuple[Any, tuple[str, ...]] | None:
    """The class that torch has for this family, and its parameters, each of which may move by itself."""
    # Not a subclass from elsewhere, whose density may be another.
    kind = type(distribution)
    return next(((k, n) for k, n in _FREE.items() if kind in (k, getattr(families, k.__name__))), None)
