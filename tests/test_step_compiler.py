"""What `StepCompiler` makes sure of between one step and the next, whoever takes them.

No compiler runs here: a library is the recorded graph itself (`graph_harness.Uncompiled`).
"""

import contextlib
import copy
import threading

import pytest
import torch
from graph_harness import assert_close, both, by_graph, quietly, same, specializations, svi_of, taken
from programs_for_svi import DATA, normal_guide, normal_model
from torch import nn

import varigrad as vg
from varigrad import distributions as dist
from varigrad.compile.step import step_compiler
from varigrad.compile.step.compiled_step import CompiledStep
from varigrad.compile.step.stages import Stage
from varigrad.errors import ParameterError
from varigrad.estimators import MovingAverage, Score

positive = dist.constraints.positive


# Random numbers


def poisson_model(data):
    """It draws from torch's generator, as a site and by itself."""
    z = vg.sample("z", dist.Poisson(3.0))
    vg.sample("x", dist.Normal(z + torch.rand(()), 1.0), obs=data[0])


def poisson_guide(data):
    vg.sample("z", dist.Poisson(vg.param("rate", 2.0, positive)))


def test_tracing_takes_no_random_numbers():
    """The generator of torch that everybody shares stays where it is, and what the run lends to torch as well."""

    def go(svi):
        losses = [svi.step(DATA) for _ in range(2)]
        before = torch.get_rng_state()
        losses.append(svi.step(DATA))
        assert torch.equal(torch.get_rng_state(), before)
        return losses + [svi.step(DATA) for _ in range(3)]

    expected, found, svi = both(lambda: svi_of(poisson_model, poisson_guide).init(DATA), go)
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert taken(svi) == 4


def drawing_more(wide):
    """Programs that draw more numbers while `wide` is locked, which guards do not see: a lock has no Python values."""

    def noise():
        e = vg.sample("e", dist.Normal(torch.zeros(64 if wide.locked() else 4), 1.0).to_event(1))
        return 0.1 * e.mean()

    def model(data):
        vg.sample("x", dist.Normal(vg.sample("z", dist.Normal(0.0, 1.0)) + noise(), 1.0), obs=data[0])

    def own(data):
        normal_guide()
        noise()

    return model, own


@pytest.mark.parametrize(
    ("when", "refusal"),
    [
        (2, "the program draws more in some runs than in others"),
        (3, "the program draws from a generator of its own"),  # beyond its row, numbers come from one
        (4, "the program draws more in some runs than in others"),
    ],
    ids=["in a step of Python's", "while it is traced", "in a check"],
)
def test_a_program_that_draws_more_only_sometimes(when, refusal):
    """It is refused the first time that it is seen, and its steps are Python's, number by number."""
    wide = threading.Lock()

    def go(svi):
        losses = []
        for step in range(1, 12):
            with wide if step == when else contextlib.nullcontext():
                losses.append(svi.step(DATA))
        return losses

    with quietly():
        expected, found, svi = both(lambda: svi_of(*drawing_more(wide)).init(DATA), go)
    assert same(found, expected)
    (own,) = specializations(svi)
    assert refusal in own.refusal and own.stage is Stage.REFUSED
    assert own.eager_steps == (10 if when == 4 else 11)


# Blocks of steps


def test_blocks_of_steps_end_where_a_check_is_due(monkeypatch):
    """However many steps may be taken in a row: the checks are those of steps that are taken one by one."""
    monkeypatch.setattr(step_compiler, "MOMENT", 1e9)
    checks, blocks = [], []
    real = CompiledStep.run

    def run(step, count, rows, leaves, check=False):
        (own,) = specializations(svi)
        (checks if check else blocks).append((own.graph_steps, count))
        return real(step, count, rows, leaves, check)

    monkeypatch.setattr(CompiledStep, "run", run)
    with by_graph():
        svi = svi_of(normal_model, normal_guide)
        svi.run(150, DATA)
    assert taken(svi) == 148
    assert checks == [(0, 1), (1, 1), (20, 1)]
    # The others that end early do so where the bound looks at its programs again.
    assert blocks == [(2, 1), (3, 5), (8, 12), (21, 77), (98, 50)]


