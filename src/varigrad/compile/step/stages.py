"""The stages of a specialisation, from eager steps to a library in force, and the transitions between them.

`TRANSITIONS` lists every transition that exists; docs/compiled-steps.md draws them. A `Progress` is immutable: each of
its methods is one transition and returns the next `Progress`. One that the table does not list, or that contradicts the
stage that it leads to, raises `IllegalTransition`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto

from varigrad.compile.step.compiled_step import CompiledStep

CHECKS = 2
"""How many steps in a row Python checks when a library is new, and how many disagreements end its use."""


class Stage(Enum):
    """The stages of a specialisation: each decides whether Python or a graph takes the next step."""

    WARMING_UP = auto()
    """Python takes the steps: there is no graph, or none any more."""
    TRACED = auto()
    """The graph takes the next step, operation by operation, and Python checks it; the compiler may be at work."""
    COMPILING = auto()
    """Python takes the steps until the library is there."""
    CHECKING = auto()
    """The library takes the next step, and Python checks it."""
    IN_FORCE = auto()
    """The library takes the steps, unchecked until the next check is due."""
    REFUSED = auto()
    """Python takes the steps for good; there is a reason."""


class Event(Enum):
    """The events that move a specialisation from stage to stage."""

    TRACE = auto()
    """The step was traced: there is a graph."""
    LIBRARY = auto()
    """The compiler is done, or the cache has the library."""
    CHECK = auto()
    """Python took the same step as the graph, and the results were compared."""
    STEPS = auto()
    """The graph's steps are on record."""
    FORGET = auto()
    """The graph does not hold any more: something that it took for granted has changed."""
    REFUSE = auto()
    """The step cannot be captured, or not be compiled, or its results are wrong."""
    RESUME = auto()
    """A saved state was loaded."""


TRANSITIONS: Mapping[tuple[Stage, Event], frozenset[Stage]] = {
    (Stage.WARMING_UP, Event.TRACE): frozenset({Stage.TRACED, Stage.COMPILING}),
    (Stage.TRACED, Event.CHECK): frozenset({Stage.TRACED}),
    (Stage.TRACED, Event.STEPS): frozenset({Stage.COMPILING}),
    (Stage.TRACED, Event.LIBRARY): frozenset({Stage.CHECKING}),
    (Stage.COMPILING, Event.LIBRARY): frozenset({Stage.CHECKING}),
    (Stage.CHECKING, Event.CHECK): frozenset({Stage.IN_FORCE}),
    (Stage.IN_FORCE, Event.STEPS): frozenset({Stage.IN_FORCE, Stage.CHECKING}),
    (Stage.REFUSED, Event.STEPS): frozenset({Stage.REFUSED}),  # the step whose check was one too many
    (Stage.REFUSED, Event.FORGET): frozenset({Stage.REFUSED}),
    **{(stage, Event.FORGET): frozenset({Stage.WARMING_UP}) for stage in Stage if stage is not Stage.REFUSED},
    **{(stage, Event.REFUSE): frozenset({Stage.REFUSED}) for stage in Stage},
    **{
        (stage, Event.RESUME): frozenset({Stage.TRACED, Stage.COMPILING, Stage.CHECKING, Stage.REFUSED})
        for stage in (Stage.TRACED, Stage.COMPILING, Stage.CHECKING, Stage.IN_FORCE)
    },
    (Stage.WARMING_UP, Event.RESUME): frozenset({Stage.WARMING_UP, Stage.REFUSED}),
    (Stage.REFUSED, Event.RESUME): frozenset({Stage.WARMING_UP, Stage.REFUSED}),
}
"""Where an event may lead from a stage; what is not listed cannot happen."""

WITHOUT_GRAPH = frozenset({Stage.WARMING_UP, Stage.REFUSED})
"""Stages in which Python takes the steps, and there is no graph."""
CHECKED = frozenset({Stage.TRACED, Stage.CHECKING})
"""Stages in which Python checks the next step, which is the graph's."""


class IllegalTransition(AssertionError):
    """A mistake in `StepCompiler`: an event arrived in a stage in which it cannot happen."""


