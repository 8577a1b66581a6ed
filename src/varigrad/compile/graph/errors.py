"""What cannot be captured: the user's line, the reason, and what to write instead."""

from __future__ import annotations

import linecache
import sys
import traceback
from pathlib import Path
from types import CodeType, TracebackType

import torch

from varigrad.errors import VarigradError

OURS = (str(Path(__file__).parents[2]), str(Path(torch.__file__).parent))
"""Where code lies that is not the user's."""
_NOT_USERS = (*OURS, "<string>")
"""`<string>` is code that torch makes as it runs."""


class CaptureError(VarigradError):
    """A program that has to run eagerly, and why."""


class Unsupported(Exception):
    """A graph that a back end cannot compile, and why."""


def refusal(reason: str, instead: str = "the same in torch operations") -> CaptureError:
    """Of what the user's line asks for now."""
    stack = traceback.extract_stack()
    frame = next((f for f in reversed(stack) if not f.filename.startswith(OURS)), stack[-1])
    return CaptureError(f"{frame.filename}:{frame.lineno}: {frame.line}", because=reason, try_=instead)


def explained(error: Exception) -> CaptureError:
    """The user's line, and what went wrong there."""
    return CaptureError(_users_line(error.__traceback__), because=said_by(error), try_="compile=False for this program")


def said_by(error: BaseException) -> str:
    """An error in one line."""
    first = str(error).strip().split("\n")[0][:200]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def line_of_the_user(within: CodeType) -> tuple[str, int] | None:
    """File and number of the user's line that runs now, inside a call of `within`; None if there is none.

    It is asked for every operation, so it is quick: the text of the line is for `told` to find.
    """
    frame = sys._getframe(2)
    while frame is not None and frame.f_code is not within:
        name = frame.f_code.co_filename
        if not name.startswith(_NOT_USERS):
            return name, frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment]
    return None


def told(line: tuple[str, int] | None) -> str:
    """A line of the user's, with its text."""
    if line is None:
        return "a gradient, or the library's own arithmetic"
    return f"{line[0]}:{line[1]}: {linecache.getline(*line).strip()}"


def _users_line(trace: TracebackType | None) -> str:
    frames = traceback.extract_tb(trace)
    users = [f for f in frames if not f.filename.startswith(_NOT_USERS)]
    if not users:
        return "inside the library"
    return f"{users[-1].filename}:{users[-1].lineno}: {users[-1].line}"
