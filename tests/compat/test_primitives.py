"""Pyro's statements, and what is said at them of mistakes in `infer=`."""

import random

import numpy as np
import pytest
import torch
from torch import nn

import varigrad as vg
import varigrad.compat.pyro as pyro
from varigrad.compat.pyro import distributions as dist
from varigrad.compat.pyro import settings, util
from varigrad.compat.pyro.infer import util as infer_util
from varigrad.compat.pyro.ops.provenance import (
    ProvenanceTensor,
    detach_provenance,
    extract_provenance,
    get_provenance,
    track_provenance,
)
from varigrad.errors import BaselineError, PlateError, SiteError, VarigradError
from varigrad.language import handlers

t = torch.tensor
normal = dist.Normal(0.0, 1.0)


def test_a_site_says_to_handlers_what_infer_says():
    found = handlers.trace(lambda: pyro.sample("z", normal, infer={"enumerate": "parallel", "mine": 3}))()
    assert found["z"].notes == {"enumerate": "parallel", "mine": 3}


def test_native_statements_and_handlers_go_together_with_pyros():
    def program():
        a = pyro.sample("a", normal)
        return vg.sample("b", vg.distributions.Normal(a, 1.0))

    found = handlers.trace(handlers.condition(program, {"a": t(2.0)}))()
    assert found["a"].observed and not found["b"].observed


def test_observing_where_nobody_listens_is_told():
    with pytest.warns(RuntimeWarning, match="'x' is observed, and nothing is listening"):
        assert pyro.sample("x", normal, obs=t(1.0)) == 1.0


@pytest.mark.parametrize(
    ("infer", "error", "message"),
    [
        ({"baselin": {}}, SiteError, r"'z': infer has the unknown key 'baselin' \(did you mean 'baseline'\?\)"),
        ({"enumerate": "both"}, SiteError, "'z': enumerate must be 'parallel' or 'sequential', got 'both'"),
        ({"baseline": True}, BaselineError, "'z': baseline must be a dictionary of options, got bool"),
        (
            {"baseline": {"use_decaying_average_baseline": True}},
            BaselineError,
            r"'z': baseline has the unknown option 'use_decaying_average_baseline' \(did you mean",
        ),
        ({"baseline": {"baseline_beta": 1.0}}, BaselineError, r"'z': baseline_beta must be in \[0, 1\), got 1.0"),
        (
            {"baseline": {"nn_baseline": 3, "nn_baseline_input": t(1.0)}},
            BaselineError,
            "'z': nn_baseline must be a network or a function, got int",
        ),
        (
            {"baseline": {"nn_baseline": nn.Linear(1, 1)}},
            BaselineError,
            "'z': has nn_baseline and no nn_baseline_input",
        ),
        ({"baseline": {"nn_baseline_input": t(1.0)}}, BaselineError, "'z': has nn_baseline_input and no nn_baseline"),
        (
            {"baseline": {"nn_baseline": nn.Linear(1, 1), "nn_baseline_input": t(1.0), "baseline_value": t(1.0)}},
            BaselineError,
            "'z': has both nn_baseline and baseline_value",
        ),
    ],
)
def test_a_mistake_in_infer_is_an_error_at_the_statement(infer, error, message):
    with pytest.raises(error, match=message):
        pyro.sample("z", normal, infer=infer)


def test_a_baseline_of_an_observation_is_an_error_at_the_statement():
    baseline = {"use_decaying_avg_baseline": True}
    with pytest.raises(BaselineError, match="'x': is observed, so a baseline cannot act on it"):
        pyro.sample("x", normal, obs=t(1.0), infer={"baseline": baseline})


def test_what_is_no_distribution_is_an_error():
    with pytest.raises(SiteError, match="'z': sample needs a distribution, got Tensor"):
        pyro.sample("z", t(1.0))
    with pytest.raises(SiteError, match="'z': sample takes a distribution, and no arguments for it"):
        pyro.sample("z", normal, 1.0)


def test_missing_values():
    def program():
        with pyro.plate("data", 3):
            return pyro.sample("x", normal, obs=t([1.0, 2.0, 0.0]), obs_mask=t([True, True, False]))

    found = handlers.trace(program)()
    assert found["x_observed"].observed and not found["x_unobserved"].observed
    assert torch.equal(found.result[:2], t([1.0, 2.0]))


