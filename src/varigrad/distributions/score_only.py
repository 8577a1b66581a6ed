"""`ScoreOnly`: a distribution without its reparameterisation, which only score-function estimators serve."""

from __future__ import annotations

from typing import Self

from torch import Tensor
from torch import distributions as td

from varigrad.distributions.mixin import Wrapper
from varigrad.shapes import Shape


class ScoreOnly(Wrapper):
    """`base` without `rsample`: its draws have no derivative, so only score-function estimators serve it.

    A program needs none of these (`estimator=Score()` does the same to a plain Beta); tests and tutorials do.

    Args:
        base: any distribution.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.ScoreOnly(dist.Normal(0.0, 1.0))
        >>> d.has_rsample, round(d.log_prob(torch.tensor(0.0)).item(), 4)
        (False, -0.9189)
    """

    has_rsample = False

    def __init__(self, base: td.Distribution) -> None:
        self.base = base
        td.Distribution.__init__(self, base.batch_shape, base.event_shape, validate_args=False)

    def expand(self, batch_shape: Shape, _instance: td.Distribution | None = None) -> Self:
        twin: Self = self.__new__(type(self))
        ScoreOnly.__init__(twin, self.base.expand(batch_shape))
        return twin

    def log_prob(self, value: Tensor) -> Tensor:
        return self.base.log_prob(value)

    def entropy(self) -> Tensor:
        return self.base.entropy()
