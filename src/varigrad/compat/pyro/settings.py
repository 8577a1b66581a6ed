"""Pyro's settings by name: `get`, `set`, `context`, `register`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from varigrad._torch_internals import validates_arguments
from varigrad.errors import VarigradError, did_you_mean


@dataclass
class _Values:
    """The settings of the process that are not variables of a module."""

    validate_distributions_pyro: bool = True
    validate_poutine: bool = True
    validate_infer: bool = True
    module_local_params: bool = False
    cholesky_relative_jitter: float = 4.0
    binomial_approx_sample_thresh: float = float("inf")
    binomial_approx_log_prob_tol: float = 0.0


_VALUES = _Values()
Validator = Callable[[Any], None]
"""Raises if the value of a setting is wrong."""
_REGISTERED: dict[str, tuple[str, str, Validator | None]] = {}
_TORCH = "validate_distributions_torch"


def get(alias: str | None = None) -> Any:
    """The value of one setting, or a dictionary of all."""
    if alias is None:
        return {name: get(name) for name in sorted(_names())}
    _check(alias)
    if alias == _TORCH:
        return validates_arguments(torch.distributions.Distribution)
    if alias in _REGISTERED:
        module, path, _ = _REGISTERED[alias]
        value: Any = import_module(module)
        for part in path.split("."):
            value = getattr(value, part)
        return value
    return getattr(_VALUES, alias)


def set(**kwargs: object) -> None:
    """Change settings by their names."""
    for alias, value in kwargs.items():
        _check(alias)
        if alias == _TORCH:
            torch.distributions.Distribution.set_default_validate_args(bool(value))
        elif alias in _REGISTERED:
            module, path, validator = _REGISTERED[alias]
            if validator is not None:
                validator(value)
            *owners, last = path.split(".")
            owner: Any = import_module(module)
            for part in owners:
                owner = getattr(owner, part)
            setattr(owner, last, value)
        else:
            setattr(_VALUES, alias, value)


@contextmanager
def context(**kwargs: object) -> Iterator[None]:
    """Change settings inside a `with` block, or a decorated function."""
    before = {alias: get(alias) for alias in kwargs}
    try:
        set(**kwargs)
        yield
    finally:
        set(**before)


def register(
    alias: str, modulename: str, deepname: str, validator: Validator | None = None
) -> Callable[[Validator], Validator] | None:
    """Make a variable of a module a setting: `register("x", __name__, "X")`.

    Args:
        deepname: the variable, with dots for attributes of attributes.
        validator: raises if a value is wrong; left out, a decorator for it is returned.
    """
    _REGISTERED[alias] = (modulename, deepname, validator)
    if validator is not None:
        return None

    def decorator(function: Validator) -> Validator:
        _REGISTERED[alias] = (modulename, deepname, function)
        return function

    return decorator


def _names() -> list[str]:
    return [*vars(_VALUES), _TORCH, *_REGISTERED]


def _check(alias: str) -> None:
    if alias not in _names():
        raise VarigradError(f"there is no setting {alias!r}{did_you_mean(alias, _names())}")
