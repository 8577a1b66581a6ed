"""What a program reaches is trained, frozen on purpose, or refused by its name: never left alone in silence."""

import functools
import warnings

import pytest
import torch
from torch import nn

import varigrad as vg
import varigrad.compat.pyro as pyro
import varigrad.compat.pyro.distributions as pdist
from varigrad import distributions as dist
from varigrad.compat.pyro.infer import SVI, JitTrace_ELBO, Trace_ELBO
from varigrad.compat.pyro.nn import PyroModule, PyroParam
from varigrad.errors import ParameterError
from varigrad.objectives.checks.untrained_leaves import SIZES, LookSchedule, leaves_of

t = torch.tensor
POSITIVE = dist.constraints.positive


def model(*args):
    """Two latent sites whose posteriors are Normal(2, sqrt(1/2))."""
    for name in ("z", "w"):
        value = vg.sample(name, dist.Normal(0.0, 1.0))
        vg.sample(f"y_{name}", dist.Normal(value, 1.0), obs=t(4.0))


def with_param(inner):
    """A guide that has a parameter of its own for `w`, and leaves `z` to `inner`."""

    def guide(*args):
        vg.sample("w", dist.Normal(vg.param("m", 0.0), vg.param("s", 1.0, POSITIVE)))
        inner(*args)

    return guide


def draw(parameters):
    loc, log_scale = parameters
    vg.sample("z", dist.Normal(loc, log_scale.exp()))


def linear():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(1, 2)


def fit(guide, *args, steps=1, **options):
    return vg.SVI(model, guide, vg.optim.Adam(lr=0.05), seed=0, **options).run(steps, *args, progress=False)


ONE = torch.ones(1)


def in_closure():
    net = linear()
    return with_param(lambda *_: draw(net(ONE))), "net.weight", "vg.module('net', net) in the guide"


def automatic_guide():
    auto = vg.guides.AutoNormal(model, sites=["z"])
    return with_param(auto), "inner.loc.z", "vg.module('inner', inner) in the guide"


def bound_method_of_an_object():
    class Guide:
        def __init__(self):
            self.net = linear()

        def run(self):
            with_param(lambda: draw(self.net(ONE)))()

    return Guide().run, "self.net.weight", "vg.module('net', self.net) in the guide"


def callable_object():
    class Guide:
        __slots__ = ("net",)

        def __call__(self):
            with_param(lambda: draw(self.net(ONE)))()

    guide = Guide()
    guide.net = linear()
    return guide, "self.net.weight", "vg.module('net', self.net) in the guide"


def partial_argument():
    def guide(net):
        with_param(lambda: draw(net(ONE)))()

    return functools.partial(guide, linear()), "net.weight", "vg.module('net', net)"


def partial_keyword():
    def guide(net):
        with_param(lambda: draw(net(ONE)))()

    return functools.partial(guide, net=linear()), "net.weight", "vg.module('net', net)"


def list_of_networks():
    layers = [linear()]
    return with_param(lambda *_: draw(layers[0](ONE))), "layers[0].weight", "vg.module('layers_0', layers[0])"


def dictionary_of_networks():
    nets = {"a": linear()}
    return with_param(lambda *_: draw(nets["a"](ONE))), "nets['a'].weight", "vg.module('nets_a', nets['a'])"


def decorated():
    net = linear()

    def twice(function):
        @functools.wraps(function)
        def wrapped(*args):
            return function(*args)

        return wrapped

    return twice(with_param(lambda *_: draw(net(ONE)))), "net.weight", "vg.module('net', net)"


def method_of_a_module():
    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = linear()

        def guide(self):
            draw(self.net(ONE))

    whole = Guide()
    return with_param(lambda *_: whole.guide()), "whole.net.weight", "vg.module('whole', whole)"


def handled():
    net = linear()
    return vg.handlers.scale(with_param(lambda *_: draw(net(ONE))), scale=1.0), "net.weight", "vg.module('net', net)"


