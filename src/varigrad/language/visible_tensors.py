"""Finds the tensors that a program can see, with the program's expressions for them, for error messages."""

from __future__ import annotations

import functools
import sys
import types
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch import distributions as td

LIMIT = 20_000
"""So many objects are looked at, the nearest first."""

_MODULE_INTERNALS = frozenset(vars(nn.Module()))
"""Attributes that torch keeps in every module; parameters, buffers and submodules are read by their names."""


@dataclass(frozen=True, eq=False)
class VisibleTensor:
    """The place where a program sees a tensor.

    Attributes:
        name: an expression for the tensor, as the program would write it: `net.weight`.
        module: the outermost module whose parameter or buffer it is; None if it is none's.
        module_name: an expression for that module: `net`.
        inside: the module in an attribute of which the above was found, without being registered there: a plain list
            of layers, a tensor that is no `nn.Parameter`.
    """

    name: str
    module: nn.Module | None = None
    module_name: str = ""
    inside: nn.Module | None = None


def visible_tensors(roots: Iterable[tuple[object, str]]) -> Iterator[tuple[Tensor, VisibleTensor]]:
    """Every tensor that can be reached from `roots`, pairs of an object and its name, the nearest first.

    Looks into closures, global variables that the code names, defaults, attributes, arguments of `functools.partial`,
    and containers in all of them; not into libraries.
    """
    queue: deque[tuple[Any, str, nn.Module | None]] = deque((value, name, None) for value, name in roots)
    known: set[int] = set()
    while queue and len(known) < LIMIT:
        value, name, inside = queue.popleft()
        if id(value) in known or isinstance(value, (bool, int, float, complex, str, bytes, type(None))):
            continue
        known.add(id(value))
        if isinstance(value, Tensor):
            yield value, VisibleTensor(name, inside=inside)
            continue
        if isinstance(value, nn.Module):
            for key, tensor in (*value.named_parameters(), *value.named_buffers()):
                yield tensor, VisibleTensor(f"{name}.{key}", value, name, inside)
            parts = [*value.named_modules()]
            known.update(id(part) for _, part in parts)
            for key, part in parts:
                own = {k: v for k, v in vars(part).items() if k not in _MODULE_INTERNALS}
                queue += [(v, f"{name}.{key}.{k}" if key else f"{name}.{k}", part) for k, v in own.items()]
                queue += [(k, name, None) for k in _classes(part)]
            continue
        within = inside if isinstance(value, (Mapping, list, tuple, set, frozenset, deque)) else None
        queue += [(v, label, within) for v, label in _members(value, name)]


def _members(value: Any, name: str) -> Iterator[tuple[Any, str]]:
    """The objects that an object gives access to, each with an expression for it."""
    if isinstance(value, types.FunctionType):
        yield from _of_function(value, name)
    elif isinstance(value, types.MethodType):
        yield value.__self__, "self"
        yield value.__func__, name
    elif isinstance(value, functools.partial):
        yield value.func, name
        names = _positional(value.func)
        yield from ((v, names[i] if i < len(names) else f"argument_{i}") for i, v in enumerate(value.args))
        yield from ((v, k) for k, v in value.keywords.items())
    elif isinstance(value, (Mapping, types.MappingProxyType)):
        yield from ((v, f"{name}[{k!r}]") for k, v in list(value.items()))
    elif isinstance(value, (list, tuple, deque)):
        yield from ((v, f"{name}[{i}]") for i, v in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        yield from ((v, f"an element of {name}") for v in list(value))
    elif isinstance(value, types.CellType):
        yield from ((v, name) for v in _content(value))
    elif isinstance(value, (property, staticmethod, classmethod)):
        yield (value.fget if isinstance(value, property) else value.__func__), name
    elif isinstance(value, type):
        if not _is_installed(value.__module__):
            yield from ((v, f"{value.__name__}.{k}") for k, v in list(vars(value).items()) if k != "__dict__")
    elif not isinstance(value, types.ModuleType):
        if hasattr(value, "__wrapped__"):
            yield value.__wrapped__, name
        if hasattr(value, "program"):  # a handler around a program
            yield value.program, name
        if isinstance(value, (td.Distribution, td.Transform)) or not _is_installed(type(value).__module__):
            yield from ((v, f"{name}.{k}") for k, v in list(getattr(value, "__dict__", {}).items()))
            for kind in _classes(value):
                slots = vars(kind).get("__slots__", ())
                for slot in (slots,) if isinstance(slots, str) else slots:
                    yield getattr(value, slot, None), f"{name}.{slot}"
                yield kind, name


def _of_function(function: types.FunctionType, name: str) -> Iterator[tuple[Any, str]]:
    if hasattr(function, "__wrapped__"):
        yield function.__wrapped__, name
    for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield from ((v, variable) for v in _content(cell))
    if _is_installed(function.__module__):
        return
    names = _names(function.__code__)
    for variable in sorted(names):
        if variable in function.__globals__:
            found = function.__globals__[variable]
            if isinstance(found, types.ModuleType):
                yield from _of_module(found, variable, names)
            else:
                yield found, variable
    defaults = function.__defaults__ or ()
    own = _positional(function)
    yield from ((v, k) for v, k in zip(defaults, own[len(own) - len(defaults) :], strict=True))
    yield from ((v, k) for k, v in (function.__kwdefaults__ or {}).items())
    yield from ((v, f"{name}.{k}") for k, v in vars(function).items())


def _positional(function: object) -> tuple[str, ...]:
    """The names of a function's positional arguments."""
    code = getattr(function, "__code__", None)
    first = int(isinstance(function, types.MethodType))  # after `self`
    return code.co_varnames[first : code.co_argcount] if isinstance(code, types.CodeType) else ()


def _of_module(module: types.ModuleType, label: str, names: set[str]) -> Iterator[tuple[Any, str]]:
    """The objects in a user's module that code with these names may mean."""
    if not _is_installed(module.__name__):
        for key in sorted(names.intersection(vars(module))):
            yield vars(module)[key], f"{label}.{key}"


def _names(code: types.CodeType) -> set[str]:
    """All names that a function's code uses, inner functions included."""
    inner = (_names(c) for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*inner)


def _content(cell: types.CellType) -> tuple[Any, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:  # not yet assigned
        return ()


def _classes(value: object) -> list[type]:
    """The user's own classes among an object's."""
    return [kind for kind in type(value).__mro__ if not _is_installed(kind.__module__)]


@functools.cache
def _is_installed(module: str | None) -> bool:
    """Whether a module belongs to a library, not to the user."""
    top = (module or "").split(".")[0]
    if top == "__main__":
        return False
    place = getattr(sys.modules.get(top), "__file__", None) or ""
    return top in ("varigrad", "torch", "builtins") or top in sys.stdlib_module_names or "-packages" in place
