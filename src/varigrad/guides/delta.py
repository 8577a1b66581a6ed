"""Point guide: maximum a posteriori estimation."""

from __future__ import annotations

from torch import Tensor
from torch import distributions as td

from varigrad.distributions.delta import Delta
from varigrad.guides.base import AutoGuide, Latent


class AutoDelta(AutoGuide):
    """A point mass at each latent site; maximising the bound is then maximum a posteriori estimation.

    Args:
        model, args, kwargs, init, plates: see `AutoGuide`.
    """

    def make(self, latent: Latent, start: Tensor) -> None:
        self.store("value", latent, start)

    def distribution(self, latent: Latent) -> td.Distribution:
        return Delta(latent.transform(self.parameter("value", latent)), event_dim=latent.event_dim)
