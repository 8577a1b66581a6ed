"""Converts between varigrad's frozen messages and the dictionaries that Pyro's handlers read and write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from varigrad.compat.pyro.distributions.delta import Delta
from varigrad.compat.pyro.distributions.unit import Unit
from varigrad.language.messages import (
    Extension,
    Factor,
    Indices,
    Message,
    Param,
    Plate,
    Record,
    Sample,
    Subsample,
    evolve,
)
from varigrad.language.runtime import expanded

T = TypeVar("T")

Dictionary = dict[str, Any]
"""One message: `type`, `name`, `fn`, `args`, `kwargs`, `value`, `is_observed`, `infer`, `scale`, `mask`,
`cond_indep_stack`, `done`, `stop`, `continuation`; changes to it are taken over."""


class CondIndepStackFrame(NamedTuple):
    """A plate around a site: `dim` is None for a loop, whose current element is number `counter` (from 1)."""

    name: str
    dim: int | None
    size: int | None
    counter: int
    full_size: int | None = None

    @property
    def vectorized(self) -> bool:
        """Whether it is a dimension."""
        return self.dim is not None


class _Subsample:
    """Stands for the distribution that Pyro's minibatch sites have."""

    has_rsample = False
    has_enumerate_support = False
    is_pyro_distribution = True
    batch_shape = event_shape = torch.Size()

    def __init__(self, size: int, subsample_size: int) -> None:
        self.size, self.subsample_size = size, subsample_size

    def log_prob(self, x: Tensor) -> Tensor:
        """Return zero: a plate's minibatch is no random choice of the model's."""
        return torch.zeros(())


@dataclass(frozen=True, eq=False)
class Effect(Extension):
    """A message type that a program defines; its default action runs when its value is first read."""

    message: Dictionary

    @property
    def value(self) -> object:
        """What `fn` returns, at the bottom of the stack."""
        message = self.message
        if not message["done"] and not message["is_observed"]:
            message["value"] = message["fn"](*message["args"], **message["kwargs"])
            message["done"] = True
        return message["value"] if message["value"] is not None else message

    def act(self) -> None:
        _ = self.value


def frame_of(plate: Plate) -> CondIndepStackFrame:
    """A plate as Pyro shows it."""
    counter = 0 if plate.index is None else plate.index + 1
    size = plate.size if plate.index is not None and plate.subsample is None else plate.batch
    return CondIndepStackFrame(plate.name, plate.dim, size, counter, plate.size)


def view(message: Message) -> Dictionary | None:
    """The dictionary of a message; None for one that Pyro does not have."""
    if isinstance(message, Effect):
        return message.message
    if isinstance(message, Sample):
        infer = dict(message.notes)
        if message.auxiliary:
            infer["is_auxiliary"] = True
        fn = expanded(message) if message.plates else message.distribution
        return _site(message, "sample", fn, message.value, message.observed, infer)
    if isinstance(message, Factor):
        return _site(message, "sample", Unit(message.log_factor), torch.empty(0), True, {"is_auxiliary": True})
    if isinstance(message, Record):
        value = message.value
        batch = max((-p.dim for p in message.plates if p.dim is not None), default=0)
        event_dim = max(0, value.dim() - batch) if isinstance(value, Tensor) else 0
        fn = Delta(value, event_dim=event_dim).mask(False) if isinstance(value, Tensor) else None
        return _dictionary("sample", message.name, fn, value, True, {"_deterministic": True}, message.plates)
    if isinstance(message, Param):
        found = _dictionary("param", message.name, get_param, message.value, False, {}, ())
        found["args"] = (message.name, message.init)
        found["kwargs"] = {"constraint": message.constraint, "event_dim": message.event_dim}
        return found
    if isinstance(message, Indices):
        drawn_from = _Subsample(message.size, message.batch)
        return _dictionary("sample", message.name, drawn_from, message.value, False, {}, ())
    if isinstance(message, Subsample):
        found = _dictionary("subsample", "_PYRO_SUBSAMPLE", _same, message.value, False, {}, ())
        found["args"], found["kwargs"] = (message.value,), {"event_dim": message.event_dim}
        found["done"] = False
        return found
    return None


