"""Entry point of the back ends: compiles a graph to a library in another process and caches it on disk.

Most graphs are translated to our own C, which compiles in half a second; Inductor compiles the few that C cannot hold.
The cache key of a library hashes what it was made from, never the program's name. A library appears in the cache by a
rename, whole or not at all.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from varigrad.compile.backends import cache
from varigrad.compile.backends.c import library as c_library
from varigrad.compile.backends.cache_key import entry_of
from varigrad.compile.backends.compiler_process import FORKED, KILLED, CompilerProcess
from varigrad.compile.backends.inductor import InductorRecipe
from varigrad.compile.backends.interfaces import Library, Recipe
from varigrad.compile.backends.worker import CompilerError
from varigrad.compile.graph.errors import in_one_line
from varigrad.compile.graph.graph import Graph

DAMAGED = (cache.Untrusted, OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError)
"""Errors that loading raises where an entry of the cache is not what it should be."""


class Compilation:
    """The compilation of one graph: by C first, and by Inductor if that fails.

    Args:
        graph: what to compile.
        inputs: all its inputs, constants included; only their shapes, strides and types matter.

    Attributes:
        library: the library, once it is there.
        failure: why there will be none; empty while all is well.
        elsewhere: why the cache is not where it should be; empty if it is.
        fallback: why Inductor has made the library, although C can hold the graph; empty if it has not.
        entry: the library's place in the cache.
    """

    entry: Path

    def __init__(self, graph: Graph, inputs: Sequence[Tensor]) -> None:
        self.library: Library | None = None
        self.failure: str = ""
        self.elsewhere: str = ""
        self.fallback: str = ""
        self._start = time.perf_counter()
        self._process: CompilerProcess | None = None
        self._failures: list[str] = []
        """Why there is no library by the recipes that were tried before."""
        try:
            found = cache.place()
        except (OSError, cache.Untrusted) as error:
            self.failure = f"there is no place for the library: {error}"
            return
        self._root = found.folder
        self.elsewhere = found.note
        recipe: Recipe = InductorRecipe(graph, inputs)
        self._recipes = [recipe]
        """What to try, in this order."""
        if not any(i.device.type != "cpu" for i in inputs):
            try:
                program = c_library.translate(graph)
            except c_library.TranslationError as error:
                self._failures = [str(error)]
            else:
                if program is not None:
                    self._recipes = [c_library.CRecipe(program), recipe]
        self._start_with_next()

    def _start_with_next(self) -> None:
        """Find the library that the next recipe gives, or begin to make it."""
        self._recipe = self._recipes.pop(0)
        self.entry = entry_of(self._root, self._recipe.key())
        if os.path.lexists(self.entry):
            try:
                self.library = self._loaded(self.entry, True, 0.0)
                return
            except DAMAGED:  # it is built again
                shutil.rmtree(self.entry, ignore_errors=True)
                with contextlib.suppress(OSError):
                    self.entry.unlink(missing_ok=True)
        failure, folder = "", None
        try:
            self._recipe.check_compiler()
            cache.clear_away(self._root)
            folder = cache.new_folder(self._root)
            self._recipe.write(folder)
            self._process = CompilerProcess(folder, self._root)
        except CompilerError as error:
            failure = str(error)
        except OSError as error:
            failure = f"the cache at {self._root} cannot be written: {error}"
        except Exception as error:  # whatever pickle cannot take
            failure = f"the graph cannot be handed to the compiler: {in_one_line(error)}"
        if failure:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            self._failed(failure)

    def _failed(self, reason: str) -> None:
        """Try the next recipe; give up where there is none, or where the compiler was killed from outside."""
        if not self._recipes or reason == KILLED:
            self.failure = ". ".join([*self._failures, reason])
            return
        self._failures.append(reason)
        self._start_with_next()

    def ready(self, wait: bool = False) -> bool:
        """Whether there is an outcome, good or bad. `wait`: stay until there is."""
        while self._process is not None:
            if self._process.is_of_a_parent:
                self._process, self.failure = None, FORKED
                return True
            code = self._process.result(wait)
            if code is None:
                return False
            self._finish(code)
        return True

    def _finish(self, code: int) -> None:
        """Take what the compiler has left."""
        process = self._process
        assert process is not None
        self._process = None
        seconds = time.perf_counter() - self._start
        failure = ""
        try:
            if code != 0:
                failure = process.last_words()
            else:
                try:
                    process.folder.rename(self.entry)
                    made = self.entry
                except OSError:  # another process was quicker: the same library lies there
                    made = process.folder
                self.library = self._loaded(made, False, seconds)
        except DAMAGED as error:
            failure = f"the library cannot be loaded: {in_one_line(error)}"
        finally:
            shutil.rmtree(process.folder, ignore_errors=True)
        if failure:
            self._failed(failure)

    def _loaded(self, entry: Path, found: bool, seconds: float) -> Library:
        library = cache.loaded(entry, self._recipe.load)
        library.found, library.seconds = found, seconds
        self.fallback = ". ".join(self._failures)
        return library
