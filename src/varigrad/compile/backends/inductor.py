"""Compiles graphs by torch's Inductor: those with types that our C lacks, and those with large intermediate results."""

from __future__ import annotations

import ctypes
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from varigrad._torch_internals import aot_runner
from varigrad.compile.backends.cache_key import compiler_identity, key_of, processor
from varigrad.compile.backends.worker import cxx_compiler
from varigrad.compile.graph.graph import Graph, packed

OPTIONS: dict[str, object] = {
    "aot_inductor.allow_stack_allocation": True,
    "fallback_random": True,
    # Loads that are not contiguous are no reason to go without vectors: a plate of a few categories is full of them.
    "cpp.enable_tiling_heuristics": False,
    "cpp.vec_isa_ok": True,
}
"""Settings of Inductor."""


class InductorLibrary:
    """A loaded library that Inductor has compiled.

    Args:
        path: the library's file.
        report: says how many `kernels` it has.
        device: "cpu" or "cuda".
    """

    maker = "Inductor"

    def __init__(self, path: Path, report: Mapping[str, object], device: str) -> None:
        self._runner = aot_runner(str(path), device)
        # Never unloaded, like Python's own extensions: what a library has made may outlive whatever loaded it.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._runner))
        self.kernels: int = int(str(report["kernels"]))
        self.found: bool = False
        self.seconds: float = 0.0
        self.calls: tuple[str, ...] = ()

    def run(self, inputs: list[Tensor], count: int = 1) -> object:
        for _ in range(count - 1):
            self._runner.run(inputs)
        return self._runner.run(inputs)


class InductorRecipe:
    """Compiles a graph by Inductor.

    Args:
        graph: what to compile.
        inputs: all its inputs, constants included; only their shapes, strides, types and devices matter.
    """

    def __init__(self, graph: Graph, inputs: Sequence[Tensor]) -> None:
        self._graph, self._inputs = graph, inputs
        self._device = next((i.device.type for i in inputs if i.device.type != "cpu"), "cpu")

    def key(self) -> str:
        inputs = [(tuple(i.shape), i.stride(), str(i.dtype), str(i.device)) for i in self._inputs]
        code, threads = self._graph.module.code, torch.get_num_threads()
        compiler = compiler_identity(cxx_compiler)
        return key_of(compiler, code, inputs, torch.__version__, processor(), threads, sorted(OPTIONS.items()))

    def check_compiler(self) -> None:
        cxx_compiler()

    def write(self, folder: Path) -> None:
        job = {
            "graph": packed(self._graph.operations),
            "inputs": [(tuple(i.shape), i.stride(), i.dtype, str(i.device)) for i in self._inputs],
            "threads": torch.get_num_threads(),
            "options": OPTIONS,
        }
        (folder / "graph.pickle").write_bytes(pickle.dumps(job))

    def load(self, path: Path, report: Mapping[str, object]) -> InductorLibrary:
        return InductorLibrary(path, report, self._device)
