"""Loops over the elements of tensors, written as C; those over the same elements become one wherever they may.

A statement joins an earlier loop if nothing in between minds. What only its own loop needs never reaches memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch

from varigrad.capture.c.places import TYPES, VALUES, Place, Unsupported, head

_LONG = 160
"""Lines of a C function: compilers take more than twice the time for one twice as long."""
INPUT = "x"
"""What the names of inputs begin with."""
SHARED = 2**17
"""Loops that compute fewer numbers are over before a second thread has begun."""
_BACK = 48
"""How many pieces back a statement looks for its loop."""
_CHECKS = "an index without an entry"
"""A memory of its own, as it were: checks write it, and what is seen from outside is written only after them."""


Address = tuple[int, tuple[int, ...]]
"""Offset, and a stride for each of a loop's dimensions."""


@dataclass
class _Line:
    text: str
    addresses: tuple[Address, ...] = ()
    stores: str = ""
    """The memory it writes, where that is all it does."""

    def format(self, groups: Sequence[int]) -> str:
        """With its indices, by the names of a loop's counters."""
        return self.text.format(*(_index(a, groups) for a in self.addresses))


_AFTER: Address = (-1, ())
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


@dataclass
class Lines(Piece):
    """Statements as they are."""

    body: Body

    def bodies(self, writer: Writer, wanted: set[str]) -> list[Body]:
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
    lines: list[_Line] = field(default_factory=list)
    values: dict[tuple[str, Address], str] = field(default_factory=dict)
    found: dict[str, set[Address]] = field(default_factory=dict)
    stored: dict[str, set[Address]] = field(default_factory=dict)
    shut: bool = False
    """Whether it is complete."""
    split: int | None = None
    totals: dict[str, _Line] = field(default_factory=dict)

    @property
    def checks(self) -> bool:
        """Whether it may find that there is no such entry."""
        return _CHECKS in self.writes

    def bodies(self, writer: Writer, wanted: set[str]) -> list[Body]:
        """As C, without what goes to memory that nobody wants."""
        lines = [line for line in self.lines if not line.stores or line.stores in wanted]
        if not lines:
            return []
        totals = {name: line for name, line in self.totals.items() if line.stores in wanted}
        sizes, groups = self._collapsed({a for line in (*lines, *totals.values()) for a in line.addresses})
        body = ["{", *(line.format(groups) for line in lines), "}"]
        outer = sum(g < (self.split or 0) for g in groups) if totals else len(sizes)
        shared = None if self.checks else writer.shared(math.prod(sizes) * len(lines), sizes[: outer or len(sizes)])
        heads = [head(f"i{d}", n, d == shared) for d, n in enumerate(sizes)]
        if not self.checks and sizes and sizes[-1] > 3:
            heads.insert(-1, f"#pragma omp simd reduction(+:{', '.join(totals)})" if totals else "#pragma omp simd")
        if not totals:
            return [Body([*heads, *body, *(["if (*bad) return;"] if self.checks else [])], shared is not None)]
        start = [f"double {name} = 0;" for name in totals]
        last = [line.format(groups) for line in totals.values()]
        if outer or shared is None:
            return [Body([*heads[:outer], "{", *start, *heads[outer:], *body, *last, "}"], shared is not None)]
        return _in_parts(writer, list(totals), [*heads, *body], last)

    def sums(self, split: int | None) -> bool:
        """Whether it can sum over the dimensions after these, if any are to be summed."""
        return split is None or self.split in (None, split)

    def takes(self, keys: Sequence[tuple[str, Address]], target: tuple[str, Address], whole: Iterable[str]) -> bool:
        """Whether a statement can come at the end: it touches what others do at the same places, or not at all."""
        memory, address = target
        if self.shut or len(self.lines) > _LONG or (self.checks and memory.startswith(INPUT)):
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


