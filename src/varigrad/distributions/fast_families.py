"""Faster versions of common families (Normal, Beta, Bernoulli, ...): the same densities by fewer torch operations.

The number of torch calls, forwards and backwards, determines the time of a small model's step. Hence a parameter that
is given as a number stays one (`Normal(z, 1.0)` needs no tensor, and no gradient, for its scale) until it is read;
tensors of the right shape are not broadcast; and densities use fused operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Generic, Never, Self, TypeVar

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions.utils import broadcast_all

from varigrad.distributions.mixin import Methods
from varigrad.shapes import Shape

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)

T = TypeVar("T")


class Lazy(Generic[T]):
    """An attribute that is computed when it is first read, and kept.

    As torch's `lazy_property`, which is for tensors.
    """

    def __init__(self, make: Callable[[Never], T]) -> None:
        self.make = make
        self.name: str = make.__name__

    def __get__(self, instance: Any, owner: type) -> T:
        if instance is None:
            return self  # type: ignore[return-value]
        value = instance.__dict__[self.name] = self.make(instance)
        return value


class Normal(Methods, td.Normal):
    """Gaussian, `loc` and `scale`."""

    loc: Tensor

    _drawn: tuple[Tensor, Tensor] | None = None
    """The last value made from noise, and the noise."""

    def __init__(self, loc: Tensor | float, scale: Tensor | float, validate_args: bool | None = None) -> None:
        self._number = None if validate_args else _positive_number(scale)
        if self._number is not None:
            self.loc = loc if isinstance(loc, Tensor) else torch.tensor(loc, dtype=torch.get_default_dtype())
        elif isinstance(loc, Tensor) and isinstance(scale, Tensor) and loc.shape == scale.shape:
            self.loc, self.scale = loc, scale
        else:
            self.loc, self.scale = broadcast_all(loc, scale)
        td.Distribution.__init__(self, self.loc.shape, validate_args=bool(validate_args))
        if validate_args is False:
            self.unchecked = True

    @Lazy
    def scale(self) -> Tensor:
        """The number that was given, `[*batch]`."""
        return torch.full_like(self.loc, self._number, requires_grad=False)  # type: ignore[arg-type]

    def expand(self, batch_shape: Shape, _instance: td.Distribution | None = None) -> Self:
        twin: Self = self._get_checked_instance(Normal, _instance)
        shape = torch.Size(batch_shape)
        twin.loc, twin._number = self.loc.expand(shape), self._number
        if self._number is None:
            twin.scale = self.scale.expand(shape)
        td.Distribution.__init__(twin, shape, validate_args=False)
        twin._validate_args = self._validate_args
        if self.unchecked:
            twin.unchecked = True
        return twin

    def from_noise(self, noise: Tensor) -> Tensor:
        """The reparameterised draw `loc + scale * noise`; `noise`, `[*batch]`, is standard normal."""
        value = torch.addcmul(self.loc, self.scale, noise)
        # Without gradients the value is a constant, which the noise behind it would have to move with the parameters.
        self._drawn = (value, noise) if torch.is_grad_enabled() else None
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        if self._drawn is not None and value is self._drawn[0]:
            # (value - loc) / scale is the noise, whatever the parameters: nothing of it has to be differentiated.
            constant = -_HALF_LOG_TWO_PI - 0.5 * self._drawn[1].square()
            return constant - (self.scale.log() if self._number is None else math.log(self._number))
        if self._number is None:
            z = (value - self.loc) / self.scale
            return torch.addcmul(-_HALF_LOG_TWO_PI - self.scale.log(), z, z, value=-0.5)
        d = value - self.loc
        constant = torch.scalar_tensor(-_HALF_LOG_TWO_PI - math.log(self._number), dtype=d.dtype, device=d.device)
        return torch.addcmul(constant, d, d, value=-0.5 / self._number**2)


class LogNormal(Methods, td.LogNormal):
    """Exponential of a Normal."""

    def __init__(self, loc: Tensor | float, scale: Tensor | float, validate_args: bool | None = None) -> None:
        base = Normal(loc, scale, validate_args)
        td.TransformedDistribution.__init__(self, base, td.ExpTransform(), validate_args=bool(validate_args))
        if validate_args is False:
            self.unchecked = True

    _drawn: tuple[Tensor, Tensor] | None = None
    """The last value made from noise, and its logarithm."""

    def from_noise(self, noise: Tensor) -> Tensor:
        """The reparameterised draw; `noise`, `[*batch]`, is standard normal."""
        base = self.base_dist
        assert isinstance(base, Normal)
        exponent = base.from_noise(noise)
        value = exponent.exp()
        self._drawn = (value, exponent) if torch.is_grad_enabled() else None
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        if self._drawn is not None and value is self._drawn[0] and not self._validate_args:
            result: Tensor = self.base_dist.log_prob(self._drawn[1]) - self._drawn[1]
        else:
            result = super().log_prob(value)
        return result


class HalfCauchy(Methods, td.HalfCauchy):
    """Absolute value of a centred Cauchy."""

    _number: float | None = None

    def __init__(self, scale: Tensor | float, validate_args: bool | None = None) -> None:
        self._number = None if validate_args else _positive_number(scale)
        if self._number is None:
            super().__init__(scale, validate_args=validate_args)
        else:
            self._begin(torch.Size(), torch.Size(), validate_args)

    @Lazy
    def base_dist(self) -> td.Distribution:  # type: ignore[override]
        number = torch.tensor(self._number, dtype=torch.get_default_dtype())
        return td.Cauchy(torch.zeros_like(number), number, validate_args=False)

    @Lazy
    def transforms(self) -> list[td.Transform]:
        return [td.AbsTransform()]

    def log_prob(self, value: Tensor) -> Tensor:
        if self._number is None or self._validate_args:
            result: Tensor = super().log_prob(value)
            return result
        log_prob = math.log(2 / (math.pi * self._number)) - (value / self._number).square().log1p()
        return torch.where(value >= 0, log_prob, -torch.inf)


class Beta(Methods, td.Beta):
    """On (0, 1), from two concentrations `[*batch]`."""

    _numbers: tuple[float, float] | None = None

    def __init__(
        self, concentration1: Tensor | float, concentration0: Tensor | float, validate_args: bool | None = None
    ) -> None:
        a, b = concentration1, concentration0
        if isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and not validate_args:
            self._dirichlet = td.Dirichlet(torch.stack([a, b], -1), validate_args=False)
            self._begin(a.shape, torch.Size(), validate_args)
            return
        numbers = _positive_number(a), _positive_number(b)
        if numbers[0] is None or numbers[1] is None:
            super().__init__(a, b, validate_args=validate_args)
        else:
            self._numbers = numbers[0], numbers[1]
            self._begin(torch.Size(), torch.Size(), validate_args)

    @Lazy
    def _dirichlet(self) -> td.Dirichlet:
        return td.Dirichlet(torch.tensor(self._numbers, dtype=torch.get_default_dtype()), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._numbers is None or self._validate_args:
            result: Tensor = super().log_prob(value)
            return result
        a, b = self._numbers
        normaliser = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
        result = torch.xlogy(a - 1, value) + torch.special.xlog1py(b - 1, -value) - normaliser
        return result


class Bernoulli(Methods, td.Bernoulli):
    """0 or 1, from `probs` or `logits` `[*batch]`."""

    def __init__(
        self,
        probs: Tensor | float | None = None,
        logits: Tensor | float | None = None,
        validate_args: bool | None = None,
    ) -> None:
        given = logits if probs is None else probs
        if validate_args or not isinstance(given, Tensor) or (probs is not None and logits is not None):
            super().__init__(probs, logits, validate_args=validate_args)
            return
        if probs is None:
            self.logits = given
        else:
            self.probs = given
        self._param = given
        td.Distribution.__init__(self, given.shape, validate_args=False)
        if validate_args is False:
            self.unchecked = True

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        logits = self.logits
        if logits.shape != value.shape:
            if logits.dim() == 0:
                logits = logits.expand(value.shape)
            else:
                logits, value = torch.broadcast_tensors(logits, value)
        return -torch.binary_cross_entropy_with_logits(logits, value)


class Categorical(Methods, td.Categorical):
    """A category number from `probs` or `logits` `[*batch, categories]`."""

    def __init__(
        self, probs: Tensor | None = None, logits: Tensor | None = None, validate_args: bool | None = None
    ) -> None:
        if validate_args or probs is not None or logits is None or logits.dim() == 0:
            super().__init__(probs, logits, validate_args=validate_args)
            return
        self.logits = self._param = logits.log_softmax(-1)
        *batch, self._num_events = logits.shape
        td.Distribution.__init__(self, torch.Size(batch), validate_args=False)
        if validate_args is False:
            self.unchecked = True

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        logits, index = self.logits, value.long()
        if logits.shape[:-1] != value.shape:
            return entries_at(logits, index)
        return logits.gather(-1, index.unsqueeze(-1)).squeeze(-1)


def entries_at(table: Tensor, index: Tensor) -> Tensor:
    """The entries of a table's last dimension at an index that broadcasts with its other dimensions.

    Neither is expanded along a dimension that only the other has, so no tensor with all dimensions and the last one is
    made, forward or backward.

    Args:
        table: `[*batch, entries]`.
        index: `[*shape]`, whole numbers.

    Returns:
        The broadcast shape of `batch` and `shape`.

    Example:
        >>> import torch
        >>> entries_at(torch.tensor([[0.1, 0.2], [0.3, 0.4]]), torch.tensor([[1], [0], [1]]))
        tensor([[0.2000, 0.4000],
                [0.1000, 0.3000],
                [0.2000, 0.4000]])
    """
    dims = max(table.dim() - 1, index.dim())
    table = table.reshape((1,) * (dims + 1 - table.dim()) + tuple(table.shape))
    index = index.reshape((1,) * (dims - index.dim()) + tuple(index.shape))
    by_index = [d for d in range(dims) if table.shape[d] == 1]  # the table is the same along these
    by_table = [d for d in range(dims) if table.shape[d] != 1 and index.shape[d] == 1]
    by_both = [d for d in range(dims) if table.shape[d] != 1 and index.shape[d] != 1]
    both, own = [table.shape[d] for d in by_both], [table.shape[d] for d in by_table]
    rows = table.permute([*by_both, *by_table, *by_index, dims]).reshape(*both, *own, table.shape[-1])
    columns = index.permute([*by_both, *by_table, *by_index]).reshape(*both, *(1,) * len(own), -1)
    found = rows.gather(-1, columns.expand(*both, *own, columns.shape[-1]))
    order = [*by_both, *by_table, *by_index]
    found = found.reshape([*both, *own, *[index.shape[d] for d in by_index]])
    return found.permute([order.index(d) for d in range(dims)])


def _positive_number(value: object) -> float | None:
    """The value, if it is a number that no check would refuse; else None."""
    return value if isinstance(value, (float, int)) and 0 < value < math.inf else None
