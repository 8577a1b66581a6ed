"""Helpers that Pyro programs import from `pyro.ops`."""

from varigrad.compat.pyro.ops import indexing as indexing
from varigrad.compat.pyro.ops import provenance as provenance
