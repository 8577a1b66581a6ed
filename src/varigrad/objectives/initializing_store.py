"""`InitializingStore`: the parameters of a first look, which stay, while all else that the look does is undone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext

from torch import Tensor, nn

from varigrad.language.messages import Module, Param
from varigrad.objectives.parameters import ParameterStore
from varigrad.objectives.without_side_effects import PreservedState


class InitializingStore:
    """A store for the first run: its new parameters stay, and their initialisation still counts as drawn."""

    def __init__(self, owner: ParameterStore, kept: PreservedState) -> None:
        self.owner = owner
        self.kept = kept
        self.adopt: Callable[[Module], None] = owner.adopt
        self.adopt_baseline: Callable[[str, str, nn.Module], None] = owner.adopt_baseline
        self.check_names: Callable[[Iterable[str]], None] = owner.check_names
        self.named_parameters: Callable[[], Iterable[tuple[str, Tensor]]] = owner.named_parameters
        self.constrained_leaves: Callable[[], dict[str, Tensor]] = owner.constrained_leaves
        self.version: int = owner.version

    def constrained(self, message: Param, cache: dict[str, Tensor]) -> Tensor:
        """The owner's value; initial values are drawn as if no look were taken."""
        with self.kept.lasting() if callable(message.init) else nullcontext():
            return self.owner.constrained(message, cache)
