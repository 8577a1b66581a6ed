"""`GaussianHMM`: sequences of observations of a linear Gaussian chain; Kalman filter and smoother."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from varigrad.distributions.families import MultivariateNormal
from varigrad.distributions.hidden_markov.kalman import Chain, filtered, predicted, smoothed
from varigrad.distributions.hidden_markov.linear import LinearChain
from varigrad.shapes import Shape, join


class GaussianChain(LinearChain):
    """Interface of linear chains whose noise is Gaussian, perhaps up to a common scale."""

    support: constraints.Constraint = constraints.independent(constraints.real, 2)

    def _chain(self) -> Chain:
        """The parameters as columns and matrices that stand to the left of them, with time third from the right."""
        start, start_covariance = _moments(self, "initial_dist", self.initial_dist)
        drift, noise = _moments(self, "transition_dist", self.transition_dist)
        offset, error = _moments(self, "observation_dist", self.observation_dist)
        move, look = (_with_time(m, 3).mT for m in (self.transition_matrix, self.observation_matrix))
        return Chain(
            start[..., None, :, None], start_covariance.unsqueeze(-3),
            move, _with_time(drift, 2).unsqueeze(-1), _with_time(noise, 3),
            look, _with_time(offset, 2).unsqueeze(-1), _with_time(error, 3),
        )  # fmt: skip

    def _seen(self, value: Tensor) -> Tensor:
        """The observations, with zeros where they are missing."""
        self._check(value)
        return value if self.observed is None else torch.where(self.observed.unsqueeze(-1), value, 0.0)

    def _count(self, value: Tensor) -> int | Tensor:
        """How many numbers of a sequence are observed: one count, or `[*batch]`."""
        return value.shape[-2:].numel() if self.observed is None else self.observed.sum(-1) * value.shape[-1]

    def _last(self, value: Tensor) -> MultivariateNormal:
        """The law of the last state given all observations, where the common scale is one."""
        mean, covariance = filtered(self._chain(), self._seen(value), self.observed)
        batch = join(mean.shape[:-3], covariance.shape[:-3], self.batch_shape)
        return MultivariateNormal(mean[..., -1, :, 0].expand(*batch, -1), covariance[..., -1, :, :])

    def _smoothed(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Means and covariances of all states given all observations, where the common scale is one."""
        mean, covariance = smoothed(self._chain(), self._seen(value), self.observed)
        batch = join(mean.shape[:-3], covariance.shape[:-3], self.batch_shape)
        return mean.squeeze(-1).expand(*batch, -1, -1), covariance.expand(*batch, -1, -1, -1)


class GaussianHMM(GaussianChain):
    r"""Sequences of observations of a linear Gaussian chain, the states summed out.

    .. math:: z_0 \sim \mathrm{initial}, \quad z_t = z_{t-1} F_t + \mathrm{transition}_t, \quad
        y_t = z_t H_t + \mathrm{observation}_t, \qquad t = 1, \dots, T

    The number of operations is logarithmic in the number of times.

    Args:
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
        TypeError: a distribution is not Gaussian, or the mask not bool.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> unit = dist.Normal(torch.zeros(1), 1.0).to_event(1)
        >>> d = dist.GaussianHMM(unit, torch.eye(1), unit, torch.eye(1), unit, duration=3)
        >>> mean, covariance = d.smooth(torch.ones(3, 1))
        >>> mean.shape, covariance.shape
        (torch.Size([3, 1]), torch.Size([3, 1, 1]))

    References:
        Kalman (1960), A new approach to linear filtering and prediction problems. doi:10.1115/1.3662552.
        Särkkä, García-Fernández (2021), Temporal parallelization of Bayesian smoothers. arXiv:1905.13002.
    """

    def __init__(
        self,
        initial_dist: td.Distribution,
        transition_matrix: Tensor,
        transition_dist: td.Distribution,
        observation_matrix: Tensor,
        observation_dist: td.Distribution,
        validate_args: bool | None = None,
        duration: int | None = None,
        mask: Tensor | None = None,
    ) -> None:
        parts = (initial_dist, transition_matrix, transition_dist, observation_matrix, observation_dist)
        self._keep(parts, duration, mask, validate_args)
        self._chain()  # complains of noise that is not Gaussian

    def log_prob(self, value: Tensor) -> Tensor:
        found = predicted(self._chain(), self._seen(value), self.observed)
        return self._over_batch(found.log_density(self._count(value)))

    def filter(self, value: Tensor) -> MultivariateNormal:
        """The posterior of the last state given all observations.

        Args:
            value: `[*sample, *batch, time, seen]`.
        """
        return self._last(value)

    def smooth(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of the state at each time given all observations.

        Args:
            value: `[*sample, *batch, time, seen]`.

        Returns:
            `[*sample, *batch, time, hidden]` and `[*sample, *batch, time, hidden, hidden]`.
        """
        return self._smoothed(value)

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        return self._draws(sample_shape, self.observation_dist)[1]

    def posterior_sample(self, value: Tensor, sample_shape: Shape = torch.Size()) -> Tensor:
        """Draws of all states together given all observations, with gradients.

        A draw of states and observations is moved by the difference that the true observations make to the mean.

        Args:
            value: `[*batch, time, seen]`.
            sample_shape: how many draws.

        Returns:
            `[*sample_shape, *batch, time, hidden]`.

        References:
            Durbin, Koopman (2002), A simple and efficient simulation smoother. doi:10.1093/biomet/89.3.603.
        """
        states, seen = self._draws(sample_shape, self.observation_dist)
        return states + self._smoothed(value)[0] - self._smoothed(seen)[0]

    def rsample_posterior(self, value: Tensor, sample_shape: Shape = torch.Size()) -> Tensor:
        """`posterior_sample`, by the name that Pyro has for it.

        Args:
            value: `[*batch, time, seen]`.
            sample_shape: how many draws.
        """
        return self.posterior_sample(value, sample_shape)


def _moments(chain: GaussianChain, name: str, law: td.Distribution) -> tuple[Tensor, Tensor]:
    """Mean and covariance matrix of Gaussian noise.

    Raises:
        TypeError: it is of no Gaussian family.
    """
    if isinstance(law, (td.MultivariateNormal, td.LowRankMultivariateNormal)):
        return law.loc, law.covariance_matrix
    inner: td.Distribution = law
    while isinstance(inner, td.Independent):
        inner = inner.base_dist
    if not isinstance(inner, td.Normal):
        found = type(inner).__name__
        raise TypeError(f"{type(chain).__name__}: {name} must be Gaussian (Normal or MultivariateNormal), got {found}")
    return inner.loc, inner.scale.square().diag_embed()


def _with_time(tensor: Tensor, dims: int) -> Tensor:
    """The tensor with a dimension of time, of length one, if it has fewer than `dims` dimensions."""
    return tensor.unsqueeze(0) if tensor.dim() < dims else tensor
