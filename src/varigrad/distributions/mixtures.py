r"""Mixtures: components chosen by a mask, and mixtures of Normals with pathwise gradients.

A draw of a mixture is no smooth function of its weights. But its coordinates are a function of uniform noise: the
conditional CDF of each given those before, :math:`F_d(z_d | z_{<d}; \phi) = u_d`. Differentiated at constant noise,

.. math:: dz_d = -\frac{\partial_\phi F_d \, d\phi + \partial_{z_{<d}} F_d \, dz_{<d}}{p(z_d | z_{<d})}

which needs no inverse of :math:`F`.

References:
    Figurnov, Mohamed, Mnih (2018), Implicit reparameterization gradients.
    Jankowiak, Karaletsos (2019), Pathwise derivatives for multivariate distributions.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from varigrad.distributions.mixin import Methods, filled
from varigrad.shapes import Shape, join


class MaskedMixture(Methods, td.Distribution):
    """Elements of `component1` where `mask` is True, of `component0` elsewhere.

    Args:
        mask: bool, `[*batch]`.
        component0, component1: of the same event shape.

    Raises:
        ValueError: the mask is not bool, or the event shapes differ.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.MaskedMixture(torch.tensor([True, False]), dist.Normal(0.0, 1.0), dist.Normal(9.0, 1.0))
        >>> d.mean
        tensor([9., 0.])
    """

    arg_constraints: dict[str, constraints.Constraint] = {}

    def __init__(
        self,
        mask: Tensor,
        component0: td.Distribution,
        component1: td.Distribution,
        validate_args: bool | None = None,
    ) -> None:
        if mask.dtype != torch.bool:
            raise ValueError(f"a mask is a bool tensor, got {mask.dtype}")
        if component0.event_shape != component1.event_shape:
            shapes = f"{tuple(component0.event_shape)} and {tuple(component1.event_shape)}"
            raise ValueError(f"components have event shapes {shapes}")
        shape = join(mask.shape, component0.batch_shape, component1.batch_shape)
        self.density_mask: Tensor = mask.expand(shape)
        self.component0: td.Distribution = component0.expand(shape)
        self.component1: td.Distribution = component1.expand(shape)
        td.Distribution.__init__(self, shape, component0.event_shape, validate_args=False)
        self._said(validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]  # torch's families set it, here it is read
        return self.component0.has_rsample and self.component1.has_rsample

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        first, second = self.component0.support, self.component1.support
        assert first is not None and second is not None
        return first if first is second else _Either(self.density_mask, first, second)

    @property
    def mean(self) -> Tensor:
        return self._pick(self.component0.mean, self.component1.mean)

    @property
    def variance(self) -> Tensor:
        return self._pick(self.component0.variance, self.component1.variance)

    def expand(self, batch_shape: Shape, _instance: td.Distribution | None = None) -> Self:
        shape = torch.Size(batch_shape)
        components = self.component0.expand(shape), self.component1.expand(shape)
        return self._as_told(type(self)(self.density_mask.expand(shape), *components))

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        return self._pick(self.component0.sample(sample_shape), self.component1.sample(sample_shape))

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        return self._pick(self.component0.rsample(sample_shape), self.component1.rsample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        mask = self.density_mask
        # A value of one component may be outside the other's support, and NaN times a gradient of zero is NaN.
        first = self.component0.log_prob(filled(self.component0, value, ~mask))
        second = self.component1.log_prob(filled(self.component1, value, mask))
        return torch.where(mask, second, first)

    def _pick(self, first: Tensor, second: Tensor) -> Tensor:
        mask = self.density_mask
        return torch.where(mask.reshape(mask.shape + (1,) * len(self.event_shape)), second, first)


class _Either(constraints.Constraint):
    """A constraint where a mask is True, and another one elsewhere."""

    def __init__(self, mask: Tensor, first: constraints.Constraint, second: constraints.Constraint) -> None:
        self.mask, self.first, self.second = mask, first, second

    is_discrete = property(lambda self: self.first.is_discrete)
    event_dim = property(lambda self: self.first.event_dim)

    def check(self, value: Tensor) -> Tensor:
        return torch.where(self.mask, self.second.check(value), self.first.check(value))


class MixtureOfNormals(Methods, td.Distribution):
    r"""A mixture of `k` Normals with diagonal covariances, in `d` dimensions, with pathwise gradients.

    Args:
        locs: `[*batch, k, d]`.
        scales: `[*batch, k, d]`, positive.
        component_logits: `[*batch, k]`, weights up to a constant.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.MixtureOfNormals(torch.zeros(2, 3), torch.ones(2, 3), torch.zeros(2))
        >>> d.rsample().shape, d.log_prob(torch.zeros(3)).shape
        (torch.Size([3]), torch.Size([]))
    """

    arg_constraints: dict[str, constraints.Constraint] = {
        "locs": constraints.independent(constraints.real, 2),
        "scales": constraints.independent(constraints.positive, 2),
        "component_logits": constraints.real_vector,
    }
    support: constraints.Constraint = constraints.real_vector
    has_rsample = True

    def __init__(
        self, locs: Tensor, scales: Tensor, component_logits: Tensor, validate_args: bool | None = None
    ) -> None:
        batch = join(locs.shape[:-2], scales.shape[:-2], component_logits.shape[:-1])
        k, d = join(locs.shape[-2:], scales.shape[-2:])
        self.locs: Tensor = locs.expand(*batch, k, d)
        self.scales: Tensor = scales.expand(*batch, k, d)
        self.component_logits: Tensor = component_logits.expand(*batch, k)
        self._begin(batch, torch.Size((d,)), validate_args)

    @property
    def mean(self) -> Tensor:
        return (self._weights * self.locs).sum(-2)

    @property
    def variance(self) -> Tensor:
        second = (self._weights * (self.scales.square() + self.locs.square())).sum(-2)
        return second - self.mean.square()

    @property
    def _weights(self) -> Tensor:
        return self.component_logits.softmax(-1).unsqueeze(-1)

    def expand(self, batch_shape: Shape, _instance: td.Distribution | None = None) -> Self:
        shape = torch.Size(batch_shape)
        matrix = shape + self.locs.shape[-2:]
        logits = self.component_logits.expand(shape + self.component_logits.shape[-1:])
        twin: Self = self.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        MixtureOfNormals.__init__(twin, self.locs.expand(matrix), self.scales.expand(matrix), logits)
        return twin

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            which = td.Categorical(logits=self.component_logits, validate_args=False).sample(torch.Size(sample_shape))
            row = which[..., None, None].expand(*shape[:-1], 1, shape[-1])
            wide = [p.expand(*shape[:-1], *p.shape[-2:]) for p in (self.locs, self.scales)]
            loc, scale = (p.gather(-2, row)[..., 0, :] for p in wide)
            return loc + scale * torch.randn(shape, dtype=loc.dtype, device=loc.device)

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        value = self.sample(sample_shape)
        moved = [self.locs, self.scales, self.component_logits]
        if not (torch.is_grad_enabled() and any(p.requires_grad for p in moved)):
            return value
        coordinates: list[Tensor] = []
        log_weights = self.component_logits.log_softmax(-1)
        for d in range(value.shape[-1]):
            loc, scale, at = self.locs[..., d], self.scales[..., d], value[..., d]
            noise = (at.unsqueeze(-1) - loc) / scale
            density = torch.exp(log_weights - noise.square() / 2 - scale.log()).sum(-1) / (2 * torch.pi) ** 0.5
            cdf = (log_weights.exp() * torch.special.ndtr(noise)).sum(-1)
            # The value of z_d, the differential of the equation above.
            z = at - (cdf - cdf.detach()) / density.detach()
            coordinates.append(z)
            # The weights of the components given this coordinate too, differentiable in it.
            noise = (z.unsqueeze(-1) - loc) / scale
            log_weights = (log_weights - noise.square() / 2 - scale.log()).log_softmax(-1)
        return torch.stack(coordinates, -1)

    def log_prob(self, value: Tensor) -> Tensor:
        noise = (value.unsqueeze(-2) - self.locs) / self.scales
        each = -0.5 * noise.square().sum(-1) - self.scales.log().sum(-1)
        constant = -0.5 * self.event_shape[0] * torch.log(torch.tensor(2 * torch.pi, dtype=value.dtype))
        return torch.logsumexp(each + self.component_logits.log_softmax(-1), -1) + constant
