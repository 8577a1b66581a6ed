"""`Tracked`: a `Tensor` subclass that records which random choices its numbers were computed from.

A tracked tensor shares its storage with the plain tensor behind it. Two hooks ensure that a dependency is never lost: *
`__torch_function__` intercepts every call made from Python. It runs the operation on the plain tensors and marks the
results with the union of the inputs' provenance (the fast path, a few microseconds). * `__torch_dispatch__` intercepts
operations that reach the dispatcher some other way: from a scripted or traced module, `vmap`, an `autograd.Function`,
`torch.tensor(t)`. When a value *leaves* torch, no tensor is left to mark: the value becomes a number, a size or the
text of an error, it is written into memory that other tensors may share, or code that is not torch's gets plain
tensors. `side_effects.py` classifies each function. The tensor's `Escapes` record then keeps the provenance, and
everything computed afterwards counts as downstream: dependencies are over-reported, never lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from varigrad._torch_internals import (
    DisableTorchDispatch,
    DisableTorchFunctionSubclass,
    dispatch_modes,
    version_of,
)
from varigrad.errors import VarigradError
from varigrad.terms.arrangements import arrangement
from varigrad.terms.caught_errors import would_be_caught
from varigrad.terms.continuous_functions import may_jump
from varigrad.terms.discontinuous_operators import has_no_derivative, is_step, jumping_parts, users_choice
from varigrad.terms.escapes import NOTHING, Escapes, Provenance, Roots
from varigrad.terms.hooks_and_modes import anyone_listens, are_traced, called_by_user, foreign_modes
from varigrad.terms.poles import denominator, sign_after
from varigrad.terms.side_effects import Effect, effect_of
from varigrad.terms.zero_crossings import HOOK, note_pole, roots_after

_DATA = Tensor.data.__get__  # type: ignore[attr-defined]
HARMLESS = frozenset((Tensor, torch.nn.Parameter, torch.nn.Buffer))
"""Classes that define no hooks."""


class Tracked(Tensor):
    """A tensor with provenance. `provenance.track_provenance` makes one, and so does every operation on one."""

    _plain: Tensor
    _provenance: Provenance
    _escapes: Escapes | None
    _blocked: Provenance = NOTHING
    """That part of the provenance which no derivative goes back to; kept only while a program is explored."""
    _sign = 0
    """What is known of the signs of its numbers (`poles.py`), likewise."""
    _signed = 0
    """The version of its memory of which that was known."""
    _roots: Roots = ()
    """What it vanishes with, where it is nowhere negative."""

    def as_subclass(self, cls: type[Tensor]) -> Tensor:  # type: ignore[override]
        """Return the tensor itself, as a `torch.Tensor`; torch has no hook for this method.

        Raises:
            VarigradError: the class is another one.
        """
        if cls is Tensor or cls is Tracked:
            return self
        _escape([self])
        raise _cannot_follow(f"a tensor of class {cls.__module__}.{cls.__qualname__}", self._provenance)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        with DisableTorchFunctionSubclass():
            inputs: list[Tracked] = []
            plain_args = tuple([_plain_of(a, inputs) for a in args])
            if kwargs:
                plain_kwargs = {key: _plain_of(a, inputs) for key, a in kwargs.items()}
            else:
                plain_kwargs = {}
            if len(types) > 1:
                _refuse_classes(types, inputs)
            if dispatch_modes() and foreign_modes():
                return _under_a_mode(func, plain_args, plain_kwargs, inputs)
            try:
                result = func(*plain_args, **plain_kwargs)
            except BaseException:  # that torch raises an error tells what the values were
                _escape(inputs)
                raise
            effect = effect_of(func)
            if effect.name == "register_hook" and inputs and called_by_user():
                given = inputs[0]
                if given._escapes is not None and given._escapes.watch:  # a hook may change the gradient
                    note_pole(given._escapes.poles, HOOK, (), {}, given, None, differentiable=True, reviewed=False)
            if not inputs or (effect.silent and not isinstance(result, Tensor)) or (effect.getter and result is None):
                return result
            if effect.name == "broadcast_tensors" and isinstance(result, (tuple, list)):
                return type(result)([_as(given, plain) for given, plain in zip(_listed(args), result, strict=True)])
            provenance, escapes = _joined(inputs)
            if escapes is not None:
                told = arrangement(effect.name, plain_args, plain_kwargs) if effect.arranged else effect.name
                escapes.way = hash((escapes.way, told))
            if escapes is not None and (
                effect.leaves
                or (effect.changes is not None and effect.changes(args, kwargs or {}))
                or (kwargs and (plain_kwargs.get("out") is not None or plain_kwargs.get("inplace") is True))
                or (
                    effect.measured
                    and (len(inputs) > 1 or not effect.first or not args or args[0] is not inputs[0])
                    and _becomes_a_size(effect, args, kwargs)
                )
                or ((effect.raises or (kwargs and "rounding_mode" in kwargs)) and would_be_caught())
                or anyone_listens()
            ):
                escapes.add(provenance)
            blocked, sign = NOTHING, 0
            roots: Roots = ()
            if escapes is not None and escapes.watch:
                blocked, sign = get_blocked(*inputs), sign_after(effect.name, args, kwargs or {})
                below, reviewed = denominator(effect.name, args, kwargs or {}), True
                if below is None and may_jump(effect.name, result):
                    below, reviewed = next((i for i in inputs if i._plain.requires_grad), None), False
                if type(below) is Tracked:
                    carries = below._plain.requires_grad
                    told = escapes.poles, effect.name, args, kwargs or {}, below, result
                    note_pole(*told, differentiable=carries, reviewed=reviewed)
                if sign:
                    roots = roots_after(func, effect.name, args, plain_args, plain_kwargs)
                if is_step(effect.name, args, kwargs or {}, result, effect.silent, _holds) or (
                    kwargs and kwargs.get("rounding_mode")
                ):
                    escapes.nondifferentiable |= provenance
                if effect.name == "detach" or func == _DATA:
                    escapes.note_alias(inputs[0]._plain, provenance)
                    escapes.held |= provenance
                    blocked |= provenance
                elif escapes.with_gradients and not torch.is_grad_enabled():
                    blocked |= provenance if users_choice() else NOTHING
                elif has_no_derivative(effect.name, [i._plain for i in inputs], result):
                    blocked |= provenance
            if type(result) is Tensor:
                for given, plain in zip(args, plain_args, strict=True):
                    if plain is result:  # an in-place call answers with the very object it was given
                        if type(given) is Tracked:
                            given._provenance |= provenance
                            given._blocked |= blocked
                        return given
                return tracked(result, provenance, escapes, blocked, sign, roots)
            marked = _marked(result, provenance, escapes)
            if escapes is not None and escapes.watch:
                _block(marked, blocked, provenance, jumping_parts(effect.name))
            if marked is result and escapes is not None:
                escapes.add(provenance)
            return marked

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        with DisableTorchDispatch(), DisableTorchFunctionSubclass():
            inputs: list[Tracked] = []
            _plain_of(args, inputs)
            _plain_of(kwargs or {}, inputs)
            if len(types) > 1:
                _refuse_classes(types, inputs)
            try:
                result = func(*args, **(kwargs or {}))
            except BaseException:
                _escape(inputs)
                raise
            provenance, escapes = _joined(inputs)
            if escapes is not None and not escapes.active:
                return result  # the run is over: this is its backward pass, whose dependencies do not count
            effect = effect_of(func)
            if escapes is not None and escapes.watch and func is torch.ops.aten.detach.default:
                escapes.held |= provenance  # a copy by torch.tensor(t), say
            if (
                escapes is not None
                and escapes.watch
                and is_step(effect.name, args, kwargs or {}, result, effect.silent, _holds)
            ):
                escapes.nondifferentiable |= provenance
            marked = _marked(result, provenance, escapes)
            if escapes is not None and escapes.watch:
                below = denominator(effect.name, args, kwargs or {})
                if type(below) is Tracked:  # gradients are above this level
                    note_pole(escapes.poles, effect.name, args, kwargs or {}, below, result, differentiable=True)
                if type(marked) is Tracked and (sign := sign_after(effect.name, args, kwargs or {})):
                    marked._sign, marked._signed = sign, version_of(marked._plain)
                    marked._roots = roots_after(func, effect.name, args, args, kwargs or {})
                _block(marked, get_blocked(*inputs), provenance, jumping_parts(effect.name))
            if escapes is not None and (
                effect.leaves
                or marked is result
                or (effect.changes is not None and effect.changes(args, kwargs or {}))
                or (effect.raises and would_be_caught())
            ):
                escapes.add(provenance)
            return marked


def get_blocked(*tensors: object) -> Provenance:
    """The part of the tensors' provenance that no derivative goes back to, as far as it was watched."""
    result = NOTHING
    for tensor in tensors:
        if type(tensor) is Tracked and tensor._blocked:
            result |= tensor._blocked
    return result


