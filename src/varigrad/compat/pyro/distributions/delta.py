"""`Delta`: a point mass with Pyro's argument names."""

from __future__ import annotations

from torch import Tensor

from varigrad import distributions as native
from varigrad.compat.pyro.distributions.torch_distribution import TorchDistributionMixin


class Delta(TorchDistributionMixin, native.Delta):
    """All mass at `v`, `[*batch, *event]`, with log-density `log_density`, `[*batch]`."""

    def __init__(
        self, v: Tensor, log_density: Tensor | float = 0.0, event_dim: int = 0, validate_args: bool | None = None
    ) -> None:
        super().__init__(v, log_density, event_dim)

    @property
    def v(self) -> Tensor:
        """The point that holds all the mass."""
        return self.value
