"""Interfaces of the back ends: a `Recipe` compiles a graph, and the `Library` that it loads runs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor


class Library(Protocol):
    """A compiled graph.

    Attributes:
        maker: the compiler that made it, in a word.
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

    def run(self, inputs: list[Tensor], count: int = 1) -> object:
        """Compute, `count` times in a row, and overwrite what the graph overwrites; returns its results if it has any.

        Raises:
            IndexError: the program refers to an entry that does not exist.
            Exception: an operation of torch's raises it.
        """


class Recipe(Protocol):
    """One way to compile a graph to a library: by our own C, or by Inductor."""

    def key(self) -> str:
        """The name of the library in the cache: equal for equal graphs, compilers, processors and torch versions."""

    def check_compiler(self) -> None:
        """Look for the compiler that is needed.

        Raises:
            CompilerError: there is none.
        """

    def write(self, folder: Path) -> None:
        """Write what the compiling process reads."""

    def load(self, path: Path, report: Mapping[str, object]) -> Library:
        """Load the library that has been built.

        Args:
            path: the library's file.
            report: the report of the compiling process.
        """
