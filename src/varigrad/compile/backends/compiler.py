"""Compiled graphs: built in another process, kept on disk, loaded in a millisecond.

They become C of our own, which is there in half a second; the few that C cannot hold are Inductor's. A library is found
again by what it was made from (the operations, shapes, torch, processor and number of threads), never by the program's
name. It appears in the cache by a rename, whole or not at all.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import pickle
import platform
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from varigrad.compile.backends import cache
from varigrad.compile.backends.c.aten_fallbacks import Caller
from varigrad.compile.backends.c.codegen import Program, work, written
from varigrad.compile.backends.worker import C_OPTIONS, CompilerError, c_compiler, cxx_compiler
from varigrad.compile.graph.errors import Unsupported, said_by
from varigrad.compile.graph.graph import Graph, packed

OPTIONS: dict[str, Any] = {
    "aot_inductor.allow_stack_allocation": True,
    "fallback_random": True,
    # Loads that are not contiguous are no reason to go without vectors: a plate of a few categories is full of them.
    "cpp.enable_tiling_heuristics": False,
    "cpp.vec_isa_ok": True,
}

_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)

ALIGNED = 64
"""Bytes: as long as vectors are."""

KILLED = "the compiler was killed"


SMALL = 2**22
"""Graphs that compute at most so many numbers have nothing for a second thread to do."""
ROOM = 2**28
"""Bytes of results in between for which C, which uses no memory twice, is still the right choice."""


class Library(Protocol):
    """A compiled graph.

    Attributes:
        maker: who made it.
        kernels: how many functions it is made of.
        calls: the operations that it leaves to torch.
        found: whether it came from the cache.
        seconds: how long it took to build.
    """

    maker: str
    kernels: int
    calls: tuple[str, ...]
    found: bool
    seconds: float

    def run(self, inputs: list[Tensor], count: int = 1) -> Any:
        """Compute, `count` times in a row, and overwrite what the graph overwrites; returns its results if it has any.

        Raises:
            IndexError: the program refers to an entry that does not exist.
            Exception: whatever an operation of torch's raises.
        """


class ByInductor:
    """A library of Inductor's."""

    maker = "Inductor"

    def __init__(self, path: Path, report: Mapping[str, Any], device: str) -> None:
        kind: Any = torch._C._aoti.AOTIModelContainerRunnerCpu
        if device == "cuda":
            kind = torch._C._aoti.AOTIModelContainerRunnerCuda
        self._runner = kind(str(path), 1)
        # Never unloaded, like Python's own extensions: what a library has made may outlive whoever loaded it.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._runner))
        self.kernels, self.found, self.seconds = int(report["kernels"]), False, 0.0
        self.calls: tuple[str, ...] = ()

    def run(self, inputs: list[Tensor], count: int = 1) -> Any:
        for _ in range(count - 1):
            self._runner.run(inputs)
        return self._runner.run(inputs)


class InC:
    """A library made of our own C."""

    maker = "C"

    def __init__(self, path: Path, program: Program) -> None:
        library = ctypes.CDLL(str(path))
        self._run = library.run
        self._run.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long, _CALLBACK)
        self._run.restype = ctypes.c_int
        if program.linked:
            library.use(*(ctypes.cast(f, ctypes.c_void_p) for f in (*blas(), team())))
        room = torch.zeros(program.bytes + ALIGNED, dtype=torch.uint8)
        self._own = room[-room.data_ptr() % ALIGNED :][: program.bytes]
        self._caller = Caller(program.calls, self._own)
        self._callback = _CALLBACK(self._caller) if program.calls else _CALLBACK()
        self.calls = tuple(dict.fromkeys(call.operation.name() for call in program.calls))
        self.kernels, self.found, self.seconds = program.loops, False, 0.0

    def run(self, inputs: list[Tensor], count: int = 1) -> None:
        places = (ctypes.c_void_p * len(inputs))(*[i.data_ptr() for i in inputs])
        self._caller.inputs = inputs
        with torch.enable_grad() if self.calls else contextlib.nullcontext():  # as when recorded: or some give less
            ended = self._run(self._own.data_ptr(), places, count, self._callback)
        if ended:
            error, self._caller.error = self._caller.error, None
            raise error or IndexError("an index in the program is out of range")


