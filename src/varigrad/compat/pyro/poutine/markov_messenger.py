"""`markov`: marks for an enumeration over the model's variables."""

from varigrad.compat.pyro.plates import Markov as MarkovMessenger

__all__ = ["MarkovMessenger"]
