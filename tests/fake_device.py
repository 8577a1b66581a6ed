"""A second device that every machine has: tensors on "meta" that hold numbers, and mind the CPU's as a GPU does.

Inside `elsewhere()` every operation of torch is seen. One that gets tensors of both devices raises torch's own error,
where a GPU would: a number without dimensions may come from the CPU where entries are computed one by one, and so may
an index into a tensor elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, return_and_correct_aliasing

from varigrad.compile.trace import indexing, tracer
from varigrad.distributions import counter_rng, rng
from varigrad.terms import hooks_and_modes, provenance, tracked

_aten = torch.ops.aten
PLACE = torch.device("meta")
_CPU = torch.device("cpu")


class Elsewhere(Tensor):
    """A tensor that says it lies on "meta"; `inner`, on the CPU, has its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Tensor:
        made = Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=PLACE
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if provenance.Tracked in types:
            return NotImplemented  # it knows what to do
        if func in _OF_NUMBERS and isinstance(args[0], Elsewhere):
            return func(args[0].inner, *args[1:])
        if func == _SET_DATA:
            args[0].inner = args[1].inner
            return None
        return torch._C._disabled_torch_function_impl(func, types, args, kwargs or {})


_OF_NUMBERS = {Tensor.tolist, Tensor.__format__, Tensor.untyped_storage, Tensor.data_ptr}
_SET_DATA = Tensor.data.__set__


def moved(tensor: Tensor) -> Tensor:
    """The same numbers elsewhere; a parameter stays one."""
    there = Elsewhere(tensor.detach().clone())
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(there)
    return there.requires_grad_(tensor.requires_grad)


@contextmanager
def elsewhere() -> Iterator[None]:
    """What is made with `device=PLACE` has numbers; sources can draw there."""

    def generator_on(device: Any) -> torch.Generator:
        made = torch.Generator()
        if torch.device(device) == PLACE:
            _GENERATORS[made._cdata] = made
        return made

    with (
        mock.patch.object(rng, "generator_on", generator_on),
        mock.patch.object(counter_rng, "generator_on", generator_on),
        mock.patch.object(counter_rng, "global_on", return_value=torch.default_generator),
        mock.patch.object(tracked, "tracked", _tracked),
        mock.patch.object(provenance, "tracked", _tracked),
        # A device hides nothing and listens to nothing, so neither do the class and the modes that stand for it.
        mock.patch.object(tracked, "HARMLESS", tracked.HARMLESS | {Elsewhere}),
        mock.patch.object(provenance, "HARMLESS", tracked.HARMLESS | {Elsewhere}),
        mock.patch.object(tracked, "foreign_modes", return_value=False),
        mock.patch.object(hooks_and_modes, "function_modes", return_value=0),
        mock.patch.object(tracer, "_memory_of", _memory_of),
        _Made(),
        _Seen(),
    ):
        try:
            yield
        finally:
            _GENERATORS.clear()


_GENERATORS: dict[int, torch.Generator] = {}
"""Those that draw elsewhere, and nowhere else."""


