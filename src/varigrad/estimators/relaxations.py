r"""Biased relaxed estimators (Gumbel-softmax, straight-through): the draw gets the derivative of its softened version.

They are cheap and have little variance, but their mean is the gradient of no bound. So all of them have `unbiased =
False`, and are used only if the user names them. They need models that are differentiable in the value, and refuse
those that visibly are not.

Densities of the site's own value, in guide and model, are continued linearly between the values of the support and
differentiated with all the rest. With `ELBO(analytic_kl=True)` a divergence in closed form replaces both, so that only
the likelihood's part is biased.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch import distributions as td

from varigrad.distributions.finite_support import inner_of
from varigrad.distributions.rng import Source
from varigrad.errors import SiteError, check_whole, store_whole
from varigrad.estimators import concrete_relaxation
from varigrad.estimators.base import Draw, Estimator, Lanes, State, tensor_of
from varigrad.estimators.concrete_relaxation import given, is_one_hot, softened, uniform
from varigrad.estimators.traits import Drawing, Needs, Promises


@dataclass(frozen=True)
class Annealed:
    r"""A temperature that falls (or rises) geometrically, :math:`\lambda_0 (\lambda_1 / \lambda_0)^{\min(1, t / T)}`.

    A site's t is how many steps it has been drawn in; it is saved with the estimators' state, and goes on in captured
    steps. `varigrad.compare` measures along the way, from the start: give it numbers instead.

    Args:
        start, end: temperatures, positive.
        steps: T, at least 1.

    Example:
        >>> import torch
        >>> from varigrad.estimators import Annealed, GumbelSoftmax
        >>> schedule = Annealed(1.0, 0.1, steps=1000)
        >>> GumbelSoftmax(temperature=schedule).temperature.end
        0.1
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        _check_positive("start", self.start, "Annealed")
        _check_positive("end", self.end, "Annealed")
        store_whole(self, "steps")
        check_whole("steps", self.steps, error=SiteError, site="Annealed")

    def at(self, step: Tensor) -> Tensor:
        """The temperature of a step, `[]`."""
        return self.start * (math.log(self.end / self.start) * (step / self.steps).clamp(max=1.0)).exp()


Temperature = float | Annealed

_BIASED = Promises(unbiased=False)


@dataclass(frozen=True)
class Relaxation(Estimator):
    """Interface of estimators that differ only in the value that they give the site."""

    unbiased: bool = field(default=False, init=False)
    """A constant, which `repr` shows."""

    drawing: ClassVar[Drawing] = Drawing(pathwise=True)
    needs: ClassVar[Needs] = Needs(cost=False, between_values=True, differentiable=True)

    @property
    def promises(self) -> Promises:
        return _BIASED

    @abstractmethod
    def value(self, hard: Tensor, logits: Tensor, temperature: Tensor | float, one_hot: bool, source: Source) -> Tensor:
        """The site's value, with its derivative, from a draw and its logits; all `[lanes?, *plates, *event]`."""

    def refusal(self, distribution: td.Distribution) -> tuple[str, str] | None:
        return concrete_relaxation.refusal_to_relax(type(self).__name__, distribution)

    def draw(self, distribution: td.Distribution, lanes: Lanes | None, source: Source, state: State) -> Draw:
        drawn = None if lanes is None else lanes.drawn()
        value = source.draw(distribution, lanes=drawn)
        if torch.is_grad_enabled():  # else the bound's value is all that is wanted: that of the program as it is
            inner, _ = inner_of(distribution)
            assert isinstance(inner, (td.Bernoulli, td.OneHotCategorical))
            temperature, state = _now(getattr(self, "temperature", 1.0), state, inner.logits)
            value = self.value(value, inner.logits, temperature, is_one_hot(distribution), source)
        return Draw(distribution, value if lanes is None else lanes.share(value), lanes, state=state)


