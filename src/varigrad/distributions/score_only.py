"""A distribution with its reparameterisation taken away."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor
from torch import distributions as td

from varigrad.distributions.methods import Methods


class ScoreOnly(Methods, td.Distribution):
    """`base`, which can be drawn from but not differentiated through: only score-function estimators fit it.

    A program needs none of these (`estimator=Score()` does the same to a plain Beta); tests and tutorials do.
    """

    arg_constraints: dict[str, Any] = {}
    has_rsample = False

    def __init__(self, base: td.Distribution) -> None:
        self.base = base
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.base.support

    @property
    def mean(self) -> Tensor:
        return self.base.mean

    @property
    def variance(self) -> Tensor:
        return self.base.variance

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        twin: Self = self.__new__(type(self))
        ScoreOnly.__init__(twin, self.base.expand(batch_shape))
        return twin

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return self.base.sample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.base.log_prob(value)

    def entropy(self) -> Tensor:
        return self.base.entropy()
