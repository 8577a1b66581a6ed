"""Messages: frozen records that primitives send to the handlers around them, as one closed union of types.

Records that every run makes by the dozen fill their dictionary at once: the `__init__` that `dataclass` writes for a
frozen record stores field by field, at several times the cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn
from torch import distributions as td
from torch.distributions import constraints


@dataclass(frozen=True, eq=False, init=False)
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

    def __init__(
        self,
        name: str,
        size: int | None,
        dim: int | None,
        subsample: Tensor | None = None,
        index: int | None = None,
    ) -> None:
        self.__dict__.update(name=name, size=size, dim=dim, subsample=subsample, index=index)

    @property
    def batch(self) -> int | None:
        """The number of elements in use."""
        return self.size if self.subsample is None else len(self.subsample)


class SiteEstimator(Protocol):
    """Type of the object that a program may attach to a site: a `varigrad.estimators.Estimator`.

    The language carries an estimator from the program to the objective and asks nothing of it. Estimators are made of
    plates, so they import this module, and this module cannot import them: it says what an estimator looks like.
    """

    def refusal(self, distribution: td.Distribution) -> tuple[str, str] | None:
        """Why it cannot serve a site with this distribution, and what to try instead; None if it can."""

    def alternatives(self, distribution: td.Distribution) -> int:
        """How many further values it wants the cost at."""


@dataclass(frozen=True, eq=False, init=False)
class Sample:
    """A random choice, observed or latent.

    Attributes:
        estimator: how the gradient through the choice is estimated; None: the objective chooses.
        notes: annotations of the site for the program's handlers; the engine does not read it.
        auxiliary: a choice of the guide that the model does not have; others are made of it.
    """

    name: str
    distribution: td.Distribution
    value: Tensor | None
    observed: bool
    plates: tuple[Plate, ...] = ()
    mask: Tensor | None = None
    scale: Tensor | float = 1.0
    estimator: SiteEstimator | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    auxiliary: bool = False

    def __init__(
        self,
        name: str,
        distribution: td.Distribution,
        value: Tensor | None,
        observed: bool,
        plates: tuple[Plate, ...] = (),
        mask: Tensor | None = None,
        scale: Tensor | float = 1.0,
        estimator: SiteEstimator | None = None,
        notes: Mapping[str, Any] | None = None,
        auxiliary: bool = False,
    ) -> None:
        self.__dict__.update(
            name=name,
            distribution=distribution,
            value=value,
            observed=observed,
            plates=plates,
            mask=mask,
            scale=scale,
            estimator=estimator,
            notes={} if notes is None else notes,
            auxiliary=auxiliary,
        )


@dataclass(frozen=True, eq=False)
class Factor:
    """A summand of the log-density that is no random choice."""

    name: str
    log_factor: Tensor
    plates: tuple[Plate, ...] = ()
    mask: Tensor | None = None
    scale: Tensor | float = 1.0


@dataclass(frozen=True, eq=False, init=False)
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

    def __init__(
        self,
        name: str,
        init: Tensor | float | Callable[[], Tensor] | None,
        constraint: constraints.Constraint,
        event_dim: int | None,
        value: Tensor | None = None,
        fallback: Callable[[Param], Tensor] | None = None,
    ) -> None:
        self.__dict__.update(
            name=name, init=init, constraint=constraint, event_dim=event_dim, value=value, fallback=fallback
        )


@dataclass(frozen=True, eq=False)
class Module:
    """An `nn.Module` whose parameters are trained."""

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
    """A request for the minibatch that a plate has drawn earlier in this run; None if it has drawn none."""

    name: str
    value: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Subsample:
    """Data to be cut down to the indices that the enclosing plates use."""

    value: Tensor
    event_dim: int


@dataclass(frozen=True, eq=False)
class Chain:
    """A chain of rounds that is about to begin; a handler may answer with a way to run several rounds at once.

    Attributes:
        name: of its plates.
        length: the number of rounds.
        dim: the batch dimension of the rounds, negative.
        at_once: runs all rounds, given the step, the first carry and the rows; None: one round after the other.
        most: how many rounds to run one after the other; None: all of them.
    """

    name: str
    length: int
    dim: int
    at_once: Callable[[Callable[[object, object], object], object, object], None] | None = None
    most: int | None = None


@dataclass(frozen=True, eq=False)
class Extension:
    """A message of a language on top of this one (Pyro's effects): it goes through all handlers, and only that
    language's own handlers look into it.
    """

    def act(self) -> None:
        """Do what the message means when no handler has done it."""


R = TypeVar("R")


def evolve(record: R, **changes: Any) -> R:
    """A copy of a frozen record with some fields changed: `dataclasses.replace`, at a fifth of its cost."""
    twin = object.__new__(type(record))
    twin.__dict__.update(record.__dict__, **changes)
    return twin


Message = Sample | Factor | Param | Module | Record | Indices | InUse | Subsample | Chain | Extension
"""What goes through handlers. The union is closed: who takes it apart ends in `assert_never`."""

Named = Sample | Factor | Param | Module | Record | Indices
"""The messages that a trace keeps, by name."""

Forward = Callable[[Message], Message]
"""Sends a message on to the handlers further out; returns its answer, a message of the same kind."""

Handler = Callable[[Message, Forward], Message]
Program = Callable[..., Any]
Names = Iterable[str]
