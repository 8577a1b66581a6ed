"""A bound's state: owned by the bound, made of tensors, and taken over from versions that kept a dictionary."""

import copy
import io

import pytest
import torch
from torch import nn

import varigrad as vg
from varigrad import distributions as dist
from varigrad.distributions import Source
from varigrad.errors import ParameterError, VarigradError
from varigrad.estimators import LeaveOneOut, MovingAverage, Rebar, Score, ValueBaseline
from varigrad.objectives.estimator_states import EstimatorStates, entries_of

# Written by version 0.1.0 (commit 5ff22da) after three steps of `svi_of()`.
OLD = {
    "s": 0.02283688200603742,
    "t": [-0.1528610112633069, -0.32215281047194505],
    "a.b": -1.9091954594718183,
    "z": -1.6729493701858458,
}
TREES = {
    "a": torch.tensor(1.5),
    "b.c": (torch.tensor([2.0, 3.0]), None),
    "d_state_0": ((torch.tensor(4.0), (torch.tensor([[5.0]], dtype=torch.float64), ())), None),
    "e%2E": None,
    "f": torch.tensor(3, dtype=torch.int64),
}


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def model():
    a = vg.sample("a.b", dist.Bernoulli(torch.tensor(0.3)))
    z = vg.sample("z", dist.Bernoulli(torch.tensor([0.3, 0.6])).to_event(1))
    vg.sample("x", dist.Normal(a + z.sum(), 1.0), obs=torch.tensor(1.5))


def guide():
    single = dist.Bernoulli(logits=vg.param("s", torch.tensor(0.2)))
    vg.sample("a.b", single, estimator=Score(MovingAverage(0.5)))
    pair = dist.Bernoulli(logits=vg.param("t", torch.tensor([0.1, -0.4]))).to_event(1)
    vg.sample("z", pair, estimator=Score(MovingAverage(0.5) + ValueBaseline(torch.tensor(2.0))))


def svi_of(**options):
    return vg.SVI(model, guide, vg.optim.SGD(lr=0.1), vg.ELBO(**options), seed=3)


def old_state():
    return {
        "s": torch.tensor(OLD["s"]),
        "t": torch.tensor(OLD["t"]),
        "_extra_state": {
            "estimators": {"a.b": torch.tensor(OLD["a.b"]), "z": (torch.tensor(OLD["z"]), None)},
            "steps": 3,
        },
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("estimators", [None, {"*": Rebar()}, {"*": LeaveOneOut(2)}], ids=["score", "rebar", "none"])
@pytest.mark.parametrize("compiled", [False, "wait"])
def test_a_state_dict_is_tensors_that_share_no_memory(estimators, compiled):
    svi = vg.SVI(model, guide, vg.optim.Adam(lr=0.1), vg.ELBO(estimators=estimators), seed=0, compile=compiled)
    svi.run(6, progress=False)
    state = svi.bound.state_dict()
    assert all(isinstance(value, torch.Tensor) and value.is_contiguous() for value in state.values())
    assert int(state["_estimators.steps"]) == svi.bound.steps == 6
    if not compiled:  # parameters of compiled steps lie side by side in one tensor
        places = [value.untyped_storage().data_ptr() for value in state.values() if value.numel()]
        assert len(set(places)) == len(places)
    assert torch.load(_written(state), weights_only=True).keys() == state.keys()


def _written(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


def test_a_bound_goes_on_from_a_state_dict_as_from_itself():
    one, two = svi_of().bound, svi_of().bound
    for _ in range(4):
        one()
    two.load_state_dict(torch.load(_written(one.state_dict()), weights_only=True))
    assert two.steps == 4 and same(dict(one.estimator_states), dict(two.estimator_states))
    two.source.set_state(one.source.get_state())
    assert torch.equal(one(), two()) and same(dict(one.estimator_states), dict(two.estimator_states))


def test_a_state_with_a_dictionary_is_taken_over():
    svi = svi_of()
    svi.bound.load_state_dict(old_state())
    assert svi.bound.steps == 3
    assert same(dict(svi.bound.estimator_states), old_state()["_extra_state"]["estimators"])
    assert not [name for name in svi.bound.state_dict() if "extra" in name]


def test_a_run_goes_on_from_a_state_with_a_dictionary_as_it_did_then():
    whole, other = svi_of(), svi_of()
    for _ in range(3):
        whole.step()
    state = whole.state()
    other.load_state({**state, "bound": old_state()})
    for site, average in (("a.b", other.bound.estimator_states["a.b"]), ("z", other.bound.estimator_states["z"][0])):
        assert float(average) == pytest.approx(OLD[site], rel=1e-9)
    assert [other.step() for _ in range(3)] == pytest.approx([whole.step() for _ in range(3)], rel=1e-9)


def test_a_state_with_a_dictionary_is_taken_over_inside_other_modules():
    outer = nn.ModuleDict({"loss": svi_of().bound})
    outer.load_state_dict({f"loss.{name}": value for name, value in old_state().items()})
    assert outer["loss"].steps == 3 and float(outer["loss"].estimator_states["a.b"]) == OLD["a.b"]


def test_trees_come_back_from_their_names():
    states = EstimatorStates()
    states.load_state_dict(entries_of(TREES, 5))
    assert states.count == 5 and same(dict(states.trees), TREES)
    assert {name for name, _ in states.named_buffers()} == {
        "steps",
        "a_state",
        "b%2Ec_state_0",
        "d_state_0_state_0_0",
        "d_state_0_state_0_1_0",
        "f_state",
    }


def test_a_state_dict_that_says_nothing_about_estimators_leaves_them_alone():
    bound = svi_of().bound
    for _ in range(2):
        bound()
    before = dict(bound.estimator_states)
    missing = bound.load_state_dict({"s": torch.zeros(()), "t": torch.zeros(2)}, strict=False).missing_keys
    assert missing == ["_estimators.steps"] and bound.steps == 2 and same(dict(bound.estimator_states), before)
    with pytest.raises(RuntimeError, match=r"_estimators\.steps"):
        bound.load_state_dict({"s": torch.zeros(()), "t": torch.zeros(2)})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nonsense", "Unexpected key"),
        ("z_state_1", "lacks a part"),
        ("z_state_0_0", "a tensor and a tuple at once"),
    ],
)
def test_entries_that_make_no_tree_are_refused_and_nothing_is_changed(name, text):
    svi = svi_of()
    svi.step()
    state = svi.state()
    before = copy.deepcopy(dict(svi.bound.state_dict()))
    entries = {k: v for k, v in state["bound"].items() if name != "z_state_1" or not k.startswith("_estimators.z")}
    entries[f"_estimators.{name}"] = torch.zeros(())
    with pytest.raises(ParameterError, match=text):
        svi.load_state({**state, "bound": entries})
    assert same(dict(svi.bound.state_dict()), before)


