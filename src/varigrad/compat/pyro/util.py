"""Helpers of `pyro.util`: seeds, and checks of numbers."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from timeit import default_timer
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from varigrad.distributions.rng import global_state, set_global_state

X = TypeVar("X", Tensor, float)
Y = TypeVar("Y")


class ExperimentalWarning(UserWarning):
    """A feature may change without notice."""


def set_rng_seed(rng_seed: int) -> None:
    """Seed torch's, Python's and numpy's generators."""
    torch.manual_seed(rng_seed)
    random.seed(rng_seed)
    np.random.seed(rng_seed)


def get_rng_state() -> dict[str, Any]:
    """The states of torch's, Python's and numpy's generators."""
    return {"torch": global_state(), "random": random.getstate(), "numpy": np.random.get_state()}


def set_rng_state(state: dict[str, Any]) -> None:
    """Go back to what `get_rng_state` returned."""
    set_global_state(state["torch"])
    random.setstate(state["random"])
    np.random.set_state(state["numpy"])


def torch_isnan(x: Tensor | float) -> Tensor | bool:
    """Whether any entry is NaN."""
    return torch.isnan(x).any() if isinstance(x, Tensor) else math.isnan(x)


def torch_isinf(x: Tensor | float) -> Tensor | bool:
    """Where entries are infinite."""
    return x.isinf() if isinstance(x, Tensor) else math.isinf(x)


def torch_float(x: Tensor | float) -> Tensor | float:
    """A floating-point tensor or number."""
    return x.float() if isinstance(x, Tensor) else float(x)


def warn_if_nan(value: X, msg: str = "", *, filename: str | None = None, lineno: int | None = None) -> X:
    """Warn of NaN; the value is handed back, and a tensor is watched in the backward pass as well."""
    if isinstance(value, Tensor) and value.requires_grad:
        value.register_hook(lambda grad: warn_if_nan(grad, msg))
    if bool(torch_isnan(value)):
        warnings.warn(f"Encountered NaN{': ' if msg else ''}{msg}", stacklevel=2)
    return value


def warn_if_inf(
    value: X,
    msg: str = "",
    allow_posinf: bool = False,
    allow_neginf: bool = False,
    *,
    filename: str | None = None,
    lineno: int | None = None,
) -> X:
    """Warn of infinite values; the value is handed back."""
    numbers = value if isinstance(value, Tensor) else torch.as_tensor(value)
    for sign, allowed, word in ((math.inf, allow_posinf, "+inf"), (-math.inf, allow_neginf, "-inf")):
        if not allowed and bool((numbers == sign).any()):
            warnings.warn(f"Encountered {word}{': ' if msg else ''}{msg}", stacklevel=2)
    return value


@contextmanager
def optional(context_manager: AbstractContextManager[Y], condition: bool) -> Iterator[Y | None]:
    """A context manager that is entered only if `condition` holds."""
    if not condition:
        yield None
        return
    with context_manager as entered:
        yield entered


@contextmanager
def ignore_jit_warnings(filter: object = None) -> Iterator[None]:
    """A `with` block in which torch's tracer does not warn."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined] # torch does not say that it exports it
        yield


@contextmanager
def ignore_experimental_warning() -> Iterator[None]:
    """A `with` block in which nothing is said about what is experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=ExperimentalWarning)
        yield


def jit_iter(tensor: Tensor) -> list[Tensor]:
    """The entries of a tensor along its first dimension."""
    return list(tensor)


class timed:  # noqa: N801 - Pyro's name
    """A `with` block that measures its time in seconds: `elapsed`."""

    def __enter__(self) -> timed:
        self.start: float = default_timer()
        return self

    def __exit__(self, *error: object) -> None:
        self.end: float = default_timer()

    @property
    def elapsed(self) -> float:
        """Seconds since the start, or between start and end."""
        return getattr(self, "end", None) or default_timer() - self.start
