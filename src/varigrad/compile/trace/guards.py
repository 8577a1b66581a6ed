"""Guards: records the Python values that a program can read besides its arguments, and detects changes.

A graph contains Python values as constants of the time when it was traced. So the variables that a program can see
(closures, globals, its modules' attributes and hooks, classes, code, what its arguments hold, containers in all of
them) are recorded then and compared before every call: tensors by identity, since a graph reads them in place, plain
values by equality.
"""

from __future__ import annotations

import array
import contextvars
import functools
import operator
import os
import pickle
import random
import sys
import types
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sized
from itertools import count
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch import distributions as td

from varigrad._torch_internals import version_of

LIMIT = 20_000
"""How many variables are guarded, the nearest first; the rest is left to the comparison of steps with Python."""

SMALL = 4096
"""Bytes of an array up to which its numbers are guarded in any case."""

LARGE = 2**20
"""Bytes up to which they are guarded if no graph reads them in place; of a larger array only the identity is."""

_SIMPLE = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
_MAPPINGS = (dict, types.MappingProxyType)
Container: TypeAlias = Mapping[object, object] | list[object] | set[object] | deque[object]
_CONTAINERS = (*_MAPPINGS, list, set, deque)
_HOOKS = {"_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"}
_IDLE = vars(nn.Module()).keys() - {"training", "_parameters", "_buffers", "_modules", *_HOOKS}
"""Attributes of torch's modules on which a call does not depend."""
_MISSING = object()


class Variable(NamedTuple):
    """A variable that a program can see: the container that it is read from, and its name in messages."""

    container: object
    key: object
    name: str


