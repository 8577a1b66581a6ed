"""Reads the exception table of a code object: which instructions are protected by which handler.

Since Python 3.11 `try` and `with` leave no instructions in the code. A table says where an error goes; each entry is
four numbers, in units of two bytes: start, length, target, and depth with a flag. A number is written in groups of six
bits, the highest first; the bit 64 says that another group follows, and the bit 128 marks the beginning of an entry.

References:
    CPython, InternalDocs/exception_handling.md (Objects/exception_handling_notes.txt in 3.11), "Format of the exception
    table".
"""

from __future__ import annotations

import dis
from collections.abc import Iterator
from types import CodeType
from typing import NamedTuple

_UNIT = 2
"""Bytes of a unit of code."""
_BEGINS, _CONTINUES, _BITS = 128, 64, 63


class Protected(NamedTuple):
    """A range of instructions, and the handler that an error in it goes to.

    Attributes:
        start, end: offsets in bytes, as `dis` counts them; the end is not part of the range.
        target: the offset of the handler's first instruction.
    """

    start: int
    end: int
    target: int


def exception_table(code: CodeType) -> list[Protected] | None:
    """All ranges of instructions that a handler in the same code protects, in the order of their starts.

    Returns:
        None if this Python writes tables in another format than the one described above.
    """
    numbers = list(_numbers(getattr(code, "co_exceptiontable", b"\0")))
    if len(numbers) % 4 or any(begins != (i % 4 == 0) for i, (_, begins) in enumerate(numbers)):
        return None
    starts, lengths, targets = ([value * _UNIT for value, _ in numbers[part::4]] for part in range(3))
    return [Protected(s, s + n, t) for s, n, t in zip(starts, lengths, targets, strict=True)]


def _numbers(table: bytes) -> Iterator[tuple[int, bool]]:
    """The numbers of a table, and whether an entry begins with each; the last one also if it is cut off."""
    value, begins = 0, False
    for byte in table:
        begins = begins or bool(byte & _BEGINS)
        value = value << 6 | byte & _BITS
        if not byte & _CONTINUES:
            yield value, begins
            value, begins = 0, False
    if table and table[-1] & _CONTINUES:
        yield value, True


def instruction_at(instructions: list[dis.Instruction], place: int) -> int | None:
    """The position of the instruction that a frame is at; None if there is none.

    Args:
        instructions: of the frame's code, without caches.
        place: `f_lasti`, which may point into the caches behind an instruction.
    """
    return max((i for i, instruction in enumerate(instructions) if instruction.offset <= place), default=None)
