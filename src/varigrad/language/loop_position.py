"""`LoopPosition`: finds out from Python's frames whether a `for` loop is still running, even after an error.

The loop of a sequential plate is a generator. An error's traceback, or a variable, may keep it alive after its loop has
ended, and then nothing closes it. Statements after such a loop are not inside its plate.
"""

from __future__ import annotations

import dis
import inspect
import sys
import threading
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType, FrameType, TracebackType

from varigrad.language.exception_table import exception_table, instruction_at

_SUSPENDED = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


class LoopPosition:
    """The place in a program that requested a generator's next element.

    Args:
        frame: that asks. It is not kept, because it may keep the generator alive.
    """

    __slots__ = ("_code", "_frame", "_loop", "_thread")

    def __init__(self, frame: FrameType) -> None:
        self._frame, self._code, self._thread = id(frame), frame.f_code, threading.get_ident()
        self._loop = _body_of(frame.f_code, frame.f_lasti)

    def is_over(self) -> bool:
        """Whether what runs now is not part of the loop any more."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if id(frame) == self._frame and frame.f_code is self._code:
                return self._loop is not None and not _inside(self._code, frame.f_lasti, self._loop)
            frame = frame.f_back
        if self._thread != threading.get_ident():
            return False  # the loop runs in another thread, which this one belongs to
        if self._code.co_flags & _SUSPENDED:  # it waits in its `yield`, or an error has ended it
            return any(id(f) == self._frame and f.f_code is self._code for f in _frames_of_errors())
        return True


def _frames_of_errors() -> Iterator[FrameType]:
    """The frames that errors which are being handled have ended."""
    error, seen = sys.exc_info()[1], set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback: TracebackType | None = error.__traceback__
        while traceback is not None:
            yield traceback.tb_frame
            traceback = traceback.tb_next
        error = error.__cause__ or error.__context__


@lru_cache(maxsize=1024)
def _body_of(code: CodeType, place: int) -> tuple[int, int] | None:
    """First and last offset of the loop whose `for` is at a place; None if that is none (a call of `next`, say)."""
    instructions = list(dis.get_instructions(code))
    at = instruction_at(instructions, place)
    if at is None or instructions[at].opname != "FOR_ITER":
        return None
    return instructions[at].offset, int(instructions[at].argval)


@lru_cache(maxsize=4096)
def _inside(code: CodeType, place: int, loop: tuple[int, int]) -> bool:
    """Whether an instruction belongs to a loop.

    Code that handles errors stands behind all other code. It belongs where the code belongs that it protects; if that
    cannot be read, it counts as outside of all loops, which promises nothing.
    """
    entries = exception_table(code) or []
    handlers = sorted({i.offset for i in dis.get_instructions(code) if i.opname == "PUSH_EXC_INFO"})
    met = set[int]()
    while not loop[0] <= place < loop[1]:
        begun = [h for h in handlers if h <= place]
        if not begun or begun[-1] in met:
            return False
        met.add(begun[-1])
        protected = [e.start for e in entries if e.target == begun[-1]]
        if not protected:
            return False
        place = min(protected)
    return True