@dataclass(frozen=True)
class GumbelSoftmax(Relaxation):
    r"""A relaxed draw instead of the draw: :math:`\nabla f(\sigma_\lambda(z))` with a concrete variable z.

    Serves Bernoulli (where it is also called the binary concrete relaxation) and OneHotCategorical, also with
    `.to_event`. One evaluation. Biased: with a lower temperature less, and noisier. What `step` reports is the value at
    softened draws and bounds nothing; `evaluate` draws as the program says.

    Args:
        temperature: :math:`\lambda`, a number or a schedule.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> from varigrad.estimators import GumbelSoftmax
        >>> def model():
        ...     z = vg.sample("z", dist.Bernoulli(0.3))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.5))
        >>> def guide():
        ...     vg.sample("z", dist.Bernoulli(logits=vg.param("w", 0.0)))
        >>> loss = vg.ELBO(estimators={"z": GumbelSoftmax(temperature=0.5)})(model, guide)
        >>> loss().backward()
        >>> bool(loss.w.grad.isfinite()), loss.plan()["z"].unbiased
        (True, False)

    References:
        Jang, Gu, Poole (2017), Categorical reparameterization with Gumbel-softmax. arXiv:1611.01144.
        Maddison, Mnih, Teh (2017), The Concrete distribution. arXiv:1611.00712.
    """

    temperature: Temperature = 0.5

    def __post_init__(self) -> None:
        _check_temperature(self.temperature, "GumbelSoftmax")

    def value(self, hard: Tensor, logits: Tensor, temperature: Tensor | float, one_hot: bool, source: Source) -> Tensor:
        return _soft(hard, logits, temperature, one_hot, source)


@dataclass(frozen=True)
class StraightThrough(Relaxation):
    r"""The discrete draw, with the derivative of its mean: :math:`b + p - \operatorname{const}(p)`.

    Serves Bernoulli and OneHotCategorical, also with `.to_event`. One evaluation. Biased, unless the cost is linear in
    every draw.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> from varigrad.estimators import StraightThrough
        >>> def model():
        ...     z = vg.sample("z", dist.Bernoulli(0.3))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.5))
        >>> def guide():
        ...     vg.sample("z", dist.Bernoulli(logits=vg.param("w", 0.0)))
        >>> loss = vg.ELBO(estimators={"z": StraightThrough()})(model, guide)
        >>> loss().backward()
        >>> bool(loss.w.grad.isfinite()), loss.plan()["z"].unbiased
        (True, False)

    References:
        Bengio, Léonard, Courville (2013), Estimating or propagating gradients through stochastic neurons.
        arXiv:1308.3432.
    """

    def value(self, hard: Tensor, logits: Tensor, temperature: Tensor | float, one_hot: bool, source: Source) -> Tensor:
        return _through(hard, softened(logits, 1.0, one_hot))


@dataclass(frozen=True)
class StraightThroughGumbel(Relaxation):
    r"""The discrete draw, with the relaxed one's derivative: :math:`b + \sigma_\lambda(z) - \operatorname{const}`.

    Serves Bernoulli and OneHotCategorical, also with `.to_event`. One evaluation. Biased, at any temperature; noisier
    as it gets lower. The concrete variable is drawn given b, which is the same.

    Args:
        temperature: :math:`\lambda`, a number or a schedule.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> from varigrad.estimators import StraightThroughGumbel
        >>> def model():
        ...     z = vg.sample("z", dist.Bernoulli(0.3))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.5))
        >>> def guide():
        ...     vg.sample("z", dist.Bernoulli(logits=vg.param("w", 0.0)))
        >>> loss = vg.ELBO(estimators={"z": StraightThroughGumbel()})(model, guide)
        >>> loss().backward()
        >>> bool(loss.w.grad.isfinite()), loss.plan()["z"].unbiased
        (True, False)

    References:
        Jang, Gu, Poole (2017), Categorical reparameterization with Gumbel-softmax. arXiv:1611.01144.
    """

    temperature: Temperature = 0.5

    def __post_init__(self) -> None:
        _check_temperature(self.temperature, "StraightThroughGumbel")

    def value(self, hard: Tensor, logits: Tensor, temperature: Tensor | float, one_hot: bool, source: Source) -> Tensor:
        return _through(hard, _soft(hard, logits, temperature, one_hot, source))


@dataclass(frozen=True)
class GumbelRao(Relaxation):
    r"""The discrete draw, with the derivative averaged over k relaxed draws that all round to it.

    .. math:: b + \tfrac1k \sum_j \sigma_\lambda(z_j) - \operatorname{const}, \qquad z_j \sim p(z \mid b)

    Serves Bernoulli and OneHotCategorical, also with `.to_event`. One evaluation of the model. Biased by exactly as
    much as `StraightThroughGumbel`, of which it is a conditional expectation in the limit, and less noisy.

    Args:
        k: concrete variables for a draw, at least 1.
        temperature: :math:`\lambda`, a number or a schedule.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> from varigrad.estimators import GumbelRao
        >>> def model():
        ...     z = vg.sample("z", dist.Bernoulli(0.3))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.5))
        >>> def guide():
        ...     vg.sample("z", dist.Bernoulli(logits=vg.param("w", 0.0)))
        >>> loss = vg.ELBO(estimators={"z": GumbelRao(k=5)})(model, guide)
        >>> loss().backward()
        >>> bool(loss.w.grad.isfinite()), loss.plan()["z"].unbiased
        (True, False)

    References:
        Paulus, Maddison, Krause (2021), Rao-Blackwellizing the straight-through Gumbel-softmax gradient estimator.
        arXiv:2010.04838.
    """

    k: int = 10
    temperature: Temperature = 0.5

    def __post_init__(self) -> None:
        store_whole(self, "k")
        check_whole("k", self.k, error=SiteError, site="GumbelRao")
        _check_temperature(self.temperature, "GumbelRao")

    def value(self, hard: Tensor, logits: Tensor, temperature: Tensor | float, one_hot: bool, source: Source) -> Tensor:
        wide = logits.expand(self.k, *logits.shape)
        return _through(hard, _soft(hard, wide, temperature, one_hot, source).mean(0))


