"""All of Pyro's automatic guides in one module, under Pyro's module name."""

from varigrad.compat.pyro.infer.autoguide.base import AutoGuide as AutoGuide
from varigrad.compat.pyro.infer.autoguide.continuous import AutoContinuous as AutoContinuous
from varigrad.compat.pyro.infer.autoguide.continuous import AutoDiagonalNormal as AutoDiagonalNormal
from varigrad.compat.pyro.infer.autoguide.continuous import AutoIAFNormal as AutoIAFNormal
from varigrad.compat.pyro.infer.autoguide.continuous import AutoLaplaceApproximation as AutoLaplaceApproximation
from varigrad.compat.pyro.infer.autoguide.continuous import (
    AutoLowRankMultivariateNormal as AutoLowRankMultivariateNormal,
)
from varigrad.compat.pyro.infer.autoguide.continuous import AutoMultivariateNormal as AutoMultivariateNormal
from varigrad.compat.pyro.infer.autoguide.continuous import AutoNormalizingFlow as AutoNormalizingFlow
from varigrad.compat.pyro.infer.autoguide.discrete import AutoDiscreteParallel as AutoDiscreteParallel
from varigrad.compat.pyro.infer.autoguide.lists import AutoCallable as AutoCallable
from varigrad.compat.pyro.infer.autoguide.lists import AutoGuideList as AutoGuideList
from varigrad.compat.pyro.infer.autoguide.sitewise import AutoDelta as AutoDelta
from varigrad.compat.pyro.infer.autoguide.sitewise import AutoNormal as AutoNormal