def _site(
    message: Sample | Factor, type_: str, fn: object, value: object, observed: bool, infer: dict[str, object]
) -> Dictionary:
    found = _dictionary(type_, message.name, fn, value, observed, infer, message.plates)
    found["scale"], found["mask"] = message.scale, message.mask
    return found


def _dictionary(
    type_: str,
    name: str,
    fn: object,
    value: object,
    observed: bool,
    infer: dict[str, object],
    plates: tuple[Plate, ...],
) -> Dictionary:
    return {
        "type": type_,
        "name": name,
        "fn": fn,
        "is_observed": observed,
        "args": (),
        "kwargs": {},
        "value": value,
        "infer": infer,
        "scale": 1.0,
        "mask": None,
        "cond_indep_stack": tuple([frame_of(p) for p in plates]),
        "done": value is not None,
        "stop": False,
        "continuation": None,
    }


def get_param(name: str, *args: object, **kwargs: object) -> None:
    """Stands where Pyro has the function that asks the parameter store."""


def _same(value: T, **kwargs: object) -> T:
    return value


def taken_over(message: Message, before: Dictionary, after: Dictionary) -> Message:
    """The message with what a handler has changed in its dictionary."""
    if isinstance(message, Effect):
        return message
    changes: dict[str, Any] = {}
    if after["name"] != before["name"]:
        changes["name"] = after["name"]
    if isinstance(message, (Sample, Factor, Record)) and after["cond_indep_stack"] is not before["cond_indep_stack"]:
        known = {frame_of(p): p for p in message.plates}
        changes["plates"] = tuple(known.get(f) or _plate_of(f) for f in after["cond_indep_stack"])
    if isinstance(message, (Sample, Factor)):
        if after["scale"] is not before["scale"]:
            changes["scale"] = after["scale"]
        if after["mask"] is not before["mask"]:
            mask = after["mask"]
            changes["mask"] = mask if mask is None or isinstance(mask, Tensor) else torch.tensor(mask)
    if isinstance(message, Sample):
        if after["is_observed"] != before["is_observed"]:
            changes["observed"] = bool(after["is_observed"])
        if after["fn"] is not before["fn"]:
            changes["distribution"] = after["fn"]
        if after["infer"] != before["infer"]:
            changes["notes"] = after["infer"]
            changes["auxiliary"] = message.auxiliary or bool(after["infer"].get("is_auxiliary"))
    if not isinstance(message, Factor) and after["value"] is not before["value"]:
        value = after["value"]
        changes["value"] = value if value is None or isinstance(value, Tensor) else torch.as_tensor(value)
    return evolve(message, **changes) if changes else message


def _plate_of(frame: CondIndepStackFrame) -> Plate:
    full = getattr(frame, "full_size", None) or frame.size
    index = frame.counter - 1 if frame.dim is None else None
    return Plate(frame.name, full if frame.dim is None else frame.size, frame.dim, None, index)


def message_of(dictionary: Dictionary) -> Sample | Effect:
    """A message of ours for a dictionary that a program has made itself."""
    kind, name = dictionary["type"], dictionary.get("name")
    if kind == "sample" and hasattr(dictionary["fn"], "log_prob"):
        plates = tuple(_plate_of(f) for f in dictionary.get("cond_indep_stack", ()))
        infer = dictionary.get("infer") or {}
        return Sample(
            name,  # type: ignore[arg-type]
            dictionary["fn"],
            dictionary.get("value"),
            bool(dictionary.get("is_observed")),
            plates,
            dictionary.get("mask"),
            dictionary.get("scale", 1.0),
            notes=infer,
            auxiliary=bool(infer.get("is_auxiliary")),
        )
    return Effect(_filled(dictionary))


def _filled(dictionary: Dictionary) -> Dictionary:
    for key, value in _dictionary("", "", None, None, False, {}, ()).items():
        dictionary.setdefault(key, value)
    return dictionary