@dataclass(frozen=True)
class GappedStraightThrough(Relaxation):
    r"""The discrete draw, with the derivative of a softmax whose logits are moved until it leads by a gap.

    .. math:: b + \operatorname{softmax}_\lambda(\theta + m) - \operatorname{const},
              \qquad m = (\max \theta - \theta_b)\, b - (\theta - \max \theta + g)^+ (1 - b)

    with m held constant. Serves Bernoulli (of logits :math:`(\theta, 0)`) and OneHotCategorical, also with `.to_event`.
    One evaluation; no noise but the draw's. Biased.

    Args:
        temperature: :math:`\lambda`, a number or a schedule.
        gap: g, not negative.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> from varigrad.estimators import GappedStraightThrough
        >>> def model():
        ...     z = vg.sample("z", dist.Bernoulli(0.3))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.5))
        >>> def guide():
        ...     vg.sample("z", dist.Bernoulli(logits=vg.param("w", 0.0)))
        >>> loss = vg.ELBO(estimators={"z": GappedStraightThrough()})(model, guide)
        >>> loss().backward()
        >>> bool(loss.w.grad.isfinite()), loss.plan()["z"].unbiased
        (True, False)

    References:
        Fan, Chi, Rudnicky, Ramadge (2022), Training discrete deep generative models via gapped straight-through
        estimator. arXiv:2206.07235.
    """

    temperature: Temperature = 0.5
    gap: float = 1.0

    def __post_init__(self) -> None:
        _check_temperature(self.temperature, "GappedStraightThrough")
        if not _is_number(self.gap) or self.gap < 0:
            raise SiteError(
                f"gap must be a number of at least 0, got {self.gap!r}", site="GappedStraightThrough", try_="1.0"
            )

    def value(self, hard: Tensor, logits: Tensor, temperature: Tensor | float, one_hot: bool, source: Source) -> Tensor:
        with torch.no_grad():
            if one_hot:
                largest = logits.amax(-1, keepdim=True)
                moved = torch.where(hard > 0, largest, torch.minimum(logits, largest - self.gap))
            else:
                # The lead of one logit over the other, and not less than the gap.
                sign = 2 * hard - 1
                moved = sign * (sign * logits).clamp(min=self.gap)
        return _through(hard, softened(logits + _difference(moved, logits), temperature, one_hot))


def _soft(hard: Tensor, logits: Tensor, temperature: Tensor | float, one_hot: bool, source: Source) -> Tensor:
    """Concrete variables that round to the draw, softened; noise given the draw is held, so the derivative is total."""
    with torch.no_grad():
        z = given(hard, logits, uniform(source, logits), one_hot)
        noise = _difference(z, logits)
    return softened(logits + noise, temperature, one_hot)


def _difference(moved: Tensor, logits: Tensor) -> Tensor:
    """How much the logits have to be moved; zero for an impossible category."""
    return torch.where(logits.isfinite(), moved - logits, 0.0).detach()


def _through(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of `hard`, with the derivative of `soft`."""
    return hard + (soft - soft.detach())


def _now(temperature: Temperature, state: State, like: Tensor) -> tuple[Tensor | float, State]:
    """The temperature of this step, and the state with the number of the next."""
    if not isinstance(temperature, Annealed):
        return temperature, None
    step = torch.zeros((), dtype=torch.int64, device=like.device) if state is None else tensor_of(state)
    return temperature.at(step.to(like)), step + 1


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_positive(what: str, value: object, kind: str) -> None:
    if not _is_number(value) or value <= 0:  # type: ignore[operator]
        raise SiteError(f"{what} must be a positive number, got {value!r}", site=kind, try_="0.5")


def _check_temperature(value: object, kind: str) -> None:
    if not isinstance(value, Annealed):
        _check_positive("temperature", value, kind)
