"""`IndependentHMM`: a batch of chains of single numbers, as one distribution over sequences of vectors."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from varigrad.distributions.finite_support import support_of
from varigrad.distributions.mixin import Methods
from varigrad.shapes import Shape


class IndependentHMM(Methods, td.Distribution):
    """A chain of single numbers for each entry of a vector.

    Args:
        base_dist: of batch shape `[*batch, seen]` and event shape `[time, 1]`, such as a `GaussianHMM`. This one
            has the batch shape `[*batch]` and the event shape `[time, seen]`.

    Raises:
        ValueError: the base has other shapes, or its observations are not single numbers.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> unit = dist.Normal(torch.zeros(4, 1, 1), 1.0).to_event(1)
        >>> start = dist.Normal(torch.zeros(4, 1), 1.0).to_event(1)
        >>> d = dist.IndependentHMM(dist.GaussianHMM(start, torch.eye(1), unit, torch.eye(1), unit, duration=3))
        >>> d.batch_shape, d.event_shape
        (torch.Size([]), torch.Size([3, 4]))
    """

    arg_constraints: dict[str, constraints.Constraint] = {}

    def __init__(self, base_dist: td.Distribution, validate_args: bool | None = None) -> None:
        event, batch = base_dist.event_shape, base_dist.batch_shape
        if len(event) != 2 or event[1] != 1 or not batch:
            raise ValueError(
                "IndependentHMM: base_dist must have the batch shape [*batch, seen] and the event shape [time, 1], got "
                f"{list(batch)} and {list(event)}"
            )
        each = support_of(base_dist)
        if each is None or each.event_dim:
            raise ValueError(f"IndependentHMM: observations of base_dist must be single numbers, got {each}")
        self.base_dist: td.Distribution = base_dist
        self._begin(batch[:-1], torch.Size((event[0], batch[-1])), validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]  # torch's families set it, here it is read
        return self.base_dist.has_rsample

    @property
    def duration(self) -> int | None:
        """Number of times, as the base has it."""
        return getattr(self.base_dist, "duration", self.event_shape[0])

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        each = support_of(self.base_dist)
        assert each is not None
        return constraints.independent(each, 2)

    def expand(self, batch_shape: Shape, _instance: td.Distribution | None = None) -> Self:
        twin = self.__new__(type(self)) if _instance is None else _instance
        assert isinstance(twin, type(self))
        base = self.base_dist.expand((*batch_shape, self.event_shape[-1]))
        IndependentHMM.__init__(twin, base)
        return self._as_told(twin)

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        return self.base_dist.sample(sample_shape).squeeze(-1).mT

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        return self.base_dist.rsample(sample_shape).squeeze(-1).mT

    def log_prob(self, value: Tensor) -> Tensor:
        return self.base_dist.log_prob(value.mT.unsqueeze(-1)).sum(-1)
