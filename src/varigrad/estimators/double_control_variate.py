"""Double control variates: each of several draws has the other draws' costs and derivatives for a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch import distributions as td

from varigrad.errors import store_whole
from varigrad.estimators.base import Draw, Estimator, State, Surrogate, equal_weights
from varigrad.estimators.concrete_relaxation import (
    is_one_hot,
    logits_of,
    refusal_to_relax,
    slopes_of,
    softened,
    values_of,
)
from varigrad.estimators.control_variate_weights import coefficients, learnt
from varigrad.estimators.leave_one_out import check_draws, others
from varigrad.estimators.muprop import linear, times
from varigrad.estimators.traits import Needs, Slope
from varigrad.shapes import sum_rightmost


@dataclass(frozen=True)
class DoubleControlVariate(Estimator):
    r"""Leave-one-out over costs less a first-order expansion, which uses the other draws' derivatives.

    .. math:: \frac1K \sum_k \Big(h_k - \frac{1}{K-1} \sum_{j \ne k} h_j\Big) \nabla \log q(x_k)
              - \alpha \Big(\frac1K \sum_k f'(x_k)\Big)^T \nabla \mu, \qquad
              h_k = f_k + \alpha \Big(\frac{1}{K-1} \sum_{j \ne k} f'(x_j)\Big)^T (x_k - \mu)

    Serves Bernoulli and OneHotCategorical, also with `.to_event`, in models that take values between those of the
    support. K evaluations and as many derivatives. Unbiased, whatever the derivatives are worth and for every
    :math:`\alpha`, but a bad one is very noisy.

    With `train`, :math:`\alpha` is the least-squares coefficient from decaying sums over past draws.

    Args:
        k: draws at this site (the sites before it are shared, the sites after it drawn anew), at least 2.
        alpha: weight of the expansion; with `train`, where it starts.
        train: learn it.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist, testing
        >>> from varigrad.estimators import DoubleControlVariate
        >>> def model():
        ...     z = vg.sample("z", dist.Bernoulli(0.3))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.5))
        >>> def guide():
        ...     vg.sample("z", dist.Bernoulli(logits=vg.param("w", 0.0)), estimator=DoubleControlVariate(2))
        >>> bound = vg.ELBO()(model, guide)
        >>> _, exact = testing.exact_gradient(bound)
        >>> testing.largest_difference(testing.expected_gradient(bound).mean, exact) < 1e-6
        True

    References:
        Titsias, Shi (2022), Double control variates for gradient estimation in discrete latent variable models.
        arXiv:2111.05300.
    """

    k: int = 2
    alpha: float = 0.0
    train: bool = True

    needs: ClassVar[Needs] = Needs(between_values=True, slope=Slope())

    def __post_init__(self) -> None:
        store_whole(self, "k")
        check_draws(self.k, "DoubleControlVariate", "MuProp(MovingAverage())")

    def refusal(self, distribution: td.Distribution) -> tuple[str, str] | None:
        return refusal_to_relax("DoubleControlVariate", distribution)

    def alternatives(self, distribution: td.Distribution) -> int:
        return self.k - 1

    def lane_weights(self, draw: Draw) -> Tensor | None:
        return equal_weights(draw)

    def surrogate(self, draw: Draw, cost: Tensor, state: State) -> Surrogate:
        event, one_hot = len(draw.distribution.event_shape), is_one_hot(draw.distribution)
        logits, value = logits_of(draw), values_of(draw).detach()
        slope = slopes_of(draw)
        mean = softened(logits.detach(), 1.0, one_hot)
        score = value - mean

        # E[others_k^T (x_k - mu) s_k] = E[f']^T grad mu, as the others are independent of x_k; and the part of h_j
        # that is made of x_k has mean zero over x_j. So the control variate has mean zero.
        expansion = linear(others(slope), score, event, cost)
        moved = slope.mean(0) * mean
        moved = moved - mean * moved.sum(-1, keepdim=True) if one_hot else moved * (1 - mean)
        plain = times(cost - others(cost), score, event).mean(0)
        control = times(expansion - others(expansion), score, event).mean(0) - moved
        (alpha,) = coefficients(state, (self.alpha,), plain)
        field = plain + alpha * control
        following = learnt(state, plain, (control,)) if self.train else None
        return Surrogate(sum_rightmost(field * logits, event), following)
