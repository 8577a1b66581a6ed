"""`Expanded`: gives any distribution a larger batch shape, with independent draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Size, Tensor
from torch import distributions as td

from varigrad.distributions.mixin import Wrapper
from varigrad.shapes import Shape, broadcasts, join


class Expanded(Wrapper):
    """`base` with the larger batch shape `batch_shape`: copies of an element are drawn independently.

    Args:
        base: any distribution; its density has to take values with more batch dimensions than its own.
        batch_shape: what the batch shape of `base` broadcasts to.

    Raises:
        ValueError: it does not broadcast to that.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.Expanded(dist.Normal(0.0, 1.0), (3,))
        >>> d.sample().shape, d.log_prob(torch.zeros(3)).shape
        (torch.Size([3]), torch.Size([3]))
    """

    def __init__(self, base: td.Distribution, batch_shape: Shape = torch.Size()) -> None:
        shape = torch.Size(batch_shape)
        if not broadcasts(base.batch_shape, shape):
            raise ValueError(f"batch shape {tuple(base.batch_shape)} does not expand to {tuple(shape)}")
        self.base = base
        td.Distribution.__init__(self, shape, base.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]  # torch's families set it, here it is read
        return self.base.has_rsample

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]  # torch's families set it, here it is read
        return self.base.has_enumerate_support

    @property
    def mean(self) -> Tensor:
        return self.base.mean.expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        return self.base.variance.expand(self.batch_shape + self.event_shape)

    def expand(self, batch_shape: Shape, _instance: td.Distribution | None = None) -> Self:
        shape = torch.Size(batch_shape)
        if not broadcasts(self.batch_shape, shape):
            raise ValueError(f"batch shape {tuple(self.batch_shape)} does not expand to {tuple(shape)}")
        return type(self)(self.base, shape)

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        return self._spread(self.base.sample, torch.Size(sample_shape))

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        return self._spread(self.base.rsample, torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        log_prob = self.base.log_prob(value)
        return log_prob.expand(join(log_prob.shape, self.batch_shape))

    def entropy(self) -> Tensor:
        return self.base.entropy().expand(self.batch_shape)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        values = self.base.enumerate_support(expand=False)
        values = values.reshape((len(values),) + (1,) * len(self.batch_shape) + self.event_shape)
        return values.expand((-1, *self.batch_shape, *self.event_shape)) if expand else values

    def _spread(self, draw: Callable[[Size], Tensor], sample_shape: Size) -> Tensor:
        """Draw `[*sample, *batch, *event]` from a distribution with fewer elements.

        New elements are drawn as further samples, and then moved to where they belong.
        """
        shape, first = self.batch_shape, len(sample_shape)
        old = (1,) * (len(shape) - len(self.base.batch_shape)) + tuple(self.base.batch_shape)
        grown = [d for d in range(len(shape)) if old[d] != shape[d]]
        value = draw(sample_shape + tuple(shape[d] for d in grown))
        value = value.reshape(sample_shape + tuple(shape[d] for d in grown) + old + self.event_shape)
        batch = first + len(grown)  # where the base's own dimensions begin
        places = [first + grown.index(d) if d in grown else batch + d for d in range(len(shape))]
        ones = [batch + d for d in grown]
        events = range(batch + len(shape), value.dim())
        moved = value.permute([*range(first), *places, *ones, *events])
        return moved.reshape(sample_shape + shape + self.event_shape)
