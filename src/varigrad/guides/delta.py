"""`AutoDelta`: a point guide, for maximum a posteriori estimation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as td

from varigrad.distributions.delta import Delta
from varigrad.guides.base import Latent
from varigrad.guides.base_sitewise import SitewiseGuide


class AutoDelta(SitewiseGuide):
    """A point mass at each latent site; maximising the bound is then maximum a posteriori estimation.

    Args:
        model, args, kwargs, init, sites, plates: see `AutoGuide`.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> def model():
        ...     with vg.plate("data", 3):
        ...         rate = vg.sample("rate", dist.Gamma(2.0, 1.0))
        ...         vg.sample("x", dist.Poisson(rate), obs=torch.tensor([1.0, 0.0, 4.0]))
        >>> guide = vg.guides.AutoDelta(model)
        >>> fit = vg.SVI(model, guide, vg.optim.Adam(lr=0.05), seed=0).run(10)
        >>> guide()["rate"].shape, sorted(fit.parameters)
        (torch.Size([3]), ['guide.value.rate'])
    """

    def make_site(self, latent: Latent, start: Tensor) -> None:
        self.store("value", latent, start)

    def distribution(self, latent: Latent) -> td.Distribution:
        return Delta(self.point(self.cut("value", latent), latent), event_dim=latent.event_dim)

    def marginal(self, latent: Latent) -> tuple[Tensor, Tensor]:
        value = self.parameter("value", latent)
        return value, torch.zeros_like(value)

    def point(self, stored: Tensor, latent: Latent) -> Tensor:
        """The site's value, from what is stored of it."""
        value: Tensor = latent.transform(stored)
        return value
