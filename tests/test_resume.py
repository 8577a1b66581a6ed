"""A run of n + m steps is n steps, a state, another SVI, and m more, bit for bit: every estimator, eager and compiled.

The other SVI begins with another seed, at other parameters, and the state has been through a file.
"""

import contextlib
import warnings

import pytest
import torch
from graph_harness import InC, by_graph, same, specializations, svi_of
from programs_for_svi import DATA, normal_guide, normal_model
from registry import ESTIMATORS, UNBIASED
from resuming import (
    SCHEDULED,
    SVIS,
    a_state_is_not_changed_by_later_steps,
    a_state_that_does_not_fit_changes_nothing,
    check,
    moved,
    through_a_file,
    tree,
    wait,
)

import varigrad as vg
from varigrad import distributions as dist
from varigrad.compile.step.step_compiler import CaptureWarning
from varigrad.errors import ParameterError, SiteError
from varigrad.testing import PROGRAMS


@pytest.mark.parametrize("name", UNBIASED)
def test_every_estimator(name):
    """On the first program whose sites it serves."""
    entry = UNBIASED[name]
    programs = ("bernoulli", "categorical_chain", "normal", "gamma", "rejection_gamma")
    case = PROGRAMS[next(program for program in programs if program in entry.serves)]

    def make(seed):
        return vg.SVI(case.model, case.guide, vg.optim.Adam(lr=0.02), entry.elbo(), seed=seed, compile="wait")

    with warnings.catch_warnings(action="ignore", category=CaptureWarning), by_graph():
        for cut in (1, 4):
            check(make, cut, 7, *case.args)


class Declared(torch.nn.Module):
    """Both programs; all parameters are there before they have run."""

    def __init__(self, family):
        super().__init__()
        self.net, self.family = torch.nn.Linear(2, 1).double(), family
        torch.nn.init.constant_(self.net.weight, 0.3), torch.nn.init.constant_(self.net.bias, -0.1)

    def model(self, data):
        with vg.plate("rows", len(data), subsample_size=2):
            z = vg.sample("z", self.family(torch.tensor(0.1, dtype=torch.float64)))
            vg.sample("x", dist.Normal(z, 1.0), obs=vg.subsample(data, 1)[:, 0])

    def guide(self, data):
        vg.module("net", self.net)
        with vg.plate("rows", len(data), subsample_size=2):
            out = self.net(vg.subsample(data, 1)).squeeze(-1)
            vg.sample("z", self.family(out))


FAMILIES = (
    lambda logits: dist.Bernoulli(logits=logits),
    lambda loc: dist.Normal(loc, 0.5),
    lambda rate: dist.Gamma(2.0, rate.exp()),
)


WITH_NETWORKS = ("relax", "lax", "rodeo_with_a_network")
"""Their networks are parameters that only `init` makes, so `load_state` asks for it."""


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name not in WITH_NETWORKS])
@pytest.mark.parametrize("compiled", ["wait", False])
def test_a_state_for_programs_that_have_not_run(name, compiled):
    """All parameters are those of a declared module, so no `init` is needed before `load_state`."""
    data = DATA.double().reshape(3, 2)
    config = ESTIMATORS[name].elbo()

    def make(seed, family):
        both = Declared(family)
        optim = vg.optim.Adam(lr=0.02)
        return vg.SVI(both.model, both.guide, optim, config, seed=seed, compile=compiled)

    served = 0
    for family in FAMILIES:
        with warnings.catch_warnings(action="error", category=CaptureWarning), by_graph():
            one, other = make(0, family), make(7, family)
            try:
                one.run(5, data)
            except SiteError:
                continue
            served += 1
            other.load_state(through_a_file(one.state()))
            assert torch.equal(one.run(6, data).losses, other.run(6, data).losses)
            assert same(tree(one), tree(other))
    assert served


def annealed(data, temper):
    with vg.handlers.scale(scale=temper):
        z = vg.sample("z", dist.Normal(0.0, 1.0))
    with vg.plate("data", len(data), subsample_size=2):
        vg.sample("x", dist.Normal(z, 1.0), obs=vg.subsample(data))


def annealed_guide(data, temper):
    with vg.handlers.scale(scale=temper):
        normal_guide()


@pytest.mark.parametrize("kind", [InC, None], ids=["C", "recorded"])
@pytest.mark.parametrize("name", SVIS)
def test_wherever_it_is_cut(name, kind, tmp_path, monkeypatch):
    """Before, at and after the first graph, and around checks."""
    monkeypatch.setenv("VARIGRAD_CACHE", str(tmp_path))
    args = () if name == "mixed" else (DATA,)
    with by_graph(kind=kind) if kind else by_graph():
        for cut in (0, 1, 2, 3, 12, 31):
            whole = check(SVIS[name], cut, 35, *args)
        assert specializations(whole)[0].graph_steps == 33 and not specializations(whole)[0].refusal


