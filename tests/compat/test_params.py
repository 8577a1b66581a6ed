"""The parameter store: a dictionary of constrained values, and what Pyro's programs do with it besides."""

import copy
import pickle

import pytest
import torch
from torch import nn

import varigrad.compat.pyro as pyro
from varigrad.compat.pyro import distributions as dist
from varigrad.compat.pyro.params import module_from_param_with_module_name, param_with_module_name, user_param_name
from varigrad.compat.pyro.params.param_store import UnknownParameterError
from varigrad.errors import ConstraintError, ParameterError, SiteError

t = torch.tensor
positive = dist.constraints.positive


@pytest.fixture
def store():
    return pyro.get_param_store()


def test_values_are_constrained_and_know_their_leaves(store):
    value = pyro.param("scale", t([1.0, 4.0]), constraint=positive)
    assert torch.allclose(value, t([1.0, 4.0])) and value.requires_grad and not value.is_leaf
    leaf = value.unconstrained()
    assert leaf.is_leaf and torch.allclose(leaf, t([1.0, 4.0]).log())
    value.sum().backward()
    assert torch.allclose(leaf.grad, t([1.0, 4.0]))
    real = pyro.param("loc", t(3.0))
    assert real.unconstrained() is real and real.is_leaf
    assert store.param_name(leaf) == "scale" and store.param_name(t(1.0)) is None


def test_a_name_in_the_store_keeps_its_value():
    pyro.param("a", t(2.0))
    assert pyro.param("a", t(5.0)) == 2.0
    assert pyro.param("a") == 2.0
    with pytest.warns(UserWarning, match=r"'a': the store holds a parameter of shape \(\), and the initial value of"):
        assert pyro.param("a", torch.zeros(3)) == 2.0


def test_initial_values():
    assert pyro.param("number", 1.5) == 1.5
    made = []
    assert pyro.param("made", lambda: made.append(1) or torch.ones(2)).shape == (2,)
    pyro.param("made", lambda: made.append(1) or torch.ones(2))
    assert made == [1]
    with pytest.raises(KeyError, match="'nobody': has no initial value and is not in the parameter store"):
        pyro.param("nobody")
    with pytest.raises(UnknownParameterError):
        pyro.get_param_store().setdefault("nobody")
    with pytest.raises(ParameterError, match="'whole': a parameter must be real and floating point"):
        pyro.param("whole", t(1))
    with pytest.raises(ConstraintError, match=r"'negative': the initial value -1\.0 is outside its constraint"):
        pyro.param("negative", t(-1.0), constraint=positive)
    assert list(pyro.get_param_store()) == ["number", "made"]


def test_it_is_a_dictionary(store):
    assert not store and len(store) == 0
    pyro.param("a", t(2.0), constraint=positive)
    store["b"] = torch.ones(2)
    assert bool(store) and "a" in store and "c" not in store and list(store) == ["a", "b"]
    assert list(store.keys()) == ["a", "b"] == list(store.get_all_param_names())
    assert [name for name, _ in store.items()] == ["a", "b"] and len(list(store.values())) == 2
    store["a"] = t(3.0)
    assert torch.allclose(store["a"], t(3.0)) and torch.allclose(dict(store.named_parameters())["a"], t(3.0).log())
    assert store.get_param("a") == store["a"] and store.get_param("new", t(1.0)) == 1.0
    assert store.setdefault("b", torch.zeros(2)).sum() == 2
    del store["b"]
    assert "b" not in store
    with pytest.raises(KeyError):
        store["b"]
    assert set(store.match("a|n")) == {"a", "new"} and set(store.match("e")) == set()
    store.replace_param("a", t(5.0), store["a"])
    assert torch.allclose(store["a"], t(5.0))
    with pytest.raises(ParameterError, match="'new': is not the name of the parameter to be replaced"):
        store.replace_param("new", t(5.0), store["a"])
    store.clear()
    assert not store


