"""`GammaGaussianHMM`: sequences of observations of a linear chain whose noise has one unknown scale: Student-t."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as td

from varigrad.distributions.families import Gamma, MultivariateNormal
from varigrad.distributions.hidden_markov.gaussian import GaussianChain
from varigrad.distributions.hidden_markov.kalman import predicted
from varigrad.shapes import Shape


class GammaGaussianHMM(GaussianChain):
    r"""Sequences of observations of a linear chain that is Gaussian given a common factor of all precisions.

    .. math:: s \sim \mathrm{Gamma}, \quad z_0 \sim \mathrm{initial}, \quad
        z_t = z_{t-1} F_t + \mathrm{transition}_t, \quad y_t = z_t H_t + \mathrm{observation}_t,

    where every covariance is divided by :math:`s`. The states and :math:`s` are summed out: the observations have a
    multivariate Student-t distribution.

    Args:
        scale_dist: a `Gamma`, of batch shape `[*batch]`; with both parameters `df / 2`, Student-t with `df`.
        initial_dist: of the state before the first time: batch shape `[*batch]`, event shape `[hidden]`;
            a multivariate Normal, or a `Normal` with `.to_event(1)`, as are the other two.
        transition_matrix: `[*batch, time, hidden, hidden]`; a row vector of the state stands to its left.
        transition_dist: of the noise: batch shape `[*batch, time]`, event shape `[hidden]`.
        observation_matrix: `[*batch, time, hidden, seen]`.
        observation_dist: of the noise: batch shape `[*batch, time]`, event shape `[seen]`.
        duration: number of times. Needed for draws if all parameters are the same at all times.
        mask: bool, `[*batch, time]`: False where an observation is missing, which may then hold any number. Draws have
            observations everywhere.

    Raises:
        ValueError: the shapes do not fit each other, or contradict the duration.
        TypeError: a distribution is of another family, or the mask not bool.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> unit = dist.Normal(torch.zeros(1), 1.0).to_event(1)
        >>> scale = dist.Gamma(torch.tensor(2.0), torch.tensor(2.0))
        >>> d = dist.GammaGaussianHMM(scale, unit, torch.eye(1), unit, torch.eye(1), unit, duration=3)
        >>> d.rsample().shape
        torch.Size([3, 1])

    References:
        Särkkä, García-Fernández (2021), Temporal parallelization of Bayesian smoothers. arXiv:1905.13002.
    """

    def __init__(
        self,
        scale_dist: td.Gamma,
        initial_dist: td.Distribution,
        transition_matrix: Tensor,
        transition_dist: td.Distribution,
        observation_matrix: Tensor,
        observation_dist: td.Distribution,
        validate_args: bool | None = None,
        duration: int | None = None,
        mask: Tensor | None = None,
    ) -> None:
        if not isinstance(scale_dist, td.Gamma):
            raise TypeError(f"GammaGaussianHMM: scale_dist must be a Gamma, got {type(scale_dist).__name__}")
        self.scale_dist: td.Gamma = scale_dist
        parts = (initial_dist, transition_matrix, transition_dist, observation_matrix, observation_dist)
        self._keep(parts, duration, mask, validate_args, ((*scale_dist.batch_shape, 1),))
        self._chain()  # complains of noise that is not Gaussian

    def log_prob(self, value: Tensor) -> Tensor:
        found = predicted(self._chain(), self._seen(value), self.observed)
        count = self._count(value)
        prior, posterior = self.scale_dist, self._scale(found.squares, count)
        # The integral over s of Gamma(s) s^(count / 2) exp(-s squares / 2): a ratio of normalising constants.
        evidence = _log_constant(posterior) - _log_constant(prior)
        return self._over_batch(found.log_density(count) + found.squares.sum(-1) / 2 + evidence)

    def filter(self, value: Tensor) -> tuple[Gamma, MultivariateNormal]:
        """The posterior of the factor, and that of the last state where the factor is one, given all observations.

        Args:
            value: `[*sample, *batch, time, seen]`.

        Returns:
            The law of `s`, and that of the last state, whose covariance is to be divided by `s`.
        """
        found = predicted(self._chain(), self._seen(value), self.observed)
        scale = self._scale(found.squares, self._count(value))
        last = self._last(value)
        return scale.expand(last.batch_shape), last

    def smooth(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of the state at each time given all observations.

        Args:
            value: `[*sample, *batch, time, seen]`.

        Returns:
            `[*sample, *batch, time, hidden]` and `[*sample, *batch, time, hidden, hidden]`; the covariance is infinite
            where the concentration of the posterior of `s` is at most one.
        """
        mean, covariance = self._smoothed(value)
        scale = self.filter(value)[0]
        # The mean of 1 / s.
        above = scale.concentration > 1
        spread = torch.where(above, scale.rate / torch.where(above, scale.concentration - 1, 1.0), torch.inf)
        return mean, covariance * spread[..., None, None, None]

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        factor = self.scale_dist.expand(self.batch_shape).rsample(torch.Size(sample_shape))
        return self._draws(sample_shape, self.observation_dist, factor.rsqrt())[1]

    def _scale(self, squares: Tensor, count: int | Tensor) -> Gamma:
        """The posterior of the factor."""
        prior = self.scale_dist
        return Gamma(prior.concentration + count / 2, prior.rate + squares.sum(-1) / 2)


def _log_constant(law: td.Gamma) -> Tensor:
    """The logarithm of the integral of `s ** (concentration - 1) * exp(-rate * s)`."""
    return law.concentration.lgamma() - law.concentration * law.rate.log()
