"""Detects poles between two explored runs: a denominator changed its sign, or a number ceased to be one.

A pathwise gradient misses the jump at a pole. Where no run has met one, the plan names the assumption.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Container, Mapping
from contextlib import nullcontext

import torch

from varigrad.objectives.checks.perturbed_points import moved
from varigrad.objectives.checks.replays import FAILURES
from varigrad.objectives.run_record import RunRecord
from varigrad.objectives.without_side_effects import PreservedState
from varigrad.terms.dependency_tracker import NOT_PATHWISE
from varigrad.terms.escapes import Pole
from varigrad.terms.zero_crossings import HOOK

Calls = Mapping[tuple[str, str, int], Pole]


def pole_crossings(
    seen: RunRecord, explore: Callable[[], RunRecord], kept: PreservedState, points: int
) -> dict[str, str]:
    """Compare a run with others, on fresh draws and every second time at other parameters.

    Returns:
        The sites whose pathwise gradients go through a pole between two runs, each with a sentence about the place.
    """
    if not any(pathwise_sources(seen, pole) for pole in seen.tracker.escapes.poles):
        return {}
    generator = torch.Generator().manual_seed(points)
    found: dict[str, str] = {}
    for point in range(points):
        try:
            with moved(kept, generator, False) if point % 2 else nullcontext(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # at values that the program is never given
                found = {**sites_crossed(seen, explore()), **found}
        except FAILURES:
            continue  # this point says nothing
    return found


def pathwise_sources(run: RunRecord, pole: Pole, exempt: Container[str] = ()) -> list[str]:
    """The sites whose pathwise gradients, or those of relaxed values, go through a call that may reach a pole."""
    found = []
    for token in pole.provenance:
        estimator = run.choices[token.site].estimator
        pathwise = estimator.drawing.pathwise and pole.differentiable and NOT_PATHWISE not in token.cross_element
        if token.site not in exempt and (pathwise or estimator.needs.differentiable):
            found.append(token.site)
    return found


def calls_of(run: RunRecord) -> Calls:
    """The calls of functions with poles in a run, by function, line and how often that line called it before."""
    count = Counter[tuple[str, str]]()
    found: dict[tuple[str, str, int], Pole] = {}
    for pole in run.tracker.escapes.poles:
        key = pole.name, pole.line
        found[*key, count[key]] = pole
        count[key] += 1
    return found


def sites_crossed(first: RunRecord, other: RunRecord) -> dict[str, str]:
    """The sites whose pathwise gradients go through a pole between two runs, each with a sentence about the place."""
    before = calls_of(first)
    found: dict[str, str] = {}
    for key, pole in calls_of(other).items():
        known = before.get(key)
        if known is not None and known.crossed(pole):
            what = "gave no number in one of them" if known.finite != pole.finite else "went through zero between them"
            for site in pathwise_sources(other, pole):
                found.setdefault(site, f"what {name_of(pole)} divides by (or takes) {what}")
    return found


def assumption_about(pole: Pole) -> str:
    """What has to hold of a call for pathwise gradients to be right, in words."""
    if pole.name == HOOK:
        return "leaves the gradient as it is"
    return "never divides by zero (or reaches another pole)" if pole.reviewed else "has no jump"


def name_of(pole: Pole) -> str:
    """A call, in words: the function and the line."""
    return f"{'div' if 'div' in pole.name else pole.name} at {pole.line}"