def test_state_and_scope(store):
    pyro.param("a", t(2.0), constraint=positive)
    state = store.get_state()
    assert set(state) == {"params", "constraints"}
    with store.scope() as inner:
        assert "a" not in store
        pyro.param("b", t(1.0))
    assert list(store) == ["a"]
    with store.scope(inner):
        assert list(store) == ["b"]
        store["b"] = t(7.0)
    assert inner["params"]["b"] == 7.0
    store.clear()
    store.set_state(state)
    assert torch.allclose(store["a"], t(2.0)) and store["a"].requires_grad
    with pytest.raises(ParameterError, match="a state has the entries 'params' and 'constraints'"):
        store.set_state({"a": t(1.0)})


def test_a_scope_is_left_in_order_by_an_exception(store):
    pyro.param("a", t(2.0))

    def breaks():
        with store.scope():
            pyro.param("b", t(1.0))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        breaks()
    assert list(store) == ["a"]


CONSTRAINTS = {
    "real": (dist.constraints.real, t([1.0, -2.0])),
    "positive": (positive, t([1.0, 2.0])),
    "interval": (dist.constraints.interval(-1.0, 2.0), t([0.5])),
    "simplex": (dist.constraints.simplex, t([0.2, 0.3, 0.5])),
    "cholesky": (dist.constraints.lower_cholesky, torch.eye(2)),
    "independent": (dist.constraints.independent(positive, 1), t([1.0, 2.0])),
    "stacked": (dist.constraints.greater_than(t([0.0, 1.0])), t([1.0, 2.0])),
}


def test_files(store, tmp_path):
    for name, (constraint, value) in CONSTRAINTS.items():
        pyro.param(name, value, constraint=constraint)
    store.save(tmp_path / "store.pt")
    store.clear()
    store.load(tmp_path / "store.pt")
    for name, (constraint, value) in CONSTRAINTS.items():
        assert torch.allclose(store[name], value, atol=1e-6) and store[name].requires_grad
        assert bool(constraint.check(store[name]).all())
    store.load(tmp_path / "store.pt", map_location="cpu", weights_only=True)


class Hostile:
    def __reduce__(self):
        return print, ("ran",)


def test_a_file_cannot_run_code(store, tmp_path, capsys):
    torch.save({"params": {"a": t(1.0)}, "constraints": {"a": Hostile()}}, tmp_path / "bad.pt")
    with pytest.raises(pickle.UnpicklingError):
        store.load(tmp_path / "bad.pt")
    assert capsys.readouterr().out == ""


def test_modules_are_entries(store):
    net = nn.Linear(2, 1)
    assert pyro.module("net", net) is net
    assert list(store) == ["net$$$weight", "net$$$bias"]
    assert dict(store.named_parameters())["net$$$weight"] is net.weight
    assert store["net$$$weight"].unconstrained() is net.weight
    copy.deepcopy(net), pickle.loads(pickle.dumps(net))


def test_a_module_takes_over_what_was_loaded(store, tmp_path):
    net = nn.Linear(2, 1)
    pyro.module("net", net)
    store.save(tmp_path / "store.pt")
    store.clear()
    store.load(tmp_path / "store.pt")
    fresh = nn.Linear(2, 1)
    with pytest.warns(UserWarning, match="bias: the parameter store has other tensors of these names than this module"):
        pyro.module("net", fresh)
    pyro.module("net", fresh, update_module_params=True)
    assert torch.equal(fresh.weight, net.weight)
    assert dict(store.named_parameters())["net$$$weight"] is fresh.weight and isinstance(fresh.weight, nn.Parameter)


def test_frozen_parameters_are_left_out_with_a_word(store):
    net = nn.Linear(2, 1)
    net.weight.requires_grad_(False)
    with pytest.warns(UserWarning, match="weight of module 'net' will not be learnt, because requires_grad is off"):
        pyro.module("net", net)
    assert list(store) == ["net$$$bias"]
    pyro.module("net", net.eval())
    with pytest.raises(SiteError, match=r"'net': module needs a torch.nn.Module, got function"):
        pyro.module("net", lambda x: x)


def test_names_of_modules_parameters():
    full = param_with_module_name("net", "layer.weight")
    assert full == "net$$$layer.weight"
    assert module_from_param_with_module_name(full) == "net" and user_param_name(full) == "layer.weight"
    assert user_param_name("plain") == "plain"