def _in_parts(writer: Writer, totals: Sequence[str], lines: Sequence[str], last: Sequence[str]) -> list[Body]:
    """Sums over what is shared out: each part has its own, and these are added up in their order."""
    own = writer.like((writer.parts, len(totals)), torch.float64).memory
    writer.loaded.add(own)
    start = [f"double {name} = 0;" for name in totals]
    kept = [f"{own}[part * {len(totals)} + {i}] = {name};" for i, name in enumerate(totals)]
    added = [f"{name} += {own}[part * {len(totals)} + {i}];" for i, name in enumerate(totals)]
    end = ["{", *start, head("part", writer.parts), "{", *added, "}", *last, "}"]
    return [Body([*start, *lines, *kept], shared=True), Body(end)]


def _index(address: Address, groups: Sequence[int]) -> str:
    offset, stride = address
    terms = [f"i{i} * {stride[d]}" if stride[d] != 1 else f"i{i}" for i, d in enumerate(groups) if stride[d]]
    return " + ".join(([str(offset)] if offset or not terms else []) + terms)


class Writer:
    """Collects the loops of a program.

    Attributes:
        sizes, kinds: bytes of each buffer, and what is in it.
        loaded: memories that somebody reads.
        products: whether there is a BLAS to call.
        multiplies: whether it is called.
        parts: in how many parts large loops are shared out.
        inside: memories that lie in another one, and where.
        constants: memories that hold one number everywhere, the same in every step.
    """

    def __init__(self, products: bool, parts: int) -> None:
        self.sizes: dict[str, int] = {}
        self.kinds: dict[str, torch.dtype] = {}
        self.loaded: set[str] = set()
        self.products, self.multiplies, self.parts = products, False, parts
        self.inside: dict[str, tuple[str, int]] = {}
        self.constants: dict[str, str] = {}
        self._pieces: list[Loop | Lines] = []
        self._names = 0

    def name(self) -> str:
        """One that is not in use."""
        self._names += 1
        return f"v{self._names}"

    def buffer(self, shape: Sequence[int], stride: Sequence[int], kind: torch.dtype) -> Place:
        """New memory for a tensor."""
        if kind not in TYPES:
            raise Unsupported(f"tensors of {kind}")
        memory = f"b{len(self.sizes)}"
        extent = 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) if math.prod(shape) else 0
        self.sizes[memory], self.kinds[memory] = extent * kind.itemsize, kind
        return Place(memory, 0, tuple(shape), tuple(stride), kind)

    def within(self, whole: Place, offset: int, shape: Sequence[int], stride: Sequence[int]) -> Place:
        """Memory for a tensor in that of another one, of which nothing else is written there."""
        place = self.buffer(shape, stride, whole.kind)
        self.inside[place.memory] = (whole.memory, whole.offset + offset)
        return place

    def lies(self, part: Place, target: Place) -> bool:
        """Whether one need not be copied to the other."""
        memory, offset = self.inside.get(part.memory, ("", 0))
        return replace(part, memory=memory, offset=part.offset + offset) == target

    def seen(self, memories: Iterable[str]) -> set[str]:
        """Who reads these sees what lies in them."""
        found = set(memories)
        return found | {memory for memory, (whole, _) in self.inside.items() if whole in found}

    def like(self, shape: Sequence[int], kind: torch.dtype) -> Place:
        """New memory, one element after the other."""
        stride = [math.prod(shape[d + 1 :]) for d in range(len(shape))]
        return self.buffer(shape, stride, kind)

    def write(
        self,
        out: Place,
        operands: Sequence[Place],
        express: Callable[[Loop, list[str]], str],
        whole: Sequence[str] = (),
        here: bool = False,
    ) -> None:
        """`out[i] = express(operands[i])` for every element.

        Args:
            operands: of shapes that broadcast to `out`'s.
            express: from the names of the operands' elements, a value of `out`'s type.
            whole: memories that it reads anywhere.
            here: whether it asks where it is, so that a loop over another shape will not do.
        """
        if not out.numel:
            return
        shape = tuple(n for n in out.shape if n != 1)
        variable = [o for o in operands if o.memory not in self.constants]
        keys = [(o.memory, _address(o.to(out.shape))) for o in variable]
        loop, (target, *keys) = self._fitting(shape, keys, (out.memory, _address(out)), whole, fixed=here)
        loads = iter([self._load(loop, key, o.kind) for key, o in zip(keys, variable, strict=True)])
        value = self.name()
        text = express(loop, [self.constants.get(o.memory) or next(loads) for o in operands])
        loop.lines.append(_Line(f"const {VALUES[out.kind]} {value} = {text};"))
        self._forget(loop, target)
        if (
            not (variable or here or whole)
            and out.numel * out.kind.itemsize == self.sizes.get(out.memory)
            and len(text) < _LONG
        ):
            self.constants[out.memory] = f"(({VALUES[out.kind]})({text}))"
        loop.values[target] = value
        loop.stored.setdefault(out.memory, set()).add(target[1])
        loop.reads.update(self.seen(whole))
        loop.writes.add(out.memory)
        loop.lines.append(_Line(f"{out.memory}[{{0}}] = {value};", (target[1],), out.memory))
        self.loaded.update(self.seen(whole))

    def total(self, out: Place, x: Place, kept: int, over: str) -> None:
        """`out[i] = sum(x[i]) over`, where all but the first dimensions are summed, in double precision."""
        shape = tuple(n for n in x.shape if n != 1)
        split = sum(n != 1 for n in x.shape[:kept])
        key = (x.memory, _address(x))
        loop, (_, key) = self._fitting(shape, [key], (out.memory, _AFTER), (), split, fixed=split > 0)
        name, value = self.name(), self._load(loop, key, x.kind)
        offset, stride = _address(out)
        address = (offset, (*stride, *(0 for _ in loop.shape[split:])))
        loop.lines.append(_Line(f"{name} += {value};", (), out.memory))
        loop.totals[name] = _Line(f"{out.memory}[{{0}}] = {name}{over};", (address,), out.memory)
        self.constants.pop(out.memory, None)
        loop.stored[out.memory] = {_AFTER}
        loop.writes.add(out.memory)
        loop.split = split

    def position(self, loop: Loop, shape: Sequence[int], dim: int) -> str:
        """Where the loop stands along a dimension of the shape that it is for."""
        value = self.name()
        stride = tuple(int(d == dim) for d, n in enumerate(shape) if n != 1)
        loop.lines.append(_Line(f"const int64_t {value} = {{0}};", ((0, stride),)))
        return value

    def look_up(self, loop: Loop, place: Place, jumps: Sequence[tuple[str, int, int]]) -> str:
        """An element of `place`, of the loop's shape, from where the jumps lead: `(index, entries, stride)` each."""
        value = self.name()
        address = _address(place)
        text = "".join(f" + {self.checked(loop, i, n)} * {s}" for i, n, s in jumps)
        loop.lines.append(_Line(f"const {VALUES[place.kind]} {value} = {place.memory}[{{0}}{text}];", (address,)))
        return value

    def checked(self, loop: Loop, index: str, count: int) -> str:
        """An index that is there."""
        value = self.name()
        loop.writes.add(_CHECKS)
        loop.lines.append(_Line(f"const int64_t {value} = checked({index}, {count}, bad);"))
        return value

    def scatter(
        self, out: Place, operands: Sequence[Place], express: Callable[[Loop, list[str]], tuple[str, str, str]]
    ) -> None:
        """A loop that writes where it is told: `express` gives jump, operator and value for a place in `out`."""
        self.constants.pop(out.memory, None)
        loop = self._added(Loop(set(), {out.memory}, tuple(n for n in out.shape if n != 1)))
        keys = [(o.memory, _address(o.to(out.shape))) for o in operands]
        names = [self._load(loop, key, o.kind) for key, o in zip(keys, operands, strict=True)]
        jump, operator, value = express(loop, names)
        text = f"if (!*bad) {out.memory}[{{0}} + {jump}] {operator} {value};"
        loop.lines.append(_Line(text, (_address(out),), out.memory))
        loop.shut = True

    def lines(self, lines: Sequence[str], reads: Sequence[str], writes: Sequence[str], shared: bool = False) -> None:
        """Statements of one's own."""
        self._pieces.append(Lines(self.seen(reads), set(writes), Body(list(lines), shared)))
        self.loaded.update(self.seen(reads), writes)
        for memory in writes:
            self.constants.pop(memory, None)

    def shared(self, work: int, sizes: Sequence[int]) -> int | None:
        """Which of a loop's dimensions to share out; None for so little work that others would come too late.

        Args:
            work: how many numbers the loop computes.
        """
        if self.parts == 1 or work < SHARED or not sizes:
            return None
        enough = (d for d, n in enumerate(sizes) if n >= 16 * self.parts)
        found = next(enough, max(range(len(sizes)), key=sizes.__getitem__))
        return found if sizes[found] >= 2 * self.parts else None

    def functions(self, kept: set[str]) -> list[Body]:
        """What is to be called one after the other.

        Args:
            kept: memories to be written although nobody reads them here.
        """
        found = [Body([])]
        for piece in self._pieces:
            for body in piece.bodies(self, self.loaded | kept):
                long = len(found[-1].lines) + len(body.lines) > _LONG and found[-1].lines
                if long or found[-1].shared or body.shared:
                    found.append(Body([], body.shared))
                found[-1].lines += body.lines
        return found

    def _added(self, loop: Loop, place: int | None = None) -> Loop:
        self._pieces.insert(len(self._pieces) if place is None else place, loop)
        return loop

    def _fitting(
        self,
        shape: tuple[int, ...],
        keys: Sequence[tuple[str, Address]],
        target: tuple[str, Address],
        whole: Sequence[str],
        split: int | None = None,
        fixed: bool = False,
    ) -> tuple[Loop, list[tuple[str, Address]]]:
        """The latest loop over these elements that a statement can join; a new one if there is none.

        None of a loop's turns depends on another one. Numbers by themselves come as early as they can, out of the way.

        Args:
            fixed: whether the loop has to have the very shape.

        Returns:
            The loop, and for its shape the target and the keys.
        """
        reads, writes = self.seen({memory for memory, _ in keys}.union(whole)), {target[0]}
        if target[0].startswith(INPUT):
            reads.add(_CHECKS)
        place = len(self._pieces)
        for piece in reversed(self._pieces[-_BACK:]):
            if isinstance(piece, Loop) and (piece.shape == shape or not fixed):
                found = _for_shape([target, *keys], shape, piece.shape)
                parts = self.seen(memory for memory, _ in keys) - {memory for memory, _ in keys}
                if found and piece.sums(split) and piece.takes(found[1:], found[0], {*parts, *whole}):
                    return piece, found
            if piece.minds(reads, writes):
                break
            place -= 1
        return self._added(Loop(set(), set(), shape), None if shape else place), [target, *keys]

    def _load(self, loop: Loop, key: tuple[str, Address], kind: torch.dtype) -> str:
        known = loop.values.get(key)
        if known is None:
            memory, address = key
            known = loop.values[key] = self.name()
            loop.lines.append(_Line(f"const {VALUES[kind]} {known} = {memory}[{{0}}];", (address,)))
            loop.found.setdefault(memory, set()).add(address)
            loop.reads |= self.seen([memory])
            self.loaded |= self.seen([memory])
        return known

    def _forget(self, loop: Loop, target: tuple[str, Address]) -> None:
        """What is written may be part of what was read."""
        self.constants.pop(target[0], None)
        for key in [k for k in loop.values if k[0] == target[0]]:
            del loop.values[key]


def _for_shape(
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
        if (offset, stride) != _AFTER:
            if any(s != step * math.prod(shape[d + 1 :]) for d, s in enumerate(stride)):
                return []
            stride = tuple(step * math.prod(other[d + 1 :]) for d in range(len(other)))
        found.append((memory, (offset, stride)))
    return found


def _address(place: Place) -> Address:
    return place.offset, tuple(s for s, n in zip(place.stride, place.shape, strict=True) if n != 1)


Out = Sequence[Place | None]
"""Where results go; None for one that nobody wants."""


def only(out: Out) -> Place:
    """The one result."""
    found = out[0]
    assert found is not None
    return found


def copy(w: Writer, out: Place, x: Place) -> None:
    """`out[i] = x[i]`, broadcast and converted."""
    w.write(out, [x], lambda _, names: names[0])


def fill(w: Writer, out: Place) -> None:
    """`out[i] = 0`."""
    w.write(out, [], lambda *_: "0")