def test_names_may_have_brackets():
    def program():
        pyro.sample("z[0]", normal)
        pyro.sample("x[*]", normal, obs=t(1.0), obs_mask=t(True))
        pyro.factor("f[0]", t(1.0))
        pyro.deterministic("d?", t(1.0))

    assert set(handlers.trace(program)()) == {"z[0]", "x[*]_observed", "x[*]_unobserved", "x[*]", "f[0]", "d?"}


# Plates


def test_a_plate_answers_with_indices():
    plate = pyro.plate("p", 3)
    assert plate.size == plate.subsample_size == len(plate) == 3 and plate.name == "p" and plate.dim is None
    with plate as indices:
        assert torch.equal(indices, torch.arange(3)) and indices is plate.indices
        assert pyro.sample("x", normal).shape == (3,)
    assert list(pyro.plate("p", 3)) == [0, 1, 2]


def test_a_minibatch_is_drawn_when_the_plate_is_made():
    plate = pyro.plate("p", 5, subsample_size=2, dim=-2)
    assert plate.size == 5 and plate.subsample_size == 2 and plate.dim == -2
    drawn = plate.indices
    with plate as indices:
        assert torch.equal(indices, drawn)
        assert pyro.subsample(torch.arange(5.0)[:, None], event_dim=0).shape == (2, 1)
    assert list(plate) == drawn.tolist()


def test_sizes_may_be_tensors_and_numbers_of_numpys():
    assert pyro.plate("p", t(3)).size == 3 and pyro.plate("p", np.int64(3), np.int64(2)).subsample_size == 2
    assert torch.equal(pyro.plate("p", 3, subsample=[0, 2]).indices, t([0, 2]))
    with pytest.raises(PlateError, match="'p': size must be a positive whole number"):
        pyro.plate("p", 0)
    with pytest.raises(ValueError, match="'p': subsample_size 4 is larger than size 3"):
        pyro.plate("p", 3, subsample_size=4)
    with pytest.raises(PlateError, match="'p': subsample needs a size"):
        pyro.plate("p", subsample=t([0]))


def test_a_plate_without_a_size_takes_that_of_its_sites():
    plate = pyro.plate("p")
    with plate as indices:
        assert indices is None and pyro.sample("x", dist.Normal(torch.zeros(4), 1.0)).shape == (4,)
    with pytest.raises(PlateError, match="'p': has no size"):
        len(plate)


def test_a_plate_around_a_function():
    @pyro.plate("p", 3)
    def program(loc):
        return pyro.sample("x", dist.Normal(loc, 1.0))

    assert program(0.0).shape == (3,)


def test_a_stack_of_plates():
    with pyro.plate_stack("p", (4, 3, 2)):
        assert pyro.sample("x", normal).shape == (4, 3, 2)
    with pyro.plate_stack("p", (3, 2), rightmost_dim=-2):
        assert pyro.sample("x", normal).shape == (3, 2, 1)
    with pytest.raises(PlateError, match="rightmost_dim must be negative"), pyro.plate_stack("p", (2,), 1):
        pass


def test_markov_is_a_loop_a_block_and_a_wrapper():
    assert list(pyro.markov(range(3))) == [0, 1, 2]
    with pyro.markov(history=2):
        pyro.sample("x", normal)
    assert pyro.markov(lambda x: x + 1)(1) == 2
    assert pyro.markov(history=2)(lambda x: x + 1)(1) == 2
    assert [list(pyro.markov(range(2))) for _ in pyro.markov(range(2), history=2, keep=True)] == [[0, 1], [0, 1]]
    loop = pyro.markov(range(2))
    assert list(loop) == list(loop) == [0, 1]
    with pytest.raises(PlateError, match="history must be a whole number"):
        pyro.markov(range(3), history=-1)
    with pytest.raises(NotImplementedError, match="markov has no dimension and no name"):
        pyro.markov(range(3), name="steps")
    with pytest.raises(PlateError, match="has nothing to loop over"):
        list(pyro.markov(history=1))


@pytest.mark.parametrize("old", [pyro.iarange, pyro.irange])
def test_older_names_of_plates(old):
    with pytest.warns(DeprecationWarning, match=r"Try: pyro\.plate"):
        assert list(old("data", 3)) == [0, 1, 2]


# The other statements