def default_argument():
    def inner(net=linear()):
        draw(net(ONE))

    return with_param(inner), "net.weight", "vg.module('net', net)"


def unregistered_layers():
    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [linear()]

        def forward(self):
            with_param(lambda: draw(self.layers[0](ONE)))()

    return Guide(), "self.layers[0].weight", "nn.ModuleList, or nn.ModuleDict in Guide"


def unregistered_tensor():
    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = torch.zeros(2, requires_grad=True)

        def forward(self):
            with_param(lambda: draw(self.loc))()

    return Guide(), "self.loc", "nn.Parameter in Guide"


def tensor_in_closure():
    loc = torch.zeros(2, requires_grad=True)
    return with_param(lambda *_: draw(loc)), "loc", "vg.param('loc', lambda: ...)"


def list_of_parameters():
    locs = nn.ParameterList([torch.zeros(2)])
    return with_param(lambda *_: draw(locs[0])), "locs.0", "vg.module('locs', locs)"


def computed_outside():
    net = linear()
    found = net(ONE)
    return with_param(lambda *_: draw(found)), "found", "that computation inside the program"


def made_in_every_run():
    return with_param(lambda *_: draw(torch.zeros(2, requires_grad=True))), None, "vg.param(name, init)"


def network_made_in_every_run():
    return with_param(lambda *_: draw(linear()(ONE))), None, "vg.module(name, net)"


PLACES = (
    in_closure, automatic_guide, bound_method_of_an_object, callable_object, partial_argument, partial_keyword,
    list_of_networks, dictionary_of_networks, decorated, method_of_a_module, handled, default_argument,
    unregistered_layers, unregistered_tensor, tensor_in_closure, list_of_parameters, computed_outside,
    made_in_every_run, network_made_in_every_run,
)  # fmt: skip


@pytest.mark.parametrize("compile", [False, "wait"])
@pytest.mark.parametrize("place", PLACES, ids=lambda p: p.__name__)
def test_what_is_reached_and_not_declared_is_refused_by_name(place, compile):
    guide, name, advice = place()
    with pytest.raises(ParameterError, match="requires a gradient") as caught:
        fit(guide, compile=compile)
    assert caught.value.site == name
    assert advice in str(caught.value)
    if name is not None:
        assert "gets none" in str(caught.value)


def test_the_advice_trains_the_network_and_the_automatic_guide():
    net, auto = linear(), vg.guides.AutoNormal(model, sites=["z"])

    def automatic(*_):
        vg.module("auto", auto)()

    def by_network(*_):
        draw(vg.module("net", net)(ONE))

    for inner in (automatic, by_network):
        draws = fit(with_param(inner), steps=600).sample(4000)
        assert abs(draws["z"].mean() - 2.0) < 0.4 and abs(draws["w"].mean() - 2.0) < 0.4


def test_a_network_of_the_model_is_found_and_so_named():
    net = linear()

    def model():
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        vg.sample("x", dist.Normal(net(z.reshape(1))[0], 1.0), obs=t(1.0))

    def guide():
        vg.sample("z", dist.Normal(vg.param("m", 0.0), 1.0))

    text = "because the model uses the module 'net' without declaring it. Try: vg.module('net', net) in the model"
    with pytest.raises(ParameterError, match="requires a gradient") as caught:
        vg.SVI(model, guide, vg.optim.Adam(lr=0.1), seed=0).step()
    assert text in str(caught.value) and "(nor does 'net.bias')" in str(caught.value)


def test_what_is_frozen_detached_or_tied_is_no_stranger():
    net, own = linear().requires_grad_(False), linear()
    twin = nn.Linear(1, 2)
    twin.weight, twin.bias = own.weight, own.bias

    def inner(*_):
        vg.module("own", own)
        draw(net(ONE) + twin(ONE))

    assert set(dict(fit(with_param(inner), steps=3).bound.named_parameters())) == {"m", "s", "own.weight", "own.bias"}
    net.requires_grad_(True)
    fit(with_param(lambda *_: draw(net(ONE).detach())), steps=3)


