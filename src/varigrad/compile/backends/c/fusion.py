"""Collects the statements of a program in loops; those over the same elements become one loop wherever they may.

A statement joins an earlier loop if nothing in between minds. What only its own loop needs never reaches memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch

from varigrad.compile.backends.c.buffers import TYPES, VALUES, Place
from varigrad.compile.backends.c.loop_nests import (
    AFTER,
    CHECKS,
    INPUT,
    LONG,
    Address,
    Body,
    Line,
    Lines,
    Loop,
    address_of,
    for_shape,
)
from varigrad.compile.graph.errors import Unsupported

SHARED = 2**17
"""Loops that compute fewer numbers are over before a second thread has begun."""
_BACK = 48
"""How many pieces back a statement looks for its loop."""


class Writer:
    """The loops of a program.

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
        keys = [(o.memory, address_of(o.to(out.shape))) for o in variable]
        loop, (target, *keys) = self._fitting(shape, keys, (out.memory, address_of(out)), whole, fixed=here)
        loads = iter([self._load(loop, key, o.kind) for key, o in zip(keys, variable, strict=True)])
        value = self.name()
        text = express(loop, [self.constants.get(o.memory) or next(loads) for o in operands])
        loop.lines.append(Line(f"const {VALUES[out.kind]} {value} = {text};"))
        self._forget(loop, target)
        if (
            not (variable or here or whole)
            and out.numel * out.kind.itemsize == self.sizes.get(out.memory)
            and len(text) < LONG
        ):
            self.constants[out.memory] = f"(({VALUES[out.kind]})({text}))"
        loop.values[target] = value
        loop.stored.setdefault(out.memory, set()).add(target[1])
        loop.reads.update(self.seen(whole))
        loop.writes.add(out.memory)
        loop.lines.append(Line(f"{out.memory}[{{0}}] = {value};", (target[1],), out.memory))
        self.loaded.update(self.seen(whole))

    def total(self, out: Place, x: Place, kept: int, over: str) -> None:
        """`out[i] = sum(x[i]) over`, where all but the first dimensions are summed, in double precision."""
        shape = tuple(n for n in x.shape if n != 1)
        split = sum(n != 1 for n in x.shape[:kept])
        key = (x.memory, address_of(x))
        loop, (_, key) = self._fitting(shape, [key], (out.memory, AFTER), (), split, fixed=split > 0)
        name, value = self.name(), self._load(loop, key, x.kind)
        offset, stride = address_of(out)
        address = (offset, (*stride, *(0 for _ in loop.shape[split:])))
        loop.lines.append(Line(f"{name} += {value};", (), out.memory))
        loop.totals[name] = Line(f"{out.memory}[{{0}}] = {name}{over};", (address,), out.memory)
        self.constants.pop(out.memory, None)
        loop.stored[out.memory] = {AFTER}
        loop.writes.add(out.memory)
        loop.split = split

    def position(self, loop: Loop, shape: Sequence[int], dim: int) -> str:
        """Where the loop stands along a dimension of the shape that it is for."""
        value = self.name()
        stride = tuple(int(d == dim) for d, n in enumerate(shape) if n != 1)
        loop.lines.append(Line(f"const int64_t {value} = {{0}};", ((0, stride),)))
        return value

    def look_up(self, loop: Loop, place: Place, jumps: Sequence[tuple[str, int, int]]) -> str:
        """An element of `place`, of the loop's shape, from where the jumps lead: `(index, entries, stride)` each."""
        value = self.name()
        address = address_of(place)
        text = "".join(f" + {self.checked(loop, i, n)} * {s}" for i, n, s in jumps)
        loop.lines.append(Line(f"const {VALUES[place.kind]} {value} = {place.memory}[{{0}}{text}];", (address,)))
        return value

    def checked(self, loop: Loop, index: str, count: int) -> str:
        """An index that is there."""
        value = self.name()
        loop.writes.add(CHECKS)
        loop.lines.append(Line(f"const int64_t {value} = checked({index}, {count}, bad);"))
        return value

    def scatter(
        self, out: Place, operands: Sequence[Place], express: Callable[[Loop, list[str]], tuple[str, str, str]]
    ) -> None:
        """A loop that writes where it is told: `express` gives jump, operator and value for a place in `out`."""
        self.constants.pop(out.memory, None)
        loop = self._added(Loop(set(), {out.memory}, tuple(n for n in out.shape if n != 1)))
        keys = [(o.memory, address_of(o.to(out.shape))) for o in operands]
        names = [self._load(loop, key, o.kind) for key, o in zip(keys, operands, strict=True)]
        jump, operator, value = express(loop, names)
        text = f"if (!*bad) {out.memory}[{{0}} + {jump}] {operator} {value};"
        loop.lines.append(Line(text, (address_of(out),), out.memory))
        loop.shut = True

    def lines(self, lines: Sequence[str], reads: Sequence[str], writes: Sequence[str], shared: bool = False) -> None:
        """Statements of one's own."""
        self._pieces.append(Lines(self.seen(reads), set(writes), Body(list(lines), shared)))
        self.loaded.update(self.seen(reads), writes)
        for memory in writes:
            self.constants.pop(memory, None)

    def shared(self, work: int, sizes: Sequence[int]) -> int | None:
        """The first dimension that is long enough, or the longest one."""
        if self.parts == 1 or work < SHARED or not sizes:
            return None
        enough = (d for d, n in enumerate(sizes) if n >= 16 * self.parts)
        found = next(enough, max(range(len(sizes)), key=sizes.__getitem__))
        return found if sizes[found] >= 2 * self.parts else None

    def apart(self, count: int) -> str:
        """Numbers in double precision, those of one part after those of another."""
        memory = self.like((self.parts, count), torch.float64).memory
        self.loaded.add(memory)
        return memory

    def functions(self, kept: set[str]) -> list[Body]:
        """What is to be called one after the other.

        Args:
            kept: memories to be written although nobody reads them here.
        """
        found = [Body([])]
        for piece in self._pieces:
            for body in piece.bodies(self, self.loaded | kept):
                long = len(found[-1].lines) + len(body.lines) > LONG and found[-1].lines
                if long or found[-1].shared or body.shared:
                    found.append(Body([], body.shared))
                found[-1].lines += body.lines
        return found

    def layout(self) -> tuple[dict[str, int], int]:
        """Where each memory begins, in bytes, and how many there are: later ones take the room of those of the same
        type and size that nobody reads any more. To be asked after the functions.
        """
        spans: dict[str, list[int]] = {}
        for number, piece in enumerate(self._pieces):
            for memory in piece.reads | piece.writes:
                spans.setdefault(self.inside.get(memory, (memory, 0))[0], [number, number])[1] = number
        used = {self.inside.get(memory, (memory, 0))[0] for memory in self.loaded}
        ends: dict[int, list[str]] = {}
        free: dict[tuple[int, torch.dtype], list[int]] = {}
        places: dict[str, int] = {}
        total = done = 0
        for memory in sorted((m for m in self.sizes if m in used), key=lambda m: spans.get(m, [0])[0]):
            first, last = spans.get(memory, (0, len(self._pieces)))
            while done < first:
                for ended in ends.pop(done, ()):
                    free.setdefault((self.sizes[ended], self.kinds[ended]), []).append(places[ended])
                done += 1
            left = free.get((self.sizes[memory], self.kinds[memory]))
            if left:
                places[memory] = left.pop()
            else:
                places[memory] = total
                total += -(-self.sizes[memory] // 64) * 64
            ends.setdefault(last, []).append(memory)
        return places, total

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
            reads.add(CHECKS)
        place = len(self._pieces)
        for piece in reversed(self._pieces[-_BACK:]):
            if isinstance(piece, Loop) and (piece.shape == shape or not fixed):
                found = for_shape([target, *keys], shape, piece.shape)
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
            loop.lines.append(Line(f"const {VALUES[kind]} {known} = {memory}[{{0}}];", (address,)))
            loop.found.setdefault(memory, set()).add(address)
            loop.reads |= self.seen([memory])
            self.loaded |= self.seen([memory])
        return known

    def _forget(self, loop: Loop, target: tuple[str, Address]) -> None:
        """What is written may be part of what was read."""
        self.constants.pop(target[0], None)
        for key in [k for k in loop.values if k[0] == target[0]]:
            del loop.values[key]


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
