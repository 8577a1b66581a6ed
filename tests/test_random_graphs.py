"""Random graphs of tensor operations give in C what they give by torch: some in every run, more as a slow law.

`RANDOM_GRAPHS=1000:9000` tries the graphs with these seeds in the slow law instead.
"""

import os

import pytest
import torch
from random_graphs.drawing import drawn
from random_graphs.graphs import Input, RandomGraph, Step
from random_graphs.rounding import expected, wrong
from random_graphs.verdicts import FINE, smallest, verdict

from varigrad.compile.backends.c import blas, fusion, ops_pointwise

EACH_RUN = range(12)
SLOW = range(*map(int, os.environ.get("RANDOM_GRAPHS", "12:300").split(":")))
BLOCKS = [SLOW[i : i + 24] for i in range(0, len(SLOW), 24)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VARIGRAD_CACHE", str(tmp_path))


def holds(seeds):
    """All these graphs are right, and nearly all of them are really compiled."""
    found = {seed: verdict(drawn(seed)) for seed in seeds}
    bad = [seed for seed, outcome in found.items() if outcome not in FINE]
    if bad:
        small = smallest(drawn(bad[0]))
        pytest.fail(f"graphs {bad}: {found[bad[0]]}\nthe smallest like {bad[0]} ({verdict(small)}):\n{small}")
    assert sum(outcome == "equal" for outcome in found.values()) > 0.8 * len(found), found


def test_some():
    holds(EACH_RUN)


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: f"{b[0]}-{b[-1]}")
def test_many(block):
    holds(block)


@pytest.mark.slow
def test_many_shared_among_threads(monkeypatch):
    if blas.team() is None:
        pytest.skip("torch does not show its threads")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(fusion, "SHARED", 1)
    holds(SLOW[:40])


X = Input((5, 4), torch.float32, "turned", 3)
N = Input((4,), torch.int64, "plain", 4)


def graph_of(*texts, slopes=False):
    steps = tuple(Step(text, (i + 1, 0), rounds, False) for i, (text, rounds) in enumerate(texts))
    return RandomGraph((X, N), steps, (len(steps) + 1,), slopes)


def test_exact_steps_are_compared_bit_for_bit_and_others_by_their_rounding():
    inputs = [X.make(), N.make()]
    exact = expected(graph_of(("{0} + 1", 0), ("{1} * 2 + {0}", 0)), inputs)
    assert not exact.tolerances[0].any()
    off = exact.values[0].clone()
    off[2, 1] = torch.nextafter(off[2, 1], torch.tensor(9.0))
    assert "at (2, 1)" in wrong(exact, [off])
    rounded = expected(graph_of(("{1}.exp()", 2), ("{0} + {1}", 0)), inputs)
    near, far = rounded.values[0] * (1 + 1e-7), rounded.values[0] * (1 + 1e-4)
    assert not wrong(rounded, [near]) and wrong(rounded, [far])
    lost = rounded.values[0].clone()
    lost[0, 0] = torch.nan
    assert wrong(rounded, [lost])


def test_a_wrong_graph_is_found_and_made_smaller(monkeypatch):
    """With a mistake in the tables; what has nothing to do with it goes."""
    monkeypatch.setattr(ops_pointwise, "SAME", {**ops_pointwise.SAME, "sin": "cos@({0})"})
    graph = graph_of(("{0} + 1", 0), ("{1}.cos()", 2), ("{1}.sin()", 2), ("{0}.abs()", 0), ("{0} * 2", 0), slopes=True)
    assert verdict(graph) not in FINE
    small = smallest(graph)
    assert [step.text for step in small.steps] == ["{1}.sin()"] and not small.slopes
    assert "x0.sin()" in str(small)
