r"""Families drawn by rejection sampling, which are only partly reparameterised and need a score part.

The accepted noise :math:`\varepsilon` still depends on the parameters, so a pathwise gradient alone is biased: the
estimator must add a score part. Such a family has a method `score_part(value)`, the field whose gradient is that part's
weight on the cost; `value` is a draw of `rsample`, with its gradient.

References:
    Naesseth, Ruiz, Linderman, Blei (2017), Reparameterization gradients through acceptance-rejection sampling.
    Marsaglia, Tsang (2000), A simple method for generating gamma variables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from varigrad._torch_internals import standard_gamma
from varigrad.distributions.mixin import Methods
from varigrad.shapes import Shape


class RejectionGamma(Methods, td.Distribution):
    r"""Gamma by Marsaglia-Tsang rejection: :math:`z = h(\varepsilon) / \beta`,
    :math:`h(\varepsilon) = (\alpha - 1/3)(1 + \varepsilon / \sqrt{9\alpha - 3})^3`, :math:`\alpha \ge 1`.

    Args:
        concentration: `[*batch]`, at least 1.
        rate: `[*batch]`, positive.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.RejectionGamma(2.0, rate=1.0)
        >>> d.has_rsample, round(d.log_prob(torch.tensor(1.0)).item(), 4)
        (True, -1.0)
    """

    concentration: Tensor
    rate: Tensor

    arg_constraints: dict[str, constraints.Constraint] = {
        "concentration": constraints.greater_than_eq(1.0),
        "rate": constraints.positive,
    }
    support: constraints.Constraint = constraints.positive
    has_rsample = True

    def __init__(
        self, concentration: Tensor | float, rate: Tensor | float = 1.0, validate_args: bool | None = None
    ) -> None:
        self.concentration, self.rate = broadcast_all(concentration, rate)
        super().__init__(self.concentration.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.concentration / self.rate

    @property
    def variance(self) -> Tensor:
        return self.concentration / self.rate.square()

    def expand(self, batch_shape: Shape, _instance: td.Distribution | None = None) -> Self:
        return self._as_told(type(self)(self.concentration.expand(batch_shape), self.rate.expand(batch_shape)))

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            value = standard_gamma(self.concentration.expand(shape)) / self.rate
        return self.attached(value)

    def attached(self, value: Tensor) -> Tensor:
        """A draw, with its derivative at fixed noise."""
        with torch.no_grad():
            # The accepted noise is a deterministic, invertible function of a Gamma draw: z fixes epsilon.
            noise = self._noise(value * self.rate)
        return self._standard(noise) / self.rate

    def log_prob(self, value: Tensor) -> Tensor:
        alpha, beta = self.concentration, self.rate
        return torch.xlogy(alpha, beta) + torch.xlogy(alpha - 1, value) - beta * value - torch.lgamma(alpha)

    def score_part(self, value: Tensor) -> Tensor:
        r"""Log-density of the accepted noise, :math:`\log q(h(\varepsilon; \phi); \phi) |h'(\varepsilon; \phi)|`, up to
        a constant, as a function of the parameters at fixed noise. `[*batch]`.
        """
        with torch.no_grad():
            noise = self._noise(value * self.rate)
        z, alpha = self._standard(noise), self.concentration
        root = (9 * alpha - 3).sqrt()
        log_slope = (alpha - 1 / 3).log() + 2 * torch.log1p(noise / root) - root.log()
        return torch.xlogy(alpha - 1, z) - z - torch.lgamma(alpha) + log_slope

    def _standard(self, noise: Tensor) -> Tensor:
        alpha = self.concentration
        return (alpha - 1 / 3) * (1 + noise / (9 * alpha - 3).sqrt()).pow(3)

    def _noise(self, standard: Tensor) -> Tensor:
        alpha = self.concentration
        return ((standard / (alpha - 1 / 3)).pow(1 / 3) - 1) * (9 * alpha - 3).sqrt()


class Rejector(Methods, td.Distribution):
    r"""Rejection sampling: draws of a proposal are accepted with a probability :math:`a(z)`.

    The density is :math:`r(z) a(z) / Z` with the proposal's density :math:`r` and :math:`Z = E_r[a(z)]`. If the
    proposal is reparameterised, so are the draws, up to a score part: that of :math:`a(h(\varepsilon)) / Z`.

    Args:
        propose: the proposal, `[*batch]`.
        log_prob_accept: a value `[*batch, *event]` -> :math:`\log a`, `[*batch]`, at most 0.
        log_scale: :math:`\log Z`, `[*batch]`.
        batch_shape, event_shape: those of the proposal, unless given.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.Rejector(dist.Exponential(1.0), lambda z: -z, log_scale=torch.tensor(0.5).log())  # Exponential(2)
        >>> round(d.log_prob(torch.tensor(0.0)).exp().item(), 4)
        2.0
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    holds_functions = True  # so dependencies are followed through its density, not read off its tensors

    def __init__(
        self,
        propose: td.Distribution,
        log_prob_accept: Callable[[Tensor], Tensor],
        log_scale: Tensor | float,
        *,
        batch_shape: Shape | None = None,
        event_shape: Shape | None = None,
    ) -> None:
        self.propose: td.Distribution = propose
        self.log_prob_accept: Callable[[Tensor], Tensor] = log_prob_accept
        self.log_scale: Tensor = torch.as_tensor(log_scale)
        shape = propose.batch_shape if batch_shape is None else torch.Size(batch_shape)
        event = propose.event_shape if event_shape is None else torch.Size(event_shape)
        td.Distribution.__init__(self, shape, event, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]  # torch's families set it, here it is read
        return self.propose.has_rsample

    @property
    def support(self) -> constraints.Constraint | None:
        return self.propose.support

    def expand(self, batch_shape: Shape, _instance: td.Distribution | None = None) -> Self:
        shape = torch.Size(batch_shape)
        return type(self)(self.propose.expand(shape), self.log_prob_accept, self.log_scale.expand(shape))

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        with torch.no_grad():
            return self._accepted(self.propose.sample, torch.Size(sample_shape))

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        return self._accepted(self.propose.rsample, torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return self.propose.log_prob(value) + self.log_prob_accept(value) - self.log_scale

    def score_part(self, value: Tensor) -> Tensor:
        """Log-density of the accepted noise: `value` is a draw with its gradient, a function of the noise."""
        return self.log_prob_accept(value) - self.log_scale

    def _accepted(self, draw: Callable[[torch.Size], Tensor], sample_shape: torch.Size) -> Tensor:
        value = draw(sample_shape)
        kept = self._keep(value)
        while not bool(kept.all()):
            proposed = draw(sample_shape)
            new = self._keep(proposed) & ~kept
            value = torch.where(new.reshape(new.shape + (1,) * len(self.event_shape)), proposed, value)
            kept = kept | new
        return value

    def _keep(self, value: Tensor) -> Tensor:
        with torch.no_grad():
            log_accept = self.log_prob_accept(value)
            return torch.rand(log_accept.shape, dtype=log_accept.dtype, device=log_accept.device).log() < log_accept
