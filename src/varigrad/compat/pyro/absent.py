"""Stand-ins for what Pyro has and varigrad lacks: they can be imported and passed around, and their use is an error.

`names_of_pyro.txt` lists the modules of Pyro 1.9.2, each with its public names; `contrib` and most of MCMC's modules
are left out.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from importlib.resources import files
from types import ModuleType
from typing import Any, NoReturn

from varigrad.compat.pyro.absent_advice import advice_for

OURS = "varigrad.compat.pyro"


def names_of_pyro() -> dict[str, tuple[str, ...]]:
    """The public names of every module of Pyro's, by the module's name."""
    lines = files(OURS).joinpath("names_of_pyro.txt").read_text().splitlines()
    return {module: tuple(names) for module, *names in map(str.split, lines)}


def refusal(what: str) -> NotImplementedError:
    """The error that the use of something absent raises."""
    return NotImplementedError(f"{what} is not there. Try: {advice_for(what)}")


class _Refusing(type):
    """The class of stand-ins, so that they are classes themselves, which annotations and `isinstance` may need."""

    def __call__(cls, *args: object, **kwargs: object) -> NoReturn:
        raise refusal(f"{cls.__module__}.{cls.__name__}")

    def __enter__(cls) -> NoReturn:
        raise refusal(f"{cls.__module__}.{cls.__name__}")

    def __exit__(cls, *error: object) -> None:
        """Never called: a stand-in cannot be entered."""

    def __iter__(cls) -> NoReturn:
        raise refusal(f"{cls.__module__}.{cls.__name__}")

    def __getitem__(cls, index: object) -> NoReturn:
        raise refusal(f"{cls.__module__}.{cls.__name__}")

    def __getattr__(cls, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise refusal(f"{cls.__module__}.{cls.__name__}.{name}")


def absent(what: str) -> type:
    """A stand-in for a class or function of Pyro's; calling, subclassing, entering it, or reading a part of it raises.

    Args:
        what: its name in Pyro, `pyro.infer.SVGD`.
    """

    def refuse(cls: type, /, **options: object) -> NoReturn:
        raise refusal(what)

    module, _, name = what.rpartition(".")
    inside = {
        "__init_subclass__": classmethod(refuse),
        "__doc__": f"Stands for Pyro's `{what}`, which is not there.",
        "__module__": module,
    }
    return _Refusing(name, (), inside)


class AbsentModule(ModuleType):
    """A module of Pyro's that varigrad lacks; its names are those of the package around it, or stand-ins.

    Args:
        name: the module's in Pyro.
        names: the public names in it.
    """

    def __init__(self, name: str, names: tuple[str, ...]) -> None:
        ours = OURS + name.removeprefix("pyro")
        super().__init__(ours, f"Stands for Pyro's `{name}`.")
        self.__spec__ = ModuleSpec(ours, None, is_package=True)
        self.__path__: list[str] = []
        self.__all__ = list(names)
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name not in self.__all__:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        package = sys.modules[self.__name__.rpartition(".")[0]]
        found = getattr(package, name, None)
        if found is None or isinstance(found, ModuleType):
            found = absent(f"{self._name}.{name}")
        setattr(self, name, found)
        return found


def fill() -> None:
    """Put stand-ins where Pyro has modules and names, and this package has none."""
    for module, names in names_of_pyro().items():  # packages come before what is in them
        ours = OURS + module.removeprefix("pyro")
        package, _, last = ours.rpartition(".")
        around = sys.modules[package]
        if not hasattr(around, "__path__"):
            around.__path__ = []  # a file of ours, where Pyro has a folder
        if ours not in sys.modules and importlib.util.find_spec(ours) is None:
            sys.modules[ours] = AbsentModule(module, names)
            if not hasattr(around, last):
                setattr(around, last, sys.modules[ours])
            continue
        there = importlib.import_module(ours)
        for name in names:
            if not hasattr(there, name):
                setattr(there, name, absent(f"{module}.{name}"))
