"""`ImproperUniform`: an improper prior of density one on its whole support, which cannot be sampled."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from varigrad.distributions.mixin import Methods
from varigrad.shapes import Shape, join


class ImproperUniform(Methods, td.Distribution):
    """Log-density zero everywhere on `support`.

    Args:
        support: any constraint.
        batch_shape, event_shape: of a value.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.ImproperUniform(dist.constraints.positive, (), ())
        >>> d.log_prob(torch.tensor(3.0))
        tensor(0.)
    """

    arg_constraints: dict[str, constraints.Constraint] = {}

    def __init__(
        self, support: constraints.Constraint, batch_shape: Shape, event_shape: Shape, validate_args: bool | None = None
    ) -> None:
        self._support = support
        td.Distribution.__init__(self, torch.Size(batch_shape), torch.Size(event_shape), validate_args=False)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        return self._support

    def expand(self, batch_shape: Shape, _instance: td.Distribution | None = None) -> ImproperUniform:
        return type(self)(self._support, batch_shape, self.event_shape)

    def sample(self, sample_shape: Shape = torch.Size()) -> NoReturn:
        raise NotImplementedError("an improper distribution has no draws; give the site a value, or a guide")

    def log_prob(self, value: Tensor) -> Tensor:
        event = value.dim() - len(self.event_shape)
        shape = join(value.shape[:event], self.batch_shape)
        return torch.zeros(shape, dtype=value.dtype if value.is_floating_point() else None, device=value.device)