def test_factor_deterministic_subsample_barrier():
    def program():
        pyro.factor("f", 1.0)
        pyro.factor("g", t(2.0), has_rsample=False)
        return pyro.deterministic("d", t([1.0]), event_dim=1)

    found = handlers.trace(program)()
    assert set(found) == {"f", "g", "d"} and torch.equal(found.result, t([1.0]))
    assert pyro.barrier(3) == 3


def test_a_random_module():
    net = nn.Linear(2, 1)
    with pytest.warns(FutureWarning, match=r"random_module is deprecated. Try: pyro\.nn\.PyroModule"):
        drawn = pyro.random_module("net", net, {"weight": dist.Normal(torch.zeros(1, 2), 1.0).to_event(2)})
    found = handlers.trace(drawn)()
    twin = found.result
    assert set(found.samples) == {"net$$$weight"} and torch.equal(twin.weight, found["net$$$weight"].value)
    assert twin is not net and twin(torch.ones(3, 2)).shape == (3, 1)
    with pytest.warns(FutureWarning):
        drawn = pyro.random_module("net", net, lambda name: pyro.sample(name, normal))
    assert set(handlers.trace(drawn)().samples) == {"net$$$weight", "net$$$bias"}
    with pytest.raises(SiteError, match=r"'net': random_module needs a torch.nn.Module"):
        pyro.random_module("net", 1, normal)


# Seeds, settings, checks


def test_one_seed_for_all_generators():
    draws = []
    for _ in range(2):
        pyro.set_rng_seed(3)
        draws.append((pyro.sample("z", normal).item(), random.random(), np.random.rand()))
    assert draws[0] == draws[1]
    state = util.get_rng_state()
    first = pyro.sample("z", normal), random.random()
    util.set_rng_state(state)
    assert first == (pyro.sample("z", normal), random.random())


def test_settings(monkeypatch):
    before = settings.get()
    assert before["module_local_params"] is False and before["validate_infer"] is True
    with settings.context(module_local_params=True):
        assert settings.get("module_local_params") is True
    assert settings.get() == before
    with pytest.raises(
        VarigradError, match=r"there is no setting 'validate_inferr' \(did you mean 'validate_infer'\?\)"
    ):
        settings.set(validate_inferr=True)
    monkeypatch.setattr(settings, "_REGISTERED", {})
    checked = []
    settings.register("largest", __name__, "LARGEST.value")(checked.append)
    settings.set(largest=5)
    assert LARGEST.value == settings.get("largest") == 5 and checked == [5]


class LARGEST:
    value = 3


def test_validation():
    assert infer_util.is_validation_enabled()
    with pyro.validation_enabled(False):
        assert not infer_util.is_validation_enabled() and not settings.get("validate_distributions_torch")
    assert infer_util.is_validation_enabled() and settings.get("validate_distributions_torch")
    pyro.enable_validation(False)
    assert not settings.get("validate_poutine")
    pyro.enable_validation(True)
    with infer_util.validation_enabled(False):
        assert not infer_util.is_validation_enabled()


def test_numbers_that_are_none():
    with pytest.warns(UserWarning, match="Encountered NaN: loss"):
        util.warn_if_nan(t([1.0, float("nan")]), "loss")
    with pytest.warns(UserWarning, match=r"Encountered -inf: loss"):
        util.warn_if_inf(float("-inf"), "loss", allow_posinf=True)
    assert util.warn_if_inf(float("inf"), allow_posinf=True) == float("inf")
    assert util.torch_isnan(float("nan")) and not util.torch_isnan(t(1.0))
    assert util.torch_isinf(float("inf")) and util.torch_float(1) == 1.0


# Provenance


def test_provenance_through_operations_and_containers():
    a = track_provenance(torch.randn(3), frozenset({"a"}))
    b = track_provenance(torch.randn(3), frozenset({"b"}))
    c = torch.randn(3)
    assert isinstance(a, ProvenanceTensor) and get_provenance(a.exp()) == {"a"} and get_provenance(c) == frozenset()
    assert get_provenance(a * (b + c)) == {"a", "b"}
    tree = track_provenance({"x": [c, (c,)], "y": 3}, frozenset({"z"}))
    assert get_provenance(tree) == {"z"} and get_provenance(tree["x"][1][0]) == {"z"} and tree["y"] == 3
    plain, found = extract_provenance([a, b])
    assert found == {"a", "b"} and not get_provenance(plain)
    assert type(detach_provenance(a)) is torch.Tensor
