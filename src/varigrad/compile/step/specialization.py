"""Specialisations: compiled steps, one for each signature of the arguments, with their progress and statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from varigrad.compile.step.compiled_step import CompiledStep
from varigrad.compile.step.flat_state import FlatState, TreeForm, flattened
from varigrad.compile.step.saved_steps import SavedSpecialization
from varigrad.compile.step.stages import Progress, Stage
from varigrad.distributions.counter_rng import Kind, Noise, Rows


@dataclass(eq=False)
class Specialization:
    """Compiled steps for arguments of one signature (shapes, types, Python values), and their progress.

    Attributes:
        text: the arguments, in words.
        progress: the stage, and what belongs to it; replaced by its own transitions only.
        eager_steps: how many steps Python has taken.
        demand: how many random numbers a step takes; None before the first step.
        drawn: what draws each site, as a `Noise` says.
        rows: the random numbers of the last step in Python.
        parameters: those that the last gradient in Python reached.
        frozen: those that required no gradient in the last step in Python.
        undeclared: `requires_grad` of the tensors that the programs did not declare then; None: not known.
        thawed: how many of these required a gradient when a state was saved; None: not known.
        structure: of the estimators' state after the last step in Python; a text if it comes from a saved state.
        flat_state: where parameters and moments are kept while the graph takes the steps.
        waits: whether steps wait for the compiler, because the library was there when the state that this run goes on
            from was saved.
        at_once: how many steps are taken in a row: as many as take a moment, and Ctrl-C is obeyed after them.
        tracing_seconds: how long the tracing took.
        polled: when the compiler was last asked whether it is done.
    """

    text: str = ""
    progress: Progress = field(default_factory=Progress)
    eager_steps: int = 0
    demand: dict[Kind, int] | None = None
    drawn: dict[str, str] = field(default_factory=dict)
    rows: Rows | None = None
    parameters: tuple[nn.Parameter, ...] = ()
    frozen: tuple[nn.Parameter, ...] = ()
    undeclared: tuple[bool, ...] | None = None
    thawed: int | None = None
    structure: TreeForm | str | None = None
    flat_state: FlatState | None = None
    waits: bool = False
    at_once: int = 1
    tracing_seconds: float = 0.0
    polled: float = 0.0

    @property
    def stage(self) -> Stage:
        """The stage, which says who takes the next step."""
        return self.progress.stage

    @property
    def step(self) -> CompiledStep | None:
        """The traced step; None in the stages without a graph."""
        return self.progress.step

    @property
    def graph_steps(self) -> int:
        """The number of steps that the graph has taken."""
        return self.progress.graph_steps

    @property
    def refusal(self) -> str:
        """Why Python takes all steps; empty if it does not have to."""
        return self.progress.refusal

    @property
    def reached(self) -> frozenset[int]:
        """The ids of the parameters that the gradient reaches."""
        return frozenset(map(id, self.parameters))

    def saved(self, names: Mapping[int, str]) -> SavedSpecialization:
        """The progress as plain data, for a saved state.

        Args:
            names: of the parameters, by id.
        """
        now = self.progress
        return {
            "seen": self.eager_steps,
            "taken": now.graph_steps,
            # The check right after a state was loaded is not part of the plan.
            "check": now.next_check if now.planned_check is None else now.planned_check,
            "agreed": now.agreed,
            "disagreed": now.disagreed,
            "refusal": now.refusal,
            "demand": dict(self.demand or {}),
            "reached": [names[id(p)] for p in self.parameters],
            "frozen": [names[id(p)] for p in self.frozen],
            "carried": str(self.structure),
            "thawed": sum(self.undeclared or ()),
        }

    def resume(self, saved: SavedSpecialization, named: Mapping[str, nn.Parameter], noise: Noise) -> None:
        """Go on from where `saved` was called.

        Args:
            named: the parameters, by name.
            noise: where the random numbers of an example step come from; it is left as it was.
        """
        self.eager_steps = saved["seen"]
        self.progress = self.progress.resumed(
            saved["taken"], saved["check"], saved["agreed"], saved["disagreed"], saved["refusal"], self.has_library
        )
        self.demand = dict(saved["demand"])
        self.parameters = tuple(named[name] for name in saved["reached"])
        self.frozen = tuple(named[name] for name in saved["frozen"])
        self.structure, self.undeclared, self.thawed = saved["carried"], None, saved.get("thawed")
        self.waits = self.graph_steps > 1
        before = noise.get_state()
        self.rows = {kind: rows[0] for kind, rows in noise.rows(self.demand, 1).items()}
        noise.set_state(before)

    @property
    def has_library(self) -> bool:
        """Whether the graph, if there is one, is compiled."""
        compilation = None if self.step is None else self.step.traced.compilation
        return compilation is not None and compilation.library is not None

    def fits_structure(self, structure: TreeForm) -> bool:
        """Whether the estimators' state has the structure that it had after the last step in Python."""
        return str(structure) == self.structure if isinstance(self.structure, str) else structure == self.structure

    def note_eager_step(
        self, states: object, reached: list[nn.Parameter], frozen: list[nn.Parameter], undeclared: tuple[bool, ...]
    ) -> None:
        """Keep what a step in Python shows: the next graph takes it for granted.

        Args:
            states: of the estimators, after the step.
            reached, frozen: the parameters that the gradient reached, and those that required none.
            undeclared: `requires_grad` of the tensors that the programs did not declare.
        """
        self.structure = flattened(states)[1]
        self.parameters, self.frozen = tuple(reached), tuple(frozen)
        self.undeclared = undeclared
        self.eager_steps += 1