@dataclass(frozen=True)
class Progress:
    """The progress of a specialisation: its stage, with the graph, counts and reasons that belong to it.

    Attributes:
        stage: who takes the next step.
        step: the traced step; None in the stages without a graph.
        graph_steps: how many steps the graph has taken since it was traced; those before a saved state count.
        next_check: the graph's step that Python checks next.
        planned_check: the one after that, where a saved state has planned it: the library is checked once more first.
        agreed, disagreed: outcomes of the checks.
        refusal: why Python takes all steps; empty in all stages but `REFUSED`.
    """

    stage: Stage = Stage.WARMING_UP
    step: CompiledStep | None = None
    graph_steps: int = 0
    next_check: int = 0
    planned_check: int | None = None
    agreed: int = 0
    disagreed: int = 0
    refusal: str = ""

    def __post_init__(self) -> None:
        stage = self.stage
        consistent = (
            (stage in WITHOUT_GRAPH) == (self.step is None)
            and (stage is Stage.REFUSED) == bool(self.refusal)
            and (stage is not Stage.TRACED or self.graph_steps == 0)
            and (stage is not Stage.COMPILING or self.graph_steps > 0)
            and (stage is not Stage.IN_FORCE or self.graph_steps < self.next_check)
        )
        if not consistent:
            raise IllegalTransition(f"{stage} does not fit {self}")

    def traced(self, step: CompiledStep) -> Progress:
        """There is a graph. Its first step is checked before the library is there: that shows whether it is right."""
        known = self.graph_steps > 0  # by the state that this run goes on from
        after = self._allowed(Event.TRACE, Stage.COMPILING if known else Stage.TRACED)
        return replace(self, stage=after, step=step)

    def library_came(self) -> Progress:
        """The library takes the next step, and Python checks it."""
        return replace(self, stage=self._allowed(Event.LIBRARY, Stage.CHECKING), next_check=self.graph_steps)

    def checked(self, agrees: bool) -> Progress:
        """Plan the next check: twice in a row at first, then at step 10, 100, 1000; at once after a disagreement.

        A single one may be rounding that tipped a discrete draw; two are not: see `is_wrong`.
        """
        resumed = self.planned_check is not None
        agreed, disagreed = self.agreed + (agrees and not resumed), self.disagreed + (not agrees)
        soon = self.graph_steps + 1
        if not agrees:
            check = soon
        elif self.planned_check is not None:
            check = max(self.planned_check, soon)
        else:
            check = soon if agreed < CHECKS else 10 * soon
        after = self._allowed(Event.CHECK, Stage.TRACED if self.stage is Stage.TRACED else Stage.IN_FORCE)
        return replace(self, stage=after, agreed=agreed, disagreed=disagreed, next_check=check, planned_check=None)

    @property
    def is_wrong(self) -> bool:
        """Whether the graph has disagreed with Python too often to be used."""
        return self.disagreed >= CHECKS

    def stepped(self, count: int) -> Progress:
        """The graph has taken so many steps more."""
        steps = self.graph_steps + count
        if self.stage is Stage.IN_FORCE:
            after = Stage.CHECKING if steps >= self.next_check else Stage.IN_FORCE
        else:
            after = Stage.COMPILING if self.stage is Stage.TRACED else self.stage
        return replace(self, stage=self._allowed(Event.STEPS, after), graph_steps=steps)

    def forgotten(self) -> Progress:
        """The graph is given up, to be traced anew; a refusal stays."""
        after = Stage.REFUSED if self.stage is Stage.REFUSED else Stage.WARMING_UP
        return Progress(self._allowed(Event.FORGET, after), refusal=self.refusal)

    def refused(self, reason: str) -> Progress:
        """Python takes the steps from now on."""
        return Progress(self._allowed(Event.REFUSE, Stage.REFUSED), refusal=reason)

    def resumed(
        self, graph_steps: int, next_check: int, agreed: int, disagreed: int, refusal: str, has_library: bool
    ) -> Progress:
        """Go on from a saved state; a graph that is there is kept.

        A library that was in force then is checked once more, and after that when the state had planned it.

        Args:
            has_library: whether the graph that is there has its library already.
        """
        planned = next_check if next_check > graph_steps else None
        step = None if refusal else self.step
        if refusal:
            after = Stage.REFUSED
        elif step is None:
            after = Stage.WARMING_UP
        elif has_library:
            after = Stage.CHECKING
        else:
            after = Stage.COMPILING if graph_steps else Stage.TRACED
        return Progress(
            self._allowed(Event.RESUME, after),
            step,
            graph_steps,
            min(next_check, graph_steps),
            planned,
            agreed,
            disagreed,
            refusal,
        )

    def _allowed(self, event: Event, after: Stage) -> Stage:
        if after not in TRANSITIONS.get((self.stage, event), frozenset()):
            raise IllegalTransition(f"{event} cannot lead from {self.stage} to {after}")
        return after
