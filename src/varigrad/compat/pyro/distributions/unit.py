"""`Unit`: a log-density without a value, with Pyro's argument names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from varigrad import distributions as native
from varigrad.compat.pyro.distributions.torch_distribution import TorchDistributionMixin


class Unit(TorchDistributionMixin, native.Unit):
    """The empty event with log-density `log_factor`, `[*batch]`; `has_rsample` declares it pathwise or not."""

    def __init__(
        self, log_factor: Tensor | float, *, has_rsample: bool | None = None, validate_args: bool | None = None
    ) -> None:
        super().__init__(log_factor)
        if has_rsample is not None:
            self.has_rsample = has_rsample

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        return self.sample(torch.Size(sample_shape))
