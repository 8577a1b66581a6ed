"""Propagates the labels of an operation's arguments to its results, and finds the user's line that called it."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from varigrad._torch_internals import OpOverload, schema_of_operator
from varigrad.terms.independence.aliases import Label, Origin, State, Trouble, joined
from varigrad.terms.independence.rules import Answer, Call, Kind, Place, Rule, Slot
from varigrad.terms.provenance import Tracked

_OURS = (str(Path(__file__).parents[2]), str(Path(torch.__file__).parent), "<")
_FAMILIES = str(Path(torch.distributions.__file__).parent)
_SAMPLERS = (
    str(Path(__file__).parents[2] / "distributions" / "rng.py"),
    str(Path(__file__).parents[2] / "estimators"),
)


def labels_of(call: Call, rule: Rule | None, slots: Sequence[tuple[Slot, Label]], operation: str) -> list[Label]:
    """What each result of a call depends on.

    Args:
        call: the operation with its arguments and results.
        rule: how the operation treats dimensions; None: there is none, so all is unknown.
        slots: the tensor arguments that depend on something, with their labels.
        operation: its name, for reports.
    """
    found: list[dict[Origin, State]] = [{} for _ in call.results]
    lines: dict[Kind, Trouble] = {}

    def trouble(kind: Kind) -> Trouble:
        if kind not in lines:
            lines[kind] = Trouble(kind, operation, users_line())
        return lines[kind]

    for slot, label in slots:
        answers: dict[Place, Sequence[Answer]] = {}
        for origin, state in label.items():
            if isinstance(state, Trouble):
                states: Sequence[State | Kind | None] = [
                    None if a is None else state for a in _answered(call, rule, slot, Place(-1, 1))
                ]
            else:
                if state not in answers:
                    answers[state] = _answered(call, rule, slot, state)
                states = answers[state]
            for result, answer in zip(found, states, strict=True):
                if answer is None:
                    continue
                new = trouble(answer) if isinstance(answer, str) else answer
                before = result.get(origin)
                if before is not None and new != before:
                    new = joined(before, new)
                    if isinstance(new, Trouble) and not new.where:
                        new = trouble(new.kind)
                result[origin] = new
    return list(found)


def _answered(call: Call, rule: Rule | None, slot: Slot, place: Place) -> Sequence[Answer]:
    if rule is None:
        return ["unknown"] * len(call.results)
    try:
        answers = rule(call, slot, place)
    except (IndexError, KeyError, ValueError, TypeError, AttributeError, ZeroDivisionError):
        answers = "unknown"  # a form of the operation that the rule does not know
    every = [answers] * len(call.results) if isinstance(answers, Place | str | None) else answers
    if len(every) != len(call.results):
        return ["unknown"] * len(call.results)
    return [_checked(answer, result) for answer, result in zip(every, call.results, strict=True)]


def _checked(answer: Answer, result: Tensor) -> Answer:
    """The answer of a rule, if the result has such a dimension."""
    if not isinstance(answer, Place):
        return answer
    fits = answer.dim < 0 and result.dim() >= -answer.dim
    return answer if fits and result.shape[answer.dim] % (answer.size * answer.inner) == 0 else "unknown"


def same_trouble(slots: Sequence[tuple[Slot, Label]], operation: str, kind: Kind = "unknown") -> Label:
    """Label a tensor as depending, in one troubled way, on everything that the arguments depend on.

    Args:
        slots: the arguments with their labels.
        operation: the operation to blame.
        kind: whether it mixes elements, or is not known to keep them apart.
    """
    trouble = Trouble(kind, operation, users_line())
    return {origin: trouble for _, label in slots for origin in label}


def bound(func: OpOverload, args: tuple[object, ...], kwargs: dict[str, object]) -> dict[str, Any]:
    """The arguments of a call by their names in the operator's schema, with their defaults.

    Args:
        func: the operator.
        args, kwargs: what it is called with.
    """
    given = {}
    for i, argument in enumerate(schema_of_operator(func).arguments):
        if i < len(args):
            given[argument.name] = args[i]
        elif argument.name in kwargs:
            given[argument.name] = kwargs[argument.name]
        else:
            given[argument.name] = argument.default_value if argument.has_default_value() else None
    return given


def slots_of(given: Mapping[str, object]) -> Iterator[Slot]:
    """The tensors among the arguments, also those in lists."""
    for name, value in given.items():
        if isinstance(value, Tensor):
            yield Slot(name, 0, plain(value))
        elif isinstance(value, (list, tuple)):
            for i, entry in enumerate(value):
                if isinstance(entry, Tensor):
                    yield Slot(name, i, plain(entry))


def written_by(func: OpOverload, given: Mapping[str, object]) -> list[Tensor]:
    """The tensors that an operation writes into, by its schema."""
    if not schema_of_operator(func).is_mutable:
        return []
    names = [a.name for a in schema_of_operator(func).arguments if a.alias_info is not None and a.alias_info.is_write]
    names = [name for name in names if not name.startswith("running_")]  # only if it trains: see `_notice`
    return [slot.tensor for slot in slots_of({name: given[name] for name in names})]


def tensors_in(result: object) -> list[Tensor]:
    """The tensors among the results."""
    if isinstance(result, Tensor):
        return [result]
    return [r for r in result if isinstance(r, Tensor)] if isinstance(result, (tuple, list)) else []


def plain(tensor: Tensor) -> Tensor:
    """The tensor itself, or the plain one behind a tracked one."""
    return tensor._plain if type(tensor) is Tracked else tensor


def _frames(start: int) -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(start)
    while frame is not None:
        yield frame
        frame = frame.f_back


def users_line() -> str:
    """The user's line that is running now."""
    for frame in _frames(2):
        name = frame.f_code.co_filename
        if not name.startswith(_OURS):
            return f"{Path(name).name}:{frame.f_lineno}: {linecache.getline(name, frame.f_lineno).strip()}"
    return ""


def looked_at_in_vain() -> bool:
    """Whether a value is looked at only to raise an error, or by a sampler, whose draws follow the density anyway."""
    for frame in _frames(2):
        name = frame.f_code.co_filename
        if name.startswith(_FAMILIES) and frame.f_code.co_name in ("__init__", "_validate_sample"):
            return True
        if name.startswith(_SAMPLERS) and frame.f_code.co_name == "draw":
            return True
        if not name.startswith(_OURS):
            return False
    return False
