"""Compiled graphs: built by Inductor in another process, kept on disk, loaded in a millisecond.

A library is found again by what it was made from: the operations, shapes, torch, processor and number of threads; never
by the program's name. It appears in the cache by a rename, whole or not at all.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from varigrad.capture.graph import Graph, packed

OPTIONS: dict[str, Any] = {
    "aot_inductor.allow_stack_allocation": True,
    "fallback_random": True,
    # Loads that are not contiguous are no reason to go without vectors: a plate of a few categories is full of them.
    "cpp.enable_tiling_heuristics": False,
    "cpp.vec_isa_ok": True,
}

DAY = 86_400.0
"""Seconds after which nobody is compiling any more."""


class Library:
    """A compiled graph: takes and returns lists of tensors.

    Attributes:
        kernels: how many loops' functions it is made of.
        found: whether it came from the cache.
        seconds: how long it took to build.
    """

    def __init__(self, folder: Path, device: str, found: bool, seconds: float) -> None:
        report = json.loads((folder / "done.json").read_text())
        kind: Any = torch._C._aoti.AOTIModelContainerRunnerCpu
        if device == "cuda":
            kind = torch._C._aoti.AOTIModelContainerRunnerCuda
        self._runner = kind(str(folder / report["library"]), 1)
        self.run = self._runner.run
        # Never unloaded, like Python's own extensions: what a library has made may outlive whoever loaded it.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._runner))
        self.kernels, self.found, self.seconds = int(report["kernels"]), found, seconds


class Compilation:
    """A graph on its way to a library.

    Args:
        graph: what to compile.
        inputs: all its inputs, constants included; only their shapes, strides and types matter.

    Attributes:
        library: once it is there.
        failure: why there will be none; empty while all is well.
    """

    def __init__(self, graph: Graph, inputs: Sequence[Tensor]) -> None:
        self.library: Library | None = None
        self.failure = ""
        self._device = next((i.device.type for i in inputs if i.device.type != "cpu"), "cpu")
        self._start = time.perf_counter()
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self._owner = os.getpid()
        try:
            self._final = cache_folder() / _key(graph, inputs)
        except RuntimeError as error:  # nobody's home
            self.failure = f"there is no place for the cache (set VARIGRAD_CACHE): {error}"
            return
        if self._final.exists():
            try:
                self.library = Library(self._final, self._device, True, 0.0)
                return
            except (OSError, RuntimeError, ValueError, KeyError):  # a damaged entry is built again
                shutil.rmtree(self._final, ignore_errors=True)
                self._final.unlink(missing_ok=True)
        try:
            self._begin(graph, inputs)
        except OSError as error:
            self.failure = f"the cache at {cache_folder()} cannot be written: {error}"
        except Exception as error:  # whatever pickle cannot take
            self.failure = f"the graph cannot be handed to the compiler: {error}"
        if self.failure and self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _begin(self, graph: Graph, inputs: Sequence[Tensor]) -> None:
        root = cache_folder()
        root.mkdir(parents=True, exist_ok=True)
        _clear_away(root)
        self._folder = Path(tempfile.mkdtemp(prefix=f"building-{socket.gethostname()}-{os.getpid()}-", dir=root))
        job = {
            "graph": packed(graph.module.graph),
            "inputs": [(tuple(i.shape), i.stride(), i.dtype, str(i.device)) for i in inputs],
            "threads": torch.get_num_threads(),
            "options": OPTIONS,
        }
        (self._folder / "graph.pickle").write_bytes(pickle.dumps(job))
        paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            **os.environ,
            "TORCHINDUCTOR_CACHE_DIR": str(root / "inductor"),
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
        process, folder = self._process, self._folder
        if process is None or folder is None:
            return True
        if self._owner != os.getpid():
            self._process, self.failure = None, "the process has been forked, and its parent waits for the compiler"
            return True
        if wait:
            process.wait()
        if process.poll() is None:
            return False
        self._process = None
        self._give_up.detach()
        seconds = time.perf_counter() - self._start
        try:
            if process.returncode != 0:
                self.failure = _last_words(folder)
                return True
            with contextlib.suppress(OSError):  # another process was quicker: the same library lies there
                folder.rename(self._final)
            self.library = Library(self._final, self._device, False, seconds)
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            self.failure = f"the library cannot be loaded: {error}"
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return True


def _last_words(folder: Path) -> str:
    path = folder / "failed.txt"
    lines = path.read_text().strip().splitlines() if path.exists() else []
    if any("InvalidCxxCompiler" in line or "No working C++ compiler" in line for line in lines):
        return "there is no C++ compiler (install g++)"
    return next((line for line in reversed(lines) if line and not line[0].isspace()), "the compiler was killed")


def cache_folder() -> Path:
    """Where libraries are kept: `VARIGRAD_CACHE`, else `varigrad` in the user's cache folder."""
    given = os.environ.get("VARIGRAD_CACHE")
    if given:
        return Path(given).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "varigrad"


def _clear_away(root: Path) -> None:
    """Folders of processes that were killed in the middle."""
    for folder in root.glob("building-*"):
        place, _, pid = folder.name.removeprefix("building-").rpartition("-")[0].rpartition("-")
        with contextlib.suppress(OSError):  # somebody else was quicker
            ended = place == socket.gethostname() and not _is_running(int(pid))
            if ended or time.time() - folder.stat().st_mtime > DAY:
                shutil.rmtree(folder)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _key(graph: Graph, inputs: Sequence[Tensor]) -> str:
    described = [(tuple(i.shape), i.stride(), str(i.dtype), str(i.device)) for i in inputs]
    parts = (
        graph.module.code,
        described,
        torch.__version__,
        torch.backends.cpu.get_cpu_capability(),
        torch.get_num_threads(),
        sorted(OPTIONS.items()),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _stop(process: subprocess.Popen[bytes], folder: Path, owner: int) -> None:
    if owner != os.getpid():  # a fork of it ends
        return
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)  # with the compiler that it has started
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)
