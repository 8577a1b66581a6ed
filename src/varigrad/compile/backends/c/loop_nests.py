"""Loop nests over the elements of tensors: decides which statements may share one, and writes it as C."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from varigrad.compile.backends.c.buffers import BufferView, head

LONG = 160
"""The largest number of lines of a C function: compilers take more than twice the time for one twice as long."""
INPUT = "x"
"""The prefix of the names of inputs."""
CHECKS = "an index without an entry"
"""A name that checks of indices write like a memory, so that inputs are overwritten only after all checks."""

WIDE = 16
"""The largest number of elements in a vector register."""
FEW = 16
"""Rows of fewer vectors than this get separate vectors for the elements that are left over."""
_CALLS = re.compile(r"(exp|log|sigmoid|softplus|digamma|loggamma|erf|tanh|sin|cos|pow)\w*\(")

Address = tuple[int, tuple[int, ...]]
"""An offset, and a stride for each of a loop's dimensions."""


@dataclass
class Line:
    """A statement of C, with gaps for indices."""

    text: str
    addresses: tuple[Address, ...] = ()
    stores: str = ""
    """The memory that the statement writes, where that is all it does."""

    def format(self, groups: Sequence[int]) -> str:
        """The statement with its indices, in terms of the loop's counters."""
        return self.text.format(*(_index(a, groups) for a in self.addresses))


AFTER: Address = (-1, ())
"""The address of a sum, which is written when its loop is through."""


@dataclass
class Piece:
    """A part of a program, with the names of the memories that it reads and writes."""

    reads: set[str]
    writes: set[str]

    def has_hazard(self, reads: set[str], writes: set[str]) -> bool:
        """Whether moving a statement with these reads and writes past this piece would break a data hazard."""
        return not (self.writes.isdisjoint(reads | writes) and self.reads.isdisjoint(writes))


@dataclass
class Body:
    """The body of a C function; if it is `shared`, each thread runs it on its part of the work."""

    lines: list[str]
    shared: bool = False


class Team(Protocol):
    """The threads that share large loops."""

    threads: int

    def dimension_to_share(self, work: int, sizes: Sequence[int]) -> int | None:
        """The dimension of a loop to share out among threads; None where there is too little work.

        Args:
            work: how many numbers the loop computes.
        """

    def per_thread_buffer(self, count: int) -> str:
        """The name of a buffer for `count` numbers of each thread."""


@dataclass
class Lines(Piece):
    """Statements that are written unchanged, and never fused."""

    body: Body

    def emit(self, team: Team, wanted: set[str]) -> list[Body]:
        """The bodies of C functions."""
        return [self.body]


