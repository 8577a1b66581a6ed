"""Coupled estimators of Bernoulli sites (ARM, DisARM, ARMS): they draw negatively correlated values.

All of them draw through `Source.index`, from the joint probabilities of the coupled values, so that their outcomes can
be enumerated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributions as td

from varigrad.distributions.finite_support import inner_of
from varigrad.distributions.rng import Source
from varigrad.errors import SiteError, is_whole, store_whole
from varigrad.estimators.base import Draw, Estimator, Lanes, State, Surrogate, equal_weights, first, tensor_of
from varigrad.estimators.disarm_categorical import draw_pair, field
from varigrad.shapes import sum_rightmost


@dataclass(frozen=True)
class ARM(Estimator):
    r"""Antithetic pairs, weighted by the uniform number that both are computed from.

    .. math:: \big(f(b) - f(\tilde b)\big) (u - \tfrac12) \quad\text{per logit},
              \qquad b = 1[u > 1 - p],\ \tilde b = 1[u < p]

    Serves Bernoulli, and Bernoulli with `.to_event`. Two evaluations. Unbiased. `DisARM` is its expectation given the
    pair, and so never noisier; this one is there to compare with.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist, testing
        >>> from varigrad.estimators import ARM
        >>> def model():
        ...     z = vg.sample("z", dist.Bernoulli(0.3))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.5))
        >>> def guide():
        ...     vg.sample("z", dist.Bernoulli(logits=vg.param("w", 0.0)), estimator=ARM())
        >>> bound = vg.ELBO()(model, guide)
        >>> _, exact = testing.exact_gradient(bound)
        >>> testing.largest_difference(testing.expected_gradient(bound).mean, exact) < 1e-6
        True

    References:
        Yin, Zhou (2019), ARM: augment-REINFORCE-merge gradient for stochastic binary networks. arXiv:1807.11143.
    """

    def refusal(self, distribution: td.Distribution) -> tuple[str, str] | None:
        return _refusal("ARM", distribution)

    def alternatives(self, distribution: td.Distribution) -> int:
        return 1

    def draw(self, distribution: td.Distribution, lanes: Lanes | None, source: Source, state: State) -> Draw:
        assert lanes is not None
        value, row = _begin(distribution, lanes, source)
        # First the cell of u, then its place there: below both thresholds, between them, above both.
        apart = torch.minimum(row, 1 - row)
        between = (1 - 2 * apart).clamp(min=0)
        cell = source.index(torch.stack([apart, between, apart], -1))
        low = torch.where(cell == 0, 0.0, torch.where(cell == 1, apart, 1 - apart))
        width = torch.where(cell == 1, between, apart)
        both = (cell == 1) & (row > 0.5)
        value[0] = ((cell == 2) | both).to(value.dtype)
        value[lanes.own[0]] = ((cell == 0) | both).to(value.dtype)
        uniform = low + width * source.uniform(row.shape, row, degree=1)
        return Draw(distribution, lanes.share(value), lanes, noise=uniform)

    def lane_weights(self, draw: Draw) -> Tensor | None:
        return equal_weights(draw)

    def surrogate(self, draw: Draw, cost: Tensor, state: State) -> Surrogate:
        event = len(draw.distribution.event_shape)
        logits = first(inner_of(draw.distribution)[0].logits, draw, event)
        return Surrogate(sum_rightmost((tensor_of(draw.noise) - 0.5) * logits, event) * (cost[0] - cost[1]))


@dataclass(frozen=True)
class DisARM(Estimator):
    r"""Antithetic pairs with the uniform integrated out.

    .. math:: \tfrac12 \big(f(b) - f(\tilde b)\big) (-1)^{\tilde b}\, 1[b \ne \tilde b]\, \sigma(|\theta|)
              \quad\text{per logit}~\theta

    Serves Bernoulli, and Categorical and OneHotCategorical as a row of coins that ends with the first head
    (`estimators/disarm_categorical.py`), also with `.to_event`. Two evaluations. Unbiased. With categories, the order
    counts: the likelier come first, the more alike are the two draws.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist, testing
        >>> from varigrad.estimators import DisARM
        >>> def model():
        ...     z = vg.sample("z", dist.Bernoulli(0.3))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.5))
        >>> def guide():
        ...     vg.sample("z", dist.Bernoulli(logits=vg.param("w", 0.0)), estimator=DisARM())
        >>> bound = vg.ELBO()(model, guide)
        >>> _, exact = testing.exact_gradient(bound)
        >>> testing.largest_difference(testing.expected_gradient(bound).mean, exact) < 1e-6
        True

    References:
        Dong, Mnih, Tucker (2020), DisARM: an antithetic gradient estimator for binary latent variables.
        arXiv:2006.10680.
        Dong, Mnih, Tucker (2021), Coupled gradient estimators for discrete latent variables. arXiv:2106.08056.
    """

    def refusal(self, distribution: td.Distribution) -> tuple[str, str] | None:
        return None if _has_categories(distribution) else _refusal("DisARM", distribution)

    def alternatives(self, distribution: td.Distribution) -> int:
        return 1

    def draw(self, distribution: td.Distribution, lanes: Lanes | None, source: Source, state: State) -> Draw:
        assert lanes is not None
        if _has_categories(distribution):
            return draw_pair(distribution, lanes, source)
        value, row = _begin(distribution, lanes, source)
        # b = 1[u > 1 - p], b~ = 1[u < p]: the three cells of u, the middle one split by which of the two is 1.
        apart = torch.minimum(row, 1 - row)
        both = (2 * row - 1).clamp(min=0)
        neither = (1 - 2 * row).clamp(min=0)
        cell = source.index(torch.stack([neither, apart, apart, both], -1))
        value[0] = (cell >= 2).to(value.dtype)
        value[lanes.own[0]] = ((cell == 1) | (cell == 3)).to(value.dtype)
        return Draw(distribution, lanes.share(value), lanes)

    def lane_weights(self, draw: Draw) -> Tensor | None:
        return equal_weights(draw)

    def surrogate(self, draw: Draw, cost: Tensor, state: State) -> Surrogate:
        if _has_categories(draw.distribution):
            return Surrogate(field(draw) * (cost[0] - cost[1]))
        event = len(draw.distribution.event_shape)
        logits = first(inner_of(draw.distribution)[0].logits, draw, event)
        assert draw.lanes is not None
        value, other = draw.value[0], draw.value[draw.lanes.own[0]]
        sign = 1 - 2 * other
        weight = torch.where(value != other, sign * torch.sigmoid(logits.detach().abs()), torch.zeros_like(sign))
        difference = 0.5 * (cost[0] - cost[1])
        return Surrogate(sum_rightmost(weight * logits, event) * difference)


@dataclass(frozen=True)
class ARMS(Estimator):
    r"""Several negatively correlated draws, with a leave-one-out baseline that is corrected for the correlation.

    .. math:: \frac{1}{(1 - \rho)(n - 1)} \sum_i (f_i - \bar f)(b_i - p) \quad\text{per logit},
              \qquad \rho = \operatorname{corr}(b_i, b_j) \le 0

    With :math:`q = \min(p, 1 - p)`, the rarer of the two values is where :math:`u_i < q`, and the :math:`u_i` are the
    uniforms :math:`(1 - d_i)^{n-1}` of a flat Dirichlet :math:`d`; so :math:`m` given draws all have it with
    probability :math:`\max(0, 1 - m t)^{n-1},\ t = 1 - q^{1/(n-1)}`.

    Serves Bernoulli, and Bernoulli with `.to_event`. n evaluations. Unbiased. `ARMS(2)` is `DisARM`.

    Args:
        n: draws, 2 to 8.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist, testing
        >>> from varigrad.estimators import ARMS
        >>> def model():
        ...     z = vg.sample("z", dist.Bernoulli(0.3))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.5))
        >>> def guide():
        ...     vg.sample("z", dist.Bernoulli(logits=vg.param("w", torch.tensor(0.0).double())), estimator=ARMS(3))
        >>> bound = vg.ELBO()(model, guide)
        >>> _, exact = testing.exact_gradient(bound)
        >>> testing.largest_difference(testing.expected_gradient(bound).mean, exact) < 1e-6
        True

    References:
        Dimitriev, Zhou (2021), ARMS: antithetic-REINFORCE-multi-sample gradient for binary variables. arXiv:2105.14141.
    """

    n: int = 4

    def __post_init__(self) -> None:
        store_whole(self, "n")
        if not is_whole(self.n, 2, 8):
            raise SiteError(
                f"n must be a whole number from 2 to 8, got {self.n!r}",
                site="ARMS",
                because="it compares draws with each other, and knows the probabilities of all 2**n patterns",
                try_="ARMS(4), or LeaveOneOut(16) for more draws",
            )

    def refusal(self, distribution: td.Distribution) -> tuple[str, str] | None:
        return _refusal("ARMS", distribution)

    def alternatives(self, distribution: td.Distribution) -> int:
        return self.n - 1

    def draw(self, distribution: td.Distribution, lanes: Lanes | None, source: Source, state: State) -> Draw:
        assert lanes is not None
        value, row = _begin(distribution, lanes, source)
        rare = torch.minimum(row, 1 - row)
        pattern = source.index(patterns(rare, self.n))
        for i, lane in enumerate(lanes.compared):
            is_rare = (pattern >> i) % 2
            value[lane] = torch.where(row <= 0.5, is_rare, 1 - is_rare).to(value.dtype)
        return Draw(distribution, lanes.share(value), lanes)

    def lane_weights(self, draw: Draw) -> Tensor | None:
        return equal_weights(draw)

    def surrogate(self, draw: Draw, cost: Tensor, state: State) -> Surrogate:
        event = len(draw.distribution.event_shape)
        bernoulli = inner_of(draw.distribution)[0]
        logits = first(bernoulli.logits, draw, event)
        probs = first(bernoulli.probs, draw, event).detach()
        assert draw.lanes is not None
        rare = torch.minimum(probs, 1 - probs)
        # 1 / (1 - rho) = q (1 - q) / (q - B) with B = P(both rare), which vanishes long before q does.
        together = (2 * rare ** (1 / (self.n - 1)) - 1).clamp(min=0) ** (self.n - 1)
        share = torch.where(rare > 0, together / rare, 0.0)
        weight = (1 - rare) / (1 - share)
        relative = cost - cost.mean(0, keepdim=True)
        shares = [
            sum_rightmost(weight * (draw.value[lane] - probs) * logits, event) * one
            for lane, one in zip(draw.lanes.compared, relative, strict=True)
        ]
        return Surrogate(torch.stack(shares).sum(0) / (self.n - 1))


def patterns(rare: Tensor, n: int) -> Tensor:
    """Probabilities of which of n coupled draws are rare, bit by bit: `[*shape, 2**n]`; `rare` is the marginal."""
    q = rare.double().unsqueeze(-1)
    t = 1 - q ** (1 / (n - 1))
    number = torch.arange(n + 1, device=rare.device)
    all_of = (1 - number * t).clamp(min=0) ** (n - 1)  # given m draws are all rare
    exactly = [  # and no others: inclusion and exclusion
        sum((-1) ** (j - m) * math.comb(n - m, j - m) * all_of[..., j] for j in range(m, n + 1)) for m in range(n + 1)
    ]
    ones = [pattern.bit_count() for pattern in range(2**n)]
    return torch.stack(exactly, -1).clamp(min=0)[..., ones].to(rare.dtype)


def _has_categories(distribution: td.Distribution) -> bool:
    return isinstance(inner_of(distribution)[0], (td.Categorical, td.OneHotCategorical))


def _refusal(name: str, distribution: td.Distribution) -> tuple[str, str] | None:
    if not isinstance(inner_of(distribution)[0], td.Bernoulli):
        return (
            f"{name} is for Bernoulli choices, and this is {type(distribution).__name__}",
            "Enumerate() for a small finite support, LeaveOneOut(2) for anything",
        )
    return None


def _begin(distribution: td.Distribution, lanes: Lanes, source: Source) -> tuple[Tensor, Tensor]:
    """Draws for the lanes of earlier sites, `[lanes, *plates, *event]`, and the probabilities in lane 0."""
    value = source.draw(distribution, lanes=lanes.drawn(*lanes.compared))
    return value, inner_of(distribution)[0].probs[0].detach()