def untracked(tensor: Tensor) -> Tensor:
    """The plain tensor behind a tracked one, still connected to the autograd graph."""
    if type(tensor) is not Tracked:
        return tensor
    with DisableTorchFunctionSubclass():
        return _plain(tensor)


def _plain(tensor: Tracked) -> Tensor:
    plain = tensor._plain
    if plain.requires_grad == tensor.requires_grad:
        return plain
    # A custom `autograd.Function` gave the marked tensor a history that the plain one lacks.
    with DisableTorchDispatch():
        return Tensor.as_subclass(tensor, Tensor)


def tracked(
    plain: Tensor,
    provenance: Provenance,
    escapes: Escapes | None,
    blocked: Provenance = NOTHING,
    sign: int = 0,
    roots: Roots = (),
) -> Tensor:
    """A plain tensor, marked; `escapes` is told when it leaves torch, the rest is kept while a program is explored."""
    try:
        shell = plain.as_subclass(Tracked)
    except RuntimeError as error:  # NotImplementedError among them
        if escapes is not None:
            escapes.add(provenance)
        raise _cannot_follow(f"a tensor of layout {str(plain.layout).removeprefix('torch.')}", provenance) from error
    shell._plain = plain
    shell._provenance = provenance
    shell._escapes = escapes
    if blocked:
        shell._blocked = blocked
    if sign and not plain.is_inference():  # tensors of that mode do not count how often they are written to
        shell._sign, shell._signed, shell._roots = sign, version_of(plain), roots
    return shell


