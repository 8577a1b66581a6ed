"""Warnings that name the user's line: the frame to blame is the innermost one outside of this package and torch."""

from __future__ import annotations

import sys
import warnings

_INTERNAL = ("varigrad", "torch", "contextlib", "functools")


def warn_user(text: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line of the user's code that has called into the package, however deep the call goes.

    Python's own `skip_file_prefixes` does the same from 3.12 on.

    Args:
        text: the warning.
        category: its class.
    """
    level = 2
    frame = sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _INTERNAL:
        frame = frame.f_back
        level += 1
    warnings.warn(text, category, stacklevel=level)
