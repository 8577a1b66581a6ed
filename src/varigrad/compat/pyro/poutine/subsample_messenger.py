"""Minibatches, as messages show them."""

from varigrad.compat.pyro.poutine.messages import _Subsample as _Subsample
