"""Reachable state: finds the modules, tensors and random generators in programs' closures and globals."""

from __future__ import annotations

import functools
import random
import sys
import types
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, TypeGuard

import torch
from torch import Tensor, nn
from torch import distributions as td

from varigrad.language.runtime import modules_of
from varigrad.objectives.estimator_states import EstimatorStates

if TYPE_CHECKING:
    import numpy as np

LIMIT = 2_000
"""How many objects are looked into, the nearest first."""

_LIBRARIES = ("varigrad", "torch", "numpy", "builtins", "functools", "typing")
Generator: TypeAlias = "np.random.Generator | np.random.RandomState | random.Random | torch.Generator"


@dataclass
class ReachableState:
    """The modules, tensors and generators that some programs refer to.

    Attributes:
        modules: every module once, submodules included.
        tensors: tensors outside of modules.
        generators: generators of random numbers that belong to the programs, not to torch, numpy or Python.
    """

    modules: dict[int, nn.Module] = field(default_factory=dict)
    tensors: dict[int, Tensor] = field(default_factory=dict)
    generators: dict[int, Generator] = field(default_factory=dict)

    def __reduce__(self) -> tuple[type[ReachableState], tuple[()]]:
        """A copy is empty: it belongs to copies of the modules, which have other identities."""
        return ReachableState, ()


def reachable_from(programs: Iterable[object]) -> ReachableState:
    """What the programs can see: their closures, the globals that they name, their owners, and containers of these."""
    found = ReachableState()
    queue: deque[object] = deque(programs)
    queue += [m for p in list(queue) if callable(p) for m in modules_of(p)]
    seen: set[int] = set()
    kept: list[object] = []  # so that no number in `seen` is given to another object
    while queue and len(seen) < LIMIT:
        value = queue.popleft()
        if id(value) in seen or value is None or isinstance(value, (bool, int, float, str, bytes, types.ModuleType)):
            continue
        seen.add(id(value))
        kept.append(value)
        if isinstance(value, nn.Module):
            _add_module(found, value)
        elif isinstance(value, Tensor):
            found.tensors[id(value)] = value
            continue
        elif _is_generator(value):
            found.generators[id(value)] = value
            continue
        queue += _inside(value)
    return found


def _add_module(found: ReachableState, module: nn.Module) -> None:
    for inner in module.modules():
        if not isinstance(inner, EstimatorStates):  # no part of a program; its owner preserves it
            found.modules[id(inner)] = inner


def _inside(value: object) -> Iterable[object]:
    """The objects that `value` refers to, as far as a program uses them."""
    if isinstance(value, types.FunctionType):
        return _of_function(value)
    if isinstance(value, types.MethodType):
        return (value.__func__, value.__self__)
    if isinstance(value, functools.partial):
        return (value.func, *value.args, *value.keywords.values())
    if isinstance(value, (dict, types.MappingProxyType)):
        return tuple(value.values())
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return tuple(value)
    if isinstance(value, type):
        return () if _of_library(value) else tuple(vars(value).values())
    if isinstance(value, (property, staticmethod, classmethod)):
        return (value.fget if isinstance(value, property) else value.__func__,)
    held = tuple(v for k, v in _attributes(value).items() if k not in ("_parameters", "_buffers"))
    if isinstance(value, (nn.Module, td.Distribution)) or not _of_library(type(value)):
        return (*held, *(k for k in type(value).__mro__ if not _of_library(k)))
    return held if hasattr(value, "program") else ()


def _attributes(value: object) -> dict[str, object]:
    """What an object keeps, without asking the object: a class may answer for all its attributes as it likes."""
    try:
        held = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return held if isinstance(held, dict) else {}


def _of_function(function: types.FunctionType) -> Iterable[object]:
    if str(function.__module__).split(".")[0] in _LIBRARIES:
        return [_content(cell) for cell in function.__closure__ or ()]
    names = _names(function.__code__)
    held = [_content(cell) for cell in function.__closure__ or ()]
    held += [function.__globals__[name] for name in names if name in function.__globals__]
    held += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return [*held, getattr(function, "__wrapped__", None), *vars(function).values()]


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _names(code: types.CodeType) -> set[str]:
    inner = (_names(c) for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*inner)


def _of_library(kind: type) -> bool:
    return str(kind.__module__).split(".")[0] in _LIBRARIES


def _is_generator(value: object) -> TypeGuard[Generator]:
    """Whether a value is a generator of random numbers. numpy's are asked for only where a program has loaded them."""
    if isinstance(value, (random.Random, torch.Generator)):
        return True
    loaded = sys.modules.get("numpy.random")
    return loaded is not None and isinstance(value, (loaded.Generator, loaded.RandomState))
