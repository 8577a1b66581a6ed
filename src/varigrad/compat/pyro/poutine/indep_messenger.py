"""Plates as frames around a site."""

from varigrad.compat.pyro.poutine.messages import CondIndepStackFrame as CondIndepStackFrame
