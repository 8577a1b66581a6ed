"""Mixtures of Normals, and `MaskedMixture`, with Pyro's names and arguments."""

from __future__ import annotations

from torch import Tensor

from varigrad import distributions as native
from varigrad.compat.pyro.distributions.torch import family
from varigrad.compat.pyro.distributions.torch_distribution import TorchDistributionMixin

MaskedMixture: type[native.MaskedMixture] = family(native.MaskedMixture, __name__)


class MixtureOfDiagNormals(TorchDistributionMixin, native.MixtureOfNormals):
    """Components `[*batch, k, d]` with separate locations and scales; weights `[*batch, k]` as logits."""

    def __init__(self, locs: Tensor, coord_scale: Tensor, component_logits: Tensor) -> None:
        super().__init__(locs, coord_scale, component_logits)

    @property
    def coord_scale(self) -> Tensor:
        return self.scales


class MixtureOfDiagNormalsSharedCovariance(MixtureOfDiagNormals):
    """Components of one scale, `[*batch, d]`."""

    def __init__(self, locs: Tensor, coord_scale: Tensor, component_logits: Tensor) -> None:
        super().__init__(locs, coord_scale.unsqueeze(-2), component_logits)

    @property
    def coord_scale(self) -> Tensor:
        return self.scales[..., 0, :]


class GaussianScaleMixture(TorchDistributionMixin, native.MixtureOfNormals):
    """Centred components whose scales are `component_scale`, `[k]`, times `coord_scale`, `[d]`."""

    def __init__(self, coord_scale: Tensor, component_logits: Tensor, component_scale: Tensor) -> None:
        scales = component_scale.unsqueeze(-1) * coord_scale.unsqueeze(-2)
        super().__init__(scales.new_zeros(scales.shape), scales, component_logits)
        self.coord_scale = coord_scale
        self.component_scale = component_scale