# Arguments that are those of the last call


def product_model(data):
    weights = torch.arange(9.0).reshape(3, 3)
    vg.sample("x", dist.Normal(vg.param("m", torch.zeros(())) + (weights * data).sum(), 50.0), obs=torch.zeros(()))


def test_the_same_tensor_with_other_strides_is_another_call():
    def go(svi):
        data = torch.arange(9.0).reshape(3, 3) ** 2 / 10
        losses = [svi.step(data) for _ in range(4)]
        data.t_()
        return losses + [svi.step(data) for _ in range(4)]

    expected, found, svi = both(lambda: svi_of(product_model, lambda data: None, optim=vg.optim.SGD(lr=1e-6)), go)
    assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert [own.graph_steps for own in specializations(svi)] == [2, 2]
    assert abs(found[0][0] - found[0][-1]) > 0.01


def test_the_same_tensor_that_requires_a_gradient_is_another_call():
    """Python says that nothing trains it; the graph would go on without a word."""
    data = torch.ones(3, 3)
    with by_graph():
        svi = svi_of(product_model, lambda data: None, optim=vg.optim.SGD(lr=1e-6))
        svi.run(4, data)
        assert taken(svi) == 2
        data.requires_grad_()
        with pytest.raises(ParameterError, match="requires a gradient and gets none"):
            svi.step(data)


def test_the_same_tensor_under_autocast_is_another_call():
    """A product is rounded to sixteen bits there, with and without a graph."""
    x = 1.0 + torch.rand(8, 8, generator=torch.Generator().manual_seed(0))

    def model(data):
        vg.sample("y", dist.Normal(vg.param("m", torch.zeros(())) + (data @ data).sum(), 100.0), obs=torch.zeros(()))

    def go(svi):
        plain = [svi.step(x) for _ in range(4)]
        with torch.autocast("cpu", torch.bfloat16):
            return plain, [svi.step(x) for _ in range(4)]

    expected, found, svi = both(lambda: svi_of(model, lambda data: None, optim=vg.optim.SGD(lr=1e-6)), go)
    assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert len(specializations(svi)) == 2 and [own.graph_steps for own in specializations(svi)] == [2, 2]
    assert abs(found[0][0][0] - found[0][1][0]) > 1e-3 * abs(found[0][0][0])


# Flat states


class Switched(nn.Module):
    """A guide with two parameters, of which the second is used for some arguments only."""

    def forward(self, data):
        scale = vg.param("scale", 0.7, positive) if len(data) > 3 else 0.7
        vg.sample("z", dist.Normal(vg.param("loc", 0.5), scale))


def test_specialisations_that_reach_other_parameters_take_turns():
    """Each has a flat state of its own, and finds there what the other has done."""

    def go(svi):
        losses = []
        for i in range(12):
            for data in (DATA, DATA[:3]) if i < 9 else (DATA[:3], DATA):
                losses += [svi.step(data), svi.step(data)]
        return losses

    expected, found, svi = both(lambda: svi_of(normal_model, Switched()), go)
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert taken(svi) == 44 and len({id(own.flat_state) for own in specializations(svi)}) == 2


@pytest.mark.parametrize("held", [False, True], ids=["nobody else's", "a user's"])
def test_a_parameter_with_other_memory_between_two_steps_by_graph(held):
    """`p.data = mine`: the next step starts from there, and whoever holds that memory sees every step."""

    def go(svi):
        losses = [svi.step(DATA) for _ in range(5)]
        kept = torch.full((), 2.0)
        svi.bound.get_parameter("loc").data = kept if held else kept.clone()
        for _ in range(3):
            losses.append(svi.step(DATA))
            losses.append(float(kept))
            losses.append(float(svi.bound.get_parameter("loc").detach()))
        return losses

    expected, found, svi = both(lambda: svi_of(normal_model, normal_guide), go)
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert taken(svi) == (3 if held else 6)


