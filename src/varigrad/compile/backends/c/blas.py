"""Looks up functions of libraries that torch has loaded: BLAS's matrix products and OpenMP's parallel regions."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from pathlib import Path
from typing import TypeAlias

import torch

Function: TypeAlias = "ctypes._NamedFuncPointer"


def blas() -> tuple[Function | None, Function | None]:
    """BLAS's products of matrices in single and in double precision; None where torch does not show them."""
    return _of_torch("sgemm_"), _of_torch("dgemm_")


def team() -> Function | None:
    """OpenMP's call of a function by all of torch's threads; None where torch does not show it."""
    return _of_torch("GOMP_parallel")


@functools.cache
def _of_torch(name: str) -> Function | None:
    for library in sorted((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*")):
        with contextlib.suppress(OSError, AttributeError):
            return getattr(ctypes.CDLL(str(library)), name)  # type: ignore[no-any-return] # a function, by its name
    return None
