"""A log-density taken apart into what is differentiated and how, as Pyro's estimators see it."""

from __future__ import annotations

from typing import Any, NamedTuple


class ScoreParts(NamedTuple):
    """`log_prob`; the part that multiplies the cost; the part that is differentiated directly. Each `[*batch]`."""

    log_prob: Any
    score_function: Any
    entropy_term: Any