def test_averages_move_with_the_module():
    bound = svi_of().bound
    bound()
    states = bound.estimator_states
    assert bound.to(torch.float32) is bound
    assert all(t.dtype == torch.float32 for t in (bound.estimator_states["a.b"], bound.estimator_states["z"][0]))
    assert bound.steps == 1 and torch.equal(bound.estimator_states["a.b"], states["a.b"].float())
    assert dict(bound.named_buffers())["_estimators.a%2Eb_state"] is bound.estimator_states["a.b"]


def test_what_is_written_to_buffers_counts():
    """As `DistributedDataParallel` writes the first process's buffers to the others'."""
    one, two = svi_of().bound, svi_of().bound
    for _ in range(3):
        one()
    two()
    for mine, theirs in zip(two.buffers(), one.buffers(), strict=True):
        mine.copy_(theirs)
    assert two.steps == 3 and same(dict(one.estimator_states), dict(two.estimator_states))


def test_states_that_share_memory_or_have_gaps_are_copied():
    states = EstimatorStates()
    whole = torch.arange(6.0).reshape(2, 3)
    states.advance({"a": whole[0], "b": (whole, whole, whole.t()), "c": torch.ones(()).expand(2)}, 0)
    buffers = [b for name, b in states.named_buffers() if name != "steps"]
    assert all(b.is_contiguous() and b.untyped_storage().nbytes() == b.nbytes for b in buffers)
    assert len({b.data_ptr() for b in buffers}) == len(buffers) == 5
    assert torch.equal(states.trees["b"][2], whole.t())


def test_states_that_nothing_can_save_are_refused():
    with pytest.raises(VarigradError, match=r"an estimator carries dict from step to step.*Try: nested tuples"):
        svi_of().bound.advance({"z": {"a": torch.zeros(())}})


def test_the_state_of_a_bound_is_changed_by_the_bound_alone():
    bound = svi_of().bound
    for name in ("source", "steps", "estimator_states", "discovered"):
        with pytest.raises(AttributeError):
            setattr(bound, name, getattr(bound, name))


def test_a_bound_that_was_lent_is_what_it_was():
    bound = svi_of().bound
    bound()
    source, states, numbers = bound.source, bound.estimator_states, copy.deepcopy(dict(bound.estimator_states))
    with bound.preserved(7):
        assert bound.source is not source
        for _ in range(3):
            bound()
        assert bound.steps == 4 and not same(dict(bound.estimator_states), numbers)
    assert bound.source is source and bound.steps == 1
    assert bound.estimator_states is states and same(dict(states), numbers)
    assert {id(b) for b in bound.buffers()} >= {id(states["a.b"]), id(states["z"][0])}


def test_another_source_is_drawn_from_for_a_while():
    bound = svi_of().bound
    source = bound.source
    other = Source(torch.Generator().manual_seed(1))

    def fail():
        with bound.drawing_from(other):
            assert bound.source is other
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert bound.source is source


@pytest.mark.parametrize("name", ["_estimators.steps", "_estimators.z_state", "_estimators.new"])
def test_no_parameter_lies_among_the_states(name):
    def other():
        vg.sample("a.b", dist.Bernoulli(logits=vg.param(name, torch.tensor(0.2))))

    with pytest.raises(ParameterError, match=r"names that start with '_estimators\.' belong to the estimators' states"):
        vg.ELBO(strict=False)(model, other)
