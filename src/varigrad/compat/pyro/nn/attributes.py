"""Declarations of a `PyroModule`'s attributes (`PyroParam`, `PyroSample`), and the call in which each is read once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints


class OnFirstUse:
    """Description of an attribute in a class body, which the instance gets when it is first read."""

    name: str

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        if self.name not in instance._pyro_params and self.name not in instance._pyro_samples:
            setattr(instance, self.name, self._for(instance))
        return instance.__getattr__(self.name)

    def _for(self, instance: Any) -> OnFirstUse:
        raise NotImplementedError


@dataclass(frozen=True)
class PyroParam(OnFirstUse):
    """Assigned to an attribute of a `PyroModule`, or around a method of one, declares a parameter.

    Args:
        init_value: its first value, or a function that makes it.
        constraint: where it lives; the module keeps it unconstrained, as `<name>_unconstrained`.
        event_dim: number of rightmost dimensions that are no plates.
    """

    init_value: Tensor | float | Callable[..., Tensor] | None = None
    constraint: constraints.Constraint = constraints.real
    event_dim: int | None = None

    def __set_name__(self, owner: type, name: str) -> None:
        object.__setattr__(self, "name", name)

    def __call__(self, init_value: Callable[[Any], Tensor]) -> PyroParam:
        """As a decorator with arguments."""
        return PyroParam(init_value, self.constraint, self.event_dim)

    def _for(self, instance: Any) -> PyroParam:
        method: Any = self.init_value  # in a class body, it is a method
        return PyroParam(functools.partial(method, instance), self.constraint, self.event_dim)


@dataclass(frozen=True)
class PyroSample(OnFirstUse):
    """Assigned to an attribute of a `PyroModule`, or around a method of one, declares a random choice.

    Args:
        prior: its distribution; or a function of the module that returns the distribution, or a value computed from
            other attributes.
    """

    prior: td.Distribution | Callable[[Any], td.Distribution | Tensor]

    def __set_name__(self, owner: type, name: str) -> None:
        object.__setattr__(self, "name", name)

    def _for(self, instance: Any) -> PyroSample:
        return self


class Context:
    """The call in progress in a tree of modules, and the attributes that it has read."""

    def __init__(self) -> None:
        self.depth: int = 0
        self.cache: dict[str, Any] = {}

    @property
    def active(self) -> bool:
        return self.depth > 0

    def __enter__(self) -> None:
        if not self.depth:
            self.cache.clear()
        self.depth += 1

    def __exit__(self, *error: object) -> None:
        self.depth -= 1
        if not self.depth:
            self.cache.clear()
