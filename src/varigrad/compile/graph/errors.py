"""Errors of programs that cannot be captured: each names the user's line, the reason, and what to write instead."""

from __future__ import annotations

import linecache
import sys
import traceback
from pathlib import Path
from types import CodeType, TracebackType

import torch

from varigrad.errors import VarigradError

OURS = (str(Path(__file__).parents[2]), str(Path(torch.__file__).parent))
"""The folders of code that is not the user's."""
_NOT_USERS = (*OURS, "<string>")
"""The beginnings of file names that are not the user's; `<string>` is code that torch makes as it runs."""


class CaptureError(VarigradError):
    """A program cannot be captured and has to run eagerly, for the reason given."""


class Unsupported(Exception):
    """A back end cannot compile a graph, for the reason given."""


def capture_error(reason: str, instead: str = "the same in torch operations") -> CaptureError:
    """The error for what the user's current line asks for.

    Args:
        reason: why it cannot be captured.
        instead: what to write in its place.
    """
    stack = traceback.extract_stack()
    frame = next((f for f in reversed(stack) if not f.filename.startswith(OURS)), stack[-1])
    return CaptureError(f"{frame.filename}:{frame.lineno}: {frame.line}", because=reason, try_=instead)


def as_capture_error(error: Exception) -> CaptureError:
    """An error of the program's as a `CaptureError` that names the user's line."""
    return CaptureError(
        _users_line(error.__traceback__), because=in_one_line(error), try_="compile=False for this program"
    )


def in_one_line(error: BaseException) -> str:
    """An error in one line of text."""
    first = str(error).strip().split("\n")[0][:200]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def users_line(within: CodeType) -> tuple[str, int] | None:
    """File and number of the user's line that runs now, inside a call of `within`; None if there is none.

    It is asked for every operation, so it is quick: `line_text` finds the text of the line.
    """
    frame = sys._getframe(2)
    while frame is not None and frame.f_code is not within:
        name = frame.f_code.co_filename
        if not name.startswith(_NOT_USERS):
            return name, frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment]
    return None


def line_text(line: tuple[str, int] | None) -> str:
    """A line of the user's as file, number and text."""
    if line is None:
        return "a gradient, or the library's own arithmetic"
    return f"{line[0]}:{line[1]}: {linecache.getline(*line).strip()}"


def _users_line(trace: TracebackType | None) -> str:
    frames = traceback.extract_tb(trace)
    users = [f for f in frames if not f.filename.startswith(_NOT_USERS)]
    if not users:
        return "inside the library"
    return f"{users[-1].filename}:{users[-1].lineno}: {users[-1].line}"
