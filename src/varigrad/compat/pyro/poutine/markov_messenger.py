"""`MarkovMessenger`, another name of `pyro.markov`: marks variables that depend on the last few steps only."""

from varigrad.compat.pyro.plates import Markov as MarkovMessenger

__all__ = ["MarkovMessenger"]
