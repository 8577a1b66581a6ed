"""One program of the registry, how to register it, and what such programs are written with: all in double precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from varigrad import distributions as dist
from varigrad.language.messages import Program
from varigrad.language.primitives import param

Closed = Callable[[dict[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Case:
    """One program.

    Attributes:
        family: what its sites under test are drawn from.
        exact: its bound as a function of the constrained parameters; None: enumerate.
        broadcasts: whether it may be run with leading dimensions.
        heavy: whether estimators with several alternatives have too many outcomes to enumerate.
    """

    model: Program
    guide: Program
    family: str
    exact: Closed | None = None
    args: tuple[Any, ...] = ()
    broadcasts: bool = True
    heavy: bool = False


def adding(to: dict[str, Case]) -> Callable[..., Callable[[type], type]]:
    """A decorator that registers a class with a `model`, a `guide` and perhaps an `exact`, by name and family."""

    def add(name: str, family: str, **options: Any) -> Callable[[type], type]:
        def register(programs: Any) -> type:
            exact = getattr(programs, "exact", None)
            to[name] = Case(programs.model, programs.guide, family, exact, **options)
            return programs

        return register

    return add


def f64(*values: float) -> Tensor:
    """A vector of numbers."""
    return torch.tensor(values, dtype=torch.float64)


def logits(name: str, *values: float) -> Tensor:
    """A vector to be learnt."""
    return param(name, lambda: f64(*values))


def scalar(name: str, value: float, constraint: Any = constraints.real) -> Tensor:
    """A number to be learnt."""
    return param(name, lambda: torch.tensor(value, dtype=torch.float64), constraint)


def normal(loc: Any, scale: float = 1.0) -> dist.Normal:
    """Around numbers or tensors."""
    return dist.Normal(torch.as_tensor(loc, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64))
