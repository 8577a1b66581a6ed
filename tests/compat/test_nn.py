"""Modules whose attributes are statements: names, values once a call, what lives where; masks of networks."""

import copy
import pickle

import pytest
import torch
from torch import nn

import varigrad.compat.pyro as pyro
import varigrad.compat.pyro.distributions as dist
from varigrad.compat.pyro.distributions import constraints
from varigrad.compat.pyro.infer import SVI, Trace_ELBO
from varigrad.compat.pyro.nn import (
    AutoRegressiveNN,
    ConditionalAutoRegressiveNN,
    ConditionalDenseNN,
    DenseNN,
    PyroModule,
    PyroModuleList,
    PyroParam,
    PyroSample,
    pyro_method,
)
from varigrad.compat.pyro.nn.module import clear, to_pyro_module_
from varigrad.compat.pyro.optim import Adam
from varigrad.errors import ParameterError
from varigrad.language.messages import Param, Record, Sample
from varigrad.language.runtime import Scope

t = torch.tensor


@pytest.fixture(autouse=True)
def _clear():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def said(program, *args):
    """`(name, kind)` of what a program says, in order."""
    found = {}

    def note(message, forward):
        answer = forward(message)
        if type(answer) in (Sample, Param, Record):
            assert type(answer) is Param or answer.name not in found
            found.setdefault(answer.name, type(answer).__name__)
        return answer

    with Scope(note):
        program(*args)
    return list(found.items())


def stored():
    return list(pyro.get_param_store())


class Everything(PyroModule):
    def __init__(self):
        super().__init__()
        self.lin = PyroModule[nn.Linear](2, 1)
        self.lin.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))
        self.s = PyroParam(t(1.0), constraint=constraints.positive)
        self.loc = nn.Parameter(torch.zeros(3))
        self.z = PyroSample(lambda self: dist.Normal(self.s, 1.0))
        self.plain = nn.Linear(2, 2)
        self.register_buffer("buffer", torch.ones(1))

    def forward(self, x):
        assert self.z is self.z
        return self.lin(self.plain(x)).sum() + self.loc.sum() + self.s * self.z

    @pyro_method
    def other(self):
        return self.z + self.z


SAID = [
    ("s", "Param"), ("z", "Sample"), ("plain$$$weight", "Param"), ("plain$$$bias", "Param"), ("lin.weight", "Sample"),
    ("lin.bias", "Param"), ("loc", "Param"),
]  # fmt: skip


def test_attributes_are_statements():
    module = Everything()
    x = torch.ones(4, 2)
    assert said(module, x) == SAID
    assert stored() == [name for name, kind in SAID if kind == "Param"]
    assert said(module.other) == [("s", "Param"), ("z", "Sample")]
    names = ["s_unconstrained", "loc", "lin.bias", "plain.weight", "plain.bias"]
    assert [n for n, _ in module.named_parameters()] == names
    assert list(module.state_dict()) == ["s_unconstrained", "loc", "buffer", *names[2:]]
    assert [n for n, _ in module.named_pyro_params()] == ["s", *names[1:]]
    leaves = pyro.get_param_store()._params
    assert leaves["s"] is module.s_unconstrained
    assert leaves["loc"] is module.loc
    assert leaves["plain$$$weight"] is module.plain.weight
    assert module.s.unconstrained() is module.s_unconstrained


def test_outside_of_a_call_nothing_is_kept():
    module = Everything()
    assert module.z is not module.z
    assert module.s == 1
    assert module.s.requires_grad
    assert isinstance(module.loc, nn.Parameter)
    assert module.lin.weight.shape == (1, 2)
    assert stored() == []


def test_classes():
    kind = PyroModule[nn.Linear]
    assert kind is PyroModule[nn.Linear]
    assert kind.__name__ == "PyroLinear"
    assert issubclass(kind, nn.Linear)
    assert issubclass(kind, PyroModule)
    assert PyroModule[PyroModule] is PyroModule[nn.Module] is PyroModule
    assert PyroModule[Everything] is Everything
    assert PyroModule[nn.ModuleList] is PyroModuleList
    with pytest.raises(TypeError, match=r"takes a class of torch\.nn\.Module"):
        PyroModule[3]
    with pytest.raises(TypeError, match=r"takes a torch\.nn\.Module"):
        to_pyro_module_(3)


