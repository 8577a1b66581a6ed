"""The part of a saved state about compiled steps: their progress, and a check that it is complete."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import TypedDict

from varigrad.distributions.counter_rng import Kind


class SavedSpecialization(TypedDict, total=False):
    """A specialisation in a saved state; its field names stay those of the first version.

    Attributes:
        seen, taken: steps in Python and by graph.
        check: the graph's step that Python checks next.
        agreed, disagreed, refusal: as in `Progress`.
        demand: how many random numbers a step takes, by kind.
        reached, frozen: names of parameters.
        carried: the structure of the estimators' state, as text.
        thawed: how many of the tensors that the programs see and do not declare required a gradient; states of older
            versions do not say.
    """

    seen: int
    taken: int
    check: int
    agreed: int
    disagreed: int
    refusal: str
    demand: dict[Kind, int]
    reached: list[str]
    frozen: list[str]
    carried: str
    thawed: int


class SavedSteps(TypedDict, total=False):
    """Compiled steps in a saved state: specialisations and lifted numbers, by the text of their key."""

    forms: dict[str, SavedSpecialization]
    numbers: dict[str, list[int]]


_KINDS = ("normal", "uniform", "subset", "quasi")
_COUNTS = ("seen", "taken", "check", "agreed", "disagreed")
_TEXTS = ("refusal", "carried")
_NAMES = ("reached", "frozen")


def check_saved(state: object, parameters: Container[object] | None) -> None:
    """Check that the part of a state about compiled steps is whole, before any of it is used.

    Args:
        state: that part; None in states of older versions.
        parameters: the names that the state knows; None: not known.

    Raises:
        ValueError: it is damaged; the text says where.
    """
    if state is None:
        return
    for part in ("forms", "numbers"):
        if not isinstance(state, Mapping) or not isinstance(state.get(part, {}), Mapping):
            raise ValueError(f"{part!r} is no mapping")
    assert isinstance(state, Mapping)
    for text, lifted in state.get("numbers", {}).items():
        if not isinstance(text, str) or not isinstance(lifted, (list, tuple)) or not all(map(_is_count, lifted)):
            raise ValueError("'numbers' has other things than lists of positions")
    for text, saved in state.get("forms", {}).items():
        if not isinstance(text, str) or not isinstance(saved, Mapping):
            raise ValueError("'forms' has other things than specialisations")
        _check_specialization(saved, parameters)


def _check_specialization(saved: Mapping[str, object], parameters: Container[object] | None) -> None:
    for key in _COUNTS:
        if not _is_count(saved.get(key)):
            raise ValueError(f"{key!r} is no number of steps")
    if not _is_count(saved.get("thawed", 0)):
        raise ValueError("'thawed' is no number of tensors")
    for key in _TEXTS:
        if not isinstance(saved.get(key), str):
            raise ValueError(f"{key!r} is no text")
    for key in _NAMES:
        names = saved.get(key)
        if not isinstance(names, (list, tuple)):
            raise ValueError(f"{key!r} is no list of names")
        unknown = [n for n in names if parameters is not None and n not in parameters]
        if unknown:
            raise ValueError(f"{key!r} names {unknown[0]!r}, and there is no such parameter")
    demand = saved.get("demand")
    if not isinstance(demand, Mapping):
        raise ValueError("'demand' is no mapping")
    for kind, count in demand.items():
        if not isinstance(kind, tuple) or not kind or kind[0] not in _KINDS or not _is_count(count):
            raise ValueError(f"'demand' has {kind!r}: {count!r}")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
