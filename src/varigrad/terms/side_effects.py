"""Side effects of torch functions: whether a call writes into memory, or lets its inputs' values leave torch.

A tracked run marks the results of every call. That is enough for a function that *carries*: the values of its results
contain all its information about the inputs. The inputs of any other function *leave* torch: it writes into memory, its
results have shapes that depend on values, it returns numbers, or it calls code that is not torch's.

Operators are classified by their schemas, which declare what is written, and which arguments are tensors and which may
become sizes. Functions of torch that are written in Python have no schema; `operator_allowlist.py` lists those that
carry, from a review of their source. The inputs of a function with neither a schema nor an entry count as leaving.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from inspect import Parameter, signature
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType, MethodWrapperType, WrapperDescriptorType

import torch
from torch import Tensor

from varigrad._torch_internals import (
    PYTHON_METHODS,
    Argument,
    FunctionSchema,
    OpOverload,
    OpOverloadPacket,
    name_of_overload,
    name_of_packet,
    schema_of_operator,
    schemas_by_name,
)
from varigrad.terms.arrangements import ARRANGED
from varigrad.terms.operator_allowlist import (
    ALIASES,
    CONVERSIONS,
    MEASURED_BY_TENSORS,
    PYTHON,
    SILENT,
    SILENT_PROPERTIES,
    TELLING,
    TOTAL,
    WITH_RUNNING_AVERAGES,
)

Changes = Callable[[Sequence[object], Mapping[str, object]], bool]
_TENSORS = frozenset(
    ("Tensor", "Optional[Tensor]", "List[Tensor]", "List[Optional[Tensor]]", "Optional[List[Optional[Tensor]]]")
)
_SCALARS = frozenset(("number", "Optional[number]", "List[number]"))
_TENSOR_NAMES = frozenset(("self", "input", "x", "x1", "x2", "out"))


@dataclass(frozen=True, slots=True)
class Effect:
    """The effects of a call other than its results.

    Attributes:
        name: the operator's, without the marks of an in-place version.
        leaves: why everything that goes in leaves torch; empty if the results carry all that the call tells.
        silent: answers that are no tensors (a size, a type) say nothing of the values.
        getter: a property, which may be absent: None says nothing.
        sizes: positions of arguments that may become a size, a dimension or a switch.
        rest: from this position on, all arguments may.
        either: positions and names of arguments that may be a tensor or a size.
        tensors: names of arguments that never become a size.
        changes: whether these arguments make the call do more than compute its results.
        raises: whether it may raise an error that depends on values.
        measured: whether there is any argument that may become a size.
        first: whether the first argument never does.
        arranged: whether arguments that are no tensors say which elements meet (`arrangements.py`).
    """

    name: str
    leaves: str = ""
    silent: bool = False
    getter: bool = False
    sizes: tuple[int, ...] = ()
    rest: int | None = None
    either: frozenset[int | str] = frozenset()
    tensors: frozenset[str] = _TENSOR_NAMES
    changes: Changes | None = None
    raises: bool = True
    measured: bool = False
    first: bool = True
    arranged: bool = False


_FOREIGN = Effect("", "calls code that is not torch's")


def effect_of(function: object) -> Effect:
    """What a function does, for anything that reaches `__torch_function__` or `__torch_dispatch__`."""
    try:
        return _effect_of(function)
    except TypeError:  # it cannot be hashed, so it is none of torch's
        return _FOREIGN


@lru_cache(maxsize=4096)
def _effect_of(function: object) -> Effect:
    effect = _own_effect_of(function)
    return replace(effect, arranged=True) if effect.name in ARRANGED else effect


def _own_effect_of(function: object) -> Effect:
    if isinstance(function, OpOverload):
        return _of_operator(function.namespace, name_of_overload(function), [schema_of_operator(function)])
    if isinstance(function, OpOverloadPacket):
        space, name = name_of_packet(function).split("::")
        return _of_operator(space, name, schemas_of(name, space))
    if isinstance(function, MethodWrapperType):
        return _of_property(function)
    if isinstance(function, (BuiltinFunctionType, MethodDescriptorType, WrapperDescriptorType)):
        owner = getattr(function, "__objclass__", None)
        ours = issubclass(Tensor, owner) if owner else str(function.__module__).split(".")[0] == "torch"
        return _of_builtin(function.__name__) if ours else _FOREIGN
    if isinstance(function, FunctionType):
        return _of_python(function)
    return _FOREIGN


def schemas_of(name: str, space: str = "aten") -> list[FunctionSchema]:
    """The schemas of all overloads of an operator that have to do with tensors."""
    schemas = schemas_by_name(f"{space}::{name}")
    return [s for s in schemas if any("Tensor" in str(a.type) for a in (*s.arguments, *s.returns))]


def writes(argument: Argument) -> bool:
    """Whether a schema says that an argument is written into."""
    return argument.alias_info is not None and argument.alias_info.is_write


def _of_operator(space: str, name: str, schemas: list[FunctionSchema]) -> Effect:
    if space not in ("aten", "prims"):
        return replace(_FOREIGN, name=name)
    return _by_schemas(name, schemas, chosen=len(schemas) == 1)


def _of_builtin(name: str) -> Effect:
    if name in SILENT:
        return Effect(name, silent=True, raises=False)
    if name in CONVERSIONS:
        return Effect(name, raises=False)
    if name == "__getitem__":
        return Effect(name, changes=_by_mask)
    schemas = schemas_of(ALIASES.get(name, name))
    if not schemas:
        return Effect(_plain_name(name), "has no schema")
    effect = _by_schemas(ALIASES.get(name, name), schemas)
    return replace(effect, changes=_without_values) if name == "where" else effect


def _of_property(wrapper: MethodWrapperType) -> Effect:
    owner = wrapper.__self__
    name = getattr(getattr(owner, "fget", owner), "__name__", "")
    if wrapper.__name__ != "__get__":
        return Effect(name, "sets an attribute")
    return Effect(name, silent=name in SILENT_PROPERTIES, getter=True, raises=False)


def _by_schemas(name: str, schemas: list[FunctionSchema], chosen: bool = False) -> Effect:
    """The effect that any of these overloads has.

    Overloads with `out=` count only where it is known which overload is called.
    """
    if not chosen:
        schemas = [s for s in schemas if not any(a.kwarg_only and writes(a) for a in s.arguments)] or schemas
    plain = _plain_name(name)
    if any(writes(a) for s in schemas for a in s.arguments):
        return Effect(plain, "writes into its arguments")
    if name in TELLING:
        return Effect(plain, TELLING[name])
    if any(len({str(r.type) in _TENSORS for r in s.returns}) == 2 for s in schemas):
        return Effect(plain, "answers with numbers beside tensors")
    as_tensor, as_size, lists = set[int | str](), set[int | str](), set[int]()
    for schema in schemas:
        for i, argument in enumerate(schema.arguments):
            kind = str(argument.type)
            measures = name in MEASURED_BY_TENSORS and argument.name != "self"
            tensor = not measures and (kind in _TENSORS or kind in _SCALARS)
            keys: set[int | str] = {argument.name} if argument.kwarg_only else {argument.name, i}
            (as_tensor if tensor else as_size).update(keys)
            if kind == "List[int]" and not argument.kwarg_only:
                lists.add(i)  # may be written out: `x.view(2, 3)`
    strict = as_size - as_tensor
    places = {a.name: i for s in schemas for i, a in enumerate(s.arguments)}
    return Effect(
        plain,
        sizes=tuple(sorted(k for k in strict if isinstance(k, int))),
        rest=min(lists, default=None),
        either=frozenset(as_size - strict),
        tensors=frozenset(k for k in as_tensor - as_size if isinstance(k, str)) | _TENSOR_NAMES,
        changes=_changes(places, name in WITH_RUNNING_AVERAGES),
        raises=name not in TOTAL,
        measured=bool(as_size),
        first=0 not in as_size,
    )


def _of_python(function: FunctionType) -> Effect:
    name = function.__name__
    if name in SILENT and function.__module__.startswith("torch."):
        return Effect(name, silent=True, raises=False)
    inner = getattr(function, "__wrapped__", None)
    if isinstance(inner, MethodDescriptorType) and function.__module__ == PYTHON_METHODS:
        return _of_builtin(inner.__name__)
    reviewed = PYTHON.get(function.__module__, {})
    if name not in reviewed:
        return Effect(name, "is written in Python and not on the list of those that carry")
    parameters = signature(function).parameters
    named = reviewed[name] or tuple(
        p.name for p in parameters.values() if "Tensor" in str(p.annotation) or p.name == "input"
    )
    generic = all(p.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD) for p in parameters.values())
    places = {key: i for i, key in enumerate(parameters)}
    sizes: tuple[int, ...] = ()
    rest: int | None = None
    if generic:  # one of two functions, chosen by a switch: only the first argument is a tensor, if they do not say
        rest = None if reviewed[name] else 1
    else:
        sizes = tuple(i for key, i in places.items() if key not in named)
    changes = _changes(places, name in WITH_RUNNING_AVERAGES)
    if name == "einsum":
        changes = _by_sublists
    return Effect(
        name,
        sizes=sizes,
        rest=rest,
        tensors=frozenset(named) | _TENSOR_NAMES,
        changes=changes,
        raises=name not in TOTAL,
        measured=bool(sizes) or rest is not None or generic,
        first=0 not in sizes,
    )


def _changes(places: Mapping[str, int], averages: bool) -> Changes | None:
    """Make the test of the arguments that make a function write: `inplace`, `max_norm`, averages while training."""

    def given(name: str, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
        place = places.get(name)
        return args[place] if place is not None and place < len(args) else kwargs.get(name)

    if averages:
        switch = next((s for s in ("training", "use_input_stats") if s in places), None)

        def trained(args: Sequence[object], kwargs: Mapping[str, object]) -> bool:
            if all(given(n, args, kwargs) is None for n in ("running_mean", "running_var")):
                return False
            return switch is None or given(switch, args, kwargs) is not False

        return trained
    named = [n for n in ("inplace", "max_norm") if n in places]
    if not named:
        return None
    return lambda args, kwargs: any(given(n, args, kwargs) not in (None, False) for n in named)


def _by_mask(args: Sequence[object], kwargs: Mapping[str, object]) -> bool:
    """Whether an index selects by a tracked mask, so that how much it selects depends on values."""
    index = args[1]
    return any(_is_mask(part, False) for part in (index if isinstance(index, tuple) else (index,)))


def _is_mask(part: object, listed: bool) -> bool:
    if isinstance(part, (list, tuple)):
        return any(_is_mask(p, True) for p in part)
    return isinstance(part, Tensor) and type(part) is not Tensor and (listed or part.dtype in (torch.bool, torch.uint8))


def _without_values(args: Sequence[object], kwargs: Mapping[str, object]) -> bool:
    return len(args) + len(kwargs) == 1


def _by_sublists(args: Sequence[object], kwargs: Mapping[str, object]) -> bool:
    return not isinstance(args[0], str)


def _plain_name(name: str) -> str:
    """The operator's name without the marks of in-place and list forms: `floor` for `floor_` and `_foreach_floor_`."""
    name = name.removeprefix("_foreach_")
    if (
        name.startswith("__i")
        and name.endswith("__")
        and name not in ("__invert__", "__int__", "__index__", "__iter__")
    ):
        return f"__{name[3:]}"
    return name if name.startswith("__") else name.rstrip("_")
