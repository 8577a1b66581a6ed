"""Runs that are cut: a state through a file into another SVI, and what the rest of the run has to be."""

import functools
import io

import pytest
import torch
from graph_harness import by_graph, same
from programs_for_svi import DATA, MixedGuide, mixed_model, normal_guide, normal_model
from torch.optim.lr_scheduler import ExponentialLR

import varigrad as vg
from varigrad import distributions as dist
from varigrad.errors import ParameterError
from varigrad.estimators import MovingAverage, Score


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def tree(svi):
    """A state without how often graphs have been checked."""
    found = svi.state()
    found["steps"] = [(f["seen"], f["taken"]) for f in (found["compiled"] or {"forms": {}})["forms"].values()]
    return found


def moved(svi, args):
    """Somewhere else."""
    svi.init(*args)
    with torch.no_grad():
        for p in svi.bound.parameters():
            p.add_(0.1)
    return svi


def check(make, cut, steps, *args):
    """Losses and states of a run that was cut are those of one that was not."""
    whole = make(0)
    expected = whole.run(steps, *args).losses
    one = make(0)
    first = one.run(cut, *args).losses if cut else torch.zeros(0)
    if not cut:
        one.init(*args)
    state = through_a_file(one.state())
    kept = through_a_file(one.state())
    other = moved(make(7), args)
    other.load_state(state)
    assert torch.equal(torch.cat([first, other.run(steps - cut, *args).losses]).double(), expected)
    assert same(tree(other), tree(whole))
    assert other.metrics == whole.metrics
    one.run(steps - cut + 3, *args)
    one.load_state(kept)  # the same one goes back
    assert torch.equal(one.run(steps - cut, *args).losses, expected[cut:])
    assert same(tree(one), tree(whole))
    return whole


def wait(model, guide, config=None, seed=0, optim=None):
    optim = vg.optim.Adam(lr=0.05) if optim is None else optim
    return vg.SVI(model, guide, optim, config, seed=seed, compile="wait")


SCHEDULED = vg.optim.Adam(lr=0.05, schedule=functools.partial(ExponentialLR, gamma=0.97))


SVIS = {
    "normal": lambda seed: wait(normal_model, normal_guide, seed=seed),
    "mixed": lambda seed: wait(mixed_model, MixedGuide(), seed=seed, optim=SCHEDULED),
    "own optimiser": lambda seed: wait(
        normal_model, normal_guide, seed=seed, optim=vg.optim.Optimizer(torch.optim.RMSprop, {"lr": 0.01})
    ),
    "average": lambda seed: wait(
        normal_model, normal_guide, vg.ELBO(2, estimators={"z": Score(MovingAverage(0.9))}), seed
    ),
}


def a_state_is_not_changed_by_later_steps():
    """Estimators' averages lie in memory that compiled steps overwrite."""
    with by_graph():
        svi = SVIS["average"](0)
        svi.run(5, DATA)
        state = svi.state()
        kept = through_a_file(state)
        svi.run(5, DATA)
        assert same(state, kept)
        svi.load_state(state)
        svi.run(5, DATA)
        assert same(state, kept)


def a_state_that_does_not_fit_changes_nothing():
    def guide(data):
        vg.sample("z", dist.Normal(vg.param("loc", 3.0), vg.param("other", 1.0)))

    svi = vg.SVI(normal_model, normal_guide, vg.optim.Adam(), seed=0).init(DATA)
    before = svi.state()
    with pytest.raises(ParameterError, match="the state does not fit these programs"):
        svi.load_state(vg.SVI(normal_model, guide, vg.optim.Adam(), seed=0).init(DATA).state())
    assert same(svi.state(), before)
