"""Point guide: maximum a posteriori estimation."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch import distributions as td
from torch.distributions import biject_to

from varigrad.distributions.delta import Delta
from varigrad.guides.base import AutoGuide, Latent
from varigrad.language.messages import Program


class AutoDelta(AutoGuide):
    """A point mass at each latent site; maximising the bound is then maximum a posteriori estimation.

    Args:
        model, args, kwargs, init, plates: see `AutoGuide`.
    """

    def __init__(self, model: Program, *args: Any, **kwargs: Any) -> None:
        self._transforms: dict[str, Any] = {}
        super().__init__(model, *args, **kwargs)

    def make(self, latent: Latent, prior: td.Distribution, start: Tensor) -> None:
        transform = biject_to(prior.support)
        self._transforms[latent.name] = transform
        self.store("value", latent, transform.inv(start))

    def distribution(self, latent: Latent) -> td.Distribution:
        value = self._transforms[latent.name](self.parameter("value", latent))
        return Delta(value, event_dim=latent.event_dim)