class Compilation:
    """A graph on its way to a library.

    Args:
        graph: what to compile.
        inputs: all its inputs, constants included; only their shapes, strides and types matter.

    Attributes:
        library: once it is there.
        failure: why there will be none; empty while all is well.
        elsewhere: why the cache is not where it should be; empty if it is.
    """

    def __init__(self, graph: Graph, inputs: Sequence[Tensor]) -> None:
        self.library: Library | None = None
        self.failure = self.elsewhere = ""
        self._device = next((i.device.type for i in inputs if i.device.type != "cpu"), "cpu")
        self._start = time.perf_counter()
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self._owner = os.getpid()
        self._graph, self._inputs = graph, inputs
        self._program: Program | None = None
        self._reasons: list[str] = []
        """Why there is no library in C."""
        try:
            found = cache.place()
        except (OSError, cache.Untrusted) as error:
            self.failure = f"there is no place for the library: {error}"
            return
        self._root, self.elsewhere = found.folder, found.note
        try:
            program = _in_c(graph) if self._device == "cpu" else None
        except Mistake as error:
            program, self._reasons = None, [str(error)]
        self._start_with(program)

    def _start_with(self, program: Program | None) -> None:
        """Find the library, or begin to make it: from C, or else by Inductor."""
        self._program = program
        self._final = self._root / _key(self._graph, self._inputs, program)
        if os.path.lexists(self._final):
            try:
                self.library = self._loaded(self._final, True, 0.0)
                return
            except _DAMAGED:  # it is built again
                shutil.rmtree(self._final, ignore_errors=True)
                with contextlib.suppress(OSError):
                    self._final.unlink(missing_ok=True)
        failure = ""
        try:
            self._begin()
        except CompilerError as error:
            failure = str(error)
        except OSError as error:
            failure = f"the cache at {self._root} cannot be written: {error}"
        except Exception as error:  # whatever pickle cannot take
            failure = f"the graph cannot be handed to the compiler: {said_by(error)}"
        if failure:
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
            self._failed(failure)

    def _failed(self, reason: str) -> None:
        """In C: then by Inductor. By Inductor, or because somebody has ended the compiler: there will be none."""
        if self._program is None or reason == KILLED:
            self.failure = ". ".join([*self._reasons, reason])
            return
        self._reasons.append(reason)
        self._start_with(None)

    def _begin(self) -> None:
        if self._program is not None:
            c_compiler()
        else:
            cxx_compiler()
        cache.clear_away(self._root)
        self._folder = cache.new_folder(self._root)
        if self._program is not None:
            (self._folder / "step.c").write_bytes(self._program.text.encode())
        else:
            job = {
                "graph": packed(self._graph.operations),
                "inputs": [(tuple(i.shape), i.stride(), i.dtype, str(i.device)) for i in self._inputs],
                "threads": torch.get_num_threads(),
                "options": OPTIONS,
            }
            (self._folder / "graph.pickle").write_bytes(pickle.dumps(job))
        paths = [str(Path(__file__).parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            **os.environ,
            "TORCHINDUCTOR_CACHE_DIR": str(self._root / "inductor"),
            "PYTHONPATH": os.pathsep.join(paths),  # this package, however it came to be imported
        }
        worker = Path(__file__).with_name("worker.py")
        command = [sys.executable, "-P", str(worker), str(self._folder), str(os.getpid())]
        # In a session of its own: an interrupted run goes on compiling.
        self._process = subprocess.Popen(  # noqa: S603 - our own worker, in our own Python
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        # Nobody waits for it any more: at the end of Python, or of this object.
        self._give_up = weakref.finalize(self, _stop, self._process, self._folder, self._owner)

    def ready(self, wait: bool = False) -> bool:
        """Whether there is an outcome, good or bad. `wait`: stay until there is."""
        while self._process is not None:
            if self._owner != os.getpid():
                self._process, self.failure = None, "the process has been forked, and its parent waits for the compiler"
                return True
            if wait:
                self._process.wait()
            if self._process.poll() is None:
                return False
            self._finish(self._process.returncode)
        return True

    def _finish(self, code: int) -> None:
        folder = self._folder
        assert folder is not None
        self._process = None
        self._give_up.detach()
        seconds = time.perf_counter() - self._start
        failure = ""
        try:
            if code != 0:
                failure = _last_words(folder)
            else:
                try:
                    folder.rename(self._final)
                    made = self._final
                except OSError:  # another process was quicker: the same library lies there
                    made = folder
                self.library = self._loaded(made, False, seconds)
        except _DAMAGED as error:
            failure = f"the library cannot be loaded: {said_by(error)}"
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if failure:
            self._failed(failure)

    def _loaded(self, entry: Path, found: bool, seconds: float) -> Library:
        program = self._program

        def load(path: Path, report: Mapping[str, Any]) -> InC | ByInductor:
            return InC(path, program) if program else ByInductor(path, report, self._device)

        library = cache.loaded(entry, load)
        library.found, library.seconds = found, seconds
        return library


_DAMAGED = (cache.Untrusted, OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError)
"""What comes of an entry that is not what it should be."""


class Mistake(Exception):
    """A graph that C should be able to say, and where its translation failed."""


def _last_words(folder: Path) -> str:
    """What the worker says it has failed for."""
    path = folder / "failed.txt"
    lines = path.read_text().strip().splitlines() if path.exists() else []
    if any("InvalidCxxCompiler" in line or "No working C++ compiler" in line for line in lines):
        return "there is no C++ compiler (install g++)"
    last = next((line for line in reversed(lines) if line and not line[0].isspace()), KILLED)
    return last.removeprefix(f"{CompilerError.__name__}: ").removeprefix(f"__main__.{CompilerError.__name__}: ")


def _in_c(graph: Graph) -> Program | None:
    """A graph in C, if C can say it, and can call the threads that it needs.

    Raises:
        Mistake: its translation went wrong.
    """
    threads = torch.get_num_threads()
    if threads > 1 and team() is None:
        if work(graph.operations) > SMALL:
            return None
        threads = 1
    try:
        program = written(graph.operations, products=None not in blas(), parts=threads)
    except Unsupported:
        return None
    except Exception as error:
        raise Mistake(f"C cannot be written: {said_by(error)}") from error
    return program if program.bytes <= ROOM else None


def _key(graph: Graph, inputs: Sequence[Tensor], program: Program | None) -> str:
    if program is not None:
        parts: tuple[Any, ...] = (program.text, C_OPTIONS, _processor())
    else:
        described = [(tuple(i.shape), i.stride(), str(i.dtype), str(i.device)) for i in inputs]
        options = sorted(OPTIONS.items())
        parts = (graph.module.code, described, torch.__version__, _processor(), torch.get_num_threads(), options)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


@functools.cache
def _processor() -> str:
    """What a library may use: a cache may be shared by machines that differ."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {flags}"


def blas() -> tuple[Any, Any]:
    """BLAS's products of matrices that torch has, of single and double precision; None where it does not show them."""
    return _of_torch("sgemm_"), _of_torch("dgemm_")


def team() -> Any:
    """How the threads that torch uses are made to call a function; None where it does not show that."""
    return _of_torch("GOMP_parallel")


@functools.cache
def _of_torch(name: str) -> Any:
    for library in sorted((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*")):
        with contextlib.suppress(OSError, AttributeError):
            return getattr(ctypes.CDLL(str(library)), name)
    return None


def _stop(process: subprocess.Popen[bytes], folder: Path, owner: int) -> None:
    if owner != os.getpid():  # a fork of it ends
        return
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)  # with the compiler that it has started
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)
