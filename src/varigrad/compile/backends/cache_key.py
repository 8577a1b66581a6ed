"""Cache keys of libraries: hashes of what a library is built from and by what, not of the program's name."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import torch

from varigrad.compile.backends.worker import CompilerError

PATIENCE = 2.0
"""Seconds after which a compiler that does not tell its version is known by its file alone."""


ABSENT = "none"
"""Stands for the compiler in the keys of a machine that has none."""


def key_of(compiler: tuple[str, ...] | None, *ingredients: object) -> str:
    """The cache key of a library: hashes of the texts of what it is built from, and of what it is built by.

    Args:
        compiler: its identity; None if there is none.
        ingredients: what else decides about the library.
    """
    return f"{_hash(ingredients)[:32]}-{ABSENT if compiler is None else _hash(compiler)[:8]}"


def entry_of(folder: Path, key: str) -> Path:
    """The folder of a library in the cache. A machine without a compiler takes what any compiler has built.

    Args:
        folder: the cache.
        key: the library's.
    """
    program, _, compiler = key.partition("-")
    built = sorted(folder.glob(f"{program}-*")) if compiler == ABSENT else []
    return built[0] if built else folder / key


def _hash(what: object) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()


@functools.cache
def processor() -> str:
    """The instructions that a library may use: a cache may be shared by machines that differ."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "") or platform.processor()
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {flags}"


def compiler_identity(find: Callable[[], list[str]]) -> tuple[str, ...] | None:
    """The compiler that a library is built by: its command, the file that this resolves to, and its version.

    Args:
        find: returns the command with its arguments, or raises `CompilerError` where there is none.

    Returns:
        None where there is no compiler.
    """
    try:
        command = find()
    except CompilerError:
        return None
    path = os.path.realpath(shutil.which(command[0]) or command[0])
    return shlex.join(command), path, _version(tuple(command), path, *_file_state(path))


def _file_state(path: str) -> tuple[int, int]:
    """When a file was last changed, and its size: a compiler that is upgraded is another file at the same path."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


@functools.cache
def _version(command: tuple[str, ...], path: str, changed: int, size: int) -> str:
    """What a compiler says about its version; nothing if it does not know the question, or does not answer."""
    try:
        done = subprocess.run(  # noqa: S603 - the user's own compiler
            [*command, "--version"],
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return f"no answer from a file of {changed}, {size}"
    return done.stdout.decode(errors="replace")
