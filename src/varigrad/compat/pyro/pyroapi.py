"""`pyro_backend` and Pyro's API names, for programs that choose their backend by name; every name means varigrad."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch as ops  # noqa: F401

from varigrad.compat import pyro as pyro
from varigrad.compat.pyro import distributions as distributions
from varigrad.compat.pyro import infer as infer
from varigrad.compat.pyro import optim as optim
from varigrad.errors import VarigradError

_BACKENDS = ("pyro", "minipyro")


@contextmanager
def pyro_backend(*aliases: str, **modules: object) -> Iterator[None]:
    """A `with` block that uses the backend `"pyro"` or `"minipyro"`, both of which are this package.

    Raises:
        VarigradError: (a `ValueError`) another backend is named.
    """
    unknown = [name for name in aliases if name not in _BACKENDS]
    if unknown or modules:
        raise VarigradError(
            f"there is no backend {unknown[0] if unknown else modules!r}",
            because="programs run on varigrad, under the names of pyro and minipyro",
            try_='pyro_backend("pyro")',
        )
    yield
