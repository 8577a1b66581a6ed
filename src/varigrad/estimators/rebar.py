r"""REBAR: a control variate from the concrete relaxation, whose gradient can be estimated in two ways.

.. math:: \nabla E[c(z)] = E\big[c(\tilde z) \nabla \log q(b) + \nabla c(\tilde z)\big] = E[\nabla c(z)],
          \qquad z \sim p(z | b),\ \tilde z \sim p(z | b)

The first estimate is by score function and reparameterisation, the second by reparameterisation alone. Their difference
has mean zero, so any multiple of it can be subtracted from the score-function estimator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch import distributions as td

from varigrad.distributions.finite_support import inner_of
from varigrad.distributions.rng import Source
from varigrad.errors import SiteError
from varigrad.estimators.base import Draw, Estimator, Lanes, State, Surrogate, tensor_of, tuple_of
from varigrad.estimators.baselines import Baseline, NoBaseline
from varigrad.estimators.concrete_relaxation import (
    given,
    is_one_hot,
    logits_of,
    refusal_to_relax,
    softened,
    uniform,
    values_of,
)
from varigrad.estimators.control_variate_weights import DECAY, coefficients, learnt
from varigrad.estimators.muprop import linear, times
from varigrad.estimators.traits import Needs, Slope
from varigrad.shapes import sum_rightmost

COLDEST, HOTTEST = 0.05, 20.0


_UNTRAINED = Needs(between_values=True, differentiable=True, slope=Slope())
_TRAINED = Needs(between_values=True, differentiable=True, slope=Slope(twice=True))


@dataclass(frozen=True)
class Rebar(Estimator):
    r"""REBAR: the cost at a relaxed draw is the control variate of a score-function estimator.

    .. math:: \big(f(b) - c - \eta (f(\sigma_\lambda(\tilde z)) - c)\big) \nabla \log q(b)
              + \eta \nabla f(\sigma_\lambda(z)) - \eta \nabla f(\sigma_\lambda(\tilde z))

    z and :math:`\tilde z` are concrete variables, independent given b. Serves Bernoulli and OneHotCategorical, also
    with `.to_event`, in models that are differentiable in it. Three evaluations and two derivatives, of second order
    while the temperature is trained. Unbiased.

    With `train`, :math:`\eta` is the least-squares coefficient from decaying sums over past draws and
    :math:`\log \lambda` goes down the derivative of the squared gradient (by the site's logits, which stands for
    their variance).

    Args:
        eta: weight of the control variate; with `train`, where it starts.
        temperature: :math:`\lambda`; with `train`, where it starts.
        train: learn both.
        rate: size of a step of :math:`\log \lambda`.
        baseline: :math:`c`, taken off the cost and off its relaxation alike.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> from varigrad.estimators import Rebar
        >>> def model():
        ...     z = vg.sample("z", dist.Bernoulli(0.3))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.5))
        >>> def guide():
        ...     vg.sample("z", dist.Bernoulli(logits=vg.param("w", 0.0)), estimator=Rebar())
        >>> loss = vg.ELBO()(model, guide)
        >>> loss().backward()
        >>> loss.plan()["z"].estimator, loss.plan()["z"].unbiased
        ('Rebar()', True)

    References:
        Tucker, Mnih, Maddison, Lawson, Sohl-Dickstein (2017), REBAR: low-variance, unbiased gradient estimates for
        discrete latent variable models. arXiv:1703.07370.
    """

    eta: float = 1.0
    temperature: float = 0.5
    train: bool = True
    rate: float = 0.01
    baseline: Baseline = field(default_factory=NoBaseline)

    def __post_init__(self) -> None:
        if not COLDEST <= self.temperature <= HOTTEST:
            raise SiteError(
                f"temperature must be in [{COLDEST}, {HOTTEST}], got {self.temperature!r}", site="Rebar", try_="0.5"
            )

    @property
    def needs(self) -> Needs:
        # The derivative of the squared gradient by the temperature is of second order.
        return _TRAINED if self.train else _UNTRAINED

    def refusal(self, distribution: td.Distribution) -> tuple[str, str] | None:
        return refusal_to_relax("Rebar", distribution)

    def alternatives(self, distribution: td.Distribution) -> int:
        return 2

    def draw(self, distribution: td.Distribution, lanes: Lanes | None, source: Source, state: State) -> Draw:
        assert lanes is not None
        value = lanes.begin(distribution, source)
        inner, _ = inner_of(distribution)
        assert isinstance(inner, (td.Bernoulli, td.OneHotCategorical))
        one_hot = is_one_hot(distribution)
        logits, hard = inner.logits[0].detach(), value[0]
        log_temperature = logits.new_tensor(math.log(self.temperature))
        if self.train:
            if state is not None:
                log_temperature = tensor_of(tuple_of(tuple_of(state)[1])[0]).to(logits)
            log_temperature = log_temperature.detach().requires_grad_()
        noise = uniform(source, logits)
        free = given(hard, logits, uniform(source, logits), one_hot) - logits
        relaxed = torch.stack([free + logits, given(hard, logits, noise, one_hot)])
        own = torch.tensor(lanes.own, device=value.device)
        value = value.index_put((own,), softened(relaxed, log_temperature.exp(), one_hot))
        return Draw(distribution, value, lanes, noise=(free, noise, log_temperature))

    def surrogate(self, draw: Draw, cost: Tensor, state: State) -> Surrogate:
        assert draw.slope is not None
        event, one_hot = len(draw.distribution.event_shape), is_one_hot(draw.distribution)
        assert isinstance(draw.noise, tuple)
        free, noise, log_temperature = draw.noise
        logits, value = logits_of(draw), values_of(draw)
        slope = draw.slope.reshape(value.shape)
        hard, temperature = value[0].detach(), log_temperature.exp()
        leaf = logits.detach().requires_grad_()
        score = hard - softened(leaf.detach(), 1.0, one_hot)

        # The relaxed draws once more, as functions of the logits.
        one = softened(leaf + free, temperature, one_hot)
        two = softened(given(hard, leaf, noise, one_hot), temperature, one_hot)
        (path,) = torch.autograd.grad((slope[1] * one - slope[2] * two).sum(), leaf, create_graph=self.train)
        # Costs come without a derivative: put back the one by the temperature.
        relaxed = cost[2] + linear(slope[2].detach(), two - two.detach(), event, cost[2])
        learning, heat, *inner = (None, None, None, None) if state is None else tuple_of(state)
        guess = self.baseline.guess(cost[0], draw, inner[0])
        other = self.baseline.guess(cost[2], draw, inner[1])
        plain = times(cost[0] - guess.value, score, event)
        control = path - times(relaxed - other.value, score, event)
        (eta,) = coefficients(learning, (self.eta,), plain)
        field = plain + eta * control
        if self.train:
            (uphill,) = torch.autograd.grad(field.square().mean(), log_temperature, retain_graph=True)
            # Slowly: weight and temperature go downhill together, and a weight in haste may end in a worse valley.
            learning = learnt(learning, plain, (control,), 1 / (1 - DECAY), DECAY)
            heat = self._cooled(heat, log_temperature.detach(), uphill)
        states = (learning, heat, guess.state, other.state)
        return Surrogate(sum_rightmost(field.detach() * logits, event), states, guess.regression)

    def _cooled(self, heat: State, log_temperature: Tensor, uphill: Tensor) -> State:
        """The next step's log lambda, and the mean squared derivative by it."""
        fresh = uphill.square()
        steepness = fresh if heat is None else torch.lerp(tensor_of(tuple_of(heat)[1]), fresh, 1 - DECAY)
        step = self.rate * uphill / (steepness.sqrt() + torch.finfo(fresh.dtype).tiny)
        return (log_temperature - step).clamp(math.log(COLDEST), math.log(HOTTEST)), steepness

    def parameters_of_baselines(self) -> Mapping[str, nn.Module]:
        return self.baseline.modules()
