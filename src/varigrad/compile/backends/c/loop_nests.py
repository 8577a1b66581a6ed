"""Loops over the elements of tensors: which statements may join one, and what they are in C."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from varigrad.compile.backends.c.buffers import Place, head

LONG = 160
"""Lines of a C function: compilers take more than twice the time for one twice as long."""
INPUT = "x"
"""What the names of inputs begin with."""
CHECKS = "an index without an entry"
"""A memory of its own, as it were: checks write it, and what is seen from outside is written only after them."""

WIDE = 16
"""Numbers in a vector, at most."""
FEW = 16
"""Vectors in a row for which it matters how what is left over of it is computed."""
_CALLS = re.compile(r"(exp|log|sigmoid|softplus|digamma|loggamma|erf|tanh|sin|cos|pow)\w*\(")

Address = tuple[int, tuple[int, ...]]
"""Offset, and a stride for each of a loop's dimensions."""


@dataclass
class Line:
    """A statement, with gaps for indices."""

    text: str
    addresses: tuple[Address, ...] = ()
    stores: str = ""
    """The memory it writes, where that is all it does."""

    def format(self, groups: Sequence[int]) -> str:
        """With its indices, by the names of a loop's counters."""
        return self.text.format(*(_index(a, groups) for a in self.addresses))


AFTER: Address = (-1, ())
"""Where a loop writes when it is through."""


@dataclass
class Piece:
    """A part of a program: the memories that it reads and writes."""

    reads: set[str]
    writes: set[str]

    def minds(self, reads: set[str], writes: set[str]) -> bool:
        """Whether something that reads and writes these has to stay on its side."""
        return not (self.writes.isdisjoint(reads | writes) and self.reads.isdisjoint(writes))


@dataclass
class Body:
    """Of a C function; of one that is `shared`, for one part of the work."""

    lines: list[str]
    shared: bool = False


class Team(Protocol):
    """Threads that share large loops."""

    parts: int

    def shared(self, work: int, sizes: Sequence[int]) -> int | None:
        """Which of a loop's dimensions to share out; None for so little work that others would come too late.

        Args:
            work: how many numbers the loop computes.
        """

    def apart(self, count: int) -> str:
        """The name of memory for so many numbers of each part."""


@dataclass
class Lines(Piece):
    """Statements as they are."""

    body: Body

    def bodies(self, team: Team, wanted: set[str]) -> list[Body]:
        """As C."""
        return [self.body]


@dataclass
class Loop(Piece):
    """Statements for every element of a shape.

    Attributes:
        values: names of elements that are at hand, by memory and address.
        found, stored: addresses read and written, by memory.
        split: the number of dimensions that come before those that are summed; None if none are.
        totals: names of the sums; what becomes of them.
    """

    shape: tuple[int, ...]
    lines: list[Line] = field(default_factory=list)
    values: dict[tuple[str, Address], str] = field(default_factory=dict)
    found: dict[str, set[Address]] = field(default_factory=dict)
    stored: dict[str, set[Address]] = field(default_factory=dict)
    shut: bool = False
    """Whether it is complete."""
    split: int | None = None
    totals: dict[str, Line] = field(default_factory=dict)

    @property
    def checks(self) -> bool:
        """Whether it may find that there is no such entry."""
        return CHECKS in self.writes

    def bodies(self, team: Team, wanted: set[str]) -> list[Body]:
        """As C, without what goes to memory that nobody wants."""
        lines = [line for line in self.lines if not line.stores or line.stores in wanted]
        if not lines:
            return []
        totals = {name: line for name, line in self.totals.items() if line.stores in wanted}
        sizes, groups = self._collapsed({a for line in (*lines, *totals.values()) for a in line.addresses})
        body = ["{", *(line.format(groups) for line in lines), "}"]
        outer = sum(g < (self.split or 0) for g in groups) if totals else len(sizes)
        shared = None if self.checks else team.shared(math.prod(sizes) * len(lines), sizes[: outer or len(sizes)])
        heads = [head(f"i{d}", n, d == shared) for d, n in enumerate(sizes)]
        if not self.checks and sizes and sizes[-1] > 3:
            pragma = f"#pragma omp simd reduction(+:{', '.join(totals)})" if totals else "#pragma omp simd"
            if shared == len(sizes) - 1 or not _leaves_some(sizes[-1], body):
                heads.insert(-1, pragma)
            else:
                heads.pop()
                body = _by_vectors(f"i{len(sizes) - 1}", sizes[-1], pragma, body)
        if not totals:
            return [Body([*heads, *body, *(["if (*bad) return;"] if self.checks else [])], shared is not None)]
        start = [f"double {name} = 0;" for name in totals]
        last = [line.format(groups) for line in totals.values()]
        if outer or shared is None:
            return [Body([*heads[:outer], "{", *start, *heads[outer:], *body, *last, "}"], shared is not None)]
        return _in_parts(team, list(totals), [*heads, *body], last)

    def sums(self, split: int | None) -> bool:
        """Whether it can sum over the dimensions after these, if any are to be summed."""
        return split is None or self.split in (None, split)

    def takes(self, keys: Sequence[tuple[str, Address]], target: tuple[str, Address], whole: Iterable[str]) -> bool:
        """Whether a statement can come at the end: it touches what others do at the same places, or not at all."""
        memory, address = target
        if self.shut or len(self.lines) > LONG or (self.checks and memory.startswith(INPUT)):
            return False
        if not self.shape:
            return True
        there = self.found.get(memory, set()) | self.stored.get(memory, set())
        torn = any(other != a for m, a in keys for other in self.stored.get(m, ()))
        return (
            there <= {address}
            and not torn
            and memory not in self.reads - set(self.found)
            and not (self.writes.intersection(whole))
        )

    def _collapsed(self, addresses: set[Address]) -> tuple[list[int], list[int]]:
        """Sizes of as few dimensions as possible, and the last of this loop's that each stands for."""
        border = -1 if self.split is None else self.split - 1
        sizes, groups = list(self.shape), list(range(len(self.shape)))
        for d in reversed(range(len(sizes) - 1)):
            inner, outer = groups[d + 1], groups[d]
            if outer != border and all(s[outer] == s[inner] * sizes[d + 1] for _, s in addresses):
                sizes[d : d + 2] = [sizes[d] * sizes[d + 1]]
                groups.pop(d)
        return sizes, groups


