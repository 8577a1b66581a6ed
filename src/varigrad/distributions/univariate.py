"""`Univariate`: interface of families of one number; it broadcasts their parameters, and expands and copies them."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions.utils import broadcast_all

from varigrad.distributions.mixin import Methods
from varigrad.shapes import Shape


class Univariate(Methods, td.Distribution):
    """Interface of families whose parameters, named in `arg_constraints`, are `[*batch]` each."""

    def _keep(self, validate_args: bool | None, **parameters: Tensor | float) -> None:
        """Broadcast the parameters and keep them under their names."""
        values = broadcast_all(*parameters.values())
        self.__dict__.update(zip(parameters, values, strict=True))
        self._begin(values[0].shape, torch.Size(), validate_args)

    def expand(self, batch_shape: Shape, _instance: td.Distribution | None = None) -> Self:
        shape = torch.Size(batch_shape)
        twin: Self = self.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        for name in self.arg_constraints:
            twin.__dict__[name] = getattr(self, name).expand(shape)
        twin._batch_shape = shape
        return twin

    def _uniform(self, sample_shape: Shape, like: Tensor) -> Tensor:
        """Uniform noise `[*sample, *batch]` without exact zeros, whose logarithm would be infinite."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.rand(shape, dtype=like.dtype, device=like.device)
        return noise.clamp(min=torch.finfo(noise.dtype).tiny)