class Guards:
    """Guards of the Python state that programs can see: they record it, and detect changes.

    Args:
        programs: functions, modules and other objects that are called; and what they are called with.
    """

    def __init__(self, programs: Iterable[object]) -> None:
        self._entries: list[tuple[object, object, object, str]] = []
        self._contents: list[tuple[Container, tuple[object, ...], str]] = []
        self._sizes: list[tuple[Sized, int, str]] = []
        self._versions: list[tuple[Tensor, int, bytes | None]] = []
        self._layouts: list[tuple[Tensor, tuple[object, ...]]] = []
        self._arrays: list[tuple[object, bytes, str]] = []
        self._generators: list[tuple[object, bytes, str]] = []
        self._left = LIMIT
        self._seen: set[int] = set()
        self._queue = deque((p, getattr(p, "__name__", type(p).__name__)) for p in programs)
        while self._queue:
            self._visit(*self._queue.popleft())
        self._randomness = _python_randomness()

    def changed(self) -> str:
        """The first variable that is no longer what it was; empty if all are."""
        for container, key, value, name in self._entries:
            now = _read(container, key)
            if now is not value and not _same(now, value):
                return f"{name} was {_short(value)} and is {_short(now)}"
        for container, size, name in self._sizes:
            if len(container) != size:
                return f"{name} had {size} entries and has {len(container)}"
        for container, values, name in self._contents:
            found = _values(container)
            if len(found) != len(values):
                had, has = (len(v) // (2 if isinstance(container, _MAPPINGS) else 1) for v in (values, found))
                return f"{name} had {had} entries and has {has}"
            if not all(map(operator.is_, found, values)) and not all(map(_same, found, values)):
                i = next(i for i, now, then in zip(count(), found, values, strict=False) if not _same(now, then))
                return f"{_label(container, i, name)} was {_short(values[i])} and is {_short(found[i])}"
        for tensor, version, numbers in self._versions:
            if version_of(tensor) != version or (numbers is not None and _numbers(tensor) != numbers):
                return f"{_short(tensor)}, whose values Python looked at, has been written to"
        for tensor, layout in self._layouts:
            if _memory_layout(tensor) != layout:
                return f"{_short(tensor)} lies elsewhere in memory than it did, or has another shape"
        for numbers_of, numbers, name in self._arrays:
            if _numbers(numbers_of) != numbers:
                return f"the numbers in {name} are others"
        return ""

    def hold(self, constants: Iterable[Tensor], read: Iterable[Tensor]) -> None:
        """Guard tensors as well.

        Args:
            constants: a graph reads them in place, so they have to stay where they are.
            read: their values have been read, so they have to keep them.
        """
        self._layouts += [(t, _memory_layout(t)) for t in constants]
        spans = [(t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()) for t, _ in self._layouts]
        self._arrays = [
            a
            for a in self._arrays
            if len(a[1]) <= SMALL or not any(begin <= _address(a[0]) < begin + size for begin, size in spans)
        ]
        for tensor in read:
            if not tensor.is_inference():
                cheap = tensor.is_cpu and tensor.nbytes <= LARGE  # a GPU would have to be waited for at every step
                self._versions.append((tensor, version_of(tensor), _numbers(tensor) if cheap else None))

    def randomness_used(self) -> str:
        """The first of Python's own generators that has been drawn from since; empty if there is none."""
        names = [name for name, state in _python_randomness().items() if state != self._randomness.get(name)]
        names += [name for generator, state, name in self._generators if pickle.dumps(generator) != state]
        return names[0] if names else ""

    def _visit(self, value: object, name: str) -> None:
        """Guard a value, and queue what it gives access to."""
        if self._left <= 0 or id(value) in self._seen or isinstance(value, (*_SIMPLE, types.ModuleType)):
            return
        self._seen.add(id(value))
        if _is_generator(value):
            self._generators.append((value, pickle.dumps(value), name))
        elif _is_array(value):
            if _size(value) <= LARGE:
                self._arrays.append((value, _numbers(value), name))
        elif isinstance(value, _CONTAINERS):
            if not 0 < len(value) <= self._left:
                self._sizes.append((value, len(value), name))
            else:
                values = _values(value)
                self._contents.append((value, values, name))
                self._left -= len(values)
                self._queue += [(v, _label(value, i, name)) for i, v in enumerate(values)]
        else:
            for container, key, label in _variables(value, name):
                found = _read(container, key)
                if type(container) is not tuple and not isinstance(found, types.ModuleType):
                    self._entries.append((container, key, found, label))
                    self._left -= 1
                self._queue.append((found, label))
            own = getattr(value, "__dict__", None)
            library = isinstance(value, td.Distribution) or (
                isinstance(value, type) and _is_installed(value.__module__)
            )
            if isinstance(own, _MAPPINGS) and not library:
                self._sizes.append((own, len(own), name))


def _variables(value: object, name: str) -> Iterator[Variable]:
    """Everything that a value gives access to."""
    if isinstance(value, Tensor):
        if value.requires_grad:
            yield Variable(value, "_backward_hooks", f"the hooks of {name}")
    elif isinstance(value, types.FunctionType):
        if not _is_ours(value.__module__):
            yield from _of_function(value, name)
    elif isinstance(value, types.MethodType):
        yield from _elements((value.__func__, value.__self__), name)
    elif isinstance(value, types.BuiltinFunctionType):
        yield Variable((value.__self__,), 0, f"self of {name}")
    elif isinstance(value, functools.partial):
        yield from _elements((value.func, *value.args, *value.keywords.values()), f"an argument of {name}")
    elif isinstance(value, (property, staticmethod, classmethod)):
        yield Variable((value.fget if isinstance(value, property) else value.__func__,), 0, name)
    elif isinstance(value, contextvars.ContextVar):
        yield Variable(value, None, name)
    elif hasattr(value, "__wrapped__"):
        yield Variable((value.__wrapped__,), 0, name)
    elif isinstance(value, type):
        yield from _of_class(value, name)
    elif isinstance(value, (tuple, frozenset)):
        yield from _elements(tuple(value), name)
    elif isinstance(value, nn.Module):
        for key in vars(value).keys() - _IDLE:
            yield Variable(vars(value), key, f"{name}.{key}")
        yield from _elements(type(value).__mro__, name)
    elif isinstance(value, (td.Distribution, td.Transform)):
        for key in vars(value):
            if not key.startswith("_"):  # caches
                yield Variable(vars(value), key, f"{name}.{key}")
        yield from _elements(type(value).__mro__, name)
    elif not _is_ours(type(value).__module__) or hasattr(value, "program"):
        for key in getattr(value, "__dict__", ()):
            yield Variable(vars(value), key, f"{name}.{key}")
        for kind in type(value).__mro__:
            slots = vars(kind).get("__slots__", ())
            for key in (slots,) if isinstance(slots, str) else slots:
                yield Variable(value, key, f"{name}.{key}")
        yield from _elements(type(value).__mro__, name)


def _elements(values: tuple[object, ...], name: str) -> Iterator[Variable]:
    """The elements of a tuple, which cannot be replaced, but may change."""
    for i in range(len(values)):
        yield Variable(values, i, name)


def _of_function(function: types.FunctionType, name: str) -> Iterator[Variable]:
    """Closure, globals, defaults, attributes and code of a function."""
    names = _names_in(function.__code__)
    for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield Variable(cell, None, f"{variable!r}")
        yield from _of_module(_read(cell, None), names, variable)
    package = function.__globals__.get("__package__")
    for variable in names:
        if variable in function.__globals__:
            yield Variable(function.__globals__, variable, f"{variable!r}")
            yield from _of_module(function.__globals__[variable], names, variable)
        else:  # imported inside the function
            yield from _of_module(sys.modules.get(variable), names, variable)
            yield from _of_module(sys.modules.get(f"{package}.{variable}"), names, variable)
    if not names.isdisjoint(("environ", "getenv")):
        yield Variable(vars(os.environ), "_data", "os.environ")
    for key in ("__code__", "__defaults__", "__kwdefaults__"):
        yield Variable(function, key, f"{key} of {name}")
    for key in vars(function):
        yield Variable(vars(function), key, f"{name}: {key!r}")


def _of_module(module: object, names: set[str], label: str) -> Iterator[Variable]:
    """The variables of a module that a function may mean, given all names that it uses."""
    if isinstance(module, types.ModuleType) and not _is_installed(module.__name__):
        for key in names.intersection(vars(module)):
            yield Variable(vars(module), key, f"{label}.{key}")
            if vars(module)[key] is not module:
                yield from _of_module(vars(module)[key], names - {key}, f"{label}.{key}")


def _of_class(kind: type, name: str) -> Iterator[Variable]:
    """Attributes and methods of a user's class, and of its bases."""
    if not _is_installed(kind.__module__):
        for key, value in vars(kind).items():
            if not key.startswith("__") or isinstance(value, types.FunctionType):
                yield Variable(kind, key, f"{name}.{key}")
        yield from _elements(kind.__mro__[1:], name)


def _names_in(code: types.CodeType) -> set[str]:
    inner = (_names_in(c) for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*inner)


def _top(module: object) -> str:
    """The package that a module belongs to."""
    return module.split(".")[0] if isinstance(module, str) else ""  # some of Cython's types have none


def _is_ours(module: object) -> bool:
    """Whether a module is of varigrad, torch, numpy or Python's builtins."""
    return _top(module) in ("varigrad", "torch", "numpy", "builtins")


@functools.cache
def _is_installed(module: str) -> bool:
    """Whether a module is a library's rather than the user's: its variables are taken to stay as they are."""
    top = _top(module)
    place = getattr(sys.modules.get(top), "__file__", None) or ""
    return _is_ours(module) or (top != "__main__" and top in sys.stdlib_module_names) or "-packages" in place


def _read(container: object, key: object) -> object:
    """The value of a variable."""
    if isinstance(container, dict):
        return container.get(key, _MISSING)
    if type(container) is types.CellType:
        try:
            return container.cell_contents
        except ValueError:
            return _MISSING
    if isinstance(container, contextvars.ContextVar):
        return container.get(_MISSING)
    if isinstance(key, str):
        return vars(container).get(key, _MISSING) if isinstance(container, type) else getattr(container, key, _MISSING)
    assert isinstance(container, tuple) and isinstance(key, int)
    return container[key] if key < len(container) else _MISSING


def _same(now: object, then: object) -> bool:
    """Whether a value is the same object, or an equal plain value."""
    return now is then or (type(now) in _SIMPLE and type(now) is type(then) and now == then)


def _values(container: Container) -> tuple[object, ...]:
    """The elements of a container; of a mapping, values and keys."""
    if isinstance(container, _MAPPINGS):
        return (*container.values(), *container)
    return tuple(container)


def _label(container: Container, i: int, name: str) -> str:
    """The name of the i-th of `_values`."""
    if not isinstance(container, _MAPPINGS):
        return f"an element of {name}" if isinstance(container, set) else f"{name}[{i}]"
    return f"{name}[{list(container)[i]!r}]" if i < len(container) else f"a key of {name}"


def _is_array(value: object) -> bool:
    """Whether a value is an array of numpy's, or of bytes."""
    numpy = _top(type(value).__module__) == "numpy" and hasattr(value, "tobytes")
    return numpy or isinstance(value, (bytearray, memoryview, array.array))


def _size(values: object) -> int:
    """Bytes of an array."""
    if hasattr(values, "nbytes"):
        return int(values.nbytes)
    assert isinstance(values, (bytearray, array.array))
    return len(values) * (values.itemsize if isinstance(values, array.array) else 1)


def _numbers(values: object) -> bytes:
    """The numbers of a tensor or an array, as bytes."""
    if isinstance(values, Tensor):
        return bytes(values.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
    if isinstance(values, bytearray):
        return bytes(values)
    assert hasattr(values, "tobytes")
    return bytes(values.tobytes())


def _address(values: object) -> int:
    """The address of an array of numpy's; -1 for other arrays."""
    interface = getattr(values, "__array_interface__", None)
    return -1 if interface is None else int(interface["data"][0])


def _memory_layout(tensor: Tensor) -> tuple[object, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def _is_generator(value: object) -> bool:
    """Whether a value is a generator of random numbers of Python's or numpy's."""
    numpy = sys.modules.get("numpy.random")  # that numpy is there does not mean that this part of it is
    kinds = () if numpy is None else (numpy.Generator, numpy.RandomState, numpy.BitGenerator)
    return type(value) is random.Random or isinstance(value, kinds)


def _python_randomness() -> dict[str, object]:
    """The states of Python's and numpy's global generators."""
    found: dict[str, object] = {"Python's `random`": random.getstate()}
    if "numpy.random" in sys.modules:
        found["numpy's global generator"] = pickle.dumps(sys.modules["numpy.random"].get_state())
    return found


def _short(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."
