"""Import hook: makes `import pyro` import this package, for `pyro` and all its submodules."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

OURS = "varigrad.compat.pyro"


class _Alias(Loader):
    """A loader that returns one of our modules under its name in Pyro: one object with two names."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.target)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # the import system has put the alias's there


class _Finder(MetaPathFinder):
    """Finds `pyro` and `pyro.*` among our modules only, because two backends must not mix."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "pyro" and not fullname.startswith("pyro."):
            return None
        ours = OURS + fullname.removeprefix("pyro")
        found = importlib.util.find_spec(ours)
        if found is None:
            raise ModuleNotFoundError(
                f"No module named {fullname!r}: varigrad emulates what Pyro's programs for SVI use, and this is not "
                f"among it. Try: varigrad.compat.pyro.uninstall(), and Pyro itself",
                name=fullname,
            )
        return ModuleSpec(fullname, _Alias(ours), is_package=found.submodule_search_locations is not None)


_FINDER = _Finder()


def install() -> None:
    """From here on `import pyro` and `import pyro.anything` give varigrad's modules, installed Pyro or not.

    Raises:
        ImportError: Pyro itself has been imported in this process.
    """
    if _FINDER in sys.meta_path:
        return
    there = sys.modules.get("pyro")
    if there is not None:
        raise ImportError(
            f"pyro has been imported already, from {getattr(there, '__file__', None)}, and programs may hold parts of "
            "it. Try: varigrad.compat.pyro.install() before the first import of pyro, or a new process",
            name="pyro",
        )
    sys.meta_path.insert(0, _FINDER)


def uninstall() -> None:
    """`import pyro` means again what it meant before `install()`; modules that have been imported stay as they are."""
    if _FINDER in sys.meta_path:
        sys.meta_path.remove(_FINDER)
    for name in [n for n in sys.modules if n == "pyro" or n.startswith("pyro.")]:
        if sys.modules[name].__name__.startswith(OURS):
            del sys.modules[name]