def test_names_follow_the_tree():
    for name, prefix in (("", ""), ("top", "top.")):
        pyro.clear_param_store()
        top = PyroModule(name)
        top.a = PyroModule("forgotten")
        top.a.b = PyroModule()
        top.a.b.p = PyroParam(t(1.0))
        top.list = PyroModuleList([PyroModule(), PyroModule()])
        top.list[1].w = PyroSample(dist.Normal(0.0, 1.0))
        top.net = PyroModule[nn.Sequential](PyroModule[nn.Linear](1, 1), nn.Tanh())
        top.net[0].bias = PyroSample(dist.Normal(0.0, 1.0).expand([1]).to_event(1))

        def program(top=top):
            with top._pyro_context:
                return top.a.b.p + top.list[1].w + top.net(torch.ones(1))

        expected = ["a.b.p", "list.1.w", "net.0.weight", "net.0.bias"]
        assert sorted(n for n, _ in said(program)) == sorted(prefix + n for n in expected)
        assert top.a.b._pyro_name == prefix + "a.b"
        assert type(top.list[:1]) is PyroModuleList
    shared = PyroModule()
    shared.p = PyroParam(t(1.0))
    first, second = PyroModule("first"), PyroModule("second")
    first.s = shared
    second.s = shared
    assert shared._pyro_name == "second.s"


def test_assignment():
    module = Everything()
    module(torch.ones(4, 2))
    before = module.s_unconstrained
    module.s = t(3.0)
    assert module.s.item() == pytest.approx(3.0)
    assert module.s_unconstrained is before
    assert pyro.param("s").item() == pytest.approx(3.0)
    with pytest.raises(ParameterError, match="'s': has shape"):
        module.s = torch.ones(2)
    module.s = PyroParam(t(4.0))
    assert (module.s, "s" in stored()) == (4, False)
    module.s = nn.Parameter(t(5.0))
    assert [n for n, _ in module.named_parameters()][:2] == ["loc", "s"]
    module.s = PyroSample(dist.Normal(0.0, 1.0))
    assert module.s is not module.s
    module.s = t(2.0)
    assert module.s == 2
    assert stored() == ["plain$$$weight", "plain$$$bias", "lin.bias", "loc"]
    del module.loc
    del module.plain
    assert stored() == ["lin.bias"]
    with pytest.raises(AttributeError, match="loc"):
        module.loc
    with pytest.raises(AttributeError, match="nothing"):
        del module.nothing
    with pytest.raises(TypeError, match="cannot assign"):
        module.lin.bias = t(1.0)
    module.late = PyroParam(lambda: t(0.5), constraints.unit_interval)
    assert module.late == 0.5


class Decorated(PyroModule):
    @PyroParam
    def a(self):
        return t(1.0)

    @PyroParam(constraint=constraints.positive)
    def b(self):
        return t(2.0)

    @PyroParam(constraint=constraints.real, event_dim=0)
    def c(self):
        return torch.arange(10.0)

    @PyroSample
    def z(self):
        return dist.Normal(self.a, self.b)

    @PyroSample
    def twice(self):
        return self.z * 2

    def forward(self):
        with pyro.plate("rows", 10, subsample_size=3):
            assert self.c.shape == (3,)
        return self.z + self.twice


def test_decorators():
    module = Decorated()
    expected = [("c", "Param"), ("a", "Param"), ("b", "Param"), ("z", "Sample"), ("twice", "Record")]
    assert said(module) == expected
    assert [n for n, _ in module.named_parameters()] == ["c_unconstrained", "a_unconstrained", "b_unconstrained"]
    assert module.b.item() == pytest.approx(2.0)
    module.b = t(3.0)
    assert module.b.item() == pytest.approx(3.0)
    assert Decorated().b.item() == pytest.approx(2.0)
    with pytest.raises(AttributeError, match="declared in the class"):
        module.z = 3
    assert isinstance(Decorated.z, PyroSample)


def test_what_the_store_has_wins():
    pyro.param("s", t(9.0), constraint=constraints.positive)
    module = Everything()
    assert module.s == 1
    module(torch.ones(4, 2))
    assert module.s.item() == pytest.approx(9.0)
    assert pyro.get_param_store()._params["s"] is module.s_unconstrained
    assert next(n for n, _ in module.named_parameters()) == "s_unconstrained"


def test_clearing():
    module = Everything()
    module(torch.ones(4, 2))
    module.s = t(6.0)
    pyro.clear_param_store()
    assert module.s.item() == pytest.approx(6.0)  # a module keeps its values
    module(torch.ones(4, 2))
    assert "s" in stored()
    clear(module)
    assert stored() == []
    assert list(module.named_parameters()) == []


def test_turning_modules_into_pyros():
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 1)))
    to_pyro_module_(net)
    for part in net.modules():
        for name, value in list(part.named_parameters(recurse=False)):
            setattr(part, name, PyroSample(dist.Normal(0, 1).expand(value.shape).to_event()))
    names = ["0.weight", "0.bias", "2.0.weight", "2.0.bias"]
    assert said(net, torch.ones(4, 2)) == [(n, "Sample") for n in names]
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert said(twin, torch.ones(4, 2)) == [(n, "Sample") for n in names]
        assert type(twin[0]) is PyroModule[nn.Linear]


