"""The minibatch of a plate in messages, under Pyro's module name."""

from varigrad.compat.pyro.poutine.messages import _Subsample as _Subsample
