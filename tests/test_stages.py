"""Stages of compiled steps: every transition in the table can be taken, and every other one raises."""

import itertools
from dataclasses import replace

import pytest

from varigrad.compile.step.stages import CHECKS, TRANSITIONS, Event, IllegalTransition, Progress, Stage

STEP = object()
REASON = "a reason"


def progress(stage, **changes):
    step = None if stage in (Stage.WARMING_UP, Stage.REFUSED) else STEP
    settings = {
        Stage.COMPILING: {"graph_steps": 1},
        Stage.CHECKING: {"graph_steps": 1, "next_check": 1},
        Stage.IN_FORCE: {"graph_steps": 1, "next_check": 3},
        Stage.REFUSED: {"refusal": REASON},
    }
    return Progress(stage, step, **{**settings.get(stage, {}), **changes})


def resumed(before, **changes):
    saved = {"graph_steps": 0, "next_check": 0, "agreed": 0, "disagreed": 0, "refusal": "", "has_library": False}
    return before.resumed(**{**saved, **changes})


TAKEN = {
    Event.TRACE: [lambda p: p.traced(STEP), lambda p: replace(p, graph_steps=4).traced(STEP)],
    Event.LIBRARY: [lambda p: p.library_came()],
    Event.CHECK: [lambda p: p.checked(True), lambda p: p.checked(False)],
    Event.STEPS: [lambda p: p.stepped(1), lambda p: p.stepped(2)],
    Event.FORGET: [lambda p: p.forgotten()],
    Event.REFUSE: [lambda p: p.refused(REASON)],
    Event.RESUME: [
        lambda p: resumed(p),
        lambda p: resumed(p, graph_steps=5, next_check=20),
        lambda p: resumed(p, graph_steps=5, next_check=20, has_library=True),
        lambda p: resumed(p, refusal=REASON),
    ],
}


@pytest.mark.parametrize(("stage", "event"), list(itertools.product(Stage, Event)))
def test_an_event_leads_where_the_table_says_or_raises(stage, event):
    listed, found = TRANSITIONS.get((stage, event), frozenset()), set()
    for take in TAKEN[event]:
        if listed:
            found.add(take(progress(stage)).stage)
        else:
            with pytest.raises(IllegalTransition):
                take(progress(stage))
    assert found == listed


@pytest.mark.parametrize(
    "settings",
    [
        {"stage": Stage.WARMING_UP, "step": STEP},
        {"stage": Stage.IN_FORCE},
        {"stage": Stage.REFUSED},
        {"stage": Stage.WARMING_UP, "refusal": REASON},
        {"stage": Stage.TRACED, "step": STEP, "graph_steps": 1},
        {"stage": Stage.COMPILING, "step": STEP},
        {"stage": Stage.IN_FORCE, "step": STEP, "graph_steps": 2, "next_check": 2},
    ],
)
def test_a_progress_that_contradicts_its_stage_cannot_be_made(settings):
    with pytest.raises(IllegalTransition):
        Progress(**settings)


def test_checks_come_at_once_and_then_at_powers_of_ten():
    now, checked = progress(Stage.CHECKING, graph_steps=0, next_check=0), []
    while now.graph_steps < 3000:
        if now.stage is Stage.CHECKING:
            checked.append(now.graph_steps)
            now = now.checked(True)
        now = now.stepped(1)
    assert checked == [0, 1, 20, 210, 2110]


def test_two_disagreements_are_too_many():
    now = progress(Stage.CHECKING)
    for disagreements in range(1, CHECKS + 1):
        now = now.checked(False)
        assert now.disagreed == disagreements and now.is_wrong == (disagreements == CHECKS)
        now = now.stepped(1)
        assert now.stage is Stage.CHECKING


def test_a_resumed_library_is_checked_once_and_then_as_planned():
    now = resumed(progress(Stage.WARMING_UP), graph_steps=7, next_check=20, agreed=2)
    now = now.traced(STEP)
    assert now.stage is Stage.COMPILING
    now = now.library_came()
    assert now.stage is Stage.CHECKING
    now = now.checked(True)
    assert (now.next_check, now.agreed) == (20, 2)
