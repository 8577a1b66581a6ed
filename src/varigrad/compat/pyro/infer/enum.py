"""`config_enumerate` marks sites to be enumerated; `get_importance_trace` runs model and guide for users' bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from queue import LifoQueue

from varigrad.compat.pyro import poutine
from varigrad.compat.pyro.poutine.messages import Dictionary
from varigrad.compat.pyro.poutine.trace_struct import Trace
from varigrad.compat.pyro.poutine.util import all_escape
from varigrad.errors import VarigradError, whole_number
from varigrad.language.messages import Forward, Message, Program, Sample, evolve
from varigrad.language.runtime import Handled


def config_enumerate(
    guide: Program | None = None,
    default: str | None = "parallel",
    expand: bool = False,
    num_samples: int | None = None,
    tmc: str = "diagonal",
) -> Program | Callable[[Program], Program]:
    """Mark the sites of a program that have a finite support, and no mark yet, as to be enumerated.

    Args:
        guide: the program; left out, a decorator is returned.
        default: "parallel" or "sequential" (which mean the same here), or None for no change.
        expand, tmc: accepted.
        num_samples: draw that many times instead, at every site.

    Raises:
        VarigradError: (a `ValueError`) an option that does not exist, or that does not go with another.
    """
    for what, value, options in (
        ("default", default, ("sequential", "parallel", None)),
        ("tmc", tmc, ("full", "diagonal", "mixture")),
        ("expand", expand, (True, False)),
    ):
        if value not in options:
            raise VarigradError(f"{what} must be one of {options}, got {value!r}")
    if num_samples is not None:
        num_samples = whole_number("num_samples", num_samples)
        if default == "sequential":
            raise VarigradError("num_samples goes with default='parallel'")
    handler = partial(_mark, {"enumerate": default, "expand": expand, "num_samples": num_samples, "tmc": tmc})
    if guide is None:
        return lambda program: Handled(program, handler)
    return Handled(guide, handler)


def get_importance_trace(
    graph_type: str,
    max_plate_nesting: float,
    model: Program,
    guide: Program,
    args: tuple[object, ...],
    kwargs: dict[str, object],
    detach: bool = False,
) -> tuple[Trace, Trace]:
    """Traces of the model and of the guide, the model run on the guide's values, with log-densities.

    Args:
        detach: cut the guide's values off the autograd graph.
    """
    guide_trace = poutine.trace(guide, graph_type=graph_type).get_trace(*args, **kwargs)
    if detach:
        guide_trace.detach_()
    replayed = poutine.replay(model, trace=guide_trace)
    model_trace = poutine.trace(replayed, graph_type=graph_type).get_trace(*args, **kwargs)
    for trace in (model_trace, guide_trace):
        trace.compute_log_prob()
    return model_trace, guide_trace


def iter_discrete_traces(graph_type: str, fn: Program, *args: object, **kwargs: object) -> Iterator[Trace]:
    """Traces of a program, one for each joint value of its sites marked `infer={"enumerate": "sequential"}`.

    Other sites are drawn, anew for each trace. Minibatches are drawn anew, too, so they are not to depend on values.
    """
    queue: LifoQueue[Trace] = LifoQueue()
    queue.put(Trace())
    enumerated = poutine.queue(fn, queue, escape_fn=iter_discrete_escape, extend_fn=iter_discrete_extend)
    while not queue.empty():
        yield poutine.trace(enumerated, graph_type=graph_type).get_trace(*args, **kwargs)


def iter_discrete_escape(trace: Trace, msg: Dictionary) -> bool:
    """Whether a site is to be enumerated one value after the other, and is not in the trace yet."""
    return all_escape(trace, msg) and msg["infer"].get("enumerate") == "sequential"


def iter_discrete_extend(
    trace: Trace, site: Dictionary, num_samples: int | None = None, **ignored: object
) -> Iterator[Trace]:
    """Copies of a trace that go on with each value of a site; its `infer["_enum_total"]` is their number."""
    values = site["fn"].enumerate_support(expand=bool(site["infer"].get("expand")))
    for value in values:
        extended = trace.copy()
        infer = {**site["infer"], "_enum_total": len(values)}
        extended.add_node(site["name"], **{**site, "infer": infer, "value": value, "done": True})
        yield extended


def _mark(marks: dict[str, object], message: Message, forward: Forward) -> Message:
    if (
        type(message) is Sample
        and not message.observed
        and marks["enumerate"] is not None
        and "enumerate" not in message.notes
        and (marks["num_samples"] is not None or message.distribution.has_enumerate_support)
    ):
        message = evolve(message, notes={**marks, **message.notes})
    return forward(message)
