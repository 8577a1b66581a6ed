"""Loop fusion: collects the statements of a program in loops, and fuses loops over the same elements.

A statement joins an earlier loop unless that breaks a data hazard with the statements in between. A result that only
its own loop reads is never written to memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch

from varigrad.compile.backends.c.buffers import TYPES, VALUES, BufferView
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
"""Loops that compute fewer numbers than this are over before a second thread has begun."""
_BACK = 48
"""How many pieces back a statement looks for a loop to join."""


class LoopWriter:
    """Collects the loops of a program, and fuses them.

    Attributes:
        sizes, kinds: bytes of each buffer, and the type of its elements.
        loaded: memories that are read.
        products: whether there is a BLAS to call.
        multiplies: whether it is called.
        threads: how many threads share large loops.
        aliases: buffers that lie in another memory, and where.
        constants: memories that hold one number everywhere, the same in every step; as C.
    """

    def __init__(self, products: bool, threads: int) -> None:
        self.sizes: dict[str, int] = {}
        self.kinds: dict[str, torch.dtype] = {}
        self.loaded: set[str] = set()
        self.products = products
        self.multiplies: bool = False
        self.threads = threads
        self.aliases: dict[str, tuple[str, int]] = {}
        self.constants: dict[str, str] = {}
        self._pieces: list[Loop | Lines] = []
        self._names = 0

    def name(self) -> str:
        """A name that is not in use."""
        self._names += 1
        return f"v{self._names}"

    def buffer(self, shape: Sequence[int], stride: Sequence[int], kind: torch.dtype) -> BufferView:
        """A new buffer for a tensor."""
        if kind not in TYPES:
            raise Unsupported(f"tensors of {kind}")
        memory = f"b{len(self.sizes)}"
        extent = 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) if math.prod(shape) else 0
        self.sizes[memory], self.kinds[memory] = extent * kind.itemsize, kind
        return BufferView(memory, 0, tuple(shape), tuple(stride), kind)

    def aliased_buffer(self, whole: BufferView, offset: int, shape: Sequence[int], stride: Sequence[int]) -> BufferView:
        """A buffer that is a slice of another one, into which nothing else is written there."""
        place = self.buffer(shape, stride, whole.kind)
        self.aliases[place.memory] = (whole.memory, whole.offset + offset)
        return place

    def is_aliased(self, part: BufferView, target: BufferView) -> bool:
        """Whether a result already lies where it would be copied to."""
        memory, offset = self.aliases.get(part.memory, ("", 0))
        return replace(part, memory=memory, offset=part.offset + offset) == target

    def with_aliases(self, memories: Iterable[str]) -> set[str]:
        """These memories, and the buffers that are slices of them."""
        found = set(memories)
        return found | {memory for memory, (whole, _) in self.aliases.items() if whole in found}

    def like(self, shape: Sequence[int], kind: torch.dtype) -> BufferView:
        """A new buffer, one element after the other."""
        stride = [math.prod(shape[d + 1 :]) for d in range(len(shape))]
        return self.buffer(shape, stride, kind)

    def write(
        self,
        out: BufferView,
        operands: Sequence[BufferView],
        express: Callable[[Loop, list[str]], str],
        whole: Sequence[str] = (),
        fixed_shape: bool = False,
    ) -> None:
        """`out[i] = express(operands[i])` for every element.

        Args:
            operands: tensors of shapes that broadcast to `out`'s.
            express: makes an expression of `out`'s type from the loop and the names of the operands' elements.
            whole: memories that the expression reads anywhere.
            fixed_shape: whether the expression depends on the loop's shape, as one with positions does.
        """
        if not out.numel:
            return
        shape = tuple(n for n in out.shape if n != 1)
        variable = [o for o in operands if o.memory not in self.constants]
        keys = [(o.memory, address_of(o.expand(out.shape))) for o in variable]
        loop, (target, *keys) = self._loop_for(shape, keys, (out.memory, address_of(out)), whole, fixed=fixed_shape)
        loads = iter([self._load(loop, key, o.kind) for key, o in zip(keys, variable, strict=True)])
        value = self.name()
        text = express(loop, [self.constants.get(o.memory) or next(loads) for o in operands])
        loop.lines.append(Line(f"const {VALUES[out.kind]} {value} = {text};"))
        self._invalidate(loop, target)
        if (
            not (variable or fixed_shape or whole)
            and out.numel * out.kind.itemsize == self.sizes.get(out.memory)
            and len(text) < LONG
        ):
            self.constants[out.memory] = f"(({VALUES[out.kind]})({text}))"
        loop.values[target] = value
        loop.addresses_written.setdefault(out.memory, set()).add(target[1])
        loop.reads.update(self.with_aliases(whole))
        loop.writes.add(out.memory)
        loop.lines.append(Line(f"{out.memory}[{{0}}] = {value};", (target[1],), out.memory))
        self.loaded.update(self.with_aliases(whole))

    def total(self, out: BufferView, x: BufferView, kept: int, over: str) -> None:
        """`out[i] = sum(x[i]) over`, where all but the first dimensions are summed, in double precision."""
        shape = tuple(n for n in x.shape if n != 1)
        split = sum(n != 1 for n in x.shape[:kept])
        key = (x.memory, address_of(x))
        loop, (_, key) = self._loop_for(shape, [key], (out.memory, AFTER), (), split, fixed=split > 0)
        name, value = self.name(), self._load(loop, key, x.kind)
        offset, stride = address_of(out)
        address = (offset, (*stride, *(0 for _ in loop.shape[split:])))
        loop.lines.append(Line(f"{name} += {value};", (), out.memory))
        loop.totals[name] = Line(f"{out.memory}[{{0}}] = {name}{over};", (address,), out.memory)
        self.constants.pop(out.memory, None)
        loop.addresses_written[out.memory] = {AFTER}
        loop.writes.add(out.memory)
        loop.split = split

    def position(self, loop: Loop, shape: Sequence[int], dim: int) -> str:
        """The index of the current iteration along a dimension of the loop's shape."""
        value = self.name()
        stride = tuple(int(d == dim) for d, n in enumerate(shape) if n != 1)
        loop.lines.append(Line(f"const int64_t {value} = {{0}};", ((0, stride),)))
        return value

    def look_up(self, loop: Loop, place: BufferView, jumps: Sequence[tuple[str, int, int]]) -> str:
        """An element of a view of the loop's shape, moved by jumps: `(index, number of entries, stride)` each."""
        value = self.name()
        address = address_of(place)
        text = "".join(f" + {self.checked(loop, i, n)} * {s}" for i, n, s in jumps)
        loop.lines.append(Line(f"const {VALUES[place.kind]} {value} = {place.memory}[{{0}}{text}];", (address,)))
        return value

    def checked(self, loop: Loop, index: str, count: int) -> str:
        """An index, checked to be in `range(count)`; a step with a wrong one ends."""
        value = self.name()
        loop.writes.add(CHECKS)
        loop.lines.append(Line(f"const int64_t {value} = checked({index}, {count}, bad);"))
        return value

    def scatter(
        self,
        out: BufferView,
        operands: Sequence[BufferView],
        express: Callable[[Loop, list[str]], tuple[str, str, str]],
    ) -> None:
        """A loop that writes into `out` at computed addresses.

        Args:
            express: makes jump, operator and value from the loop and the names of the operands' elements.
        """
        self.constants.pop(out.memory, None)
        loop = self._added(Loop(set(), {out.memory}, tuple(n for n in out.shape if n != 1)))
        keys = [(o.memory, address_of(o.expand(out.shape))) for o in operands]
        names = [self._load(loop, key, o.kind) for key, o in zip(keys, operands, strict=True)]
        jump, operator, value = express(loop, names)
        text = f"if (!*bad) {out.memory}[{{0}} + {jump}] {operator} {value};"
        loop.lines.append(Line(text, (address_of(out),), out.memory))
        loop.closed = True

    def lines(self, lines: Sequence[str], reads: Sequence[str], writes: Sequence[str], shared: bool = False) -> None:
        """Add statements that are written as they are.

        Args:
            reads, writes: the memories that they read and write.
            shared: whether each thread computes a part of them.
        """
        self._pieces.append(Lines(self.with_aliases(reads), set(writes), Body(list(lines), shared)))
        self.loaded.update(self.with_aliases(reads), writes)
        for memory in writes:
            self.constants.pop(memory, None)

    def dimension_to_share(self, work: int, sizes: Sequence[int]) -> int | None:
        """The first dimension that is long enough for all threads, or the longest one; None: too little work."""
        if self.threads == 1 or work < SHARED or not sizes:
            return None
        enough = (d for d, n in enumerate(sizes) if n >= 16 * self.threads)
        found = next(enough, max(range(len(sizes)), key=sizes.__getitem__))
        return found if sizes[found] >= 2 * self.threads else None

    def per_thread_buffer(self, count: int) -> str:
        """A buffer for `count` numbers of each thread in double precision, one thread's after the other's."""
        memory = self.like((self.threads, count), torch.float64).memory
        self.loaded.add(memory)
        return memory

    def functions(self, kept: set[str]) -> list[Body]:
        """The bodies of the C functions, to be called one after the other.

        Args:
            kept: memories to be written although the program does not read them.
        """
        found = [Body([])]
        for piece in self._pieces:
            for body in piece.emit(self, self.loaded | kept):
                long = len(found[-1].lines) + len(body.lines) > LONG and found[-1].lines
                if long or found[-1].shared or body.shared:
                    found.append(Body([], body.shared))
                found[-1].lines += body.lines
        return found

    def layout(self) -> tuple[dict[str, int], int]:
        """Lay out the buffers: later ones take the room of buffers of the same type and size that are read no more.

        To be called after `functions`.

        Returns:
            Where each memory begins, and how many bytes there are.
        """
        spans: dict[str, list[int]] = {}
        for number, piece in enumerate(self._pieces):
            for memory in piece.reads | piece.writes:
                spans.setdefault(self.aliases.get(memory, (memory, 0))[0], [number, number])[1] = number
        used = {self.aliases.get(memory, (memory, 0))[0] for memory in self.loaded}
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

    def _loop_for(
        self,
        shape: tuple[int, ...],
        keys: Sequence[tuple[str, Address]],
        target: tuple[str, Address],
        whole: Sequence[str],
        split: int | None = None,
        fixed: bool = False,
    ) -> tuple[Loop, list[tuple[str, Address]]]:
        """The latest loop over these elements that a statement can join; a new one if there is none.

        No iteration of a loop depends on another one. A statement without dimensions is hoisted as far as its hazards
        allow.

        Args:
            keys: memories that the statement reads element by element, and the addresses.
            target: the memory that it writes, and the address.
            whole: memories that it reads anywhere.
            split: the number of dimensions before those that it sums over; None: it sums nothing.
            fixed: whether the loop has to have this very shape.

        Returns:
            The loop, and for its shape the target and the keys.
        """
        reads, writes = self.with_aliases({memory for memory, _ in keys}.union(whole)), {target[0]}
        if target[0].startswith(INPUT):
            reads.add(CHECKS)
        place = len(self._pieces)
        for piece in reversed(self._pieces[-_BACK:]):
            if isinstance(piece, Loop) and (piece.shape == shape or not fixed):
                found = for_shape([target, *keys], shape, piece.shape)
                aliases = self.with_aliases(memory for memory, _ in keys) - {memory for memory, _ in keys}
                if found and piece.can_sum(split) and piece.accepts(found[1:], found[0], {*aliases, *whole}):
                    return piece, found
            if piece.has_hazard(reads, writes):
                break
            place -= 1
        return self._added(Loop(set(), set(), shape), None if shape else place), [target, *keys]

    def _load(self, loop: Loop, key: tuple[str, Address], kind: torch.dtype) -> str:
        known = loop.values.get(key)
        if known is None:
            memory, address = key
            known = loop.values[key] = self.name()
            loop.lines.append(Line(f"const {VALUES[kind]} {known} = {memory}[{{0}}];", (address,)))
            loop.addresses_read.setdefault(memory, set()).add(address)
            loop.reads |= self.with_aliases([memory])
            self.loaded |= self.with_aliases([memory])
        return known

    def _invalidate(self, loop: Loop, target: tuple[str, Address]) -> None:
        """Forget the variables that hold elements of a memory that is overwritten."""
        self.constants.pop(target[0], None)
        for key in [k for k in loop.values if k[0] == target[0]]:
            del loop.values[key]


Out = Sequence[BufferView | None]
"""The buffers of results; None for a result that is not used."""


def only(out: Out) -> BufferView:
    """The buffer of an operation's only result."""
    found = out[0]
    assert found is not None
    return found


def copy(w: LoopWriter, out: BufferView, x: BufferView) -> None:
    """Write `out[i] = x[i]` for every element, broadcast and converted."""
    w.write(out, [x], lambda _, names: names[0])


def fill(w: LoopWriter, out: BufferView) -> None:
    """Write `out[i] = 0` for every element."""
    w.write(out, [], lambda *_: "0")
