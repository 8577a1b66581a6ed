"""Directional distributions: random vectors of length one."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from varigrad.distributions.constraints import sphere
from varigrad.distributions.mixin import Methods
from varigrad.shapes import Shape


class VonMises3D(Methods, td.Distribution):
    r"""Density :math:`\propto e^{\kappa \cdot z}` on the sphere in three dimensions.

    Args:
        concentration: `[*batch, 3]`: its direction is the mean's, its length the concentration.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.VonMises3D(torch.tensor([1.0, 0.0, 0.0]))
        >>> round(d.sample().norm().item(), 4)
        1.0
    """

    arg_constraints: dict[str, constraints.Constraint] = {"concentration": constraints.real_vector}
    support = sphere

    def __init__(self, concentration: Tensor, validate_args: bool | None = None) -> None:
        if concentration.shape[-1:] != (3,):
            raise ValueError(f"concentration must be [*batch, 3], got {tuple(concentration.shape)}")
        self.concentration = concentration
        self._begin(concentration.shape[:-1], torch.Size((3,)), validate_args)

    def expand(self, batch_shape: Shape, _instance: td.Distribution | None = None) -> Self:
        return self._as_told(type(self)(self.concentration.expand(torch.Size(batch_shape) + self.event_shape)))

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            length = self.concentration.norm(dim=-1)
            tiny = torch.finfo(length.dtype).tiny
            mean = self.concentration / length.clamp(min=tiny).unsqueeze(-1)
            # The component along the mean has the closed CDF (e^{kw} - e^{-k}) / (e^k - e^{-k}).
            u = torch.rand(shape[:-1], dtype=length.dtype, device=length.device).clamp(min=tiny)
            k = length.clamp(min=1e-6)
            along = (1 + (u + (1 - u) * (-2 * k).exp()).log() / k).clamp(-1, 1).unsqueeze(-1)
            any_ = torch.randn(shape, dtype=length.dtype, device=length.device)
            across = any_ - (any_ * mean).sum(-1, True) * mean
            drawn = along * mean + (1 - along.square()).sqrt() * across / across.norm(dim=-1, keepdim=True)
            everywhere = any_ / any_.norm(dim=-1, keepdim=True)
            return torch.where(length.unsqueeze(-1) > 1e-6, drawn, everywhere)

    def log_prob(self, value: Tensor) -> Tensor:
        k = self.concentration.norm(dim=-1)
        # log(4 pi sinh(k) / k), without overflow, and with its limit at zero.
        small = k < 1e-2
        safe = torch.where(small, torch.ones_like(k), k)
        large = safe + torch.log(-torch.expm1(-2 * safe)) - (2 * safe).log()
        log_sinhc = torch.where(small, self.concentration.square().sum(-1) / 6, large)
        return (self.concentration * value).sum(-1) - math.log(4 * math.pi) - log_sinhc


class ProjectedNormal(Methods, td.Distribution):
    r"""The direction of a Normal vector with unit covariance.

    Args:
        concentration: `[*batch, d]`, the mean of the vector. Densities exist for `d` of 2 and 3.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.ProjectedNormal(torch.tensor([1.0, 0.0]))
        >>> round(d.sample().norm().item(), 4)
        1.0
    """

    arg_constraints: dict[str, constraints.Constraint] = {"concentration": constraints.real_vector}
    support = sphere
    has_rsample = True

    def __init__(self, concentration: Tensor, *, validate_args: bool | None = None) -> None:
        self.concentration = concentration
        shape = concentration.shape
        self._begin(shape[:-1], shape[-1:], validate_args)

    @property
    def mean(self) -> Tensor:
        """The mean direction, a vector of length one, `[*batch, d]`."""
        return self.mode

    @property
    def mode(self) -> Tensor:
        result: Tensor = self.concentration / self.concentration.norm(dim=-1, keepdim=True)
        return result

    def expand(self, batch_shape: Shape, _instance: td.Distribution | None = None) -> Self:
        return self._as_told(type(self)(self.concentration.expand(torch.Size(batch_shape) + self.event_shape)))

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.concentration.dtype, device=self.concentration.device)
        vector = self.concentration + noise
        result: Tensor = vector / vector.norm(dim=-1, keepdim=True)
        return result

    def log_prob(self, value: Tensor) -> Tensor:
        r"""With :math:`t = c \cdot z`, the density is :math:`(2\pi)^{-d/2} e^{-|c|^2/2} \int_0^\infty r^{d-1}
        e^{-r^2/2 + rt} dr`.
        """
        d = self.event_shape[0]
        t = (self.concentration * value).sum(-1)
        rest = -self.concentration.square().sum(-1) / 2 - d / 2 * math.log(2 * math.pi)
        # The integral without its factor exp(t^2/2) sqrt(2 pi), in terms of Phi(t) and phi(t).
        peak = t.square() / 2 + 0.5 * math.log(2 * math.pi)
        log_cdf = torch.special.log_ndtr(t)
        ratio = (-t.square() / 2 - 0.5 * math.log(2 * math.pi) - log_cdf).exp()  # phi / Phi
        if d == 2:
            moment = ratio + t
        elif d == 3:
            moment = t.square() + 1 + t * ratio
        else:
            raise NotImplementedError(f"ProjectedNormal has a density in 2 and 3 dimensions, not in {d}")
        log_prob: Tensor = rest + peak + log_cdf + torch.log(moment.clamp(min=torch.finfo(t.dtype).tiny))
        return log_prob
