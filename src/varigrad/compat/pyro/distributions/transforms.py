"""Pyro's transforms: torch's, and varigrad's."""

from varigrad.distributions.transforms import *  # noqa: F403
