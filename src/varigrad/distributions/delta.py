"""`Delta`: a point mass, for maximum a posteriori guides and fixed values."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from varigrad.distributions.mixin import Methods
from varigrad.shapes import Shape, sum_rightmost


class Delta(Methods, td.Distribution):
    """All mass at `value`.

    Args:
        value: `[*batch, *event]`; gradients flow through draws to it.
        log_density: `[*batch]`, the log-density at `value`.
        event_dim: how many rightmost dimensions of `value` are one event.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.Delta(torch.tensor([1.0, 2.0]), event_dim=1)
        >>> d.sample(), d.log_prob(torch.tensor([1.0, 2.0]))
        (tensor([1., 2.]), tensor(0.))
    """

    arg_constraints: dict[str, constraints.Constraint] = {
        "value": constraints.dependent,
        "log_density": constraints.real,
    }
    has_rsample = True

    def __init__(self, value: Tensor, log_density: Tensor | float = 0.0, event_dim: int = 0) -> None:
        self.value: Tensor = torch.as_tensor(value)
        batch = self.value.shape[: self.value.dim() - event_dim]
        log_density = torch.as_tensor(log_density, dtype=torch.get_default_dtype(), device=self.value.device)
        self.log_density: Tensor = log_density.expand(batch)
        self.event_dims = event_dim
        td.Distribution.__init__(self, batch, self.value.shape[len(batch) :], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, self.event_dims)

    @property
    def mean(self) -> Tensor:
        return self.value

    @property
    def variance(self) -> Tensor:
        return torch.zeros_like(self.value)

    def expand(self, batch_shape: Shape, _instance: td.Distribution | None = None) -> Self:
        batch = torch.Size(batch_shape)
        return type(self)(self.value.expand(batch + self.event_shape), self.log_density.expand(batch), self.event_dims)

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        return self.value.expand(torch.Size(sample_shape) + self.value.shape)

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        return self.rsample(sample_shape).detach()  # a view of a leaf requires gradients even under no_grad

    def log_prob(self, value: Tensor) -> Tensor:
        outside = torch.full_like(self.log_density, -torch.inf)
        equal = sum_rightmost((value != self.value).to(self.log_density.dtype), self.event_dims) == 0
        return torch.where(equal, self.log_density, outside)

    def entropy(self) -> Tensor:
        return -self.log_density
