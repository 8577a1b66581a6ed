"""Tensors of no dimensions, of no entries and of one: every operation and its gradient, in C, is torch's.

And what happens where a rule of the translation fails all the same: the step is refused, and the run goes on.
"""

import pytest
import torch
from failing_steps import (
    PLACES,
    a_mistake_refuses_the_step,
    drifting,
    every_quantity_has_a_name,
    no_compiler,
    the_quantity_that_differs_is_named,
)
from graph_harness import InC, assert_close, by_graph, by_python, heard, specializations, svi_of
from programs_for_svi import DATA, normal_guide, normal_model
from small_tensors import c_agrees_with_torch

import varigrad as vg
from varigrad import distributions as dist
from varigrad.compile.backends import inductor
from varigrad.compile.backends.c import ops_pointwise
from varigrad.compile.trace import traced_function

t = torch.tensor


SHAPES = [(), (1,), (0,), (0, 3), (3, 0), (1, 3), (3, 2)]


@pytest.mark.filterwarnings("ignore:.*degrees of freedom is <= 0")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_small_tensors(shape, tmp_path, monkeypatch):
    c_agrees_with_torch(shape, tmp_path, monkeypatch)


CHANGES = {
    "flip of a number": lambda m: m.flip(-1),
    "scatter into a number": lambda m: torch.zeros(()).scatter(0, t(0), m),
    "a number at an index": lambda m: torch.zeros(3).index_put((t(0),), m).sum(),
}


@pytest.mark.parametrize("name", CHANGES)
def test_parameters_without_dimensions(name, tmp_path, monkeypatch):
    monkeypatch.setenv("VARIGRAD_CACHE", str(tmp_path))

    def guide(data):
        m = vg.param("m", 0.5)
        vg.sample("z", dist.Normal(m + CHANGES[name](m), 1.0))

    def make():
        return svi_of(normal_model, guide)

    with by_python():
        expected = make().run(30, DATA).losses
    with by_graph(kind=InC), heard() as said:
        svi = make()
        assert_close(svi.run(30, DATA).losses, expected, rtol=1e-4, atol=1e-5)
    assert not said and specializations(svi)[0].graph_steps == 28


# Where a rule fails


@pytest.mark.parametrize("place", PLACES)
def test_a_mistake_refuses_the_step(place, tmp_path, monkeypatch):
    a_mistake_refuses_the_step(place, tmp_path, monkeypatch)


def test_a_mistake_names_the_users_line(tmp_path, monkeypatch):
    monkeypatch.setenv("VARIGRAD_CACHE", str(tmp_path))

    def model(data):
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        scale = torch.sinh(z.cosh())  # this line
        vg.sample("x", dist.Normal(z, 1.0 + scale), obs=data[0])

    def failing(name, *given):
        if name == "sinh":
            raise IndexError("list index out of range")
        return real(name, *given)

    real = ops_pointwise.special
    monkeypatch.setattr(ops_pointwise, "special", failing)
    monkeypatch.setattr(inductor, "cxx_compiler", no_compiler)
    with heard() as said:
        vg.SVI(model, normal_guide, vg.optim.Adam(lr=0.05), seed=0, compile="wait").run(6, DATA)
    line = "scale = torch.sinh(z.cosh())  # this line"
    assert len(said) == 1 and f"aten.sinh.default ({__file__}:" in said[0] and f"{line}): IndexError: list" in said[0]


# Which quantity differs


def test_the_quantity_that_differs_is_named():
    the_quantity_that_differs_is_named()


@pytest.mark.parametrize(
    ("target", "entry", "text"),
    [
        (0, 0, "parameter 'loc' is"),
        (0, 1, "parameter 'scale' is"),
        (1, 1, "'exp_avg' of the gradient of 'scale' is"),
        (2, 0, "'exp_avg_sq' of the gradient of 'loc' is"),
        (3, 0, "how many steps the optimiser has taken is"),
        (4, 0, "the state of the estimator at 'z' is"),
        (5, 0, "whether steps are still taken is"),
        (6, 0, "the loss is"),
        (6, 1, "the norm of the gradient is"),
        (7, 0, "the number of the step is"),
    ],
)
def test_every_quantity_has_a_name(target, entry, text):
    every_quantity_has_a_name(target, entry, text)


def test_gradients_and_buffers_have_names_too():
    net = torch.nn.BatchNorm1d(1)

    def model(data):
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        vg.sample("x", dist.Normal(z + net(data[:, None]).sum(), 1.0), obs=data[0])

    def guide(data):
        vg.module("net", net)
        normal_guide()

    optim = vg.optim.Optimizer(torch.optim.RMSprop, {"lr": 0.01})
    with by_graph():
        svi = svi_of(model, guide, optim=optim).init(DATA)
        svi.run(4, DATA)
        told = specializations(svi)[0].step._output_names.in_words
        count = len(specializations(svi)[0].step.traced.targets)
    difference = traced_function.Difference(0, 0, 1.0, 2.0, True)
    assert told(difference) == "the gradient of 'net.weight' is 1 by graph and 2 by Python" or "loc" in told(difference)
    assert "the buffer 'net.running_" in told(difference._replace(target=count))


def test_a_wrong_graph_costs_no_number():
    """Python's step is taken where a check disagrees, and all steps after it."""

    def make():
        return svi_of(normal_model, normal_guide)

    with by_python():
        svi = make()
        expected = [svi.run(12, DATA).losses, svi.state()["bound"]]
    with by_graph(), heard() as said, pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            traced_function.TracedFunction, "agrees", lambda self: (_ for _ in ()).throw(RuntimeError("boom"))
        )
        svi = make()
        found = [svi.run(12, DATA).losses, svi.state()["bound"]]
    assert_close(found, expected, rtol=0, atol=0)
    assert len(said) == 1 and "the graph fails where the program does not: RuntimeError: boom" in said[0]


def test_warnings_are_given_once():
    with by_graph(), heard() as said:
        svi = svi_of(drifting(), normal_guide)
        svi.run(10, DATA)
        svi.run(10, DATA)
    assert len(said) == 1
