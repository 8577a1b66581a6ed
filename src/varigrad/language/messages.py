"""Messages: what a primitive says to the handlers around it. A closed union of frozen records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor, nn
from torch import distributions as td
from torch.distributions import constraints


@dataclass(frozen=True, eq=False)
class Plate:
    """A dimension declared independent.

    Attributes:
        name: unique among the plates of a program.
        size: the full size; None where the sites decide.
        dim: the negative batch dimension it occupies; None for a sequential plate.
        subsample: the indices in use, `[batch]`, or None for all of them.
        index: the current index of a sequential plate.
    """

    name: str
    size: int | None
    dim: int | None
    subsample: Tensor | None = None
    index: int | None = None

    @property
    def batch(self) -> int | None:
        """How many elements are in use."""
        return self.size if self.subsample is None else len(self.subsample)


@dataclass(frozen=True, eq=False)
class Sample:
    """A random choice, observed or latent.

    Attributes:
        notes: what a program says about the site to handlers of its own; the engine does not read it.
        auxiliary: a choice of the guide that the model does not have; others are made of it.
    """

    name: str
    distribution: td.Distribution
    value: Tensor | None
    observed: bool
    plates: tuple[Plate, ...] = ()
    mask: Tensor | None = None
    scale: Tensor | float = 1.0
    estimator: Any = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    auxiliary: bool = False


@dataclass(frozen=True, eq=False)
class Factor:
    """A log-density summand that is not a random choice."""

    name: str
    log_factor: Tensor
    plates: tuple[Plate, ...] = ()
    mask: Tensor | None = None
    scale: Tensor | float = 1.0


@dataclass(frozen=True, eq=False)
class Param:
    """A learnable tensor; `value` is constrained.

    Attributes:
        fallback: its value where no handler gives one; default: the initial value.
    """

    name: str
    init: Tensor | float | Callable[[], Tensor] | None
    constraint: constraints.Constraint
    event_dim: int | None
    value: Tensor | None = None
    fallback: Callable[[Param], Tensor] | None = None


@dataclass(frozen=True, eq=False)
class Module:
    """An `nn.Module` whose parameters are to be learnt."""

    name: str
    value: nn.Module


@dataclass(frozen=True, eq=False)
class Record:
    """A named value that is computed, not drawn.

    Attributes:
        event_dim: number of rightmost dimensions that are no plates, if the program says.
    """

    name: str
    value: Tensor
    plates: tuple[Plate, ...] = ()
    event_dim: int | None = None


@dataclass(frozen=True, eq=False)
class Indices:
    """The minibatch of a plate: `batch` indices below `size`."""

    name: str
    size: int
    batch: int
    value: Tensor | None = None


@dataclass(frozen=True, eq=False)
class InUse:
    """Asks for the minibatch of a plate that this run has drawn already; None if it has not."""

    name: str
    value: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Subsample:
    """Data to be cut down to the indices that the enclosing plates use."""

    value: Tensor
    event_dim: int


R = TypeVar("R")


def evolve(record: R, **changes: Any) -> R:
    """A copy of a frozen record with some fields changed: `dataclasses.replace`, at a fifth of its cost."""
    twin = object.__new__(type(record))
    twin.__dict__.update(record.__dict__, **changes)
    return twin


Message = Sample | Factor | Param | Module | Record | Indices | InUse | Subsample
Forward = Callable[[Any], Any]
Handler = Callable[[Any, Forward], Any]
Program = Callable[..., Any]
Names = Iterable[str]