@dataclass
class Loop(Piece):
    """A loop nest that runs statements for every element of a shape.

    Attributes:
        values: names of the variables that hold elements, by memory and address.
        addresses_read, addresses_written: by memory.
        closed: whether no statement may be added.
        split: the number of dimensions that come before those that are summed; None if none are.
        totals: the sums, by their variable, and the statements that store them.
    """

    shape: tuple[int, ...]
    lines: list[Line] = field(default_factory=list)
    values: dict[tuple[str, Address], str] = field(default_factory=dict)
    addresses_read: dict[str, set[Address]] = field(default_factory=dict)
    addresses_written: dict[str, set[Address]] = field(default_factory=dict)
    closed: bool = False
    split: int | None = None
    totals: dict[str, Line] = field(default_factory=dict)

    @property
    def checks(self) -> bool:
        """Whether the loop checks indices."""
        return CHECKS in self.writes

    def emit(self, team: Team, wanted: set[str]) -> list[Body]:
        """The bodies of C functions, without statements that write memory which is not `wanted`."""
        lines = [line for line in self.lines if not line.stores or line.stores in wanted]
        if not lines:
            return []
        totals = {name: line for name, line in self.totals.items() if line.stores in wanted}
        sizes, groups = self._collapsed({a for line in (*lines, *totals.values()) for a in line.addresses})
        body = ["{", *(line.format(groups) for line in lines), "}"]
        outer = sum(g < (self.split or 0) for g in groups) if totals else len(sizes)
        shared = (
            None
            if self.checks
            else team.dimension_to_share(math.prod(sizes) * len(lines), sizes[: outer or len(sizes)])
        )
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
        return _by_threads(team, list(totals), [*heads, *body], last)

    def can_sum(self, split: int | None) -> bool:
        """Whether the loop can sum over the dimensions after the first `split`; None: nothing is to be summed."""
        return split is None or self.split in (None, split)

    def accepts(self, keys: Sequence[tuple[str, Address]], target: tuple[str, Address], whole: Iterable[str]) -> bool:
        """Whether a statement can be added at the end: no iteration would then depend on another one.

        Args:
            keys: memories that it reads element by element, and the addresses.
            target: the memory that it writes, and the address.
            whole: memories that it reads anywhere.
        """
        memory, address = target
        if self.closed or len(self.lines) > LONG or (self.checks and memory.startswith(INPUT)):
            return False
        if not self.shape:
            return True
        there = self.addresses_read.get(memory, set()) | self.addresses_written.get(memory, set())
        torn = any(other != a for m, a in keys for other in self.addresses_written.get(m, ()))
        return (
            there <= {address}
            and not torn
            and memory not in self.reads - set(self.addresses_read)
            and not (self.writes.intersection(whole))
        )

    def _collapsed(self, addresses: set[Address]) -> tuple[list[int], list[int]]:
        """Collapse the loop's dimensions to as few as possible.

        Returns:
            Their sizes, and the last of this loop's dimensions that each stands for.
        """
        border = -1 if self.split is None else self.split - 1
        sizes, groups = list(self.shape), list(range(len(self.shape)))
        for d in reversed(range(len(sizes) - 1)):
            inner, outer = groups[d + 1], groups[d]
            if outer != border and all(s[outer] == s[inner] * sizes[d + 1] for _, s in addresses):
                sizes[d : d + 2] = [sizes[d] * sizes[d + 1]]
                groups.pop(d)
        return sizes, groups


def _leaves_some(count: int, body: Sequence[str]) -> bool:
    """Whether the elements that are left over after whole vectors are worth vectors of their own."""
    return count % WIDE > 3 and WIDE < count < FEW * WIDE and any(map(_CALLS.search, body))


def _by_vectors(name: str, count: int, pragma: str, body: Sequence[str]) -> list[str]:
    """A loop for the whole vectors, and one for the rest, which compilers would compute element by element."""
    whole = count - count % WIDE
    rest = [f"{pragma} simdlen(4)", head(name, count, start=whole), *body]
    return ["{", pragma, head(name, whole), *body, *rest, "}"]


def _by_threads(team: Team, totals: Sequence[str], lines: Sequence[str], last: Sequence[str]) -> list[Body]:
    """Sums over a shared loop: each thread has a separate sum, and these are added up in the order of threads."""
    own = team.per_thread_buffer(len(totals))
    start = [f"double {name} = 0;" for name in totals]
    kept = [f"{own}[part * {len(totals)} + {i}] = {name};" for i, name in enumerate(totals)]
    added = [f"{name} += {own}[part * {len(totals)} + {i}];" for i, name in enumerate(totals)]
    end = ["{", *start, head("part", team.threads), "{", *added, "}", *last, "}"]
    return [Body([*start, *lines, *kept], shared=True), Body(end)]


def _index(address: Address, groups: Sequence[int]) -> str:
    offset, stride = address
    terms = [f"i{i} * {stride[d]}" if stride[d] != 1 else f"i{i}" for i, d in enumerate(groups) if stride[d]]
    return " + ".join(([str(offset)] if offset or not terms else []) + terms)


def for_shape(
    keys: Sequence[tuple[str, Address]], shape: tuple[int, ...], other: tuple[int, ...]
) -> list[tuple[str, Address]]:
    """The same addresses for a loop over another shape, if each goes in equal steps through its memory.

    Returns:
        The memories and addresses, in order; an empty list if that is impossible.
    """
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


def address_of(view: BufferView) -> Address:
    """The address of a view's elements, in a loop over all of them."""
    return view.offset, tuple(s for s, n in zip(view.stride, view.shape, strict=True) if n != 1)
