"""Recommends the unbiased estimator with the least variance x time, if the difference is significant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from varigrad.diagnostics.measurements import Measured

NEGLIGIBLE = 1e-12
"""A variance smaller than this part of the largest is rounding."""

NOTABLE = 1.2
"""A factor from which on a difference is mentioned."""


@dataclass(frozen=True)
class Advice:
    """The estimator that is recommended for the sites of one glob.

    Attributes:
        estimator: None if the budget cannot tell, or if no unbiased one serves.
        text: the reason, in words.
        least: the one with the least measured, told from the others or not; None if no unbiased one serves.
    """

    sites: str
    estimator: str | None
    text: str
    least: str | None = None


def advise(sites: str, measured: Sequence[Measured], blocks: int) -> Advice:
    """Advice from measurements in so many blocks."""
    fit = [m for m in measured if m.verdict == "unbiased"]
    if not fit:
        return Advice(sites, None, "none of these estimators is unbiased and serves the sites")
    if len(fit) == 1:
        return Advice(
            sites, fit[0].estimator, f"{fit[0].estimator}, the only unbiased one among these", fit[0].estimator
        )
    floor = NEGLIGIBLE * max(m.variance for m in fit) or 1.0

    def work(m: Measured) -> float:
        return max(m.variance, floor) * m.microseconds

    best, *rest = sorted(fit, key=work)
    # Errors estimated from few blocks are themselves uncertain, so fewer blocks have to show more.
    sure = 2 * (1 + 4 / (blocks - 1))
    close = [m for m in rest if math.log(work(m) / work(best)) < sure * math.hypot(_relative(m), _relative(best))]
    aside = _aside(best, fit, sure, bool(close))
    if close:
        names = ", ".join(m.estimator for m in close)
        apart = max(work(m) / work(best) for m in close)
        known = max(_relative(m) for m in (best, *close))
        return Advice(
            sites,
            None,
            f"cannot tell {best.estimator} from {names}: variances x time within a factor {apart:.3g} of each other, "
            f"each known to ±{100 * known:.0f} %; a larger budget may tell{aside}",
            best.estimator,
        )
    nearest = rest[0]
    ratio = work(nearest) / work(best)
    return Advice(
        sites,
        best.estimator,
        f"{best.estimator}, the least variance x time among {len(fit)} unbiased ones: {ratio:.3g} times less than "
        f"{nearest.estimator} (variance {best.variance:.3g} against {nearest.variance:.3g}, "
        f"{best.microseconds:.0f} us against {nearest.microseconds:.0f}){aside}",
        best.estimator,
    )


def _aside(best: Measured, fit: Sequence[Measured], sure: float, undecided: bool) -> str:
    """A sentence about the sites' own parameters, where noise elsewhere hides what these would like."""
    known = sorted((m for m in fit if m.own_variance > 0), key=lambda m: m.own_variance * m.microseconds)
    if best not in known or len(known) < 2 or all(m.own_variance == m.variance for m in known):
        return ""
    own = known[0]
    other = known[1] if own is best else best
    ratio = other.own_variance * other.microseconds / (own.own_variance * own.microseconds)
    errors = (m.own_error / m.own_variance for m in (other, own))
    clear = ratio >= NOTABLE and math.log(ratio) >= sure * math.hypot(*errors, _slack(other), _slack(own))
    if not clear or (own is best and not undecided):
        return ""
    return (
        f". At the sites' own parameters alone, {own.estimator} needs {ratio:.3g} times less variance x time than "
        f"{other.estimator} (variance {own.own_variance:.3g} against {other.own_variance:.3g}): that counts with an "
        "optimiser that scales every parameter by itself, as Adam does"
    )


def _relative(m: Measured) -> float:
    """Relative standard error of variance times time."""
    noise = m.variance_error / m.variance if m.variance > 0 else 0.0
    return math.hypot(noise, _slack(m))


def _slack(m: Measured) -> float:
    """The relative standard error of the time."""
    return m.microseconds_error / m.microseconds
