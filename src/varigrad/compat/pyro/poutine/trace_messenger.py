"""`trace`: records the runs of a program, or of a `with` block."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import torch

from varigrad.compat.pyro.poutine.messages import Dictionary, _Subsample, view
from varigrad.compat.pyro.poutine.messenger import Messenger
from varigrad.compat.pyro.poutine.trace_struct import Trace
from varigrad.language.messages import Forward, Indices, Message, Plate, Program


def identify_dense_edges(trace: Trace) -> None:
    """Add an edge from every latent site to every later one, unless they are in different elements of a plate."""
    earlier: list[tuple[str, Dictionary]] = []
    for name, node in trace._samples():
        if isinstance(node["fn"], _Subsample):
            continue
        for past, past_node in earlier:
            here = {f.name: f.counter for f in node["cond_indep_stack"]}
            apart = any(f.name in here and here[f.name] != f.counter for f in past_node["cond_indep_stack"])
            if not apart:
                trace.add_edge(past, name)
        if not node["is_observed"]:
            earlier.append((name, node))


class TraceMessenger(Messenger):
    """Records every statement inside, in `trace`.

    Args:
        graph_type: "flat", or "dense" for a trace with edges.
        param_only: record parameters only.
    """

    def __init__(self, graph_type: str | None = None, param_only: bool | None = None) -> None:
        super().__init__()
        self.graph_type: str = graph_type or "flat"
        self.param_only: bool = bool(param_only)
        self.trace: Trace = Trace(self.graph_type)

    def __enter__(self) -> Self:
        self.trace = Trace(self.graph_type)
        super().__enter__()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        if self.param_only:
            for name in [n for n, s in self.trace.nodes.items() if s["type"] != "param"]:
                self.trace.remove_node(name)
        if self.trace.graph_type == "dense":
            identify_dense_edges(self.trace)
        return super().__exit__(exc_type, exc_value, traceback)

    def __call__(self, fn: Program) -> TraceHandler:
        """The program, with `get_trace`."""
        return TraceHandler(self, fn)

    def get_trace(self) -> Trace:
        """A copy of what was recorded."""
        return self.trace.copy()

    def _reset(self) -> None:
        fresh = Trace(self.graph_type)
        if "_INPUT" in self.trace:
            fresh.add_node("_INPUT", **self.trace.nodes["_INPUT"])
        self.trace = fresh

    def _handle(self, message: Message, forward: Forward) -> Message:
        answer = forward(message)
        node = view(answer)
        if node is not None and node["type"] in ("sample", "param"):
            if self.param_only and node["type"] != "param":
                return answer
            if not node["infer"].get("_do_not_trace"):
                for plate in getattr(answer, "plates", ()):
                    self._plate(plate)
                self.trace.add_node(node["name"], **node)
        return answer

    def _plate(self, plate: Plate) -> None:
        """A node for a plate of its full size, as Pyro has one (loops have none); a minibatch has its own."""
        full = plate.dim is not None and plate.subsample is None
        if full and plate.size is not None and plate.name not in self.trace.nodes:
            node = view(Indices(plate.name, plate.size, plate.size, torch.arange(plate.size)))
            assert node is not None
            self.trace.add_node(plate.name, **node)


class TraceHandler:
    """A program whose runs are recorded: call it, or `get_trace(*args)`."""

    def __init__(self, msngr: TraceMessenger, fn: Program) -> None:
        self.fn = fn
        self.program = fn
        self.msngr = msngr

    def __call__(self, *args: object, **kwargs: object) -> Any:
        with self.msngr:
            self.msngr.trace.add_node("_INPUT", name="_INPUT", type="args", args=args, kwargs=kwargs)
            try:
                result = self.fn(*args, **kwargs)
            except (ValueError, RuntimeError) as error:
                error.add_note(self.msngr.trace.format_shapes())
                raise
            self.msngr.trace.add_node("_RETURN", name="_RETURN", type="return", value=result)
        return result

    @property
    def trace(self) -> Trace:
        """What the last run left."""
        return self.msngr.trace

    def get_trace(self, *args: object, **kwargs: object) -> Trace:
        """Run, and return the trace."""
        self(*args, **kwargs)
        return self.msngr.get_trace()
