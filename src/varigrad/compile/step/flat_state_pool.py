"""All flat states of a bound's parameters; while a graph runs, one of them holds the current values.

Specialisations whose gradients reach different parameters have different flat states, because the optimiser updates
only the parameters that have a gradient.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from varigrad.compile.step.compiled_step import Host
from varigrad.compile.step.flat_state import FlatState, has_other_holders
from varigrad.compile.step.specialization import Specialization
from varigrad.estimators.base import State
from varigrad.optim.update_rules import rule_of, traits_of


class FlatStatePool:
    """Moves the state into flat tensors for a graph, and back to the tensors that users hold.

    Args:
        host: whose steps are compiled.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self._current: FlatState | None = None
        self._by_parameters: dict[frozenset[int], FlatState] = {}
        self._in_use = False
        self._installed: Mapping[str, State] | None = None

    def has_installed(self, states: Mapping[str, State]) -> bool:
        """Whether the estimators' state is the very one that the current flat state was installed with."""
        return states is self._installed

    def leave(self) -> None:
        """Make everything visible where users look for it: they, or Python's next step, go on from there."""
        if self._in_use and self._current is not None:
            self._current.give()
        self._in_use = False

    def enter(self, own: Specialization, every: Collection[Specialization]) -> FlatState:
        """Bring the state into the flat tensors that a specialisation's graph works in.

        Args:
            own: whose graph takes the next steps.
            every: all specialisations: those whose flat state is given up are traced anew.
        """
        bound, optimizer = self.host.bound, self.host.current_optimizer
        states, valid = bound.estimator_states, self._is_valid()
        current = self._current
        if valid and current is not None and current is own.flat_state and self._in_use and self.has_installed(states):
            displaced = current.displaced()
            if not has_other_holders(displaced):
                current.take_parameters(displaced)
                return current
        del current  # or its tensors would count as held by others below
        self.leave()
        if not valid:
            self._abandon(every, *self._by_parameters)
        found = self._by_parameters.get(own.reached)
        if found is not None and (not found.fits(states) or has_other_holders(found.displaced())):
            self._abandon(every, own.reached)
            found = None
        if found is None:
            wanted = {s.reached for s in every}
            unused = [name for name in self._by_parameters if name not in wanted]  # a parameter was frozen since
            self._abandon(every, *unused)
            rule = None if optimizer is None else rule_of(optimizer)
            found = self._by_parameters[own.reached] = FlatState(optimizer, rule, own.parameters, states)
        if own.flat_state is not found and own.step is not None:
            own.progress = own.progress.forgotten()
        self._current = own.flat_state = found
        found.take(states)
        bound.advance(found.tree(), steps=0)
        self._installed = bound.estimator_states
        self._in_use = True
        return found

    def _is_valid(self) -> bool:
        """Whether optimiser and parameters are those that the flat states were made for."""
        optimizer, current = self.host.current_optimizer, self._current
        if current is None or current.optimizer is not optimizer:
            return False
        return optimizer is None or current.traits == traits_of(optimizer)

    def _abandon(self, every: Collection[Specialization], *names: frozenset[int]) -> None:
        """Let go of flat states, so that only the parameters hold their memory."""
        for name in names:
            flat_state = self._by_parameters.pop(name)
            for own in every:
                if own.flat_state is flat_state:
                    own.flat_state = None
                    own.progress = own.progress.forgotten()
        self._current = None