def _cannot_follow(what: str, provenance: Provenance) -> VarigradError:
    sites = ", ".join(sorted({repr(getattr(source, "site", source)) for source in provenance}))
    return VarigradError(
        f"{what} is computed from {sites}, and dependencies cannot be followed through it",
        because="only strided tensors of torch's own class carry what they were computed from",
        try_="a dense tensor (to_dense(), or the plain tensor inside) for what depends on random choices",
    )


def _escape(inputs: Iterable[Tracked]) -> None:
    for tensor in inputs:
        if tensor._escapes is not None:
            tensor._escapes.add(tensor._provenance)


def _under_a_mode(
    func: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object], inputs: list[Tracked]
) -> object:
    """Run a function while a dispatch mode of the user's listens: its result is plain, as the mode has seen it."""
    _escape(inputs)
    if are_traced(inputs):
        raise VarigradError(
            "a tensor that is computed from random choices is an input of a function that torch traces",
            because="the trace (of make_fx, linearize) knows its inputs by identity, and a tracked tensor has two",
            try_="torch.func.jvp for linearize, or a trace made outside of the programs",
        )
    return func(*args, **kwargs)


def _refuse_classes(types: Iterable[type], inputs: list[Tracked]) -> None:
    """Refuse tensor classes that define hooks.

    Such a class may read any value out of a tensor, and does not pass marks on.
    """
    for kind in types:
        if kind is not Tracked and kind not in HARMLESS:
            _escape(inputs)
            raise _cannot_follow(
                f"what meets a tensor of class {kind.__module__}.{kind.__qualname__}", _joined(inputs)[0]
            )


def _becomes_a_size(effect: Effect, args: Sequence[object], kwargs: Mapping[str, object] | None) -> bool:
    """Whether a tracked tensor stands where torch takes a number that may show in a shape."""
    for place in effect.sizes:
        if place < len(args) and _holds(args[place]):
            return True
    if effect.rest is not None and any(_holds(a) for a in args[effect.rest :]):
        return True
    for key in effect.either:
        given = args[key] if isinstance(key, int) and key < len(args) else None
        if type(given) is Tracked and _is_integer(given):
            return True
    for name, given in (kwargs or {}).items():
        if name not in effect.tensors and _holds(given) and (name not in effect.either or _is_integer(given)):
            return True
    return False


def _is_integer(value: object) -> bool:
    """Whether torch would take this argument for a whole number or a switch; a list may hold one."""
    if type(value) is not Tracked:
        return True
    return value._plain.dim() == 0 and not value._plain.is_floating_point() and not value._plain.is_complex()


def _holds(value: object) -> bool:
    if type(value) is Tracked:
        return True
    return isinstance(value, (tuple, list)) and any(_holds(v) for v in value)


def _as(given: object, plain: Tensor) -> Tensor:
    """`plain`, marked as `given` alone is marked.

    What `given` was broadcast with has told its shape, which is no value.
    """
    if type(given) is not Tracked:
        return plain
    return tracked(plain, given._provenance, given._escapes, given._blocked)


def _listed(args: tuple[Any, ...]) -> Sequence[object]:
    """The tensors of a call that takes them one by one or as one list."""
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


def _marked(result: object, provenance: Provenance, escapes: Escapes | None) -> object:
    """`result` with its tensors marked; `result` itself when there is none in it."""
    if isinstance(result, Tensor):
        kind = type(result)
        if kind is Tracked:
            result._provenance |= provenance  # type: ignore[attr-defined]
            return result
        if kind is not Tensor and kind not in HARMLESS:
            if escapes is not None:
                escapes.add(provenance)
            raise _cannot_follow(f"a tensor of class {kind.__module__}.{kind.__qualname__}", provenance)
        return tracked(result, provenance, escapes)
    if isinstance(result, (tuple, list)):
        marked = [_marked(r, provenance, escapes) for r in result]
        unmarked = all(m is r for m, r in zip(marked, result, strict=True))
        return result if unmarked else type(result)(marked)
    return result


def _block(marked: object, blocked: Provenance, provenance: Provenance, jumping: tuple[int, ...] = ()) -> None:
    """Note that no gradient goes through results: to any source for indices (`sort`, `max`) and parts that jump."""
    parts = marked if isinstance(marked, (tuple, list)) else (marked,)
    values = any(isinstance(p, Tensor) and p.is_floating_point() for p in parts)
    for place, part in enumerate(parts):
        if type(part) is Tracked:
            whole = (values and not part._plain.is_floating_point()) or place in jumping
            part._blocked |= blocked | provenance if whole else blocked