def averaged_guide(data):
    vg.sample("z", dist.Normal(vg.param("loc", 0.5), 0.7), estimator=Score(MovingAverage(0.9)))


def test_states_from_before_the_first_step_are_pythons_to_begin_with():
    """A module's state, loaded between two steps, has no moving average yet: Python makes one, and a graph goes on."""

    def go(svi):
        beginning = copy.deepcopy(svi.bound.state_dict())
        losses = [svi.step(DATA) for _ in range(6)]
        svi.bound.load_state_dict(beginning)
        return losses + [svi.step(DATA) for _ in range(6)]

    expected, found, svi = both(lambda: svi_of(normal_model, averaged_guide).init(DATA), go)
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    (own,) = specializations(svi)
    assert not own.refusal and own.eager_steps == 3 and own.graph_steps == 9


def test_averages_that_are_loaded_between_two_steps_by_graph():
    def go(svi):
        losses = [svi.step(DATA) for _ in range(5)]
        state = copy.deepcopy(svi.bound.state_dict())
        for name, value in state.items():
            if name.startswith("_estimators") and value.is_floating_point():
                value += 3.0
        losses += [svi.step(DATA) for _ in range(3)]
        svi.bound.load_state_dict(state)
        return losses + [svi.step(DATA) for _ in range(3)]

    expected, found, svi = both(lambda: svi_of(normal_model, averaged_guide), go)
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert taken(svi) == 9


class WithAverages(nn.Module):
    """A guide whose second site, with a moving average of its own, is there for some arguments only."""

    def forward(self, data):
        averaged_guide(data)
        if len(data) > 3:
            vg.sample("extra", dist.Bernoulli(0.6), estimator=Score(MovingAverage(0.9)))


def with_extra(data):
    z = vg.sample("z", dist.Normal(0.0, 1.0))
    extra = vg.sample("extra", dist.Bernoulli(0.4)) if len(data) > 3 else 0.0
    with vg.plate("data", len(data)):
        vg.sample("x", dist.Normal(z + extra, 1.0), obs=data)


def test_states_that_another_specialisation_has_added_to():
    """Both reach the same parameters: they take turns in one flat state, as long as that has room for all averages."""

    def go(svi):
        return [svi.step(data) for data in [*[DATA[:3]] * 6, *[DATA] * 6, *[DATA[:3]] * 6, *[DATA] * 6]]

    expected, found, svi = both(lambda: svi_of(with_extra, WithAverages()), go)
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert [own.eager_steps for own in specializations(svi)] == [2, 2] and taken(svi) > 12


def test_another_optimiser_for_the_same_parameters():
    """Its moments are its own: nothing of the one before is left in the flat state."""

    def go(svi):
        losses = [svi.step(DATA) for _ in range(5)]
        named = list(svi.bound.named_parameters())
        svi._eager_steps.current_optimizer = vg.optim.Adam(lr=0.05).build(named)
        losses += [svi.step(DATA) for _ in range(5)]
        return losses, [float(s["step"]) for s in svi.optimizer.state_dict()["state"].values()]

    expected, found, _ = both(lambda: svi_of(normal_model, normal_guide), go)
    assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    assert found[0][1] == [5.0, 5.0]


def test_parameters_are_side_by_side_again_when_one_has_been_frozen():
    """The flat state of all three is let go, or the others would count as memory that another tensor looks at."""

    def three(data):
        loc = vg.param("a", 0.2) + vg.param("b", 0.3) + vg.param("c", 0.4)
        vg.sample("z", dist.Normal(loc, 0.7))

    def go(svi):
        losses = [svi.step(DATA) for _ in range(5)]
        svi.bound.get_parameter("a").requires_grad_(False)
        return losses + [svi.step(DATA) for _ in range(5)]

    expected, found, svi = both(lambda: svi_of(normal_model, three), go)
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    (own,) = specializations(svi)
    assert taken(svi) == 4 and [len(bucket.parameters) for bucket in own.flat_state.buckets] == [2]
