"""`CompilerProcess`: starts the compiler in a separate process, so that steps continue meanwhile, and stops it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import weakref
from pathlib import Path

from varigrad.compile.backends.worker import CompilerError

KILLED = "the compiler was killed"
FORKED = "the process has been forked, and its parent waits for the compiler"


class CompilerProcess:
    """Runs `worker.py` on a folder; ends with this object, or with Python.

    Args:
        folder: what to compile; the library will be there.
        root: the cache, where Inductor keeps its files.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder = folder
        self._owner = os.getpid()
        paths = [str(Path(__file__).parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            **os.environ,
            "TORCHINDUCTOR_CACHE_DIR": str(root / "inductor"),
            "PYTHONPATH": os.pathsep.join(paths),  # this package, however it came to be imported
        }
        worker = Path(__file__).with_name("worker.py")
        command = [sys.executable, "-P", str(worker), str(folder), str(os.getpid())]
        # In a session of its own: an interrupted run goes on compiling.
        self.popen: subprocess.Popen[bytes] = subprocess.Popen(  # noqa: S603 - our own worker, in our own Python
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        # At the end of Python, or of this object, nothing waits for the compiler any more.
        self.stop: weakref.finalize[[subprocess.Popen[bytes], Path, int], CompilerProcess] = weakref.finalize(
            self, _stop, self.popen, folder, self._owner
        )

    @property
    def is_of_a_parent(self) -> bool:
        """Whether this is a fork of the process that started the compiler, and cannot wait for it."""
        return self._owner != os.getpid()

    def result(self, wait: bool) -> int | None:
        """The exit status; None while the compiler is running. `wait`: stay until it is done."""
        if wait:
            self.popen.wait()
        code = self.popen.poll()
        if code is not None:
            self.stop.detach()
        return code

    def last_words(self) -> str:
        """The reason for a failure, as the worker has written it down."""
        path = self.folder / "failed.txt"
        lines = path.read_text().strip().splitlines() if path.exists() else []
        if any("InvalidCxxCompiler" in line or "No working C++ compiler" in line for line in lines):
            return "there is no C++ compiler (install g++)"
        last = next((line for line in reversed(lines) if line and not line[0].isspace()), KILLED)
        return last.removeprefix(f"{CompilerError.__name__}: ").removeprefix(f"__main__.{CompilerError.__name__}: ")


def _stop(process: subprocess.Popen[bytes], folder: Path, owner: int) -> None:
    if owner != os.getpid():  # a fork of it ends
        return
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)  # with the compiler that it has started
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)
