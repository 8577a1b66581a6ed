"""Pyro's distributions: varigrad's families with Pyro's methods and argument names."""

from typing import TYPE_CHECKING, Any

from torch.distributions import ExponentialFamily as ExponentialFamily
from torch.distributions import kl_divergence as kl_divergence
from torch.distributions import register_kl as register_kl

from varigrad.compat.pyro.distributions import constraints as constraints
from varigrad.compat.pyro.distributions import families as _families
from varigrad.compat.pyro.distributions import kl as kl
from varigrad.compat.pyro.distributions import torch as _torch
from varigrad.compat.pyro.distributions import transforms as transforms
from varigrad.compat.pyro.distributions import util as util
from varigrad.compat.pyro.distributions.conjugate import BetaBinomial as BetaBinomial
from varigrad.compat.pyro.distributions.conjugate import DirichletMultinomial as DirichletMultinomial
from varigrad.compat.pyro.distributions.conjugate import GammaPoisson as GammaPoisson
from varigrad.compat.pyro.distributions.delta import Delta as Delta
from varigrad.compat.pyro.distributions.distribution import Distribution as Distribution
from varigrad.compat.pyro.distributions.lkj import LKJ as LKJ
from varigrad.compat.pyro.distributions.lkj import LKJCorrCholesky as LKJCorrCholesky
from varigrad.compat.pyro.distributions.mixture import GaussianScaleMixture as GaussianScaleMixture
from varigrad.compat.pyro.distributions.mixture import MaskedMixture as MaskedMixture
from varigrad.compat.pyro.distributions.mixture import MixtureOfDiagNormals as MixtureOfDiagNormals
from varigrad.compat.pyro.distributions.mixture import (
    MixtureOfDiagNormalsSharedCovariance as MixtureOfDiagNormalsSharedCovariance,
)
from varigrad.compat.pyro.distributions.rejector import Rejector as Rejector
from varigrad.compat.pyro.distributions.score_parts import ScoreParts as ScoreParts
from varigrad.compat.pyro.distributions.torch_distribution import ExpandedDistribution as ExpandedDistribution
from varigrad.compat.pyro.distributions.torch_distribution import Independent as Independent
from varigrad.compat.pyro.distributions.torch_distribution import MaskedDistribution as MaskedDistribution
from varigrad.compat.pyro.distributions.torch_distribution import TorchDistribution as TorchDistribution
from varigrad.compat.pyro.distributions.torch_distribution import TorchDistributionMixin as TorchDistributionMixin
from varigrad.compat.pyro.distributions.torch_transform import ComposeTransformModule as ComposeTransformModule
from varigrad.compat.pyro.distributions.torch_transform import TransformModule as TransformModule
from varigrad.compat.pyro.distributions.unit import Unit as Unit
from varigrad.compat.pyro.distributions.util import enable_validation as enable_validation
from varigrad.compat.pyro.distributions.util import is_validation_enabled as is_validation_enabled
from varigrad.compat.pyro.distributions.util import validation_enabled as validation_enabled
from varigrad.compat.pyro.distributions.zero_inflated import ZeroInflatedDistribution as ZeroInflatedDistribution
from varigrad.compat.pyro.distributions.zero_inflated import (
    ZeroInflatedNegativeBinomial as ZeroInflatedNegativeBinomial,
)
from varigrad.compat.pyro.distributions.zero_inflated import ZeroInflatedPoisson as ZeroInflatedPoisson

globals().update(_torch.FAMILIES)
globals().update({name: getattr(_families, name) for name in _families.NAMES})

# A star import brings families and their helpers, not what this file itself uses.
__all__ = sorted(
    name for name in globals() if not name.startswith("_") and name not in ("torch", "Any", "TYPE_CHECKING")
)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
