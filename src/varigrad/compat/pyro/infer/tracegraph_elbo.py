"""`TraceGraph_ELBO`: the ELBO with dependencies tracked; `TrackNonReparam` is the handler that shows them."""

from __future__ import annotations

from varigrad.compat.pyro.infer.trace_elbo import Trace_ELBO
from varigrad.language.messages import Program
from varigrad.terms.dependency_tracker import track_sites


class TraceGraph_ELBO(Trace_ELBO):  # noqa: N801 - Pyro's name
    """The same as `Trace_ELBO` here: dependencies are always followed, and baselines always act."""


class JitTraceGraph_ELBO(TraceGraph_ELBO):  # noqa: N801
    """`TraceGraph_ELBO` with compiled steps."""

    compiles = True


class TrackNonReparam:
    """A `with` block, or a program's wrapper, in which choices without `rsample` mark the results computed from them.

    Read with `pyro.ops.provenance.get_provenance`.
    """

    def __init__(self) -> None:
        self._scope = track_sites()

    def __enter__(self) -> TrackNonReparam:
        self._scope.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._scope.__exit__(*error)

    def __call__(self, program: Program) -> Program:
        return track_sites(program)
