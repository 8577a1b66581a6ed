"""Law 1 on programs that change in the middle of a run: what was found out before the change is not believed after it.

Each number is a program (`changing.programs.drawn`). To look at one of them:

    PYTHONPATH=tests .venv/bin/python -m changing 1234
"""

from collections import Counter
from dataclasses import replace

import pytest
from changing.gates import GATES
from changing.programs import Site, Spec, drawn
from changing.verdicts import FINE, by_steps, eagerly, smallest
from graph_harness import InC

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
    if len(numbers) >= 32:  # in fewer, the share is chance's
        assert seen["mixing and exact"] >= 0.3 * len(numbers), seen
    return seen


def one(family, place="n", operation="flip", **options):
    known = {"target": ("observed", place), "steps": 1, "size": 3, "vectorize": None, **options}
    return Spec((Site(place, None, None, False, family),), 0, operation, "open", **known)


def chain(operation="flip"):
    """The link reads a site that is drawn from another."""
    sites = (Site("n", None, None, False, "score"), Site("n", 0, None, False, "average"))
    return Spec(sites, 1, operation, "open", ("observed", "n"), steps=1, size=2, vectorize=None)


SIMPLE = {
    "plate": one("score"),
    "nested": one("average", "nm", size=2),
    "lanes": one("leave one out", "global", "sum()"),
    "enumerated lanes": one("enumerate", "global", "flat flip"),
    "particles": one("particles", "global", "sum()"),
    "chain": chain(),
    "rare": one("score", operation="rare"),
    "rare chain": chain("rare"),
    "summed": one("score", operation="sum(-1)"),
    "multiplied": one("score", operation="linear"),
    "sliced": one("score", operation="first"),
    "unbound": one("score", operation="unbound"),
}
ALONG = ("last layer", "batch norm")
"""They do something of their own, along a plate."""


def _simple_cases():
    for kind in SIMPLE:
        gates = ("hidden", "open") if kind in ("summed", "multiplied", "sliced", "unbound") else GATES
        yield from ((kind, gate) for gate in gates if kind in ("plate", "chain") or gate not in ALONG)


@pytest.mark.parametrize(("kind", "gate"), list(_simple_cases()))
def test_each_gate(kind, gate):
    options = {"operation": "apart", "size": 3} if gate in ALONG else {}
    assert eagerly(replace(SIMPLE[kind], gate=gate, **options)) == "exact"


@pytest.mark.parametrize(
    ("kind", "gate"),
    [
        *(
            (k, g)
            for k in ("plate", "lanes")
            for g in ("at zero", "train", "buffer", "flag", "closure", "shape", "frozen")
        ),
        ("rare", "rectified"),
    ],
)
def test_each_gate_of_recorded_steps(kind, gate):
    assert by_steps(replace(SIMPLE[kind], gate=gate)) == "exact"


def test_programs_that_change():
    held(range(BLOCK), eagerly)


@pytest.mark.parametrize("block", range(2))
def test_recorded_programs_that_change(block):
    held(range(10_000 + 8 * block, 10_000 + 8 * (block + 1)), by_steps)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(1, 38))
def test_many_programs_that_change(block):
    held(range(BLOCK * block, BLOCK * (block + 1)), eagerly)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(7))
def test_many_recorded_programs_that_change(block):
    held(range(10_016 + 32 * block, 10_016 + 32 * (block + 1)), by_steps)


@pytest.mark.slow
def test_compiled_programs_that_change():
    held(range(20_000, 20_032), in_c)


def test_all_gates_are_drawn():
    seen = Counter(drawn(number).gate for number in range(3 * BLOCK))
    assert seen.keys() == GATES.keys(), seen