def test_arguments_are_named_as_the_model_names_them():
    def model(x, y=None):
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        vg.sample("x", dist.Normal(z * x, 1.0), obs=t(1.0))

    def guide(x, y=None):
        vg.sample("z", dist.Normal(vg.param("m", 0.0), 1.0))

    def step(x):
        vg.SVI(model, guide, vg.optim.Adam(lr=0.1), seed=0).step(x)

    with pytest.raises(ParameterError, match="'x': requires a gradient and gets none; because it is an argument"):
        step(t(2.0, requires_grad=True))
    with pytest.raises(
        ParameterError,
        match=r"'x': was computed from a tensor that requires a gradient and gets none; .* Try: x\.detach\(\) as",
    ):
        step(linear()(ONE)[0])
    step(t(2.0))


def test_coordinates_that_the_program_differentiates_by_may_require_gradients():
    """A physical law in a model: the derivative of a network by its input has to be taken."""
    x = torch.linspace(0.0, 1.0, 5).requires_grad_()

    def slope(at, *_):
        with torch.enable_grad():
            curve = vg.param("a", 1.0) * at.square()
            (found,) = torch.autograd.grad(curve.sum(), at, create_graph=True)
        draw(torch.stack([found.mean(), t(0.0)]))

    fit(with_param(lambda *_: slope(x)), steps=3)
    fit(with_param(lambda *_: slope(torch.linspace(0.0, 1.0, 5).requires_grad_())), steps=3)
    fit(with_param(slope), x, steps=3)
    other = torch.zeros((), requires_grad=True)  # which it does not differentiate by
    with pytest.raises(ParameterError, match="'other': requires a gradient"):
        fit(with_param(lambda *_: (slope(x), vg.factor("f", other))), steps=3)


def test_a_loop_of_ones_own_may_train_what_it_likes():
    net = linear()
    bound = vg.ELBO()(model, with_param(lambda *_: draw(net(ONE))))
    optimiser = torch.optim.Adam([*bound.parameters(), *net.parameters()], lr=0.05)
    torch.manual_seed(0)
    for _ in range(600):
        optimiser.zero_grad()
        bound().backward()
        optimiser.step()
    assert abs(net(ONE)[0] - 2.0) < 0.4


def test_compiled_gradients_do_not_leave_a_network_out_in_silence():
    net = linear()
    loss = vg.compiled(vg.ELBO()(model, with_param(lambda *_: draw(net(ONE)))), seed=0)
    with pytest.raises(ParameterError, match=r"'net\.weight': requires a gradient and gets none"):
        loss()


@pytest.mark.parametrize("compile", [False, "wait"])
def test_a_network_that_comes_into_play_later_is_found_then(compile):
    net, switch = linear(), {"on": False}

    def inner(*_):
        draw(net(ONE) if switch["on"] else torch.zeros(2))

    svi = vg.SVI(model, with_param(inner), vg.optim.Adam(lr=0.05), seed=0, compile=compile)
    svi.run(7, progress=False)
    before = {k: v.clone() for k, v in svi.bound.constrained_values().items()}
    switch["on"] = True
    with pytest.raises(ParameterError, match=r"'net\.weight'"):
        svi.step()
    assert all(torch.equal(v, before[k]) for k, v in svi.bound.constrained_values().items())


