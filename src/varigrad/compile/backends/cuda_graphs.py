"""`CudaGraph`: runs a traced graph on a GPU, operation by operation at first, then as one captured CUDA graph.

No compiler is needed, and a replay is one launch. But a CUDA graph reads its inputs at the addresses of the capture. So
an input that is another tensor at a later call (a minibatch) gets a buffer, into which its values are copied from then
on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from varigrad.compile.graph.graph import Graph

WARM = 2
"""Calls before a graph is captured, in which torch loads its libraries; they are the calls that Python checks."""


class CudaGraph:
    """A traced graph on a GPU; it has the interfaces of a compilation and of its library.

    Args:
        graph: what to run.
        inputs: all its inputs, constants included.

    Attributes:
        note: why it runs operation by operation for good; empty if it does not.
        kernels: how many operations it has.
        seconds: how long the capture took.
    """

    failure = elsewhere = fallback = ""
    calls: tuple[str, ...] = ()

    def __init__(self, graph: Graph, inputs: Sequence[Tensor]) -> None:
        self.library = self
        self.note = "it draws from torch's global generator" if graph.random else ""
        self.kernels: int = graph.size
        self.seconds: float = 0.0
        self._module, self._calls = graph.module, 0
        self._replay: Callable[[], object] | None = None
        self._seen = list(inputs)
        """The inputs of the last call."""
        self._read = list(inputs)
        """The tensors in which the captured graph reads them: those inputs, or the graph's buffers."""
        self._own: set[int] = set()

    @property
    def how(self) -> str:
        """A description of how the graph runs, for the user."""
        if self.note:
            return f"run operation by operation: {self.note}"
        return f"replayed by a CUDA graph, {self.kernels} operations"

    def ready(self, wait: bool = False) -> bool:
        """Whether there is an outcome: always, as nothing is compiled."""
        return True

    def run(self, inputs: Sequence[Tensor], count: int = 1) -> None:
        """Compute, and overwrite the targets, `count` times in a row."""
        for _ in range(count):
            self._run(inputs)

    def _run(self, inputs: Sequence[Tensor]) -> None:
        self._calls += 1
        if self.note:
            self._launch(inputs)
        elif self._calls <= WARM:
            aside(partial(self._launch, inputs))
        else:
            try:
                self._prepare(inputs)
            except RuntimeError as error:
                self.note = str(error).strip().split("\n")[0]
                self._replay = None
            replay = self._replay or partial(self._launch, inputs)
            replay()

    def _launch(self, inputs: Sequence[Tensor]) -> None:
        with torch.autocast("cuda", enabled=False):  # what it does is in the graph already
            self._module(*inputs)

    def _prepare(self, inputs: Sequence[Tensor]) -> None:
        """Bring the inputs to where the captured graph reads them; capture it anew if one needs other memory."""
        if self._replay is None:
            self._seen, self._read = list(inputs), list(inputs)
        for i, (given, seen, read) in enumerate(zip(inputs, self._seen, self._read, strict=True)):
            if given is seen:  # the same call goes on
                continue
            self._seen[i] = given
            if given.data_ptr() == read.data_ptr():
                continue
            if i not in self._own:
                self._own.add(i)
                self._read[i] = torch.empty_strided(given.shape, given.stride(), dtype=given.dtype, device=given.device)
                self._replay = None
            self._read[i].copy_(given)
        if self._replay is None:
            start = time.perf_counter()
            self._replay = captured(partial(self._launch, list(self._read)))
            self.seconds += time.perf_counter() - start


def aside(run: Callable[[], None]) -> None:
    """Run on a side stream, as torch demands it before a capture."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)


def captured(run: Callable[[], None]) -> Callable[[], object]:
    """Capture the kernels of a call; returns a function that runs them on the same memory again."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may load data meanwhile
        run()
    return graph.replay
