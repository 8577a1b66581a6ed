"""`AutoNormal`: the mean-field normal guide, in the unconstrained space."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributions as td

from varigrad.distributions.families import Normal, TransformedDistribution
from varigrad.distributions.unconstrained import is_identity
from varigrad.errors import VarigradError
from varigrad.guides.base import Latent
from varigrad.guides.base_sitewise import SitewiseGuide
from varigrad.language.messages import Program


class AutoNormal(SitewiseGuide):
    """Independent normals, one for each element of each latent site, pushed to the site's support.

    Args:
        model, args, kwargs, init, sites, plates: see `AutoGuide`.
        init_scale: starting standard deviation in the unconstrained space.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> def model():
        ...     with vg.plate("data", 3):
        ...         rate = vg.sample("rate", dist.Gamma(2.0, 1.0))
        ...         vg.sample("x", dist.Poisson(rate), obs=torch.tensor([1.0, 0.0, 4.0]))
        >>> guide = vg.guides.AutoNormal(model)
        >>> fit = vg.SVI(model, guide, vg.optim.Adam(lr=0.05), seed=0).run(10)
        >>> guide()["rate"].shape, sorted(fit.parameters)
        (torch.Size([3]), ['guide.loc.rate', 'guide.log_scale.rate'])

    References:
        Kucukelbir et al. (2017), Automatic differentiation variational inference. arXiv:1603.00788.
    """

    def __init__(self, model: Program, *args: object, init_scale: float = 0.1, **kwargs: Any) -> None:
        if not init_scale > 0:
            raise VarigradError(f"init_scale must be positive, got {init_scale!r}")
        self._init_scale = init_scale
        super().__init__(model, *args, **kwargs)

    def make_site(self, latent: Latent, start: Tensor) -> None:
        self.store("loc", latent, start)
        self.store("log_scale", latent, torch.full_like(start, self._init_scale).log())

    def distribution(self, latent: Latent) -> td.Distribution:
        loc, scale = self.cut("loc", latent), self.scale(self.cut("log_scale", latent))
        base = Normal(loc, scale)
        if is_identity(latent.transform):
            return base.to_event(latent.event_dim)
        # The transform decides how many event dimensions it needs; the rest are declared on top.
        moved = TransformedDistribution(base, [latent.transform])
        return moved.to_event(latent.event_dim - len(moved.event_shape))

    def marginal(self, latent: Latent) -> tuple[Tensor, Tensor]:
        return self.parameter("loc", latent), self.scale(self.parameter("log_scale", latent))

    def scale(self, stored: Tensor) -> Tensor:
        """The standard deviation, from what is stored of it."""
        return stored.exp()
