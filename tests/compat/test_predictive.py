"""Predictions under Pyro's names: in Pyro's shapes, from given draws, a guide, or the prior."""

import pytest
import torch

import varigrad.compat.pyro as pyro
from varigrad.compat.pyro import distributions as dist
from varigrad.compat.pyro.infer import Predictive

t = torch.tensor


def model(y=None):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.deterministic("twice", z * 2)
    with pyro.plate("data", 3):
        w = pyro.sample("w", dist.Normal(10 * z, 0.1))
        pyro.sample("y", dist.Normal(w, 0.1), obs=y)
    return w.sum()


def guide(y=None):
    pyro.sample("z", dist.Normal(pyro.param("loc", t(2.0)), 0.01))
    with pyro.plate("data", 3):
        pyro.sample("w", dist.Normal(20.0, 0.01))
    pyro.sample("extra", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})


def shapes(found):
    return {name: tuple(value.shape) for name, value in found.items()}


@pytest.mark.parametrize("parallel", [False, True])
def test_shapes_are_pyros(parallel):
    whole = {"z": (5, 1), "twice": (5, 1), "w": (5, 3), "y": (5, 3)}
    found = Predictive(model, guide=guide, num_samples=5, parallel=parallel)()
    assert shapes(found) == whole
    assert (found["z"] - 2).abs().max() < 0.1 and (found["y"] - 20).abs().max() < 1
    assert shapes(Predictive(model, num_samples=5, parallel=parallel)()) == whole
    given = Predictive(model, posterior_samples={"z": torch.full((5,), 3.0)}, parallel=parallel)()
    assert shapes(given) == {"twice": (5, 1), "w": (5, 3), "y": (5, 3)} and (given["w"] - 30).abs().max() < 1
    again = Predictive(model, posterior_samples={"z": found["z"], "w": found["w"]}, parallel=parallel)()
    assert shapes(again) == {"twice": (5, 1), "y": (5, 3)} and torch.allclose(again["twice"], 2 * found["z"])


def test_observations_are_handed_back():
    y = t([1.0, 2.0, 3.0])
    found = Predictive(model, {"z": torch.zeros(4), "w": torch.zeros(4, 3), "nobody": torch.zeros(4)})(y)
    assert shapes(found) == {"twice": (4, 1), "y": (4, 3)} and torch.equal(found["y"], y.expand(4, 3))
    assert shapes(Predictive(model, {"z": torch.zeros(4)}, return_sites=["y"])(y)) == {"y": (4, 3)}


def test_sites_to_return():
    found = Predictive(model, guide=guide, num_samples=5, return_sites=("z", "_RETURN"))()
    assert shapes(found) == {"z": (5, 1), "_RETURN": (5,)} and (found["_RETURN"] - 60).abs().max() < 1
    with pytest.warns(UserWarning, match=r"there is no site 'twic' to return \(did you mean 'twice'\?\)"):
        assert Predictive(model, num_samples=5, return_sites=("twic",))() == {}


def test_events_and_minibatches():
    def wide():
        with pyro.plate("rows", 10, subsample_size=4):
            pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.deterministic("a", torch.zeros(3))
        pyro.deterministic("b", torch.zeros(3), event_dim=0)

    assert shapes(Predictive(wide, num_samples=5)()) == {"x": (5, 4, 2), "a": (5, 1, 3), "b": (5, 3)}


def test_mistakes():
    with pytest.raises(ValueError, match="either posterior_samples or num_samples is needed"):
        Predictive(model)
    with pytest.raises(ValueError, match="Predictive takes posterior_samples or a guide, not both"):
        Predictive(model, {"z": torch.zeros(4)}, guide=guide)
    with pytest.warns(UserWarning, match="there are 4 posterior samples, and num_samples is 6: 4 are predicted"):
        assert len(Predictive(model, {"z": torch.zeros(4)}, num_samples=6)()["y"]) == 4
    with pytest.warns(FutureWarning, match="get_samples is deprecated"):
        Predictive(model, num_samples=2).get_samples()
    with pytest.raises(ValueError, match="the model returns a NoneType, and only tensors can be stacked"):
        Predictive(lambda: pyro.sample("z", dist.Normal(0.0, 1.0)) and None, num_samples=2, return_sites=["_RETURN"])()


def test_it_is_a_module_and_repeatable():
    predict = Predictive(model, guide=guide, num_samples=3)
    assert isinstance(predict, torch.nn.Module)
    pyro.set_rng_seed(1)
    first = predict()
    pyro.set_rng_seed(1)
    assert torch.equal(first["y"], predict()["y"])


SHAPES = {
    "m": (1, 1),
    "outside": (1, 1),
    "outside_vector": (1, 1, 5),
    "one": (1, 6),
    "one_said": (1, 6),
    "scalar": (1,),
    "event": (1, 6, 3),
    "two": (4, 6),
    "two_said": (4, 6),
    "masked": (4, 6),
    "given": (4, 6),
    "partly": (4, 6),
    "partly_vector": (4, 6, 3),
    "partly_vector_observed": (4, 6, 3),
    "partly_vector_unobserved": (4, 6, 3),
}


@pytest.mark.parametrize("parallel", [False, True])
def test_computed_values_have_the_plates_around_them(parallel):
    """Every shape is what Pyro 1.9.2 gives for the same program."""

    def model():
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.deterministic("outside", m * 2)
        pyro.deterministic("outside_vector", m * torch.ones(5))
        with pyro.plate("a", 6, dim=-1):
            a = pyro.sample("a_site", dist.Normal(m, 1.0))
            pyro.deterministic("one", a * 2)
            pyro.deterministic("one_said", a * 2, event_dim=0)
            pyro.deterministic("scalar", m * 2)
            pyro.deterministic("event", a.unsqueeze(-1) * torch.ones(3), event_dim=1)
            with pyro.plate("b", 4, dim=-2):
                z = pyro.sample("z", dist.Normal(a, 1.0))
                pyro.deterministic("two", z + a)
                pyro.deterministic("two_said", z + a, event_dim=0)
                pyro.sample("masked", dist.Normal(a, 1.0).mask(torch.arange(6) < 3))
                pyro.sample("given", dist.Normal(a, 1.0), obs=torch.zeros(4, 6))
                some = torch.ones(4, 6, dtype=torch.bool)
                pyro.sample("partly", dist.Normal(a, 1.0), obs=torch.zeros(4, 6), obs_mask=some)
                vector = dist.Normal(torch.zeros(3), 1.0).to_event(1)
                pyro.sample("partly_vector", vector, obs=torch.zeros(4, 6, 3), obs_mask=some)

    for given in ({"num_samples": 50}, {"posterior_samples": {"m": torch.zeros(50)}}):
        found = Predictive(model, **given, parallel=parallel)()
        assert {n: tuple(found[n].shape[1:]) for n in SHAPES if n in found} == {
            n: SHAPES[n] for n in SHAPES if n in found
        }
        assert SHAPES.keys() - found.keys() <= {"m"}


@pytest.mark.parametrize("parallel", [False, True])
def test_computed_values_may_be_numbers(parallel):
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.deterministic("three", 3.0)
        pyro.sample("y", dist.Normal(z, 1.0))

    found = Predictive(model, posterior_samples={"z": torch.zeros(4)}, parallel=parallel)()
    assert found["three"].tolist() == [3.0] * 4 and found["y"].shape == (4,)
