"""Zero-inflated count distributions: counts with extra zeros, as in single-cell data."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from varigrad.distributions.families import NegativeBinomial, Poisson
from varigrad.distributions.mixin import Methods
from varigrad.shapes import Shape, join


class ZeroInflated(Methods, td.Distribution):
    r"""Zero with probability :math:`g` (the gate), else a draw from `base`.

    Args:
        base: a univariate count distribution, `[*batch]`.
        gate: `[*batch]`, in [0, 1]; give this or
        gate_logits: `[*batch]`, its logit.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.ZeroInflated(dist.Poisson(2.0), gate=0.5)
        >>> round(d.log_prob(torch.tensor(0.0)).exp().item(), 4)
        0.5677
    """

    arg_constraints: dict[str, constraints.Constraint] = {
        "gate": constraints.unit_interval,
        "gate_logits": constraints.real,
    }

    def __init__(
        self,
        base: td.Distribution,
        *,
        gate: Tensor | float | None = None,
        gate_logits: Tensor | float | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if (gate is None) == (gate_logits is None):
            raise ValueError("give exactly one of gate and gate_logits")
        if base.event_shape:
            raise ValueError(f"ZeroInflated takes a univariate base, got event shape {tuple(base.event_shape)}")
        logits = torch.as_tensor(gate_logits) if gate is None else torch.logit(torch.as_tensor(gate))
        shape = join(logits.shape, base.batch_shape)
        self.gate_logits: Tensor = logits.expand(shape)
        self.base: Any = base.expand(shape)  # of the family of counts, whose parameters subclasses read
        td.Distribution.__init__(self, shape, validate_args=False)
        self._said(validate_args)

    @property
    def gate(self) -> Tensor:
        return torch.sigmoid(self.gate_logits)

    @property
    def support(self) -> constraints.Constraint:
        result: constraints.Constraint = self.base.support
        return result

    @property
    def mean(self) -> Tensor:
        result: Tensor = (1 - self.gate) * self.base.mean
        return result

    @property
    def variance(self) -> Tensor:
        gate, mean = self.gate, self.base.mean
        result: Tensor = (1 - gate) * (self.base.variance + gate * mean.square())
        return result

    def expand(self, batch_shape: Shape, _instance: td.Distribution | None = None) -> Self:
        twin: Self = self.__new__(type(self))
        ZeroInflated.__init__(twin, self.base.expand(batch_shape), gate_logits=self.gate_logits.expand(batch_shape))
        return self._as_told(twin)

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            zero = torch.rand(shape, dtype=self.gate_logits.dtype, device=self.gate_logits.device) < self.gate
            value = self.base.sample(torch.Size(sample_shape))
            return torch.where(zero, torch.zeros_like(value), value)

    def log_prob(self, value: Tensor) -> Tensor:
        drawn = logsigmoid(-self.gate_logits) + self.base.log_prob(value)
        return torch.where(value == 0, torch.logaddexp(logsigmoid(self.gate_logits), drawn), drawn)


class ZeroInflatedPoisson(ZeroInflated):
    """Poisson counts at `rate` with extra zeros.

    Args:
        rate: `[*batch]`, positive.
        gate: `[*batch]`, in [0, 1]; give this or
        gate_logits: `[*batch]`, its logit.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.ZeroInflatedPoisson(2.0, gate=0.5)
        >>> round(d.mean.item(), 4)
        1.0
    """

    def __init__(
        self,
        rate: Tensor | float,
        *,
        gate: Tensor | float | None = None,
        gate_logits: Tensor | float | None = None,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(Poisson(rate), gate=gate, gate_logits=gate_logits, validate_args=validate_args)


class ZeroInflatedNegativeBinomial(ZeroInflated):
    """Negative binomial counts with extra zeros.

    Args:
        total_count: `[*batch]`, positive.
        probs: `[*batch]`, in [0, 1); give these or
        logits: `[*batch]`, their logits.
        gate: `[*batch]`, in [0, 1]; give this or
        gate_logits: `[*batch]`, its logit.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.ZeroInflatedNegativeBinomial(3.0, logits=torch.tensor(0.0), gate=0.5)
        >>> round(d.mean.item(), 4)
        1.5
    """

    def __init__(
        self,
        total_count: Tensor | float,
        *,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        gate: Tensor | float | None = None,
        gate_logits: Tensor | float | None = None,
        validate_args: bool | None = None,
    ) -> None:
        base = NegativeBinomial(total_count, probs, logits)
        super().__init__(base, gate=gate, gate_logits=gate_logits, validate_args=validate_args)
