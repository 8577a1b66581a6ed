"""Pyro's optimisers: every tensor of the store with options and state of its own, however they are stepped."""

import pytest
import torch
from step_programs import LAYOUTS, OPTIMIZERS, STEPS, assert_close, followed
from torch import nn

import varigrad.compat.pyro as pyro
import varigrad.compat.pyro.optim as optim
from varigrad.compat.pyro.optim import pytorch_optimizers
from varigrad.compat.pyro.optim.optim import is_scheduler
from varigrad.distributions import constraints
from varigrad.errors import ParameterError, VarigradError
from varigrad.optim.fused_adam import FusedAdam

t = torch.tensor
GRADIENTS = [[100.0, 1.0], [-3.0, 0.5], [0.2, -40.0]]


@pytest.fixture(autouse=True)
def _clear():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def leaf(name, value=(0.0, 0.0)):
    pyro.param(name, t(value))
    return pyro.get_param_store()._params[name]


def step(optimizer, leaves, gradient):
    for p in leaves:
        p.grad = t(gradient) if isinstance(gradient, list) else torch.full_like(p, gradient)
    optimizer(leaves)


def run(optimizer, name="z"):
    p = leaf(name)
    for gradient in GRADIENTS:
        step(optimizer, [p], gradient)
    return p.tolist()


# Where pyro-ppl 1.9.2 arrives from zero with three given gradients.
PYRO = [
    (optim.ClippedAdam, [{}], [-0.0017707627, -0.0013773067]),
    (optim.ClippedAdam, [{"lr": 0.1, "clip_norm": 2.0}], [-0.0951877385, -0.1725821793]),
    (optim.ClippedAdam, [{"lr": 0.1, "lrd": 0.9}], [-0.1496541798, -0.1250563114]),
    (optim.ClippedAdam, [{"lr": 0.1, "weight_decay": 0.3}], [-0.1763741374, -0.1365866065]),
    (optim.ClippedAdam, [{"lr": 0.1, "centered_variance": True}], [-0.1941062212, -0.1577950418]),
    (optim.ClippedAdam, [{"lr": 0.1, "betas": (0.95, 0.9), "eps": 1e-2}], [-0.1845542192, -0.1404251158]),
    (optim.DCTAdam, [{"lr": 0.1, "clip_norm": 2.0, "lrd": 0.9}], [-0.0860655382, -0.1504630595]),
    (optim.AdagradRMSProp, [{}], [-0.9692415595, 1.0076931715]),
    (optim.AdagradRMSProp, [{"eta": 0.3, "t": 0.5, "delta": 0.1}], [-0.2882802784, 0.0505201072]),
    (optim.SGD, [{"lr": 0.1}, {"clip_norm": 1.0}], [-0.0018556449, 0.0825589076]),
    (optim.SGD, [{"lr": 0.1}, {"clip_value": 0.3}], [-0.02, -0.03]),
    (optim.SGD, [{"lr": 0.1}, {"clip_norm": 1.0, "clip_value": 0.3}], [-0.0004999933, 0.0125601582]),
]


@pytest.mark.parametrize(("kind", "arguments", "expected"), PYRO)
def test_steps_are_pyros(kind, arguments, expected):
    assert run(kind(*arguments)) == pytest.approx(expected, rel=1e-4, abs=1e-6)


RATES = {"Muon": None, "SparseAdam": None}


@pytest.mark.parametrize("name", pytorch_optimizers.OPTIMIZERS)
def test_every_optimiser_of_torch(name):
    """Two tensors stepped together move as each would under an optimiser of its own."""
    kind = pytorch_optimizers.OPTIMIZERS[name]
    shape = (2, 2) if name == "Muon" else (3,)
    leaves = []
    for key in "ab":
        pyro.param(key, torch.zeros(shape))
        leaves.append(pyro.get_param_store()._params[key])
    twins = [nn.Parameter(p.detach().clone()) for p in leaves]
    ours = getattr(optim, name)({"lr": 0.1})
    theirs = [kind([p], lr=0.1) for p in twins]
    torch.manual_seed(0)
    for _ in range(3):
        for p, q in zip(leaves, twins, strict=True):
            p.grad = torch.randn(shape)
            q.grad = p.grad.to_sparse() if name == "SparseAdam" else p.grad.clone()
            p.grad = q.grad.clone()
        ours(leaves)
        for o in theirs:
            o.step()
    for p, q in zip(leaves, twins, strict=True):
        torch.testing.assert_close(p.detach(), q.detach())
    assert len(ours._groups) == 1
    assert callable(getattr(optim, name))
    assert getattr(optim, name).__name__ == name


