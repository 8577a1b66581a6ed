"""Automatic guides: modules that build a guide from a model."""

from varigrad.guides.base import AutoGuide as AutoGuide
from varigrad.guides.delta import AutoDelta as AutoDelta
from varigrad.guides.guide_list import AutoGuideList as AutoGuideList
from varigrad.guides.init_strategies import init_to_feasible as init_to_feasible
from varigrad.guides.init_strategies import init_to_generated as init_to_generated
from varigrad.guides.init_strategies import init_to_mean as init_to_mean
from varigrad.guides.init_strategies import init_to_median as init_to_median
from varigrad.guides.init_strategies import init_to_sample as init_to_sample
from varigrad.guides.init_strategies import init_to_uniform as init_to_uniform
from varigrad.guides.init_strategies import init_to_value as init_to_value
from varigrad.guides.joint import AutoDiagonalNormal as AutoDiagonalNormal
from varigrad.guides.joint import AutoLowRankMultivariateNormal as AutoLowRankMultivariateNormal
from varigrad.guides.joint import AutoMultivariateNormal as AutoMultivariateNormal
from varigrad.guides.mean_field import AutoNormal as AutoNormal