class _Made(TorchFunctionMode):
    """Tensors that users make; and all that torch makes of numbers without an operation."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.__getitem__:
            return indexing.get_item(args[0], _spelt_out(*args), indexing.IndexCopies(id))
        if func is Tensor.__setitem__:
            return indexing.set_item(args[0], _spelt_out(*args[:2]), args[2], indexing.IndexCopies(id))
        device = kwargs.get("device")
        if func in _device_constructors() and device is None and _is_users(sys._getframe(1)):
            device, kwargs = PLACE, {**kwargs, "device": PLACE}
        if func is Tensor.new_tensor and device is None:
            device = args[0].device
        if func not in (torch.tensor, torch.as_tensor, Tensor.new_tensor) or torch.device(device or "cpu") != PLACE:
            return func(*args, **kwargs)
        like, data = (args[0], args[1]) if func is Tensor.new_tensor else (None, args[0])
        if isinstance(data, Tensor):
            return data.to(**{"dtype": data.dtype, **kwargs})
        own = {"dtype": None if like is None else like.dtype, **kwargs, "device": _CPU}
        return _of(data, **own)


def _spelt_out(tensor: Tensor, index: Any) -> Any:
    """Without lists: torch makes tensors of them, out of sight."""
    if tensor.device != PLACE:
        return index
    if isinstance(index, tuple):
        return tuple(_spelt_out(tensor, i) for i in index)
    return _of(index) if isinstance(index, list) else index


def _of(data: Any, **options: Any) -> Tensor:
    with _disable_current_modes():  # a GPU's tensor comes into being where nobody looks
        return Elsewhere(torch.tensor(data, **options))


_PROGRAMS = {
    f"varigrad.testing.{file}" for file in ("registered_program", "enumerable_programs", "closed_form_programs")
}


def _is_users(frame: Any) -> bool:
    while frame.f_code.co_name == "__torch_function__":  # another mode's
        frame = frame.f_back
    name = frame.f_globals.get("__name__", "")
    return name in _PROGRAMS or name.split(".")[0] not in ("torch", "varigrad", "elsewhere")


class _Seen(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


_MAY_MIX = {_aten.copy_.default, _aten._to_copy.default, _aten._foreach_copy_.default}
_INDEX = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    tensors = list(_tensors(args, kwargs))
    there = [t for t in tensors if isinstance(t, Elsewhere)]
    assert not any(t.device == PLACE and type(t) is Tensor for t in tensors), f"{func}: a tensor without numbers"
    asked = kwargs.get("device")
    asked = None if asked is None else torch.device(asked)
    if not there and asked != PLACE:
        return func(*args, **kwargs)
    if func is _aten._foreach_neg.default:  # where devices differ, torch goes through the list one by one
        return [_run(_aten.neg.default, (t,), {}) for t in args[0]]
    if func not in _MAY_MIX:
        _refuse_mixture(func, args, kwargs, there)
    generator = kwargs.get("generator")
    if generator is not None and generator._cdata not in _GENERATORS:
        raise RuntimeError(f"Expected a 'meta' device type for generator but found '{generator.device}'")
    plain_args, plain_kwargs = _each(args, _here), {name: _each(value, _here) for name, value in kwargs.items()}
    if asked == PLACE:
        plain_kwargs["device"] = _CPU
    result = func(*plain_args, **plain_kwargs)
    if func._schema.is_mutable:
        return return_and_correct_aliasing(func, args, kwargs, result) if isinstance(result, Tensor) else result
    if asked is not None and asked != PLACE:
        return result
    return _each(result, Elsewhere)


def _tensors(args: Any, kwargs: Any) -> Iterator[Tensor]:
    """The tensors among an operator's arguments, which are in lists and tuples, if in anything."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value, {})


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same with its tensors changed, those in lists and tuples, too."""
    if isinstance(value, Tensor):
        return change(value)
    return type(value)(_each(v, change) for v in value) if type(value) in (list, tuple) else value


def _here(tensor: Tensor) -> Tensor:
    return tensor.inner if isinstance(tensor, Elsewhere) else tensor


def _refuse_mixture(func: Any, args: Any, kwargs: Any, there: list[Tensor]) -> None:
    one_by_one = torch.Tag.pointwise in func.tags or func in (_aten.where.self, _aten.masked_fill.Tensor)
    if func in _INDEX and isinstance(args[0], Elsewhere):
        args = (args[0], *args[2:])
    for tensor in _tensors(args, kwargs):
        if not isinstance(tensor, Elsewhere) and (tensor.dim() or not one_by_one):
            raise RuntimeError(f"Expected all tensors to be on the same device, but found meta and cpu ({func})")


def _memory_of(tensor: Tensor) -> int:
    return _memory_of_plain(tensor.inner if isinstance(tensor, Elsewhere) else tensor)


_memory_of_plain = tracer._memory_of


def _tracked(plain: Tensor, names: Any, escapes: Any, blocked: Any = provenance.NOTHING, sign: int = 0) -> Tensor:
    """Like the original, for tensors that cannot be seen as another class; of signs, nothing is known."""
    if not isinstance(plain, Elsewhere):
        return _tracked_plain(plain, names, escapes, blocked, sign)
    shell = Tensor._make_wrapper_subclass(
        provenance.Tracked, plain.shape, plain.stride(), dtype=plain.dtype, device=PLACE,
        requires_grad=plain.requires_grad,
    )  # fmt: skip
    shell._plain, shell._provenance, shell._escapes, shell._blocked = plain, names, escapes, blocked
    return shell


_tracked_plain = tracked.tracked
