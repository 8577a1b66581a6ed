"""Forms of call, and how far each has come: from Python's steps to a recorded one to a library."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from varigrad.compile.backends.compiler import Library
from varigrad.compile.backends.cuda_graphs import Replayed
from varigrad.compile.step.compiled_step import Step
from varigrad.compile.step.flat_state import Memory
from varigrad.distributions.counter_rng import OURS, Kind, Noise, Rows
from varigrad.shapes import table

_KEPT = ("seen", "taken", "check", "agreed", "disagreed", "refusal")


@dataclass(eq=False)
class Form:
    """One form of call (shapes, types, Python values), and how far it has come.

    Attributes:
        seen, taken: steps by Python and by graph.
        demand: how many random numbers a step takes.
        drawn: who draws each site, as a `Noise` tells.
        rows: those of the last eager step.
        check: the graph's step that Python checks next; `planned` says which one is after that, if it is known.
        waits: whether steps wait for the library: it was there when the state was taken that this run goes on from.
        agreed, disagreed: outcomes of the checks since the library came.
        refusal: why it will always run eagerly.
        text: its arguments, in words.
        ahead: how many steps are taken in a row: as many as take a moment, and Ctrl-C is obeyed after them.
        seconds: how long the recording took.
        parameters, memory: those that the gradient reaches, and where they are kept.
        frozen: the parameters that required no gradient in the last step by Python.
        undeclared: `requires_grad` of the tensors that the programs did not declare then; None: not known.
        carried: what kind of state the estimators had after it; in words, if that was before a state was loaded.
    """

    text: str = ""
    seen: int = 0
    taken: int = 0
    ahead: int = 1
    parameters: tuple[nn.Parameter, ...] = ()
    memory: Memory | None = None
    frozen: tuple[nn.Parameter, ...] = ()
    undeclared: object = None
    carried: Any = None
    demand: dict[Kind, int] | None = None
    drawn: dict[str, str] = field(default_factory=dict)
    rows: Rows | None = None
    step: Step | None = None
    check: int = 0
    planned: int | None = None
    waits: bool = False
    agreed: int = 0
    disagreed: int = 0
    refusal: str = ""
    seconds: float = 0.0
    polled: float = 0.0

    @property
    def reached(self) -> frozenset[int]:
        """The ids of the parameters."""
        return frozenset(map(id, self.parameters))

    def standing(self, names: Mapping[int, str]) -> dict[str, Any]:
        """How far it has come, as plain data; `names` of parameters by id."""
        kept = {name: getattr(self, name) for name in _KEPT}
        if self.planned is not None:  # `check` is the one look more after a state was loaded
            kept["check"] = self.planned
        return {
            **kept,
            "demand": dict(self.demand or {}),
            "reached": [names[id(p)] for p in self.parameters],
            "frozen": [names[id(p)] for p in self.frozen],
            "carried": str(self.carried),
        }

    def stand(self, standing: Mapping[str, Any], named: Mapping[str, nn.Parameter], noise: Noise) -> None:
        """Go on from there; `named` has the parameters by name."""
        for name in _KEPT:
            setattr(self, name, standing[name])
        self.demand = dict(standing["demand"])
        self.parameters = tuple(named[name] for name in standing["reached"])
        self.frozen = tuple(named[name] for name in standing["frozen"])
        self.carried, self.undeclared = standing["carried"], None
        # A graph that was in force then is in force from the first step on, and is looked at once more.
        self.waits = self.taken > 1
        self.planned = None
        if self.check > self.taken:
            self.planned, self.check = self.check, self.taken
        state = noise.get_state()
        self.rows = {kind: rows[0] for kind, rows in noise.rows(self.demand, 1).items()}
        noise.set_state(state)

    def carries(self, kind: object) -> bool:
        """Whether the estimators' state is of the kind that it was after the last eager step."""
        return str(kind) == self.carried if isinstance(self.carried, str) else kind == self.carried

    def forget(self) -> None:
        """Record it again."""
        self.step, self.taken, self.check, self.agreed, self.disagreed = None, 0, 0, 0, 0
        self.planned = None


def explained(forms: Collection[Form], patience: int) -> str:
    """What is compiled, what is not, and why: a row for each form, and who draws in it."""
    rows = []
    for number, form in enumerate(forms):
        step = form.step
        library = _library_of(form)
        if form.refusal:
            state = f"eager: {form.refusal}"
        elif step is None:
            state = f"eager so far ({form.seen} steps of {patience} before it is recorded)"
        elif library is None:
            state = "recorded, being compiled"
        elif isinstance(library, Replayed):
            state = library.how
        else:
            origin = "found in the cache" if library.found else f"compiled in {library.seconds:.1f} s"
            state = f"{origin} ({library.maker}), {library.kernels} kernels"
        size = "" if step is None else f"{step.recorded.graph.size} operations in {form.seconds:.2f} s"
        draws = "" if form.demand is None else _demand_text(form.demand, step)
        rows.append((number, state, size, draws, f"{form.seen} + {form.taken}"))
    if not rows:
        return "no step has been taken"
    found = [table(rows, ("form", "state", "recorded", "random numbers a step", "steps (Python + graph)"))]
    for number, form in enumerate(forms):
        library = _library_of(form)
        if library is not None and library.calls:
            found.append(f"form {number}, left to torch: {', '.join(library.calls)}")
        for who in dict.fromkeys(form.drawn.values()):
            sites = ", ".join(site for site, how in form.drawn.items() if how == who)
            how = "our own functional samplers" if who == OURS else f"{who}, which has no functional form"
            found.append(f"form {number}, drawn by {how}: {sites}")
    return "\n".join(found)


def _library_of(form: Form) -> Library | Replayed | None:
    compilation = None if form.step is None else form.step.recorded.compilation
    return None if compilation is None else compilation.library


def _demand_text(demand: dict[Kind, int], step: Step | None) -> str:
    texts = [f"{n} {kind[0]}" for kind, n in demand.items()]
    if step is not None and step.random:
        texts.append("torch's own")
    return ", ".join(texts) or "none"
