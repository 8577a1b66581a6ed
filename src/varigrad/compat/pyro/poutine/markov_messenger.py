"""Marks for an enumeration over the model's variables; see `pyro.markov`."""

from varigrad.compat.pyro.plates import Markov as MarkovMessenger

__all__ = ["MarkovMessenger"]
