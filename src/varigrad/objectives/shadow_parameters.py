"""Shadow parameters: a read-only view of another owner's parameters, which keeps new parameters separately."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from varigrad.language.messages import Module, Param
from varigrad.objectives.parameters import Parameters, ParameterStore


class ShadowParameters:
    """An owner that reads the parameters of `owner`, and keeps new ones and baselines' networks in `own`."""

    def __init__(self, owner: ParameterStore) -> None:
        self.owner = owner
        self.own: Parameters = Parameters()
        self.version: int = 0  # for optimisers, of which there are none here
        self._names = frozenset(owner.constrained_leaves())

    def constrained(self, message: Param, cache: dict[str, Tensor]) -> Tensor:
        """The owner's value, or one declared aside."""
        owner = self.owner if message.name in self._names else self.own
        return owner.constrained(message, cache)

    def adopt(self, message: Module) -> None:
        """Keep a module aside unless the owner has all its parameters."""
        known = {id(p) for _, p in self.owner.named_parameters()}
        if not all(id(p) in known for p in message.value.parameters()):
            self.own.adopt(message)

    def adopt_baseline(self, site: str, part: str, module: nn.Module) -> None:
        """Keep the network of a baseline aside."""
        self.own.adopt_baseline(site, part, module)

    def check_names(self, sites: Iterable[str]) -> None:
        """Check the names of sites against the owner's parameters, and those kept aside."""
        sites = list(sites)
        self.owner.check_names(sites)
        self.own.check_names(sites)

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """The owner's, without the networks of its own estimators, and those kept aside."""
        yield from ((n, p) for n, p in self.owner.named_parameters() if not n.startswith("baselines."))
        yield from self.own.named_parameters()

    def constrained_leaves(self) -> dict[str, Tensor]:
        """The constrained value of every parameter, by name; differentiable."""
        return {**self.owner.constrained_leaves(), **self.own.constrained_leaves()}


@runtime_checkable
class LendsParameters(Protocol):
    """Interface of owners that make a shadow of their parameters themselves."""

    def aside(self) -> ParameterStore:
        """An owner of the same parameters; what comes into being there is forgotten."""


def shadow_of(owner: ParameterStore) -> ParameterStore:
    """An owner for runs that leave nothing behind: it reads the parameters of `owner` and keeps new ones to itself."""
    return owner.aside() if isinstance(owner, LendsParameters) else ShadowParameters(owner)
