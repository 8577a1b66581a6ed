"""`ScoreParts`: a log-density split into a score-function part and a pathwise part, as Pyro's estimators use it."""

from __future__ import annotations

from typing import Any, NamedTuple


class ScoreParts(NamedTuple):
    """`log_prob`; the part that multiplies the cost; the part that is differentiated directly. Each `[*batch]`."""

    log_prob: Any
    score_function: Any
    entropy_term: Any
