r"""Generalised reparameterisation: pathwise gradients for noise that depends on the parameters, plus a score part.

A draw is :math:`z = T(\varepsilon; \phi)` with noise of density :math:`r_\phi(\varepsilon) = q_\phi(z)
\,|\partial T / \partial \varepsilon|`. If T is chosen well, :math:`r_\phi` depends little on :math:`\phi`, and a score
part corrects for this dependence:

.. math:: \nabla E_q[f] = E\big[\nabla_z f \, \partial_\phi T + (f - b)\, \nabla_\phi \log r_\phi(\varepsilon)\big]

References:
    Ruiz, Titsias, Blei (2016), The generalized reparameterization gradient. arXiv:1610.02287.
    Naesseth, Ruiz, Linderman, Blei (2017), Reparameterization gradients through acceptance-rejection sampling.
    arXiv:1610.05683.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch import distributions as td
from torch.nn.functional import logsigmoid

from varigrad.distributions.rejection import RejectionGamma
from varigrad.distributions.rng import Source
from varigrad.errors import SiteError, is_whole, store_whole
from varigrad.estimators.base import Draw, Estimator, Lanes, State, Surrogate, tensor_of
from varigrad.estimators.baselines import Baseline, NoBaseline
from varigrad.estimators.traits import Drawing, Needs
from varigrad.shapes import sum_rightmost

Made = tuple[Tensor, Tensor]
"""A value, `[*batch, *event]`, and the log-density of its noise, `[*batch]`; both carry derivatives."""


@dataclass(frozen=True)
class Generalised(Estimator):
    """Interface of estimators that differ only in how they compute a Gamma or Beta draw from noise."""

    drawing: ClassVar[Drawing] = Drawing(pathwise=True, partial=True)
    needs: ClassVar[Needs] = Needs(cost=False)

    @abstractmethod
    def gamma(self, concentration: Tensor, source: Source) -> Made:
        """A standard Gamma draw."""

    def beta(self, distribution: td.Beta, source: Source) -> Made:
        """A Beta draw: the share of one Gamma draw in the sum of two."""
        concentration = torch.stack([distribution.concentration1, distribution.concentration0], -1)
        value, part = self.gamma(concentration, source)
        return _inside(value[..., 0] / value.sum(-1)), part.sum(-1)

    def refusal(self, distribution: td.Distribution) -> tuple[str, str] | None:
        inner = distribution
        while isinstance(inner, (td.Independent, td.TransformedDistribution)):
            if isinstance(inner, td.TransformedDistribution) and any(
                t.domain.event_dim or t.codomain.event_dim for t in inner.transforms
            ):
                break
            inner = inner.base_dist
        if isinstance(inner, (td.Gamma, td.Beta, td.Dirichlet)):
            return None
        return (
            f"{type(self).__name__} makes Gamma, Beta and Dirichlet draws, and elementwise functions of them "
            f"(InverseGamma, say), and this is {type(inner).__name__}",
            "Pathwise(), or Score(MovingAverage())",
        )

    def draw(self, distribution: td.Distribution, lanes: Lanes | None, source: Source, state: State) -> Draw:
        value, part = self._made(distribution, source)
        if lanes is None:
            return Draw(distribution, value, noise=part)
        return Draw(distribution, lanes.share(value), lanes, noise=part[0])

    def surrogate(self, draw: Draw, cost: Tensor, state: State) -> Surrogate:
        if draw.noise is None:  # a value that was given, not drawn
            return Surrogate(torch.zeros_like(cost))
        guess = self.baseline.guess(cost, draw, state)
        return Surrogate((cost - guess.value) * tensor_of(draw.noise), guess.state, guess.regression)

    baseline: Baseline = field(default_factory=NoBaseline, kw_only=True)

    def parameters_of_baselines(self) -> Mapping[str, nn.Module]:
        return self.baseline.modules()

    def _made(self, distribution: td.Distribution, source: Source) -> Made:
        if isinstance(distribution, td.Independent):
            value, part = self._made(distribution.base_dist, source)
            return value, sum_rightmost(part, distribution.reinterpreted_batch_ndims)
        if isinstance(distribution, td.TransformedDistribution):
            value, part = self._made(distribution.base_dist, source)
            for transform in distribution.transforms:
                value = transform(value)
            return value, part
        if isinstance(distribution, td.Gamma):
            value, part = self.gamma(distribution.concentration, source)
            return value / distribution.rate, part
        if isinstance(distribution, td.Beta):
            return self.beta(distribution, source)
        assert isinstance(distribution, td.Dirichlet)
        value, part = self.gamma(distribution.concentration, source)
        return _inside(value / value.sum(-1, keepdim=True)), part.sum(-1)


@dataclass(frozen=True)
class GRep(Generalised):
    r"""Generalised reparameterisation: standardises the draw's logarithm (or a Beta draw's log-odds).

    .. math:: \text{Gamma}(\alpha, 1):\ &\log z = \psi(\alpha) + \sqrt{\psi_1(\alpha)}\, \varepsilon \\
              \text{Beta}(\alpha, \beta):\ &\operatorname{logit} z = \psi(\alpha) - \psi(\beta)
              + \sqrt{\psi_1(\alpha) + \psi_1(\beta)}\, \varepsilon

    Serves Gamma, Chi2, Beta, Dirichlet (of Gamma draws) and elementwise functions of them, in models that are
    differentiable in the value. One evaluation and one backward pass. Unbiased. To compare with: `Pathwise` serves the
    same families with less noise.

    Args:
        baseline: taken off the cost that multiplies the score part.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> from varigrad.estimators import GRep
        >>> def model():
        ...     vg.sample("x", dist.Poisson(vg.sample("z", dist.Gamma(2.0, 1.0))), obs=torch.tensor(3.0))
        >>> def guide():
        ...     shape = vg.param("shape", 3.0, dist.constraints.positive)
        ...     vg.sample("z", dist.Gamma(shape, 2.0), estimator=GRep())
        >>> loss = vg.ELBO()(model, guide)
        >>> loss().backward()
        >>> loss.plan()["z"].estimator, loss.plan()["z"].unbiased
        ('GRep()', True)

    References:
        Ruiz, Titsias, Blei (2016), The generalized reparameterization gradient. arXiv:1610.02287.
    """

    def gamma(self, concentration: Tensor, source: Source) -> Made:
        mean, deviation = torch.digamma(concentration), torch.polygamma(1, concentration).sqrt()
        with torch.no_grad():
            drawn = source.draw(td.Gamma(concentration, torch.ones_like(concentration), validate_args=False))
            noise = (drawn.log() - mean) / deviation
        log_value = mean + deviation * noise
        value = log_value.exp()
        density = (concentration - 1) * log_value - value - torch.lgamma(concentration)
        return value, density + log_value + deviation.log()

    def beta(self, distribution: td.Beta, source: Source) -> Made:
        one, two = distribution.concentration1, distribution.concentration0
        mean = torch.digamma(one) - torch.digamma(two)
        deviation = (torch.polygamma(1, one) + torch.polygamma(1, two)).sqrt()
        with torch.no_grad():
            noise = (torch.logit(source.draw(distribution)) - mean) / deviation
        odds = mean + deviation * noise
        # z^(a-1) (1 - z)^(b-1) times the slope z (1 - z) of the sigmoid.
        normaliser = torch.lgamma(one) + torch.lgamma(two) - torch.lgamma(one + two)
        part = one * logsigmoid(odds) + two * logsigmoid(-odds) - normaliser + deviation.log()
        return _inside(odds.sigmoid()), part


@dataclass(frozen=True)
class Rsvi(Generalised):
    r"""Rejection-sampling variational inference: Marsaglia and Tsang's Gamma draw, after a boost of the shape.

    .. math:: z = h(\varepsilon; \alpha + B) \prod_{i=1}^B u_i^{1 / (\alpha + i - 1)}, \qquad
              h(\varepsilon; a) = (a - \tfrac13) \big(1 + \varepsilon / \sqrt{9 a - 3}\big)^3

    The accepted noise is a function of the Gamma draw, so nothing is rejected here: that one is drawn, the noise found.
    Serves Gamma, Chi2, Beta and Dirichlet (of Gamma draws) and elementwise functions of them, in models that are
    differentiable in the value. One evaluation and one backward pass. Unbiased, for concentrations above 1/3 - B.

    Args:
        shape_augmentation: B. With more the score part matters less (and with it its noise), the draw costs more.
        baseline: taken off the cost that multiplies the score part.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> from varigrad.estimators import Rsvi
        >>> def model():
        ...     vg.sample("x", dist.Poisson(vg.sample("z", dist.Gamma(2.0, 1.0))), obs=torch.tensor(3.0))
        >>> def guide():
        ...     shape = vg.param("shape", 3.0, dist.constraints.positive)
        ...     vg.sample("z", dist.Gamma(shape, 2.0), estimator=Rsvi())
        >>> loss = vg.ELBO()(model, guide)
        >>> loss().backward()
        >>> loss.plan()["z"].estimator, loss.plan()["z"].unbiased
        ('Rsvi()', True)

    References:
        Naesseth, Ruiz, Linderman, Blei (2017), Reparameterization gradients through acceptance-rejection sampling.
        arXiv:1610.05683.
        Marsaglia, Tsang (2000), A simple method for generating gamma variables. doi:10.1145/358407.358414.
    """

    shape_augmentation: int = 1

    def __post_init__(self) -> None:
        store_whole(self, "shape_augmentation")
        boost = self.shape_augmentation
        if not is_whole(boost, 0):
            raise SiteError(
                f"shape_augmentation must be a whole number of at least 0, got {boost!r}", site="Rsvi", try_="Rsvi(1)"
            )

    def gamma(self, concentration: Tensor, source: Source) -> Made:
        boosted = RejectionGamma(concentration + self.shape_augmentation, torch.ones_like(concentration))
        with torch.no_grad():
            drawn = source.draw(td.Gamma(boosted.concentration, boosted.rate, validate_args=False))
        value = boosted.attached(drawn)
        part = boosted.score_part(value)
        for i in range(self.shape_augmentation):
            uniform = source.uniform(concentration.shape, concentration)
            value = value * (1 - uniform).pow(1 / (concentration + i))
        return value.clamp_min(torch.finfo(value.dtype).tiny), part


def _inside(share: Tensor) -> Tensor:
    """The values moved strictly between zero and one, where densities are finite."""
    limits = torch.finfo(share.dtype)
    return share.clamp(limits.tiny, 1 - limits.eps / 2)
