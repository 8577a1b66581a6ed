"""Provenance: which random choices a tensor was computed from, tracked through arbitrary torch code.

A tracked tensor is a `Tensor` subclass that shares its storage with the plain tensor it stands for. Two hooks
keep the promise that a dependency is never lost:

* `__torch_function__` sees every call made from Python. It runs the operation on the plain tensors and marks
  the results with the union of the inputs' provenance (the fast path, a few microseconds).
* `__torch_dispatch__` sees whatever reaches the dispatcher some other way: a scripted or traced module, `vmap`, an
  `autograd.Function`, `torch.tensor(t)`.

When a value *leaves* torch (`.item()`, `bool()`, `numpy()`, a data-dependent shape, a write into memory that other
tensors may share, a `torch.func` transform that closes over it) there is nothing left to mark. Then the tensor's
`Escapes` record is told, and everything computed afterwards counts as downstream: over-reported, never lost.

References:
    Wingate, Goodman, Stuhlmueller, Siskind (2011), Nonstandard interpretations of probabilistic programs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from varigrad.terms.harmless import is_harmless

Provenance = frozenset[Any]
NOTHING: Provenance = frozenset()

_without_functions = torch._C.DisableTorchFunctionSubclass
_without_dispatch = torch._C._DisableTorchDispatch
_functorch_level = torch._C._functorch.peek_interpreter_stack

# Calls that answer with something else than a tensor and yet tell nothing about the values.
_SAYS_NOTHING = frozenset(
    """__get__ __len__ __hash__ dim size stride numel nelement ndimension is_floating_point is_complex
    is_contiguous element_size get_device is_signed is_inference is_conj is_neg is_pinned is_shared is_same_size
    broadcast_shapes result_type can_cast register_hook requires_grad_ retain_grad has_names __dir__ backward
    type storage_offset is_tensor is_storage""".split()  # noqa: SIM905 - a list of words reads better as words
)

# Calls whose result has a shape that depends on the values: a later `len(result)` would tell what they were.
_SHAPE_TELLS = frozenset(
    "nonzero argwhere masked_select unique unique_consecutive bincount repeat_interleave histogramdd".split()  # noqa: SIM905
)

# Steps: the derivative is zero wherever it exists, and the jumps that it misses are part of the true gradient.
_KINKS = frozenset(
    """round floor ceil trunc fix sign sgn heaviside floor_divide __floordiv__ __rfloordiv__ frac histc fmod remainder
    __mod__ __rmod__ __imod__""".split()  # noqa: SIM905
)

_SWITCHES = frozenset(("no_grad", "inference_mode", "set_grad_enabled"))

_DATA = Tensor.data.__get__  # type: ignore[attr-defined]


class Escapes:
    """What has left torch during one run of a program; later statements count as downstream of it."""

    __slots__ = ("active", "differentiable", "held", "kinked", "lost", "provenance", "watch")

    def __init__(self, watch: bool = False) -> None:
        self.provenance: Provenance = NOTHING
        self.active = True
        self.watch = watch
        """Whether to note what went through a step that has no useful derivative."""
        self.kinked: Provenance = NOTHING
        self.held: Provenance = NOTHING
        """What lost its derivative: by `detach`, `.data` or a copy."""
        self.differentiable = watch and torch.is_grad_enabled()
        self.lost: Provenance = NOTHING
        """What a density depends on that lost its derivative, `no_grad` and the indices of `sort` among the ways."""

    def add(self, provenance: Provenance) -> None:
        """Something with this provenance has left."""
        if self.active:
            self.provenance |= provenance


def _versions(values: Iterable[Any]) -> list[int] | None:
    """How often each tensor has been written to; None among tensors of `torch.inference_mode`, which do not count."""
    try:
        return [t._version for t in values if isinstance(t, Tensor)]
    except RuntimeError:
        return None


def _writes(name: str) -> bool:
    """Whether a function of this name writes into its arguments (by its name, which may say so for nothing)."""
    return name == "__setitem__" or name.startswith("__i") or (name.endswith("_") and not name.endswith("__"))


class Tracked(Tensor):
    """A tensor that knows its provenance. Made by `track_provenance`, and by every operation on one."""

    _plain: Tensor
    _provenance: Provenance
    _escapes: Escapes | None
    _lost: Provenance = NOTHING
    """That part of the provenance which no derivative goes back to; kept only while a program is explored."""

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        with _without_functions():
            inputs: list[Tracked] = []
            plain_args = tuple([_plain_of(a, inputs) for a in args])
            if kwargs:
                plain_kwargs = {key: _plain_of(a, inputs) for key, a in kwargs.items()}
            else:
                plain_kwargs = {}
            name = func.__name__
            versions = _versions(plain_args)
            result = func(*plain_args, **plain_kwargs)
            if not inputs or (name in _SAYS_NOTHING and not isinstance(result, Tensor)):
                return result
            if name == "broadcast_tensors" and isinstance(result, (tuple, list)):
                return type(result)([_as(given, plain) for given, plain in zip(_listed(args), result, strict=True)])
            provenance, escapes = _joined(inputs)
            if escapes is not None and (
                versions != _versions(plain_args)
                or (versions is None and _writes(name))
                or (kwargs and ("out" in kwargs or kwargs.get("inplace") is True))
                or name in _SHAPE_TELLS
                or (name == "where" and len(args) == 1)
                or (name == "__getitem__" and _mask_index(args[1]))
                or _functorch_level() is not None
            ):
                escapes.add(provenance)
            lost = NOTHING
            if escapes is not None and escapes.watch:
                lost = get_lost(*inputs)
                if _is_kink(name, plain_args, result) or (kwargs and kwargs.get("rounding_mode")):
                    escapes.kinked |= provenance
                if name in ("detach", "detach_") or func == _DATA:
                    escapes.held |= provenance
                    lost |= provenance
                elif escapes.differentiable and not torch.is_grad_enabled() and _users_choice():
                    lost |= provenance
            if type(result) is Tensor:
                for given, plain in zip(args, plain_args, strict=True):
                    if plain is result:  # an in-place call answers with the very object it was given
                        if type(given) is Tracked:
                            given._provenance |= provenance
                            given._lost |= lost
                        return given
                return _shell(result, provenance, escapes, lost)
            marked = _marked(result, provenance, escapes)
            if escapes is not None and escapes.watch:
                _lose(marked, lost, provenance)
            if marked is result and escapes is not None:
                escapes.add(provenance)
            return marked

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        with _without_dispatch(), _without_functions():
            result = func(*args, **(kwargs or {}))
            inputs: list[Tracked] = []
            _plain_of(args, inputs)
            _plain_of(kwargs or {}, inputs)
            provenance, escapes = _joined(inputs)
            if escapes is not None and not escapes.active:
                return result  # the run is over: this is its backward pass, nobody asks any more
            if escapes is not None and escapes.watch and func is torch.ops.aten.detach.default:
                escapes.held |= provenance  # a copy by torch.tensor(t), say
            if escapes is not None and escapes.watch and _is_kink(func._schema.name.split("::")[1], args, result):
                escapes.kinked |= provenance
            tells = func._schema.is_mutable or torch.Tag.dynamic_output_shape in func.tags
            marked = _marked(result, provenance, escapes)
            if escapes is not None and escapes.watch:
                _lose(marked, get_lost(*inputs), NOTHING)
            if escapes is not None and (tells or marked is result):
                escapes.add(provenance)
            return marked


def track_provenance(tensor: Tensor, provenance: Provenance, escapes: Escapes | None = None) -> Tensor:
    """`tensor`, marked as computed from `provenance` (in addition to what it carries already).

    Args:
        tensor: any shape, any dtype; gradients flow through.
        provenance: a frozenset of hashable sources.
        escapes: record to tell when a value leaves torch; kept by everything computed from the result.

    Returns:
        A tensor with the same values that is a `torch.Tensor` in every respect.

    Example:
        >>> a = track_provenance(torch.zeros(3), frozenset({"a"}))
        >>> b = track_provenance(torch.ones(3), frozenset({"b"}))
        >>> sorted(get_provenance(a.exp() * (b + 1)))
        ['a', 'b']
    """
    if not isinstance(provenance, frozenset):
        raise TypeError(f"provenance must be a frozenset, got {type(provenance).__name__}")
    if type(tensor) is Tracked:
        provenance |= tensor._provenance
        escapes = escapes or tensor._escapes
        tensor = untracked(tensor)
    return _shell(tensor, provenance, escapes) if provenance else tensor


def get_provenance(*tensors: object) -> Provenance:
    """The union of what the tensors were computed from; empty for anything untracked."""
    result = NOTHING
    for tensor in tensors:
        if type(tensor) is Tracked:
            result = result | tensor._provenance if result else tensor._provenance
    return result


def get_lost(*tensors: object) -> Provenance:
    """That part of their provenance which no derivative goes back to, as far as it was watched."""
    result = NOTHING
    for tensor in tensors:
        if type(tensor) is Tracked and tensor._lost:
            result |= tensor._lost
    return result


def leaving(function: Callable[[], Any], tensors: Iterable[object]) -> tuple[Any, Provenance]:
    """What a function answers, and what leaves torch meanwhile of the run that the tensors belong to."""
    escapes = next((t._escapes for t in tensors if type(t) is Tracked and t._escapes is not None), None)
    if escapes is None:
        return function(), NOTHING
    before = escapes.active, escapes.provenance
    escapes.active, escapes.provenance = True, NOTHING
    try:
        return function(), escapes.provenance
    finally:
        escapes.active, escapes.provenance = before


def untracked(tensor: Tensor) -> Tensor:
    """The plain tensor behind a tracked one, still connected to the autograd graph."""
    if type(tensor) is not Tracked:
        return tensor
    with _without_functions():
        return _plain(tensor)


def _plain(tensor: Tracked) -> Tensor:
    plain = tensor._plain
    if plain.requires_grad == tensor.requires_grad:
        return plain
    # A custom `autograd.Function` gave the marked tensor a history that the plain one lacks.
    with _without_dispatch():
        return tensor.as_subclass(Tensor)


def _shell(plain: Tensor, provenance: Provenance, escapes: Escapes | None, lost: Provenance = NOTHING) -> Tensor:
    shell = plain.as_subclass(Tracked)
    shell._plain = plain
    shell._provenance = provenance
    shell._escapes = escapes
    if lost:
        shell._lost = lost
    return shell


def _as(given: Any, plain: Tensor) -> Tensor:
    """`plain`, marked as `given` alone is: what it was broadcast with has told its shape, which is no value."""
    if type(given) is not Tracked:
        return plain
    return _shell(plain, given._provenance, given._escapes, given._lost)


def _listed(args: tuple[Any, ...]) -> Sequence[Any]:
    """The tensors of a call that takes them one by one or as a list."""
    return args[0] if len(args) == 1 and isinstance(args[0], (tuple, list)) else args


def _plain_of(value: Any, inputs: list[Tracked]) -> Any:
    """`value` with every tracked tensor in it replaced by its plain one; the tracked ones are added to `inputs`."""
    kind = type(value)
    if kind is Tracked:
        inputs.append(value)
        return _plain(value)
    if kind is tuple or kind is list:
        return kind([_plain_of(v, inputs) for v in value])
    if kind is dict:
        return {key: _plain_of(v, inputs) for key, v in value.items()}
    return value


def _joined(inputs: list[Tracked]) -> tuple[Provenance, Escapes | None]:
    if not inputs:
        return NOTHING, None
    first = inputs[0]
    provenance, escapes = first._provenance, first._escapes
    for other in inputs[1:]:
        if other._provenance is not provenance:
            provenance = provenance | other._provenance
        escapes = escapes or other._escapes
    return provenance, escapes


def _marked(result: Any, provenance: Provenance, escapes: Escapes | None) -> Any:
    """`result` with its tensors marked; `result` itself when there is none in it."""
    if isinstance(result, Tracked):
        result._provenance |= provenance
        return result
    if isinstance(result, Tensor):
        return _shell(result, provenance, escapes)
    if isinstance(result, (tuple, list)):
        marked = [_marked(r, provenance, escapes) for r in result]
        unmarked = all(m is r for m, r in zip(marked, result, strict=True))
        return result if unmarked else type(result)(marked)
    return result


def _lose(marked: Any, lost: Provenance, provenance: Provenance) -> None:
    """Note what results have lost: indices beside values (`sort`, `max`) their whole provenance."""
    parts = marked if isinstance(marked, (tuple, list)) else (marked,)
    values = any(isinstance(p, Tensor) and p.is_floating_point() for p in parts)
    for part in parts:
        if type(part) is Tracked:
            index = values and not part._plain.is_floating_point()
            part._lost |= lost | provenance if index else lost


def _users_choice() -> bool:
    """Whether it was the user who switched gradients off, not torch or a function with a derivative of its own."""
    frame, inner = sys._getframe(2), None
    while frame is not None:
        code, module = frame.f_code, str(frame.f_globals.get("__name__"))
        if module == "torch.autograd.function":
            return False
        if code.co_name == "decorate_context" or not _SWITCHES.isdisjoint(code.co_names):
            culprit = inner if code.co_name == "decorate_context" and inner is not None else module
            return culprit.split(".")[0] not in ("torch", "varigrad")
        frame, inner = frame.f_back, module  # type: ignore[assignment]
    return True


def _mask_index(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(type(i) is Tracked and i._plain.dtype in (torch.bool, torch.uint8) for i in parts)


def _is_kink(name: str, args: tuple[Any, ...], result: Any) -> bool:
    """Whether a floating-point value went into a step function, a comparison or a conversion, or left torch."""
    if not any(isinstance(a, Tensor) and a.is_floating_point() for a in args):
        return False
    if name in _SAYS_NOTHING and not isinstance(result, Tensor):
        return False
    results = result if isinstance(result, (tuple, list)) else (result,)
    if any(isinstance(r, Tensor) and r.is_floating_point() for r in results) and name not in _KINKS:
        return False
    return not is_harmless(sys._getframe(2))