@pytest.mark.parametrize("compile", [False, "wait"])
@pytest.mark.parametrize("begin", ["step", "init"])
def test_where_there_is_nothing_else_to_optimise_the_network_is_named_too(begin, compile):
    net, weight = linear(), torch.zeros(2, requires_grad=True)

    def begun(guide):
        svi = vg.SVI(model, guide, vg.optim.Adam(lr=0.05), seed=0, compile=compile)
        getattr(svi, begin)()

    def rest():
        vg.sample("w", dist.Normal(0.0, 1.0))

    nothing = (
        "there is nothing to optimise; because neither model nor guide declares a parameter that requires a gradient"
    )
    with pytest.raises(ParameterError) as error:
        begun(lambda: (rest(), draw(net(ONE))))
    assert str(error.value) == (
        f"{nothing} ('net.weight' does, and the guide uses the module 'net' without declaring it). Try: "
        "vg.module('net', net) in the guide to train it, or net.requires_grad_(False) if it is to stay as it is"
    )
    with pytest.raises(
        ParameterError, match=r"\('weight' does, and the guide .* vg\.param\('weight', lambda: \.\.\.\)"
    ):
        begun(lambda: (rest(), draw(weight)))
    with pytest.raises(ParameterError, match=rf"{nothing}\. Try: param\(name, init\)"):
        begun(lambda: (rest(), draw(torch.zeros(2))))


def net_in_a_closure(net):
    return lambda *_: draw(net(ONE))


def net_in_an_object(net):
    holder = type("Holder", (), {})()
    holder.nets = [net]
    return lambda *_: draw(holder.nets[0](ONE))


def tensor_in_a_closure(net):
    weight = net.weight  # a parameter without its module
    return lambda *_: draw(weight[:, 0])


def no_operation_more(net):
    weight = net.bias
    return lambda *_: draw(vg.param("shift", torch.zeros(2)) + weight)


@pytest.mark.parametrize("compile", [False, "wait"])
@pytest.mark.parametrize("steps", [1, 15, 30])
@pytest.mark.parametrize("seen", [net_in_a_closure, net_in_an_object, tensor_in_a_closure, no_operation_more])
def test_a_network_that_is_thawed_later_is_found_at_once(seen, steps, compile):
    net = linear().requires_grad_(False)
    svi = vg.SVI(model, with_param(seen(net)), vg.optim.Adam(lr=0.05), seed=0, compile=compile)
    svi.run(steps, progress=False)
    before = {k: v.clone() for k, v in svi.bound.constrained_values().items()}
    net.requires_grad_(True)
    for _ in range(2):
        with pytest.raises(ParameterError, match=r"weight': requires a gradient and gets none"):
            svi.run(50, progress=False)
    assert all(torch.equal(v, before[k]) for k, v in svi.bound.constrained_values().items())
    net.requires_grad_(False)
    svi.run(10, progress=False)  # frozen again: it may go on
    if compile:
        (form,) = svi._step_compiler.specializations.values()
        assert form.graph_steps > 0 and not form.refusal


@pytest.mark.parametrize("again", [False, True], ids=["another SVI", "the same SVI"])
def test_a_network_that_is_thawed_between_saving_and_loading_is_found_at_once(again):
    net = linear().requires_grad_(False)
    make = lambda: vg.SVI(model, with_param(net_in_a_closure(net)), vg.optim.Adam(lr=0.05), seed=0, compile="wait")  # noqa: E731
    svi = make().init()
    svi.run(15, progress=False)
    state = svi.state()
    net.requires_grad_(True)
    other = svi if again else vg.SVI(model, with_param(net_in_a_closure(net)), vg.optim.Adam(), seed=0, compile="wait")
    if not again:
        net.requires_grad_(False)
        other.init()
        net.requires_grad_(True)
    other.load_state(state)
    with pytest.raises(ParameterError, match=r"weight': requires a gradient and gets none"):
        other.run(5, progress=False)
    net.requires_grad_(False)
    other.load_state(state)
    whole = make().init()
    whole.run(15, progress=False)
    assert torch.equal(other.run(5, progress=False).losses, whole.run(5, progress=False).losses)


