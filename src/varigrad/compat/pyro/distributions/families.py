"""Families that Pyro adds to torch, and that varigrad has with the same names and arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from varigrad import distributions as native
from varigrad.compat.pyro.distributions.torch import family

NAMES = (
    "AffineBeta", "AsymmetricLaplace", "DiscreteHMM", "Empirical", "FoldedDistribution", "GammaGaussianHMM",
    "GaussianHMM", "ImproperUniform", "IndependentHMM", "LinearHMM", "Logistic",
    "LogNormalNegativeBinomial", "MultivariateStudentT", "NanMaskedMultivariateNormal", "NanMaskedNormal",
    "OrderedLogistic", "ProjectedNormal", "RelaxedBernoulliStraightThrough", "RelaxedOneHotCategoricalStraightThrough",
    "SkewLogistic", "SoftAsymmetricLaplace", "SoftLaplace", "TruncatedPolyaGamma", "VonMises3D",
)  # fmt: skip
globals().update({name: family(getattr(native, name), __name__) for name in NAMES})

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
