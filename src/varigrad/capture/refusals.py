"""What cannot be captured: the user's line, the reason, and what to write instead."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import TracebackType

import torch

from varigrad.errors import VarigradError

OURS = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent))
"""Where code lies that is not the user's."""


class CaptureError(VarigradError):
    """A program that has to run eagerly, and why."""


def refusal(reason: str, instead: str = "the same in torch operations") -> CaptureError:
    """Of what the user's line asks for now."""
    stack = traceback.extract_stack()
    frame = next((f for f in reversed(stack) if not f.filename.startswith(OURS)), stack[-1])
    return CaptureError(f"{frame.filename}:{frame.lineno}: {frame.line}", because=reason, try_=instead)


def explained(error: Exception) -> CaptureError:
    """The user's line, and what went wrong there."""
    first = str(error).strip().split("\n")[0][:200]
    because = f"{type(error).__name__}: {first}"
    return CaptureError(_users_line(error.__traceback__), because=because, try_="compile=False for this program")


def _users_line(trace: TracebackType | None) -> str:
    frames = traceback.extract_tb(trace)
    # "<string>" is code that torch makes as it runs.
    users = [f for f in frames if not f.filename.startswith((*OURS, "<string>"))]
    if not users:
        return "inside the library"
    return f"{users[-1].filename}:{users[-1].lineno}: {users[-1].line}"