def test_copies_are_independent():
    module = Everything()
    module(torch.ones(4, 2))
    twin = copy.deepcopy(module)
    twin.s = t(7.0)
    assert module.s == 1
    pyro.clear_param_store()
    assert said(twin, torch.ones(4, 2)) == SAID


def test_parameters_may_stay_in_the_module():
    with pyro.settings.context(module_local_params=True):
        module = Everything()
        assert said(module, torch.ones(4, 2)) == SAID
        assert stored() == []


class Regression(PyroModule):
    """A line whose slope is random, whose offset is learnt as torch does it and whose noise as Pyro does."""

    def __init__(self):
        super().__init__()
        self.linear = PyroModule[nn.Linear](1, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 10.0).expand([1, 1]).to_event(2))
        self.noise = PyroParam(t(1.0), constraints.positive)

    def forward(self, x, y=None):
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("data", len(x)):
            return pyro.sample("y", dist.Normal(mean, self.noise), obs=y)


class Guide(PyroModule):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(1, 1))
        self.scale = PyroParam(torch.full((1, 1), 0.1), constraints.positive)

    def forward(self, x, y=None):
        pyro.sample("linear.weight", dist.Normal(self.loc, self.scale).to_event(2))


def test_inference_trains_what_modules_hold():
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 50).unsqueeze(-1)
    y = (3 * x + 1).squeeze(-1) + 0.2 * torch.randn(50)
    model, guide = Regression(), Guide()
    svi = SVI(model, guide, Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(400):
        svi.step(x, y)
    assert guide.loc.item() == pytest.approx(3, abs=0.2)
    assert model.linear.bias.item() == pytest.approx(1, abs=0.1)
    assert model.noise.item() == pytest.approx(0.2, abs=0.05)
    assert sorted(stored()) == ["linear.bias", "loc", "noise", "scale"]
    assert guide.scale.item() < 0.1


def test_inference_with_parameters_in_modules():
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 50).unsqueeze(-1)
    y = (3 * x + 1).squeeze(-1) + 0.2 * torch.randn(50)
    with pyro.settings.context(module_local_params=True):
        bound = Trace_ELBO()(Regression(), Guide())
        bound(x, y)
        optimizer = torch.optim.Adam(bound.parameters(), lr=0.05)
        for _ in range(200):
            optimizer.zero_grad()
            bound(x, y).backward()
            optimizer.step()
        assert bound.guide.loc.item() == pytest.approx(3, abs=0.3)
        assert stored() == []


# Networks


def shapes(out):
    return tuple(out.shape) if isinstance(out, torch.Tensor) else [tuple(o.shape) for o in out]


SIZES = [
    (None, [(7, 4), (7, 4)], [(7, 1), (7, 1)]), ([1], (7, 4), (7, 1)), ([1, 1, 1], [(7, 4)] * 3, [(7, 1)] * 3),
    ([3], (7, 3, 4), (7, 3)), ([3, 2], [(7, 3, 4), (7, 2, 4)], [(7, 3), (7, 2)]),
]  # fmt: skip


@pytest.mark.parametrize(("param_dims", "autoregressive", "dense"), SIZES)
def test_shapes_of_networks(param_dims, autoregressive, dense):
    x, context = torch.randn(7, 4), torch.randn(2)
    assert shapes(AutoRegressiveNN(4, [8, 9], param_dims=param_dims)(x)) == autoregressive
    assert shapes(ConditionalAutoRegressiveNN(4, 2, [8], param_dims=param_dims)(x, context=context)) == autoregressive
    assert shapes(DenseNN(4, [8], param_dims=param_dims)(x)) == dense
    assert shapes(ConditionalDenseNN(4, 2, [8], param_dims=param_dims)(x, context=context)) == dense


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("context", [0, 2])
def test_masks_respect_the_order(skip, context):
    torch.manual_seed(0)
    order = t([2, 0, 1, 3])
    smooth = nn.Tanh()
    if context:
        net = ConditionalAutoRegressiveNN(4, context, [32, 32], [1], order, skip, smooth)
        of_context = torch.autograd.functional.jacobian(lambda c: net(torch.ones(4), c), torch.randn(context))
        assert (of_context != 0).all()
        jacobian = torch.autograd.functional.jacobian(lambda x: net(x, torch.ones(context)), torch.randn(4))
    else:
        net = AutoRegressiveNN(4, [32, 32], [1], order, skip, smooth)
        jacobian = torch.autograd.functional.jacobian(net, torch.randn(4))
    assert torch.equal(net.get_permutation(), order)
    in_order = jacobian[order][:, order] != 0
    assert torch.equal(in_order, torch.ones(4, 4).tril(-1).bool())


def test_networks_that_are_too_small():
    with pytest.raises(ValueError, match="none may be smaller than the 4 inputs"):
        AutoRegressiveNN(4, [2])
    assert AutoRegressiveNN(1, [2])(torch.ones(1))[0].shape == (1,)
