"""What a program reads from Python besides its arguments, and whether it is still the same.

A graph holds what Python values were when it was recorded. So the variables a program can see (closures, globals, its
modules' attributes, classes, what its arguments hold, lists and dictionaries in all of them) are noted then and looked
at before every call: tensors by identity, since a graph reads them in place, plain values by equality.
"""

from __future__ import annotations

import functools
import pickle
import random
import sys
import types
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

LIMIT = 4000
"""How many variables are watched; a program that sees more is large enough to be checked by its numbers alone."""

SMALL = 4096
"""Bytes of a numpy array up to which its numbers are watched; of a larger one only which array it is."""

_SIMPLE = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
_MISSING = object()


class Watch:
    """The Python state that programs can see.

    Args:
        programs: functions, modules, objects that can be called; and what they are called with.
    """

    def __init__(self, programs: Iterable[object]) -> None:
        self._entries: list[tuple[Any, Any, Any, str]] = []
        self._sizes: list[tuple[Any, int, str]] = []
        self._versions: list[tuple[Tensor, int]] = []
        self._arrays: list[tuple[Any, bytes, str]] = []
        self._seen: set[int] = set()
        for program in programs:
            self._visit(program, getattr(program, "__name__", type(program).__name__))
        self._randomness = _python_randomness()

    def changed(self) -> str:
        """The first variable that is no longer what it was; empty if all are."""
        for container, key, value, name in self._entries:
            now = _look(container, key)
            if now is not value and not (type(now) in _SIMPLE and type(now) is type(value) and now == value):
                return f"{name} was {_short(value)} and is {_short(now)}"
        for container, size, name in self._sizes:
            if len(container) != size:
                return f"{name} had {size} entries and has {len(container)}"
        for tensor, version in self._versions:
            if tensor._version != version:
                return f"{_short(tensor)}, whose values Python looked at, has been written to"
        for array, numbers, name in self._arrays:
            if array.tobytes() != numbers:
                return f"the numbers in {name} are others"
        return ""

    def hold(self, tensors: Iterable[Tensor]) -> None:
        """From now on these must not be written to either."""
        self._versions += [(t, t._version) for t in tensors if not t.is_inference()]

    def randomness_used(self) -> str:
        """Which of Python's own generators has been drawn from since; empty if none."""
        names = [name for name, state in _python_randomness().items() if state != self._randomness.get(name)]
        return names[0] if names else ""

    def _visit(self, value: Any, name: str) -> None:
        if len(self._entries) >= LIMIT or id(value) in self._seen:
            return
        if isinstance(value, (*_SIMPLE, Tensor, types.ModuleType, types.BuiltinFunctionType)):
            return
        self._seen.add(id(value))
        if type(value).__module__ == "numpy" and hasattr(value, "tobytes"):
            if value.nbytes <= SMALL:
                self._arrays.append((value, value.tobytes(), name))
            return
        for container, key, label in _variables(value, name):
            found = _look(container, key)
            if found is not _MISSING and not isinstance(found, types.ModuleType):
                self._entries.append((container, key, found, label))
                self._visit(found, label)
        own = value if isinstance(value, (list, dict, set)) else getattr(value, "__dict__", None)
        if isinstance(own, (list, dict, set)):  # not the view of a class's
            self._sizes.append((own, len(own), name))


