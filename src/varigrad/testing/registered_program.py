"""`Case`: one program of the registry; with helpers to register it and to write it in double precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributions import constraints

from varigrad import distributions as dist
from varigrad.language.messages import Program
from varigrad.language.primitives import param

P = TypeVar("P", bound=type)

Closed = Callable[[dict[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Case:
    """One program of the registry.

    Attributes:
        model, guide: the programs; the sites under test are called `z*`.
        family: what its sites under test are drawn from.
        exact: its bound as a function of the constrained parameters; None: enumerate.
        args: what both are called with.
        broadcasts: whether it may be run with leading dimensions.
        heavy: whether estimators with several alternatives have too many outcomes to enumerate.

    Example:
        >>> from varigrad import testing
        >>> case = testing.PROGRAMS["bernoulli"]
        >>> case.family, case.broadcasts
        ('Bernoulli', True)
    """

    model: Program
    guide: Program
    family: str
    exact: Closed | None = None
    args: tuple[Any, ...] = ()
    broadcasts: bool = True
    heavy: bool = False


def adding(to: dict[str, Case]) -> Callable[..., Callable[[P], P]]:
    """A decorator that registers a class with a `model`, a `guide` and perhaps an `exact`, by name and family."""

    def add(name: str, family: str, **options: Any) -> Callable[[P], P]:
        def register(programs: P) -> P:
            written = vars(programs)
            to[name] = Case(written["model"], written["guide"], family, written.get("exact"), **options)
            return programs

        return register

    return add


def f64(*values: float) -> Tensor:
    """A vector of numbers in double precision."""
    return torch.tensor(values, dtype=torch.float64)


def logits(name: str, *values: float) -> Tensor:
    """Declare a vector of logits to be learnt, in double precision."""
    return param(name, lambda: f64(*values))


def scalar(name: str, value: float, constraint: constraints.Constraint = constraints.real) -> Tensor:
    """Declare a number to be learnt, in double precision.

    Args:
        name: the parameter's name.
        value: where it starts.
        constraint: where it lives.
    """
    return param(name, lambda: torch.tensor(value, dtype=torch.float64), constraint)


def normal(loc: Tensor | float, scale: float = 1.0) -> dist.Normal:
    """A normal distribution around numbers or tensors, in double precision."""
    return dist.Normal(torch.as_tensor(loc, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64))
