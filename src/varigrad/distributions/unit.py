"""`Unit`: a distribution over an empty event that carries a log-density, for a factor as a sample site."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from varigrad.distributions.mixin import Methods
from varigrad.shapes import Shape, join


class Unit(Methods, td.Distribution):
    """The empty event, with log-density `log_factor`, `[*batch]`.

    Args:
        log_factor: `[*batch]`, in nats.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.Unit(torch.tensor(-2.0))
        >>> d.log_prob(d.sample())
        tensor(-2.)
    """

    arg_constraints: dict[str, constraints.Constraint] = {"log_factor": constraints.real}
    support: constraints.Constraint = constraints.real_vector

    def __init__(self, log_factor: Tensor | float) -> None:
        self.log_factor: Tensor = torch.as_tensor(log_factor)
        td.Distribution.__init__(self, self.log_factor.shape, torch.Size((0,)), validate_args=False)

    def expand(self, batch_shape: Shape, _instance: td.Distribution | None = None) -> Self:
        return type(self)(self.log_factor.expand(batch_shape))

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        return self.log_factor.new_empty(self._extended_shape(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        return self.log_factor.expand(join(value.shape[:-1], self.batch_shape))
