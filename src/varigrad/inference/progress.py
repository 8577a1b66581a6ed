"""The progress bar of a run: shown on terminals by default, and refreshed at time intervals, not at every step."""

from __future__ import annotations

import math
import time
from typing import Any

from tqdm.auto import tqdm


class Progress:
    """Shows loss, smoothed loss and gradient norm.

    Args:
        steps: how many steps are to come.
        shown: whether there is a bar; None: only on a terminal.
    """

    def __init__(self, steps: int, shown: bool | None) -> None:
        disable = None if shown is None else not shown
        self._bar: Any = tqdm(total=steps, disable=disable, unit="step", mininterval=0.2, leave=True)
        self._smooth = math.nan
        self._next = 0.0
        self._waiting = 0

    def update(self, loss: float, norm: float, steps: int = 1, note: str = "") -> None:
        """Note that steps are done.

        Args:
            loss, norm: of the last step.
            steps: how many.
            note: a text to be shown with the figures.
        """
        if self._bar.disable:
            return
        if math.isfinite(loss):
            self._smooth = loss if math.isnan(self._smooth) else 0.98 * self._smooth + 0.02 * loss
        self._waiting += steps
        now = time.perf_counter()
        if now >= self._next:
            self._next = now + 0.2
            figures = f"loss {loss:.4g}, smoothed {self._smooth:.4g}, |grad| {norm:.2g}" + (f", {note}" if note else "")
            self._bar.set_postfix_str(figures, refresh=False)
            self._bar.update(self._waiting)
            self._waiting = 0

    def close(self) -> None:
        """End the bar: there are no more steps."""
        self._bar.update(self._waiting)
        self._bar.close()
