"""Pyro's automatic guides, and the functions for their initial values."""

from varigrad.compat.pyro.infer.autoguide import guides as guides
from varigrad.compat.pyro.infer.autoguide import initialization as initialization
from varigrad.compat.pyro.infer.autoguide import utils as utils
from varigrad.compat.pyro.infer.autoguide.guides import AutoCallable as AutoCallable
from varigrad.compat.pyro.infer.autoguide.guides import AutoContinuous as AutoContinuous
from varigrad.compat.pyro.infer.autoguide.guides import AutoDelta as AutoDelta
from varigrad.compat.pyro.infer.autoguide.guides import AutoDiagonalNormal as AutoDiagonalNormal
from varigrad.compat.pyro.infer.autoguide.guides import AutoDiscreteParallel as AutoDiscreteParallel
from varigrad.compat.pyro.infer.autoguide.guides import AutoGuide as AutoGuide
from varigrad.compat.pyro.infer.autoguide.guides import AutoGuideList as AutoGuideList
from varigrad.compat.pyro.infer.autoguide.guides import AutoIAFNormal as AutoIAFNormal
from varigrad.compat.pyro.infer.autoguide.guides import AutoLaplaceApproximation as AutoLaplaceApproximation
from varigrad.compat.pyro.infer.autoguide.guides import AutoLowRankMultivariateNormal as AutoLowRankMultivariateNormal
from varigrad.compat.pyro.infer.autoguide.guides import AutoMultivariateNormal as AutoMultivariateNormal
from varigrad.compat.pyro.infer.autoguide.guides import AutoNormal as AutoNormal
from varigrad.compat.pyro.infer.autoguide.guides import AutoNormalizingFlow as AutoNormalizingFlow
from varigrad.compat.pyro.infer.autoguide.initialization import init_to_feasible as init_to_feasible
from varigrad.compat.pyro.infer.autoguide.initialization import init_to_generated as init_to_generated
from varigrad.compat.pyro.infer.autoguide.initialization import init_to_mean as init_to_mean
from varigrad.compat.pyro.infer.autoguide.initialization import init_to_median as init_to_median
from varigrad.compat.pyro.infer.autoguide.initialization import init_to_sample as init_to_sample
from varigrad.compat.pyro.infer.autoguide.initialization import init_to_uniform as init_to_uniform
from varigrad.compat.pyro.infer.autoguide.initialization import init_to_value as init_to_value