def _variables(value: Any, name: str) -> Iterator[tuple[Any, Any, str]]:
    """`(container, key, name)` of everything that `value` gives access to."""
    if isinstance(value, types.FunctionType):
        if not _is_ours(value.__module__):
            yield from _of_function(value, name)
    elif isinstance(value, types.MethodType):
        yield (value.__self__, value.__func__), 0, f"self of {name}"
        yield (value.__self__, value.__func__), 1, name
    elif isinstance(value, functools.partial):
        parts = (value.func, *value.args, *value.keywords.values())
        for i in range(len(parts)):
            yield parts, i, f"an argument of {name}"
    elif isinstance(value, (property, staticmethod, classmethod)):
        yield (value.fget if isinstance(value, property) else value.__func__,), 0, name
    elif hasattr(value, "__wrapped__"):
        yield (value.__wrapped__,), 0, name
    elif isinstance(value, type):
        yield from _of_classes(value, name)
    elif isinstance(value, nn.Module):
        for key in vars(value):
            if not key.startswith("_") or key in ("_parameters", "_buffers", "_modules"):
                yield vars(value), key, f"{name}.{key}"
        yield from _of_classes(type(value), name)
    elif isinstance(value, (list, tuple)):
        for i in range(min(len(value), LIMIT)):
            yield value, i, f"{name}[{i}]"
    elif isinstance(value, dict):
        for key in list(value)[:LIMIT]:
            yield value, key, f"{name}[{key!r}]"
    elif not _is_ours(type(value).__module__) or hasattr(value, "program"):
        for key in getattr(value, "__dict__", ()):
            yield vars(value), key, f"{name}.{key}"
        for kind in type(value).__mro__:
            slots = vars(kind).get("__slots__", ())
            for key in (slots,) if isinstance(slots, str) else slots:
                yield value, key, f"{name}.{key}"
        yield from _of_classes(type(value), name)


def _of_function(function: types.FunctionType, name: str) -> Iterator[tuple[Any, Any, str]]:
    names = _names(function.__code__)
    for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield cell, None, f"{variable!r}"
        yield from _of_module(_look(cell, None), names, variable)
    for variable in names:
        if variable in function.__globals__:
            yield function.__globals__, variable, f"{variable!r}"
            yield from _of_module(function.__globals__[variable], names, variable)
    for i in range(len(function.__defaults__ or ())):
        yield function.__defaults__, i, f"a default of {name}"
    for container in (function.__kwdefaults__ or {}, function.__dict__):
        for key in container:
            yield container, key, f"{name}: {key!r}"


def _of_module(module: Any, names: set[str], label: str) -> Iterator[tuple[Any, Any, str]]:
    """Those of a module's variables that a function may mean, given all names that it uses."""
    if isinstance(module, types.ModuleType) and not _is_installed(module.__name__):
        for key in names.intersection(vars(module)):
            yield vars(module), key, f"{label}.{key}"
            if vars(module)[key] is not module:
                yield from _of_module(vars(module)[key], names - {key}, f"{label}.{key}")


def _of_classes(kind: type, name: str) -> Iterator[tuple[Any, Any, str]]:
    for parent in kind.__mro__:
        if not _is_installed(parent.__module__):
            for key in vars(parent):
                if not key.startswith("__") or key in ("__call__", "__getattr__", "__getitem__"):
                    yield parent, key, f"{name}.{key}"


def _names(code: types.CodeType) -> set[str]:
    inner = (_names(c) for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*inner)


def _is_ours(module: str | None) -> bool:
    return (module or "").split(".")[0] in ("varigrad", "torch", "numpy", "builtins", "functools", "collections")


@functools.cache
def _is_installed(module: str) -> bool:
    """Whether it is a library rather than the user's: what it holds is taken to stay as it is."""
    top = module.split(".")[0]
    place = getattr(sys.modules.get(top), "__file__", None) or ""
    return _is_ours(module) or (top != "__main__" and top in sys.stdlib_module_names) or "-packages" in place


def _look(container: Any, key: Any) -> Any:
    if type(container) is types.CellType:
        try:
            return container.cell_contents
        except ValueError:
            return _MISSING
    if isinstance(container, dict):
        return container.get(key, _MISSING)
    if isinstance(container, type):
        return vars(container).get(key, _MISSING)
    if isinstance(key, str):
        return getattr(container, key, _MISSING)
    return container[key] if key < len(container) else _MISSING


def _python_randomness() -> dict[str, Any]:
    found: dict[str, Any] = {"Python's `random`": random.getstate()}
    if "numpy" in sys.modules:
        found["numpy's global generator"] = pickle.dumps(sys.modules["numpy"].random.get_state())
    return found


def _short(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."
