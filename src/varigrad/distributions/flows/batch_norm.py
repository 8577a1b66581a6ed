"""`BatchNorm`: batch normalisation as an invertible transform, between other flows.

References:
    Dinh, Sohl-Dickstein, Bengio (2017), Density estimation using Real NVP.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from varigrad.distributions.flows.base import VectorTransform


class BatchNorm(VectorTransform):
    """The inverse of a batch normalisation: from noise to data it multiplies with the moving standard deviations.

    Densities in training mode normalise with the batch they are asked for, and move the averages; a batch of one and
    evaluation mode use the averages.

    Args:
        input_dim: of the vectors.
        momentum: of the averages.
        epsilon: added to variances.
    """

    moving_mean: Tensor
    moving_variance: Tensor

    def __init__(self, input_dim: int, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.input_dim: int = input_dim
        self.momentum: float = momentum
        self.epsilon: float = epsilon
        self.gamma: nn.Parameter = nn.Parameter(torch.zeros(input_dim))
        self.beta: nn.Parameter = nn.Parameter(torch.zeros(input_dim))
        self.register_buffer("moving_mean", torch.zeros(input_dim))
        self.register_buffer("moving_variance", torch.ones(input_dim))

    @property
    def constrained_gamma(self) -> Tensor:
        """The scale, made positive, `[input_dim]`."""
        return self.gamma.exp() + 1e-6

    def _call(self, x: Tensor) -> Tensor:
        spread = (self.moving_variance + self.epsilon).sqrt()
        return (x - self.beta) / self.constrained_gamma * spread + self.moving_mean

    def _inverse(self, y: Tensor) -> Tensor:
        mean, variance = self._moments(y)
        if self.training and y.dim() > 1:
            with torch.no_grad():
                self.moving_mean.lerp_(mean, self.momentum)
                self.moving_variance.lerp_(variance, self.momentum)
        return (y - mean) * self.constrained_gamma / (variance + self.epsilon).sqrt() + self.beta

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        _, variance = self._moments(y)
        log_det = 0.5 * (variance + self.epsilon).log() - self.constrained_gamma.log()
        return log_det.sum(-1).expand(x.shape[:-1])

    def _moments(self, y: Tensor) -> tuple[Tensor, Tensor]:
        if not self.training or y.dim() < 2 or y.shape[:-1].numel() < 2:
            return self.moving_mean, self.moving_variance
        rows = y.reshape(-1, y.shape[-1])
        return rows.mean(0), rows.var(0)


def batchnorm(input_dim: int, momentum: float = 0.1, epsilon: float = 1e-5) -> BatchNorm:
    """Make a `BatchNorm` flow.

    Args:
        input_dim: number of variables.
        momentum: weight of a new batch in the moving averages.
        epsilon: added to the variance.
    """
    return BatchNorm(input_dim, momentum, epsilon)
