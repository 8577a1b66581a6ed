"""Joint automatic guides: one normal distribution for all latent sites together, in the unconstrained space."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributions as td

from varigrad.distributions.delta import Delta
from varigrad.distributions.families import LowRankMultivariateNormal, MultivariateNormal, Normal
from varigrad.distributions.flattened import Flattened
from varigrad.errors import PlateError, SiteError, VarigradError, whole_number
from varigrad.guides.base import AutoGuide, Inside, Latent
from varigrad.language.messages import Program
from varigrad.language.primitives import sample


class JointGuide(AutoGuide):
    """Interface of guides that draw all sites as one vector, the auxiliary site `name`, and split it.

    Args:
        model, args, kwargs, init, sites: see `AutoGuide`.
        init_scale: starting standard deviation in the unconstrained space.

    Raises:
        PlateError: a site is in a subsampled plate.
        SiteError: a site is masked.
    """

    def __init__(self, model: Program, *args: object, init_scale: float = 0.1, **kwargs: Any) -> None:
        if not init_scale > 0:
            raise VarigradError(f"init_scale must be positive, got {init_scale!r}")
        self._init_scale = init_scale
        self.name: str = ""
        super().__init__(model, *args, **kwargs)

    def make(self, starts: Sequence[tuple[Latent, Tensor]]) -> None:
        for latent, _ in starts:
            self._check(latent)
        self.name = f"joint_{starts[0][0].name}"
        self._shapes = [start.shape for _, start in starts]
        self.make_joint(torch.cat([start.reshape(-1) for _, start in starts]))

    def draw(self, inside: Inside) -> dict[str, Tensor]:
        joint = self.joint()
        vector = sample(self.name, joint, auxiliary=True)
        values = {}
        for latent, value in zip(self._latents, joint.values(vector), strict=True):
            with inside(latent):
                values[latent.name] = sample(latent.name, Delta(value, event_dim=latent.event_dim))
        return values

    def joint(self) -> Flattened:
        """The distribution of all sites, as one unconstrained vector, `[size]`."""
        transforms = [latent.transform for latent in self._latents]
        plates = [
            shape_dim - latent.free_dim for shape_dim, latent in zip(map(len, self._shapes), self._latents, strict=True)
        ]
        return Flattened(self.normal(), transforms, self._shapes, plates)

    def make_joint(self, start: Tensor) -> None:
        """Create the parameters; `start` is where the unconstrained vector starts, `[size]`."""
        self.loc: nn.Parameter = nn.Parameter(start.clone())
        self.log_scale: nn.Parameter = nn.Parameter(torch.full_like(start, self._init_scale).log())

    @abstractmethod
    def normal(self) -> td.Distribution:
        """The distribution of the unconstrained vector, `[size]`."""

    def location(self) -> Tensor:
        """Medians of the unconstrained vector, `[size]`."""
        return self.loc

    def deviations(self) -> Tensor:
        """Standard deviations of the unconstrained vector, `[size]`."""
        return self.log_scale.exp()

    def marginal(self, latent: Latent) -> tuple[Tensor, Tensor]:
        at = self._latents.index(latent)
        sizes = [shape.numel() for shape in self._shapes]
        shape = self._shapes[at]
        return self.location().split(sizes)[at].reshape(shape), self.deviations().split(sizes)[at].reshape(shape)

    def _check(self, latent: Latent) -> None:
        kind = self.kind
        if self._plates is not None or any(f.subsample_size is not None for f in latent.frames):
            plate = latent.frames[0].name if latent.frames else "plates="
            raise PlateError(
                "is subsampled",
                site=next((f.name for f in latent.frames if f.subsample_size is not None), plate),
                because=f"{kind} draws all elements of {latent.name!r} together, in every step",
                try_=f"AutoGuideList({kind}(model, sites=[...]), AutoNormal(model, sites=[{latent.name!r}]))",
            )
        if latent.mask is not None:
            raise SiteError(
                "is masked",
                site=latent.name,
                because=f"{kind} has one density for all elements, and those without a prior would spread without end",
                try_=f"AutoGuideList({kind}(model, sites=[...]), AutoNormal(model, sites=[{latent.name!r}]))",
            )


class AutoDiagonalNormal(JointGuide):
    """Independent normals, as one vector: `AutoNormal` in one draw, for models with many sites.

    Args:
        model, args, kwargs, init, sites: see `AutoGuide`.
        init_scale: starting standard deviation in the unconstrained space.

    Raises:
        PlateError: a site is in a subsampled plate.
        SiteError: a site is masked.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> def model():
        ...     with vg.plate("data", 3):
        ...         rate = vg.sample("rate", dist.Gamma(2.0, 1.0))
        ...         vg.sample("x", dist.Poisson(rate), obs=torch.tensor([1.0, 0.0, 4.0]))
        >>> guide = vg.guides.AutoDiagonalNormal(model)
        >>> fit = vg.SVI(model, guide, vg.optim.Adam(lr=0.05), seed=0).run(10)
        >>> guide()["rate"].shape, sorted(fit.parameters)
        (torch.Size([3]), ['guide.loc', 'guide.log_scale'])
    """

    def normal(self) -> td.Distribution:
        return Normal(self.loc, self.log_scale.exp()).to_event(1)


class AutoMultivariateNormal(JointGuide):
    r"""One normal with a full covariance :math:`L L'`, :math:`L = \operatorname{diag}(s)\,(I + U)`, `U` strictly lower.

    Its parameters grow with the square of the number of coordinates.

    Args:
        model, args, kwargs, init, sites: see `AutoGuide`.
        init_scale: starting standard deviation in the unconstrained space.

    Raises:
        PlateError: a site is in a subsampled plate.
        SiteError: a site is masked.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> def model():
        ...     with vg.plate("data", 3):
        ...         rate = vg.sample("rate", dist.Gamma(2.0, 1.0))
        ...         vg.sample("x", dist.Poisson(rate), obs=torch.tensor([1.0, 0.0, 4.0]))
        >>> guide = vg.guides.AutoMultivariateNormal(model)
        >>> fit = vg.SVI(model, guide, vg.optim.Adam(lr=0.05), seed=0).run(10)
        >>> guide()["rate"].shape, sorted(fit.parameters)
        (torch.Size([3]), ['guide.loc', 'guide.log_scale', 'guide.lower'])

    References:
        Kucukelbir et al. (2017), Automatic differentiation variational inference. arXiv:1603.00788.
    """

    def make_joint(self, start: Tensor) -> None:
        super().make_joint(start)
        size = len(self.loc)
        self.lower: nn.Parameter = nn.Parameter(self.loc.new_zeros(size, size))

    def normal(self) -> td.Distribution:
        return MultivariateNormal(self.loc, scale_tril=self.scale_tril())

    def scale_tril(self) -> Tensor:
        """The Cholesky factor of the covariance, `[size, size]`."""
        unit = self.lower.tril(-1) + torch.eye(len(self.loc), dtype=self.loc.dtype, device=self.loc.device)
        return self.log_scale.exp().unsqueeze(-1) * unit

    def deviations(self) -> Tensor:
        lengths: Tensor = torch.linalg.vector_norm(self.scale_tril(), dim=-1)
        return lengths


class AutoLowRankMultivariateNormal(JointGuide):
    r"""One normal with covariance :math:`S (I + W W') S`, :math:`S = \operatorname{diag}(s)`, `W` of few columns.

    Args:
        model, args, kwargs, init, sites: see `AutoGuide`.
        init_scale: starting standard deviation in the unconstrained space, but for `W`, which starts at random.
        rank: columns of `W`; None: the square root of the number of coordinates, rounded.

    Raises:
        VarigradError: the rank is not a whole number of at least 1.
        PlateError: a site is in a subsampled plate.
        SiteError: a site is masked.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> def model():
        ...     with vg.plate("data", 3):
        ...         rate = vg.sample("rate", dist.Gamma(2.0, 1.0))
        ...         vg.sample("x", dist.Poisson(rate), obs=torch.tensor([1.0, 0.0, 4.0]))
        >>> guide = vg.guides.AutoLowRankMultivariateNormal(model, rank=1)
        >>> fit = vg.SVI(model, guide, vg.optim.Adam(lr=0.05), seed=0).run(10)
        >>> guide()["rate"].shape, sorted(fit.parameters)
        (torch.Size([3]), ['guide.factor', 'guide.loc', 'guide.log_scale'])
    """

    def __init__(self, model: Program, *args: object, rank: int | None = None, **kwargs: Any) -> None:
        if rank is not None:
            rank = whole_number("rank", rank)
        self._rank = rank
        super().__init__(model, *args, **kwargs)

    def make_joint(self, start: Tensor) -> None:
        super().make_joint(start)
        size = len(self.loc)
        rank = self._rank or round(size**0.5)
        # Not zero: the covariance is even in the factor, so its gradient vanishes there.
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(size, rank, generator=generator, dtype=torch.float64, device=generator.device)
        self.factor: nn.Parameter = nn.Parameter((noise / rank**0.5).to(self.loc))

    def normal(self) -> td.Distribution:
        scale = self.log_scale.exp()
        return LowRankMultivariateNormal(self.loc, self.factor * scale.unsqueeze(-1), scale.square())

    def deviations(self) -> Tensor:
        return self.log_scale.exp() * (1 + self.factor.square().sum(-1)).sqrt()
