"""Zero-inflated count distributions with Pyro's argument names."""

from __future__ import annotations

from torch import Tensor
from torch import distributions as td

from varigrad import distributions as native
from varigrad.compat.pyro.distributions.torch_distribution import TorchDistributionMixin, _Based


class ZeroInflatedDistribution(TorchDistributionMixin, _Based, native.ZeroInflated):
    """Zero with probability `gate`, else a draw of `base_dist`."""

    def __init__(
        self,
        base_dist: td.Distribution,
        *,
        gate: Tensor | float | None = None,
        gate_logits: Tensor | float | None = None,
        validate_args: bool | None = None,
    ) -> None:
        native.ZeroInflated.__init__(self, base_dist, gate=gate, gate_logits=gate_logits, validate_args=validate_args)


class ZeroInflatedPoisson(ZeroInflatedDistribution):
    """Poisson counts with extra zeros."""

    def __init__(self, rate: Tensor | float, **options: bool | None) -> None:
        super().__init__(native.Poisson(rate), **options)

    @property
    def rate(self) -> Tensor:
        rate: Tensor = self.base.rate
        return rate


class ZeroInflatedNegativeBinomial(ZeroInflatedDistribution):
    """Negative binomial counts with extra zeros."""

    def __init__(
        self,
        total_count: Tensor | float,
        *,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        **options: bool | None,
    ) -> None:
        super().__init__(native.NegativeBinomial(total_count, probs, logits), **options)

    @property
    def total_count(self) -> Tensor:
        total_count: Tensor = self.base.total_count
        return total_count

    @property
    def probs(self) -> Tensor:
        probs: Tensor = self.base.probs
        return probs

    @property
    def logits(self) -> Tensor:
        logits: Tensor = self.base.logits
        return logits
