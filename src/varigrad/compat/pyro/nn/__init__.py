"""Pyro's modules (`PyroModule`, ...) and networks."""

from varigrad.compat.pyro.nn.auto_reg_nn import AutoRegressiveNN as AutoRegressiveNN
from varigrad.compat.pyro.nn.auto_reg_nn import ConditionalAutoRegressiveNN as ConditionalAutoRegressiveNN
from varigrad.compat.pyro.nn.auto_reg_nn import MaskedLinear as MaskedLinear
from varigrad.compat.pyro.nn.dense_nn import ConditionalDenseNN as ConditionalDenseNN
from varigrad.compat.pyro.nn.dense_nn import DenseNN as DenseNN
from varigrad.compat.pyro.nn.module import PyroModule as PyroModule
from varigrad.compat.pyro.nn.module import PyroModuleList as PyroModuleList
from varigrad.compat.pyro.nn.module import PyroParam as PyroParam
from varigrad.compat.pyro.nn.module import PyroSample as PyroSample
from varigrad.compat.pyro.nn.module import pyro_method as pyro_method
