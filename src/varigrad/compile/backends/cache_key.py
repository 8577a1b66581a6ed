"""Cache keys of libraries: hashes of what a library is built from, not of the program's name."""

from __future__ import annotations

import functools
import hashlib
import platform
from pathlib import Path

import torch


def key_of(*ingredients: object) -> str:
    """The cache key of a library: a hash of the texts of what it is built from."""
    return hashlib.sha256(repr(ingredients).encode()).hexdigest()[:32]


@functools.cache
def processor() -> str:
    """The instructions that a library may use: a cache may be shared by machines that differ."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {flags}"
