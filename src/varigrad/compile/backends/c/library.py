"""Entry point of the C back end: translates a graph, or reports that C cannot hold it, and loads the library."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from varigrad.compile.backends.c import blas
from varigrad.compile.backends.c.aten_fallbacks import Caller
from varigrad.compile.backends.c.codegen import Program, emit, work
from varigrad.compile.backends.cache_key import compiler_identity, key_of, processor
from varigrad.compile.backends.worker import C_OPTIONS, c_compiler
from varigrad.compile.graph.errors import Unsupported, in_one_line
from varigrad.compile.graph.graph import Graph, operation_name

ALIGNED = 64
"""Bytes: as long as vectors are."""
SMALL = 2**22
"""Graphs that compute at most so many numbers have nothing for a second thread to do."""
ROOM = 2**28
"""Bytes of intermediate results up to which C is the right choice; Inductor uses memory again in more ways."""

_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)


class TranslationError(Exception):
    """The C back end supports a graph's operations, but its translation failed."""


class CLibrary:
    """A loaded library that was compiled from our own C.

    Args:
        path: the library's file.
        program: what it was compiled from.
    """

    maker = "C"

    def __init__(self, path: Path, program: Program) -> None:
        library = ctypes.CDLL(str(path))
        self._run = library.run
        self._run.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long, _CALLBACK)
        self._run.restype = ctypes.c_int
        if program.linked:
            library.use(*(ctypes.cast(f, ctypes.c_void_p) for f in (*blas.blas(), blas.team())))  # type: ignore[arg-type] # None is a null pointer
        room = torch.zeros(program.bytes + ALIGNED, dtype=torch.uint8)
        self._own = room[-room.data_ptr() % ALIGNED :][: program.bytes]
        self._caller = Caller(program.calls, self._own)
        self._callback = _CALLBACK(self._caller) if program.calls else _CALLBACK()
        self.calls: tuple[str, ...] = tuple(dict.fromkeys(operation_name(call.operation) for call in program.calls))
        self.kernels: int = program.loops
        self.found: bool = False
        self.seconds: float = 0.0

    def run(self, inputs: list[Tensor], count: int = 1) -> None:
        addresses = (ctypes.c_void_p * len(inputs))(*[i.data_ptr() for i in inputs])
        self._caller.inputs = inputs
        # Gradients on, as when the graph was traced: some operations return less without.
        with torch.enable_grad() if self.calls else contextlib.nullcontext():
            ended = self._run(self._own.data_ptr(), addresses, count, self._callback)
        if ended:
            error, self._caller.error = self._caller.error, None
            raise error or IndexError("an index in the program is out of range")


class CRecipe:
    """Compiles a program by the system's C compiler.

    Args:
        program: a graph in C.
    """

    def __init__(self, program: Program) -> None:
        self._program = program

    def key(self) -> str:
        return key_of(compiler_identity(c_compiler), self._program.text, C_OPTIONS, processor())

    def check_compiler(self) -> None:
        c_compiler()

    def write(self, folder: Path) -> None:
        (folder / "step.c").write_bytes(self._program.text.encode())

    def load(self, path: Path, report: Mapping[str, object]) -> CLibrary:
        return CLibrary(path, self._program)


def translate(graph: Graph) -> Program | None:
    """A graph in C; None if C cannot say it, cannot call the threads that it needs, or would need too much memory.

    Raises:
        TranslationError: the translation went wrong.
    """
    threads = torch.get_num_threads()
    if threads > 1 and blas.team() is None:
        if work(graph.operations) > SMALL:
            return None
        threads = 1
    try:
        program = emit(graph.operations, products=None not in blas.blas(), threads=threads)
    except Unsupported:
        return None
    except Exception as error:
        raise TranslationError(f"C cannot be written: {in_one_line(error)}") from error
    return program if program.bytes <= ROOM else None
