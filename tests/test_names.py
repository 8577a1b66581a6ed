"""Parameters and modules may have any name: those of a module's attributes, keywords, other alphabets, dots."""

import copy

import pytest
import torch
from torch import nn

import varigrad as vg
from varigrad import distributions as dist
from varigrad.errors import ParameterError

X = torch.zeros(())


def attributes():
    """Every name that a bound has already."""
    bound = vg.ELBO()(lambda x: None, lambda x: None)
    return sorted({*dir(bound), *vars(bound), *vars(type(bound))} - {"_extra_state"})


OTHERS = [
    "class",
    "lambda",
    "größe",
    "a b",
    "a-b",
    "0",
    "train.b",
    "x.training",
    "x.type.z",
    "model",
    "guide",
    "a",
    "a.b",
]
NAMES = [*attributes(), *OTHERS]


def programs(names):
    def model(x):
        vg.sample("z", dist.Normal(1.0, 1.0))

    def guide(x):
        vg.sample("z", dist.Normal(sum(vg.param(name, 0.1) for name in names), 1.0))

    return model, guide


def svi_of(names, **options):
    return vg.SVI(*programs(names), vg.optim.Adam(lr=0.01), seed=0, **options)


def test_every_name_is_allowed_and_changes_nothing():
    assert {"init", "train", "plan", "type", "training", "source", "_parameters", "forward"} <= set(NAMES)
    odd, plain = svi_of(NAMES), svi_of([f"n{i}" for i in range(len(NAMES))])
    losses = [svi.run(5, X, progress=False).losses for svi in (odd, plain)]
    assert torch.equal(*losses)
    assert set(dict(odd.bound.named_parameters())) == set(NAMES)
    assert set(odd.bound.constrained_values()) == set(NAMES)
    bound = odd.bound
    bound.eval()
    bound.train()
    bound.to(torch.float64)
    assert bound.training is True and callable(bound.plan) and all(p.dtype == torch.float64 for p in bound.parameters())


def test_a_state_comes_back():
    one, two = svi_of(NAMES), svi_of(NAMES)
    one.run(3, X, progress=False)
    two.init(X)
    two.load_state(one.state())
    assert all(torch.equal(a, b) for a, b in zip(one.bound.parameters(), two.bound.parameters(), strict=True))
    assert one.step(X) == two.step(X)
    three = svi_of(NAMES).init(X)
    assert not three.bound.load_state_dict(one.bound.state_dict()).unexpected_keys
    twin = copy.deepcopy(one.bound)
    assert set(dict(twin.named_parameters())) == set(NAMES)


def test_states_of_before_have_the_same_names():
    svi = svi_of(["m", "a.b"]).init(X)
    extra = {"estimators": {}, "steps": 0}
    svi.bound.load_state_dict({"m": torch.tensor(2.0), "a.b": torch.tensor(3.0), "_extra_state": extra})
    assert {k: v.item() for k, v in svi.bound.constrained_values().items()} == {"m": 2.0, "a.b": 3.0}


def test_compiled_steps_take_every_name():
    one, two = svi_of(NAMES, compile="wait"), svi_of([f"n{i}" for i in range(len(NAMES))], compile="wait")
    assert torch.equal(*(svi.run(8, X, progress=False).losses for svi in (one, two)))


@pytest.mark.parametrize("name", ["train", "encoder.net", "init.type", "class"])
def test_modules_may_have_every_name(name):
    net = nn.Linear(1, 1)

    def model(x):
        vg.sample("z", dist.Normal(1.0, 1.0))

    def guide(x):
        vg.sample("z", dist.Normal(vg.module(name, net)(x.reshape(1))[0] + vg.param("m", 0.0), 1.0))

    svi = vg.SVI(model, guide, vg.optim.Adam(lr=0.01), seed=0)
    svi.run(3, X, progress=False)
    assert set(dict(svi.bound.named_parameters())) == {"m", f"{name}.weight", f"{name}.bias"}
    svi.bound.eval()
    assert net.training is False


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a..b", "'a..b': has nothing before, between or after its dots"),
        (".a", "has nothing before, between or after its dots"),
        ("a.", "has nothing before, between or after its dots"),
        ("_extra_state", "'_extra_state': is where torch's modules save what is no parameter"),
        ("a._extra_state", "is where torch's modules save what is no parameter"),
        ("net.weight", "'net.weight': is the name of a parameter already"),
    ],
)
def test_names_that_cannot_be_kept_apart_are_refused(name, text):
    net = nn.Linear(1, 1)

    def model(x):
        vg.sample("z", dist.Normal(1.0, 1.0))

    def guide(x):
        vg.module("net", net)
        vg.sample("z", dist.Normal(vg.param(name, 0.0), 1.0))

    with pytest.raises(ParameterError) as caught:
        vg.SVI(model, guide, vg.optim.Adam(lr=0.01), seed=0).step(X)
    assert text in str(caught.value)


def test_a_module_that_is_called_like_an_attribute_of_torchs_modules():
    net = torch.nn.Linear(1, 1)

    def model():
        vg.sample("z", dist.Normal(0.0, 1.0))

    def guide():
        vg.sample("z", dist.Normal(vg.module("training", net)(torch.ones(1))[0], 1.0))

    svi = vg.SVI(model, guide, vg.optim.Adam(lr=0.05), seed=0)
    before = net.weight.item()
    svi.bound.eval()
    assert svi.bound.training is False
    svi.bound.train()
    svi.run(3, progress=False)
    assert net.weight.item() != before and "training.weight" in svi.bound.state_dict()
