"""The systems that the benchmarks compare do the same work: the same losses within their noise."""

import pytest
from benchmarks.by_hand import compiled
from benchmarks.measure import disagreement
from benchmarks.systems import SYSTEMS
from benchmarks.workloads import WORKLOADS, find

SEEDS = 4
STEPS = {
    "coin": 60,
    "gaussian_mixture": 40,
    "logistic": 15,
    "eight_schools": 40,
    "vae": 3,
    "belief_net": 4,
    "chain:5": 30,
}


def late_losses(start, steps):
    """Mean loss over the second half of a run, one for each seed."""
    runs = [start(seed)(steps)[:steps] for seed in range(SEEDS)]
    return [sum(losses[steps // 2 :]) / (steps - steps // 2) for losses in runs]


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("system", ["pyro", "hand", "formula"])
def test_same_losses(name, system):
    workload, steps = find(name), STEPS[name]
    if system == "pyro":
        pytest.importorskip("pyro")
    if system == "hand" and workload.hand is None:
        pytest.skip("not written by hand with autograd")
    if system == "formula":
        start = compiled(workload.formula(), workload.adam, lambda function, **_: function)
    else:
        start = SYSTEMS[system](workload)
    ours = late_losses(SYSTEMS["varigrad"](workload), steps)
    assert disagreement(late_losses(start, steps), ours) < 5


def test_all_workloads_are_tested():
    assert {name.partition(":")[0] for name in STEPS} == set(WORKLOADS)