@pytest.mark.parametrize("name", SVIS)
def test_eager_steps(name):
    args = () if name == "mixed" else (DATA,)

    def make(seed):
        with by_graph():
            svi = SVIS[name](seed)
        svi._use(False, seed)
        return svi

    check(make, 3, 8, *args)


def test_numbers_that_change():
    """They are inputs of the graph from the first step on, as they were when the state was taken."""

    def steps(svi, numbers):
        return [svi.step(DATA, 0.1 + 0.01 * i) for i in numbers]

    with by_graph():
        make = lambda seed: wait(annealed, annealed_guide, seed=seed)  # noqa: E731
        whole, one, other = make(0), make(0), make(5)
        expected = steps(whole, range(20))
        first = steps(one, range(9))
        other.init(DATA, 0.1)
        other.load_state(through_a_file(one.state()))
        assert first + steps(other, range(9, 20)) == expected
        assert same(tree(other), tree(whole))


def test_in_the_background_once_the_library_is_there(tmp_path, monkeypatch):
    """Then the next SVI waits for it, instead of a hundred of Python's steps."""
    monkeypatch.setenv("VARIGRAD_CACHE", str(tmp_path))
    with by_graph(patience=5, kind=InC):
        one = svi_of(normal_model, normal_guide)
        one.run(20, DATA)
        state = through_a_file(one.state())
        other = moved(svi_of(normal_model, normal_guide, seed=4), (DATA,))
        other.load_state(state)
        assert torch.equal(one.run(20, DATA).losses, other.run(20, DATA).losses)
        assert same(tree(one), tree(other)) and specializations(other)[0].graph_steps == 35


def test_what_was_refused_stays_so():
    def model(data):
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        vg.sample("x", dist.Normal(z if z > 0 else 2 * z, 1.0), obs=data[0])

    with by_graph(), warnings.catch_warnings(action="ignore", category=CaptureWarning):
        check(lambda seed: wait(model, normal_guide, seed=seed), 5, 12, DATA)


def test_a_state_is_not_changed_by_later_steps():
    a_state_is_not_changed_by_later_steps()


@pytest.mark.parametrize("compiled", [False, True])
def test_states_of_the_other_kind(compiled):
    one, other = (
        vg.SVI(normal_model, normal_guide, vg.optim.Adam(), seed=0, compile=c) for c in (compiled, not compiled)
    )
    one.init(DATA), other.init(DATA)
    before = other.state()
    with pytest.raises(ParameterError) as error:
        other.load_state(one.state())
    texts = ("not compiled, and those of the state are compiled", "compiled, and those of the state are not; because")
    assert f"the steps of this SVI are {texts[0 if compiled else 1]}" in str(error.value)
    assert same(other.state(), before)


def test_a_state_that_does_not_fit_changes_nothing():
    a_state_that_does_not_fit_changes_nothing()


@pytest.mark.parametrize("compiled", ["wait", False])
@pytest.mark.parametrize("scheduled", [True, False])
def test_a_state_with_another_schedule_changes_nothing(scheduled, compiled):
    plain = vg.optim.Adam(lr=0.05)
    one, other = (
        vg.SVI(normal_model, normal_guide, SCHEDULED if has else plain, seed=0, compile=compiled)
        for has in (scheduled, not scheduled)
    )
    one.run(2, DATA)
    other.run(1, DATA)
    before = other.state()
    own, theirs = ("no schedule", "one") if scheduled else ("a schedule", "none")
    with pytest.raises(ParameterError, match=f"this SVI has {own}, and the run of the state had {theirs}"):
        other.load_state(one.state())
    assert same(other.state(), before)


DAMAGES = {
    "no generator": (lambda s: s.pop("generator"), "the state has no 'generator'; because it is damaged"),
    "no bound": (lambda s: s.pop("bound"), "the state has no 'bound'"),
    "no optimizer": (lambda s: s.pop("optimizer"), "the state has no 'optimizer'"),
    "a number for bound": (lambda s: s.update(bound=5), "the state does not fit these programs"),
    "a number for optimizer": (lambda s: s.update(optimizer=5), "the state's 'optimizer' cannot be loaded"),
    "another optimizer": (lambda s: s["optimizer"]["param_groups"].clear(), "the state's 'optimizer' cannot be loaded"),
    "a number for scheduler": (lambda s: s.update(scheduler=5), "the state's 'scheduler' cannot be loaded"),
    "a number for metrics": (lambda s: s.update(metrics=5), "the state's 'metrics' cannot be read"),
    "unknown metrics": (lambda s: s["metrics"].update(other=1), "the state's 'metrics' cannot be read"),
    "a number for looks": (lambda s: s.update(looks=5), "the state's 'looks' cannot be read"),
}


