"""Law 1 on programs that change in the middle of a run: what was found out before the change is not believed after it.

Each number is a program (`changing.programs.drawn`). To look at one of them:

    PYTHONPATH=tests .venv/bin/python -m changing 1234
"""

from collections import Counter

import pytest
from captures import InC
from changing.gates import GATES
from changing.programs import drawn
from changing.verdicts import FINE, by_steps, eagerly, smallest

BLOCK = 50


def in_c(spec):
    return by_steps(spec, InC)


def held(numbers, verdict):
    """All programs with these numbers are exact, or refused by an estimator that says so."""
    seen = Counter()
    wrong = {}
    for number in numbers:
        spec = drawn(number)
        found = verdict(spec)
        seen[found if found in FINE else "wrong"] += 1
        seen["mixing and exact"] += found == "exact" and spec.operation != "apart"
        if found not in FINE:
            wrong[number] = found
    if wrong:
        first = next(iter(wrong))
        raise AssertionError(f"{wrong}\nfor example, as small as {first} gets: {smallest(drawn(first), verdict)}")
    assert seen["mixing and exact"] >= 0.3 * len(numbers), seen
    return seen


@pytest.mark.parametrize("block", range(2))
def test_programs_that_change(block):
    held(range(BLOCK * block, BLOCK * (block + 1)), eagerly)


@pytest.mark.parametrize("block", range(2))
def test_recorded_programs_that_change(block):
    held(range(10_000 + 8 * block, 10_000 + 8 * (block + 1)), by_steps)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(2, 36))
def test_many_programs_that_change(block):
    held(range(BLOCK * block, BLOCK * (block + 1)), eagerly)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(2, 30))
def test_many_recorded_programs_that_change(block):
    held(range(10_000 + 8 * block, 10_000 + 8 * (block + 1)), by_steps)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(4))
def test_compiled_programs_that_change(block):
    held(range(20_000 + 8 * block, 20_000 + 8 * (block + 1)), in_c)


def test_all_gates_are_drawn():
    seen = Counter(drawn(number).gate for number in range(3 * BLOCK))
    assert seen.keys() == GATES.keys(), seen