def test_compiled_gradients_notice_a_network_that_is_thawed_later():
    net = linear().requires_grad_(False)
    loss = vg.compiled(vg.ELBO()(model, with_param(lambda *_: draw(net(ONE)))), wait=True, seed=0)
    for _ in range(15):
        loss().backward()
    net.requires_grad_(True)
    with pytest.raises(ParameterError, match=r"'net\.weight': requires a gradient and gets none"):
        loss()


def test_when_a_graph_is_looked_at():
    x = torch.ones(3, requires_grad=True)
    when = LookSchedule()
    looks = [n for n in range(1, 1201) if when.due((x * 2).sum())]
    assert looks == [1, 2, 10, 100, 1000]
    assert when.due((x * 2 + 1).sum())  # step 1201: one operation more
    assert not when.due((x * 2 + 1).sum())
    restless = LookSchedule()
    looks = [n for n in range(1, 41) if restless.due(functools.reduce(lambda y, _: y + 1, range(n), x).sum())]
    assert looks == list(range(1, SIZES + 1))  # and step 100 is next
    assert not restless.due(x)  # a loss that nothing influences has no graph


def test_leaves_of_a_graph():
    a, b, c = (torch.ones(2, requires_grad=True) for _ in range(3))
    with torch.no_grad():
        lost = c * 2
    assert leaves_of(a * b.detach() + lost + a).keys() == {id(a)}
    assert leaves_of((a * b).sum().exp()).keys() == {id(a), id(b)}
    assert leaves_of(a).keys() == {id(a)} and not leaves_of(a.detach())


def p_model():
    z = pyro.sample("z", pdist.Normal(0.0, 1.0))
    pyro.sample("y", pdist.Normal(z, 1.0), obs=t(4.0))


@pytest.fixture
def store():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    yield pyro.get_param_store()
    pyro.clear_param_store()


@pytest.mark.parametrize("elbo", [Trace_ELBO, JitTrace_ELBO])
def test_pyro_runs_such_programs_and_says_once_that_the_network_is_not_trained(store, elbo):
    """As Pyro, which leaves the gradient in `.grad`; but not without a word."""
    net = linear()
    before = net.weight.detach().clone()

    def guide():
        loc, log_scale = net(ONE)
        pyro.sample("z", pdist.Normal(loc + pyro.param("m", t(0.0)), log_scale.exp()))

    svi = SVI(p_model, guide, pyro.optim.Adam({"lr": 0.05}), elbo())
    text = (
        "the module 'net' requires a gradient and influences the loss, and is not in the parameter store: SVI does not "
        r"train it\. Try: pyro\.module\(name, net\) in the program, or requires_grad_\(False\)"
    )
    with pytest.warns(UserWarning, match=text):
        svi.step()
    for _ in range(11):
        svi.step()  # a second warning would be an error
    assert torch.equal(net.weight, before)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        elbo().loss_and_grads(p_model, guide)  # a loop of one's own


def test_pyro_tensors_are_named_too(store):
    loc = torch.zeros(2, requires_grad=True)

    def guide():
        pyro.sample("z", pdist.Normal(loc[0] + pyro.param("m", t(0.0)), 1.0))

    with pytest.warns(UserWarning, match=r"'loc' requires a gradient .* Try: pyro\.param\(name, init\)"):
        SVI(p_model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO()).step()


def test_pyro_modules_that_are_registered_by_themselves_or_hidden_are_no_strangers(store):
    class Net(PyroModule):
        def __init__(self):
            super().__init__()
            self.loc = PyroParam(t(0.0))
            self.lin = PyroModule[nn.Linear](1, 1)

        def forward(self):
            return self.loc + self.lin(ONE)[0]

    net, hidden = Net(), linear()

    def frozen():
        return pyro.module("hidden", hidden)(ONE)[0]

    def guide():
        pyro.sample("z", pdist.Normal(net() + pyro.poutine.block(frozen, hide_types=["param"])(), 1.0))

    svi = SVI(p_model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(3):
        svi.step()
    assert net.loc.item() != 0.0
