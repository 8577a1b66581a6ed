"""Finds out whether the program would catch an error that is raised now.

Whether torch raises an error depends on values, so a program that catches the error learns about them. So the inputs of
a call that may raise count as having left torch if the call is in a `try` block with an `except`, or in a `with` block
whose manager may swallow errors, in any frame between the call and the program's first line. Python keeps these blocks
in the exception table of each code object, which can be read without raising an error. Where it cannot be read, errors
count as caught.
"""

from __future__ import annotations

import contextlib
import dis
import inspect
import sys
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

from varigrad.language.exception_table import exception_table
from varigrad.language.plates import InPlate
from varigrad.language.runtime import handlers_in_force

_TRUSTED = ("torch", "varigrad", "_io", "_thread", "threading", "numpy")
"""Packages whose managers swallow no errors."""
_BEFORE = ("BEFORE_WITH", "BEFORE_ASYNC_WITH")
_MOST = 4096
_KNOWN: dict[tuple[int, int], tuple[CodeType, bool | frozenset[int]]] = {}
"""By the identity of a code object, which is kept alive here, and a place in it. A cache: it is emptied when full."""


def would_be_caught() -> bool:
    """Whether the program that runs now would catch an error raised by what it has just called."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if code.co_exceptiontable:
            module = frame.f_globals.get("__name__", "")
            if module == "varigrad.language.runtime" and code.co_name == "run":
                return False
            if not module.startswith(("torch.", "varigrad.")) and _catches(frame, code):
                return True
        frame = frame.f_back
    return False


def _catches(frame: FrameType, code: CodeType) -> bool:
    key = id(code), frame.f_lasti
    known = _KNOWN.get(key)
    if known is None:
        if len(_KNOWN) >= _MOST:
            _KNOWN.clear()
        known = _KNOWN[key] = code, _look(frame, code)
    doubtful = known[1]
    if isinstance(doubtful, bool):
        return doubtful
    # Managers that a call has returned: a plate says by which `with` statement it was entered, and swallows nothing.
    plates = {handler.entered for handler in handlers_in_force() if isinstance(handler, InPlate)}
    return not all((id(frame), place) in plates for place in doubtful)


def _look(frame: FrameType, code: CodeType) -> bool | frozenset[int]:
    """Follow an error from the instruction at work to the handlers it would meet in this frame.

    Returns:
        Whether one of them would end it; or, if that depends on managers that cannot be told from the code, the places
        of their `with` statements.
    """
    doubtful = set[int]()
    instructions = list(dis.get_instructions(code))
    places = {instruction.offset: i for i, instruction in enumerate(instructions)}
    entries = exception_table(code)
    if entries is None:
        return True
    at, met = frame.f_lasti, set[int]()
    while True:
        target = next((e.target for e in entries if e.start <= at < e.end), None)
        if target is None or target in met:
            return frozenset(doubtful) if doubtful else False
        met.add(target)
        handler = instructions[places[target] :]
        if handler[0].opname == "PUSH_EXC_INFO":
            if handler[1].opname == "WITH_EXCEPT_START":
                starts = [places[e.start] for e in entries if e.target == target]
                begun = max((i for i in range(min(starts)) if instructions[i].opname in _BEFORE), default=None)
                if begun is None or instructions[begun].opname != "BEFORE_WITH":  # `async with`: by any class
                    return True
                manager = _manager(frame, instructions[: begun + 1])
                if manager is _MISSING or _is_users(manager):
                    doubtful.add(instructions[begun].offset)
                elif _may_swallow(manager):
                    return True
            elif _ends(handler):
                return True
        at = target


def _ends(handler: list[dis.Instruction]) -> bool:
    """Whether a handler lets the program go on, as an `except` does and a `finally` does not."""
    for instruction in handler:
        if instruction.opname in ("CHECK_EXC_MATCH", "CHECK_EG_MATCH", "POP_EXCEPT", "RETURN_VALUE", "RETURN_CONST"):
            return True
        if instruction.opname == "RERAISE":
            return False
    return True


_MISSING = object()


def _manager(frame: FrameType, before: list[dis.Instruction]) -> Any:
    """The manager of a `with` statement, or the function that makes it."""
    where = before[-2].positions  # of the whole expression, which has just been evaluated
    if where is None:
        return _MISSING
    start = (where.lineno, where.col_offset)
    chain = [
        i
        for i in before
        if i.positions is not None
        and (i.positions.lineno, i.positions.col_offset) == start
        and i.opname.startswith("LOAD_")
        and i.opname not in ("LOAD_CONST", "LOAD_CLOSURE")
    ]
    if not chain:
        return _MISSING
    name = str(chain[0].argval)
    spaces = (frame.f_locals, frame.f_globals, frame.f_builtins)
    found = next((space[name] for space in spaces if name in space), _MISSING)
    for instruction in chain[1:]:
        if found is _MISSING or instruction.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
            return _MISSING
        read = getattr if isinstance(found, ModuleType) else inspect.getattr_static
        found = read(found, str(instruction.argval), _MISSING)
    return found


def _is_users(manager: object) -> bool:
    """Whether a manager is made by a function of the user's, whatever class that returns."""
    if not isinstance(manager, FunctionType) or getattr(manager, "__wrapped__", None) is not None:
        return False
    return manager.__module__.split(".")[0] not in _TRUSTED


def _may_swallow(manager: object) -> bool:
    if manager in (contextlib.nullcontext, contextlib.closing):
        return False
    inner = getattr(manager, "__wrapped__", None)
    if isinstance(manager, FunctionType) and inner is not None:
        return _has_handlers(inner.__code__)  # made by `contextmanager`
    kind = manager if isinstance(manager, type) else type(manager)
    if isinstance(manager, FunctionType):
        return manager.__module__.split(".")[0] not in _TRUSTED
    if kind.__module__.split(".")[0] in _TRUSTED or manager is open:
        return False
    leave = getattr(kind, "__exit__", None)
    return not isinstance(leave, FunctionType) or _answers(leave.__code__)


def _has_handlers(code: CodeType) -> bool:
    return any(i.opname in ("CHECK_EXC_MATCH", "CHECK_EG_MATCH", "POP_EXCEPT") for i in dis.get_instructions(code))


def _answers(code: CodeType) -> bool:
    """Whether a function may return anything but None and False."""
    instructions = list(dis.get_instructions(code))
    for i, instruction in enumerate(instructions):
        if instruction.opname == "RETURN_CONST" and instruction.argval not in (None, False):
            return True
        if instruction.opname == "RETURN_VALUE":
            before = instructions[i - 1]
            if before.opname != "LOAD_CONST" or before.argval not in (None, False):
                return True
    return False