def _leaves_some(count: int, body: Sequence[str]) -> bool:
    """Whether what is left over of whole vectors is worth vectors of its own."""
    return count % WIDE > 3 and WIDE < count < FEW * WIDE and any(map(_CALLS.search, body))


def _by_vectors(name: str, count: int, pragma: str, body: Sequence[str]) -> list[str]:
    """A loop for the whole vectors, and one for the rest, of which compilers would make one number after the other."""
    whole = count - count % WIDE
    rest = [f"{pragma} simdlen(4)", head(name, count, start=whole), *body]
    return ["{", pragma, head(name, whole), *body, *rest, "}"]


def _in_parts(team: Team, totals: Sequence[str], lines: Sequence[str], last: Sequence[str]) -> list[Body]:
    """Sums over what is shared out: each part has its own, and these are added up in their order."""
    own = team.apart(len(totals))
    start = [f"double {name} = 0;" for name in totals]
    kept = [f"{own}[part * {len(totals)} + {i}] = {name};" for i, name in enumerate(totals)]
    added = [f"{name} += {own}[part * {len(totals)} + {i}];" for i, name in enumerate(totals)]
    end = ["{", *start, head("part", team.parts), "{", *added, "}", *last, "}"]
    return [Body([*start, *lines, *kept], shared=True), Body(end)]


def _index(address: Address, groups: Sequence[int]) -> str:
    offset, stride = address
    terms = [f"i{i} * {stride[d]}" if stride[d] != 1 else f"i{i}" for i, d in enumerate(groups) if stride[d]]
    return " + ".join(([str(offset)] if offset or not terms else []) + terms)


def for_shape(
    keys: Sequence[tuple[str, Address]], shape: tuple[int, ...], other: tuple[int, ...]
) -> list[tuple[str, Address]]:
    """The same addresses for a loop over another shape, if each goes in equal steps through its memory; else none."""
    if shape == other:
        return list(keys)
    if math.prod(shape) != math.prod(other) or not shape:
        return []
    found = []
    for memory, (offset, stride) in keys:
        step = stride[-1] if stride else 0
        if (offset, stride) != AFTER:
            if any(s != step * math.prod(shape[d + 1 :]) for d, s in enumerate(stride)):
                return []
            stride = tuple(step * math.prod(other[d + 1 :]) for d in range(len(other)))
        found.append((memory, (offset, stride)))
    return found


def address_of(place: Place) -> Address:
    """Its elements', in a loop over all of them."""
    return place.offset, tuple(s for s, n in zip(place.stride, place.shape, strict=True) if n != 1)