SCHEDULES = {
    "StepLR": {"step_size": 1}, "MultiStepLR": {"milestones": [1, 2]}, "LambdaLR": {"lr_lambda": lambda n: 0.9**n},
    "MultiplicativeLR": {"lr_lambda": lambda n: 0.9}, "ExponentialLR": {"gamma": 0.5}, "ConstantLR": {}, "LinearLR": {},
    "PolynomialLR": {}, "CosineAnnealingLR": {"T_max": 3}, "CosineAnnealingWarmRestarts": {"T_0": 2},
    "OneCycleLR": {"max_lr": 0.2, "total_steps": 5}, "CyclicLR": {"base_lr": 0.1, "max_lr": 0.2},
    "ReduceLROnPlateau": {"patience": 0},
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_of_torch(name):
    arguments = {"optimizer": torch.optim.SGD, "optim_args": {"lr": 0.1, "momentum": 0.5}, **SCHEDULES[name]}
    ours = getattr(optim, name)(arguments)
    assert set(arguments) == {"optimizer", "optim_args", *SCHEDULES[name]}  # the user's dictionary is not touched
    p, q = leaf("p"), nn.Parameter(torch.zeros(2))
    sgd = torch.optim.SGD([q], lr=0.1, momentum=0.5)
    schedule = getattr(torch.optim.lr_scheduler, name)(sgd, **SCHEDULES[name])
    metric = (1.0,) if name == "ReduceLROnPlateau" else ()
    for i in range(3):
        step(ours, [p], 1.0)
        q.grad = torch.ones(2)
        sgd.step()
        ours.step(*metric)
        schedule.step(*metric)
        late = leaf("late")
        if i == 1:  # its schedule begins with it
            step(ours, [p, late], 1.0)
            q.grad = torch.ones(2)
            sgd.step()
            first = arguments["optim_args"]["lr"] if name not in ("ConstantLR", "LinearLR", "OneCycleLR") else None
            assert first is None or torch.allclose(late, t(-first))
    torch.testing.assert_close(p.detach(), q.detach())


def test_options_by_name():
    net = nn.Linear(2, 1)
    pyro.module("net", net)
    pyro.param("baseline.c", t(1.0), constraint=constraints.positive)
    leaves = list(pyro.get_param_store()._params.values())
    seen = []

    def by_name(name):
        seen.append(name)
        return {"lr": 0.01 if "baseline" in name else 0.1}

    def by_two(module, name):
        seen.append((module, name))
        return {"lr": 0.1}

    one = optim.SGD(by_name)
    step(one, leaves, 1.0)
    step(one, leaves, 1.0)
    assert seen == ["net.weight", "net.bias", "baseline.c"]
    assert leaves[2].item() == pytest.approx(-0.02)
    assert [len(g.params) for g in one._groups] == [2, 1]
    seen.clear()
    step(optim.SGD(by_two, lambda name: {"clip_norm": 0.5}), leaves, 1.0)
    assert seen == [("net", "weight"), ("net", "bias"), ("baseline.c", "baseline.c")]


def test_parameters_come_and_go():
    optimizer = optim.Adam({"lr": 0.1})
    a = leaf("a")
    step(optimizer, [a], 1.0)
    b = leaf("b")
    step(optimizer, [a, b], 1.0)
    assert torch.allclose(b, t(-0.1))
    step(optimizer, [b], 1.0)  # nothing happens to a
    assert torch.allclose(a, t(-0.2))
    assert [g["state"][0]["step"].item() for g in optimizer.get_state().values()] == [2, 2]
    pyro.clear_param_store()
    c = leaf("a")
    step(optimizer, [c], 1.0)
    assert torch.allclose(c, t(-0.1))  # with a fresh state
    assert list(optimizer.get_state()) == ["a"]
    assert len(optimizer._groups) == len(optimizer._known) == 1
    one, two, three = leaf("one"), leaf("two"), leaf("three")
    step(optimizer, [one, two, three], 1.0)
    del pyro.get_param_store()["two"]
    step(optimizer, [one, three, leaf("four")], 1.0)
    assert set(optimizer.get_state()) == {"a", "one", "three", "four"}
    assert torch.allclose(one, t(-0.2))


def test_only_what_is_handed_over_is_stepped():
    optimizer = optim.SGD({"lr": 0.1, "momentum": 0.9})
    a, b = leaf("a"), leaf("b")
    step(optimizer, [a, b], 1.0)
    assert len(optimizer._groups) == 1
    a.grad, b.grad = torch.ones(2), torch.ones(2)
    optimizer([a])
    assert torch.allclose(a, t(-0.29))
    assert torch.allclose(b, t(-0.1))
    step(optimizer, [a, b], 1.0)
    assert torch.allclose(b, t(-0.29))
    assert torch.allclose(a, t(-0.29 - 0.271))


def test_optimisers_can_be_looked_at():
    optimizer = optim.Adam({"lr": 0.1})
    a, b = leaf("a"), leaf("b")
    step(optimizer, [a, b], 1.0)
    assert len(optimizer._groups) == 1
    assert isinstance(optimizer._groups[0].optimizer, FusedAdam)
    objects = optimizer.optim_objs
    assert set(objects) == {a, b}
    objects[a].param_groups[0]["lr"] = 0.5
    step(optimizer, [a, b], 1.0)
    assert a[0].item() == pytest.approx(-0.6, abs=1e-5)
    assert b[0].item() == pytest.approx(-0.2, abs=1e-5)
    scheduler = optim.ExponentialLR({"optimizer": torch.optim.SGD, "optim_args": {"lr": 0.1}, "gamma": 0.5})
    step(scheduler, [a, b], 1.0)
    assert all(is_scheduler(s) for s in scheduler.optim_objs.values())


@pytest.mark.parametrize(
    "make",
    [
        lambda lr: optim.Adam({"lr": lr}),
        lambda lr: optim.ClippedAdam({"lr": lr, "lrd": 0.9}),
        lambda lr: optim.AdagradRMSProp({"eta": lr}),
        lambda lr: optim.ExponentialLR({"optimizer": torch.optim.Adam, "optim_args": {"lr": lr}, "gamma": 0.5}),
    ],
    ids=["Adam", "ClippedAdam", "AdagradRMSProp", "ExponentialLR"],
)
@pytest.mark.parametrize("known", [False, True])
def test_saving_and_going_on(make, known, tmp_path):
    """Interrupted and resumed, with other options to begin with, as if nothing had happened."""
    names = "abc"
    whole = make(0.1)
    leaves = [leaf(n) for n in names]
    for gradient in GRADIENTS:
        step(whole, leaves, gradient)
    if hasattr(whole, "step"):
        whole.step()
    values = [p.detach().clone() for p in leaves]
    whole.save(tmp_path / "state")
    resumed = make(0.5)
    if known:
        step(resumed, leaves, 3.0)
    resumed.load(tmp_path / "state")
    ends = []
    for optimizer in (whole, resumed):
        with torch.no_grad():
            for p, v in zip(leaves, values, strict=True):
                p.copy_(v)
        for gradient in GRADIENTS:
            step(optimizer, leaves, gradient)
            if hasattr(optimizer, "step"):
                optimizer.step()
        ends.append(torch.stack([p.detach().clone() for p in leaves]))
    assert torch.equal(*ends)
    assert set(resumed.get_state()) == set(names)


def test_states_of_pyros_can_be_loaded():
    state = {
        "z": {
            "state": {0: {"step": t(3.0), "exp_avg": t([7.85, -3.874]), "exp_avg_sq": t([9.989, 1.6012])}},
            "param_groups": [
                {
                    "lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-08, "weight_decay": 0, "amsgrad": False,
                    "maximize": False, "foreach": None, "capturable": False, "differentiable": False, "fused": None,
                    "decoupled_weight_decay": False, "params": [0],
                }
            ],
        }
    }  # fmt: skip
    optimizer = optim.Adam({"lr": 0.5})
    optimizer.set_state(state)
    pyro.param("z", t([-0.21491749584674835, -0.13137295842170715]))
    p = pyro.get_param_store()._params["z"]
    step(optimizer, [p], 1.0)
    assert p.tolist() == pytest.approx([-0.25659695267677307, -0.0821816623210907], rel=1e-4)


def test_optimisers_of_others_are_not_shared():
    class Summed(torch.optim.SGD):
        """Looks at all its tensors at once."""

    optimizer = optim.PyroOptim(Summed, {"lr": 0.1})
    step(optimizer, [leaf("a"), leaf("b")], 1.0)
    assert len(optimizer._groups) == 2


WRONG = [
    (lambda: optim.Adam(5), "optim_args must be a dictionary"),
    (lambda: optim.Adam(torch.optim.Adam), "optim_args must be a dictionary"),
    (lambda: optim.Adam({"lr": 0.1}, 3), "clip_args must be a dictionary"),
    (lambda: optim.Adam({"lr": 0.1}, {"clip_nrm": 1.0})([leaf("a")]), "did you mean 'clip_norm'"),
    (lambda: optim.Adam(lambda name: 3)([leaf("a")]), "'a': optim_args returned 3"),
    (lambda: optim.ExponentialLR({"gamma": 0.5}), "needs the entry 'optimizer'"),
    (lambda: optim.Adam(lambda name: {"lr": 1.0})([torch.zeros(1, requires_grad=True)]), "no name"),
]


@pytest.mark.parametrize(("mistake", "text"), WRONG)
def test_messages(mistake, text):
    with pytest.raises(VarigradError, match=text):
        mistake()


def test_what_is_left_out_says_so():
    with pytest.raises(NotImplementedError, match="subsample_aware"):
        optim.DCTAdam({"subsample_aware": True})
    with pytest.raises(TypeError, match="lrr"):
        optim.Adam({"lrr": 0.1})([leaf("a")])


def test_many_small_parameters_are_one_step():
    leaves = [leaf(f"p{i}", 0.0) for i in range(100)]
    optimizer = optim.Adam({"lr": 0.1})
    step(optimizer, leaves, 1.0)
    step(optimizer, leaves, 1.0)
    assert [len(g.params) for g in optimizer._groups] == [100]
    assert optimizer._last[1] == optimizer._groups


# Layouts


def _layout_law(name, make, plain):
    case = LAYOUTS[name]
    expected = followed(case.loss, case.make(torch.float32), plain)
    optimizer, parameters = make(), case.make(torch.float32)
    for _ in range(STEPS):
        for p in parameters:
            p.grad = None
        case.loss(*parameters).backward()
        optimizer(parameters)
    assert_close([p.detach() for p in parameters], expected, name=name)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_steps_are_torchs_in_every_layout(layout):
    _layout_law(layout, lambda: optim.Adam({"lr": 0.02}), OPTIMIZERS["vg Adam"][1])
    _layout_law(layout, lambda: optim.ClippedAdam({"lr": 0.02}), OPTIMIZERS["ClippedAdam"][1])
    _layout_law(layout, lambda: optim.AdagradRMSProp({"eta": 0.1}), OPTIMIZERS["AdagradRMSProp"][1])
    nesterov = {"lr": 0.01, "momentum": 0.8, "nesterov": True, "foreach": True}
    _layout_law(layout, lambda: optim.SGD(nesterov), OPTIMIZERS["SGD nesterov"][1])


def test_what_kernels_cannot_read_is_refused():
    a = torch.ones(6)[::2].requires_grad_()
    a.grad = torch.ones(3)
    with pytest.raises(ParameterError, match="has gaps in memory"):
        optim.Adam({"lr": 0.1, "fused": True})([a])
    b = torch.ones(1).expand(3).requires_grad_()
    b.grad = torch.ones(3)
    with pytest.raises(ParameterError, match="overlaps itself"):
        optim.SGD({"lr": 0.1})([b])