@pytest.mark.parametrize("compiled", ["wait", False])
@pytest.mark.parametrize("name", [*DAMAGES, "half a generator"])
def test_a_damaged_state_changes_nothing(name, compiled):
    def make(seed):
        svi = vg.SVI(normal_model, normal_guide, SCHEDULED, seed=seed, compile=compiled)
        svi.run(5, DATA)
        return svi

    def halve(state):
        half = torch.zeros(3, dtype=torch.uint8)
        state["generator"] = {**state["generator"], "global": half} if compiled else half

    damage, text = DAMAGES.get(name, (halve, "the state's 'generator' cannot be loaded"))
    with by_graph():
        one, other = make(0), make(3)
        state = through_a_file(one.state())
        damage(state)
        before = other.state()
        with pytest.raises(ParameterError, match=text):
            other.load_state(state)
        assert same(other.state(), before) and other.metrics.step == 5
        other.load_state(one.state())
        assert torch.equal(one.run(5, DATA).losses, other.run(5, DATA).losses)


def form_of(state):
    return next(iter(state["compiled"]["forms"].values()))


DAMAGED_STEPS = {
    "a number": lambda s: s.update(compiled=5),
    "an empty list": lambda s: s.update(compiled=[]),
    "a number for forms": lambda s: s["compiled"].update(forms=5),
    "a number for numbers": lambda s: s["compiled"].update(numbers=5),
    "texts for numbers": lambda s: s["compiled"].update(numbers={"a": "b"}),
    "a number for a form": lambda s: s["compiled"]["forms"].update({next(iter(s["compiled"]["forms"])): 5}),
    "a text for a count": lambda s: form_of(s).update(seen="a"),
    "a negative count": lambda s: form_of(s).update(taken=-1),
    "no count": lambda s: form_of(s).pop("check"),
    "no refusal": lambda s: form_of(s).pop("refusal"),
    "a number for a structure": lambda s: form_of(s).update(carried=5),
    "an unknown parameter": lambda s: form_of(s).update(reached=["nowhere"]),
    "a number for names": lambda s: form_of(s).update(frozen=5),
    "a number for demand": lambda s: form_of(s).update(demand=5),
    "an unknown demand": lambda s: form_of(s).update(demand={("cauchy", torch.float32): 2}),
    "an odd demand": lambda s: form_of(s).update(demand={("normal", torch.float32): "b"}),
    "a text for a number of tensors": lambda s: form_of(s).update(thawed="a"),
}


@pytest.mark.parametrize("name", DAMAGED_STEPS)
def test_a_damaged_part_about_compiled_steps_changes_nothing(name):
    with by_graph():
        one, other = SVIS["normal"](0), SVIS["normal"](3)
        one.run(5, DATA), other.run(7, DATA)
        state = through_a_file(one.state())
        DAMAGED_STEPS[name](state)
        before = other.state()
        with pytest.raises(ParameterError, match=r"the state's 'compiled' cannot be read: .* because it is damaged"):
            other.load_state(state)
        assert same(other.state(), before)
        other.load_state(one.state())
        assert torch.equal(one.run(5, DATA).losses, other.run(5, DATA).losses)


@pytest.mark.parametrize("state", [None, 5, [], {}])
def test_what_is_no_state_at_all(state):
    with pytest.raises(ParameterError, match="the state has no 'bound'; because it is damaged, or no state of an SVI"):
        vg.SVI(normal_model, normal_guide, vg.optim.Adam(), seed=0).load_state(state)


def test_states_of_older_versions():
    with contextlib.ExitStack() as stack:
        stack.enter_context(by_graph())
        one, other = SVIS["normal"](0), SVIS["normal"](1)
        one.run(9, DATA)
        state = one.state()
        for new in ("compiled", "metrics"):
            del state[new]
        del state["generator"]["seed"]
        other.init(DATA).load_state(state)
        torch.testing.assert_close(other.run(5, DATA).losses, one.run(5, DATA).losses, rtol=1e-5, atol=1e-5)


def test_a_parameter_that_is_no_longer_frozen():
    """A graph of those that were reached before the state would take it for a constant."""
    with by_graph():
        one = wait(normal_model, normal_guide)
        one.run(5, DATA)
        one.bound.get_parameter("loc").requires_grad_(False)
        one.run(10, DATA)
        other = moved(wait(normal_model, normal_guide, seed=7), (DATA,))
        other.load_state(through_a_file(one.state()))
        loc = other.bound.get_parameter("loc")
        before = loc.detach().clone()
        other.run(10, DATA)
    assert loc.requires_grad and not torch.equal(loc, before)


def test_a_state_of_another_kind_of_optimiser_changes_nothing():
    def run(optim):
        svi = vg.SVI(normal_model, normal_guide, optim, seed=0)
        svi.run(3, DATA)
        return svi

    adam, sgd = run(vg.optim.Adam(0.01)), run(vg.optim.SGD(0.01))
    before = {name: value.clone() for name, value in sgd.bound.state_dict().items()}
    with pytest.raises(
        ParameterError, match=r"the state's 'optimizer' cannot be loaded: it has no '.*another kind of optim"
    ):
        sgd.load_state(adam.state())
    assert all(torch.equal(value, before[name]) for name, value in sgd.bound.state_dict().items())
    sgd.run(2, DATA)
