"""Pyro compatibility: programs written for Pyro run unchanged, with correct gradients.

Three ways in: `python -m varigrad.compat.pyro script.py [arguments]`; `varigrad.compat.pyro.install()`, after which
`import pyro` means this package; and `import varigrad.compat.pyro as pyro`.
"""

from varigrad.compat.pyro import distributions as distributions
from varigrad.compat.pyro import infer as infer
from varigrad.compat.pyro import nn as nn
from varigrad.compat.pyro import ops as ops
from varigrad.compat.pyro import optim as optim
from varigrad.compat.pyro import params as params
from varigrad.compat.pyro import poutine as poutine
from varigrad.compat.pyro import primitives as primitives
from varigrad.compat.pyro import settings as settings
from varigrad.compat.pyro import util as util
from varigrad.compat.pyro.absent import fill
from varigrad.compat.pyro.infer.inspect import render_model as render_model
from varigrad.compat.pyro.install import install as install
from varigrad.compat.pyro.install import uninstall as uninstall
from varigrad.compat.pyro.logger import log as log
from varigrad.compat.pyro.poutine.handlers import condition as condition
from varigrad.compat.pyro.poutine.handlers import do as do
from varigrad.compat.pyro.primitives import barrier as barrier
from varigrad.compat.pyro.primitives import clear_param_store as clear_param_store
from varigrad.compat.pyro.primitives import deterministic as deterministic
from varigrad.compat.pyro.primitives import enable_validation as enable_validation
from varigrad.compat.pyro.primitives import factor as factor
from varigrad.compat.pyro.primitives import get_param_store as get_param_store
from varigrad.compat.pyro.primitives import iarange as iarange
from varigrad.compat.pyro.primitives import irange as irange
from varigrad.compat.pyro.primitives import markov as markov
from varigrad.compat.pyro.primitives import module as module
from varigrad.compat.pyro.primitives import param as param
from varigrad.compat.pyro.primitives import plate as plate
from varigrad.compat.pyro.primitives import plate_stack as plate_stack
from varigrad.compat.pyro.primitives import random_module as random_module
from varigrad.compat.pyro.primitives import sample as sample
from varigrad.compat.pyro.primitives import subsample as subsample
from varigrad.compat.pyro.primitives import validation_enabled as validation_enabled
from varigrad.compat.pyro.util import set_rng_seed as set_rng_seed

__version__ = "1.9.0"
__backend__ = "varigrad"

fill()
