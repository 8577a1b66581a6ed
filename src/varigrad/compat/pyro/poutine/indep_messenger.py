"""`CondIndepStackFrame`: a plate as a frame around a site."""

from varigrad.compat.pyro.poutine.messages import CondIndepStackFrame as CondIndepStackFrame
