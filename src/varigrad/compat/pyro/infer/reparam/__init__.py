"""Pyro's reparametrisers, which draw a site by auxiliary sites."""

from varigrad.compat.pyro.infer.reparam.loc_scale import LocScaleReparam as LocScaleReparam
from varigrad.compat.pyro.infer.reparam.reparam import Reparam as Reparam
from varigrad.compat.pyro.infer.reparam.transform import TransformReparam as TransformReparam
