r"""RODEO: leave-one-out with discrete Stein control variates, built from the steps of a Gibbs sampler.

With :math:`x^{\neg d}` for x with coordinate d turned over, and q the product of D Bernoulli distributions,

.. math:: (A h)(x) = \frac1D \sum_d q_d(\neg x_d) \big(h(x^{\neg d}) - h(x)\big), \qquad E_q[A h] = 0,

since q is invariant under a step of a Gibbs sampler, which draws one coordinate anew at a time. Coordinates are those
of an event, and the elements of plates that share a cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributions as td

from varigrad.errors import BaselineError, store_whole
from varigrad.estimators.base import Draw, Estimator, State, Surrogate, equal_weights, tuple_of
from varigrad.estimators.concrete_relaxation import is_one_hot, logits_of, refusal_to_relax, slopes_of, values_of
from varigrad.estimators.control_variate_weights import coefficients, following_units, learnt, units
from varigrad.estimators.leave_one_out import check_draws, others
from varigrad.estimators.muprop import linear, times
from varigrad.estimators.traits import Needs, Slope
from varigrad.shapes import sum_rightmost

_OF_SLOPES = Needs(between_values=True, slope=Slope())
_OF_SLOPES_APART = Needs(between_values=True, slope=Slope(apart=True))


@dataclass(frozen=True)
class Rodeo(Estimator):
    r"""RODEO: leave-one-out with two control variates from the other draws' costs and derivatives.

    .. math:: \frac1K \sum_k \Big(f_k - \frac{1}{K-1} \sum_{j \ne k} \big(f_j + \alpha\, (A h_j)(x_j)\big)\Big) s(x_k)
              + \beta\, (A\, h_k s)(x_k) + \gamma\, (A\, c_k s)(x_k), \qquad s = \nabla \log q

    with :math:`h_k(y) = \frac{1}{K-1} \sum_{i \ne k} f'(x_i)^T (y - x_i)` and :math:`c_k = \frac{1}{K-1} \sum_{i \ne k}
    f_i`. Serves Bernoulli, also with `.to_event`, in models that take values between 0 and 1. K evaluations and as many
    derivatives. Unbiased, whatever the derivatives are worth and for all coefficients.

    With `train`, the coefficients are those of least squares from decaying sums over past draws. With a network there
    is one more control variate, :math:`A H^1_j` and :math:`A\, H^2_k s` in the two places, where :math:`H(y)` is the
    network's mean over the other draws, from :math:`f_i` (in units of past costs) and :math:`f'(x_i)^T (y - x_i)`. The
    network is trained on the squared gradient and sees every coordinate turned over: D + 1 rows for each pair of draws.

    Args:
        k: draws at this site (the sites before it are shared, the sites after it drawn anew), at least 2.
        alpha, beta, gamma: weights; with `train`, where they start. A network's starts at 0.
        train: learn them.
        network: from `[..., 2]` to `[..., 2]`.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist, testing
        >>> from varigrad.estimators import Rodeo
        >>> def model():
        ...     z = vg.sample("z", dist.Bernoulli(0.3))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.5))
        >>> def guide():
        ...     vg.sample("z", dist.Bernoulli(logits=vg.param("w", 0.0)), estimator=Rodeo())
        >>> bound = vg.ELBO()(model, guide)
        >>> _, exact = testing.exact_gradient(bound)
        >>> testing.largest_difference(testing.expected_gradient(bound).mean, exact) < 1e-6
        True

    References:
        Shi, Zhou, Hwang, Titsias, Mackey (2022), Gradient estimation with discrete Stein operators. arXiv:2202.09497.
    """

    k: int = 2
    alpha: float = 0.0
    beta: float = 0.0
    gamma: float = 0.0
    train: bool = True
    network: nn.Module | None = None

    def __post_init__(self) -> None:
        store_whole(self, "k")
        check_draws(self.k, "Rodeo", "MuProp(MovingAverage())")

    @property
    def needs(self) -> Needs:
        # What a network makes of a slope is not linear in it.
        return _OF_SLOPES if self.network is None else _OF_SLOPES_APART

    def refusal(self, distribution: td.Distribution) -> tuple[str, str] | None:
        if is_one_hot(distribution):
            return "Rodeo turns coins over, and this is OneHotCategorical", "DoubleControlVariate(2), or LeaveOneOut(4)"
        return refusal_to_relax("Rodeo", distribution)

    def alternatives(self, distribution: td.Distribution) -> int:
        return self.k - 1

    def lane_weights(self, draw: Draw) -> Tensor | None:
        return equal_weights(draw)

    def surrogate(self, draw: Draw, cost: Tensor, state: State) -> Surrogate:
        event = len(draw.distribution.event_shape)
        logits, value, slope = logits_of(draw), values_of(draw).detach(), slopes_of(draw)
        steps = _Steps(value, value - logits.detach().sigmoid(), event, cost)
        learning, scale = (None, None) if state is None else tuple_of(state)

        at = linear(others(slope), value, event, cost) - others(linear(slope, value, event, cost))  # h_k(x_k)
        turned = wide(at, event) + others(slope) * steps.turn
        mean = others(cost)
        plain = times(cost - mean, steps.score, event).mean(0)
        controls = [
            steps.of_baselines(at, turned),
            steps.of_scores(at, turned),
            steps.of_scores(mean, wide(mean, event)),
        ]
        start, loss = [self.alpha, self.beta, self.gamma], None
        if self.network is not None:
            control = self._of_network(steps, slope, scale)
            start, controls = [*start, 0.0 if self.train else 1.0], [*controls, control.detach()]
        weights = coefficients(learning, start, plain)
        field = plain + sum(w * c for w, c in zip(weights, controls, strict=True))
        if self.network is not None:
            # Trained as if it had weight 1, so that what it learns does not depend on what it was worth before; in
            # units of the costs, so that one learning rate does for costs of any size.
            loss = (field - weights[-1] * controls[-1] + control).square().mean()
            loss = loss / units(scale, loss)[1].square()
            scale = following_units(scale, cost)
        if self.train:
            learning = learnt(learning, plain, controls)
        return Surrogate(sum_rightmost(field * logits, event), (learning, scale), loss)

    def _of_network(self, steps: _Steps, slope: Tensor, scale: State) -> Tensor:
        """The network's control variate, `[*plates, *event]`; differentiable in its parameters."""
        value, event, k = steps.value, steps.event, self.k
        centre, unit = units(scale, value)
        cost = ((steps.cost - centre) / unit).expand(k, *steps.cost.shape)
        # [j, i, ...]: at x_j, from x_i.
        at = linear(slope / unit, value.unsqueeze(1) - value, event, cost)
        turned = wide(at, event) + slope / unit * steps.turn.unsqueeze(1)
        other = (1 - torch.eye(k, dtype=value.dtype, device=value.device)) / (k - 1)

        def heads(cost: Tensor, change: Tensor) -> Tensor:
            both = torch.stack(torch.broadcast_tensors(cost, change), -1)
            found = self.network(both) if self.network is not None else both
            if found.shape != both.shape:
                raise BaselineError(
                    f"the network makes {tuple(found.shape)} of {tuple(both.shape)}",
                    site="Rodeo",
                    because="it is two functions of two numbers, along the last dimension",
                    try_="nn.Sequential(nn.Linear(2, 100), nn.LeakyReLU(), nn.Linear(100, 2))",
                )
            return (wide(other, found.dim() - 2) * found).sum(1)

        here, there = heads(cost, at), heads(wide(cost, event), turned)
        one = steps.of_baselines(here[..., 0], there[..., 0])
        return unit * (one + steps.of_scores(here[..., 1], there[..., 1]))

    def parameters_of_baselines(self) -> Mapping[str, nn.Module]:
        return {} if self.network is None else {"": self.network}


@dataclass(frozen=True, eq=False)
class _Steps:
    """The changes of each draw by the steps of a Gibbs sampler.

    Attributes:
        value, score: `[K, *plates, *event]`.
        event: how many dimensions an event has.
        cost: `[K, *plates]`.
    """

    value: Tensor
    score: Tensor
    event: int
    cost: Tensor

    @property
    def turn(self) -> Tensor:
        """How much turning a coordinate over adds to it."""
        return 1 - 2 * self.value

    def of_baselines(self, here: Tensor, there: Tensor) -> Tensor:
        """:math:`-(A h_j)(x_j)` for a baseline of the draws but j, `[*plates, *event]`.

        Args:
            here: each draw's function at the draw, `[K, *plates]`.
            there: the same with each coordinate turned over, `[K, *plates, *event]`.
        """
        return -times(others(self._moved(here, there)), self.score, self.event).mean(0)

    def of_scores(self, here: Tensor, there: Tensor) -> Tensor:
        """:math:`(A h_k s)(x_k)`, `[*plates, *event]`.

        Turning d over adds `turn` to component d of the score, and `q_d(not x_d) * turn` is minus the score.
        """
        count = self.score.numel() // self.cost.numel()
        return (times(self._moved(here, there), self.score, self.event) - there * self.score / count).mean(0)

    def _moved(self, here: Tensor, there: Tensor) -> Tensor:
        """:math:`(A h)(x)`, `[K, *plates]`; the chance of turning a coordinate over is the size of its score."""
        count = self.score.numel() // self.cost.numel()
        return linear(self.score.abs(), there - wide(here, self.event), self.event, self.cost) / count


def wide(value: Tensor, dims: int) -> Tensor:
    """A tensor with as many further dimensions of size one on the right."""
    return value.reshape(value.shape + (1,) * dims)
