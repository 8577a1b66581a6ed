"""Baselines by `infer={"baseline": {...}}`: unbiased, trained by their own loss alone, errors where they cannot act."""

import gc

import pytest
import torch
from tests.compat.programs import SGD, assert_exact, coins_guide, coins_model, f64, t
from torch import nn

import varigrad.compat.pyro as pyro
from varigrad.compat.pyro import distributions as dist
from varigrad.compat.pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO
from varigrad.errors import BaselineError
from varigrad.testing import NonreparameterizedNormal

AVERAGE = {"use_decaying_avg_baseline": True}


def infer(**options):
    return {"baseline": options}


class Net(nn.Module):
    """`[..., 2] -> [...]`, in double precision."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 1, dtype=f64)

    def forward(self, x):
        return self.linear(x).squeeze(-1)


def states(objective):
    return next(reversed(objective._bounds.values()))[0].estimator_states


# The decaying average


@pytest.mark.parametrize("objective", [TraceGraph_ELBO, Trace_ELBO])
def test_an_average_leaves_the_gradient_as_it_is_and_less_noisy(objective):
    plain = assert_exact(objective().bound(coins_model, coins_guide()))
    learnt = objective()
    programs = coins_model, coins_guide(a=infer(**AVERAGE), b=infer(**AVERAGE, baseline_beta=0.95))
    for _ in range(50):
        learnt.loss_and_grads(*programs)
    pyro.get_param_store()["logit"] = t(0.2)
    moments = assert_exact(learnt.bound(*programs))
    assert moments.variance["logit"] < plain.variance["logit"] / 2


@pytest.mark.parametrize(("options", "beta"), [({}, 0.90), ({"baseline_beta": 0.95}, 0.95)])
def test_the_average_of_costs_before_this_draw(options, beta):
    cost = t(-3.0)

    def model():
        pyro.sample("z", dist.Bernoulli(t(0.5)))
        pyro.factor("f", cost)

    def guide():
        pyro.sample("z", dist.Bernoulli(logits=pyro.param("logit", t(0.0))), infer=infer(**AVERAGE, **options))

    objective, average = TraceGraph_ELBO(), 0.0
    for _ in range(3):
        objective.loss_and_grads(model, guide)
        average = beta * average + (1 - beta) * 0.0  # log p(z) - log q(z) at the same parameters
        assert states(objective)["z"].item() == pytest.approx(average, abs=1e-9)

    def shifted():
        z = pyro.sample("z", dist.Bernoulli(t(0.5)))
        pyro.factor("f", cost + 0 * z)

    objective, average = TraceGraph_ELBO(), 0.0
    for _ in range(3):
        objective.loss_and_grads(shifted, guide)
        average = beta * average + (1 - beta) * cost.item()
        assert states(objective)["z"].item() == pytest.approx(average, abs=1e-9)


def test_switched_off_it_is_none():
    objective = TraceGraph_ELBO()
    off = infer(use_decaying_avg_baseline=False, baseline_beta=0.9)
    objective.loss_and_grads(coins_model, coins_guide(a=off))
    assert states(objective) == {} and "Score()" in str(objective.bound(coins_model, coins_guide(a=off)).plan())


def test_averages_are_forgotten_with_the_store():
    objective = TraceGraph_ELBO()
    guide = coins_guide(a=infer(**AVERAGE))
    objective.loss_and_grads(coins_model, guide)
    first = states(objective)["a"].item()
    pyro.clear_param_store()
    objective.bound(coins_model, guide)
    assert first != 0 and states(objective) == {}
    objective.loss_and_grads(coins_model, guide)
    assert states(objective)["a"] != 0


def test_a_guide_may_pass_it_as_an_argument():
    def model(use):
        coins_model()

    def guide(use):
        coins_guide(a=infer(use_decaying_avg_baseline=use, baseline_beta=0.90))()

    for use in (True, False):
        objective = TraceGraph_ELBO()
        SVI(model, guide, SGD(), loss=objective).step(use)
        assert ("a" in states(objective)) is use


# Networks


def rows_model(x):
    weight = pyro.param("weight", t(0.5))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Bernoulli(t(0.4)))
        pyro.sample("y", dist.Normal(weight * z + x.sum(-1), 1.0), obs=x[..., 0])


def rows_guide(options):
    def guide(x):
        loc = pyro.param("loc", t(0.3))
        made = options(x * loc if options.__name__ == "of_parameters" else x)
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=loc * x[:, 0]), infer={"baseline": made})

    return guide


X = t([[1.0, -0.5], [0.2, 2.0], [-1.0, 0.3]])


@pytest.mark.parametrize("also_average", [False, True])
def test_a_network_leaves_the_gradient_as_it_is(also_average):
    net = Net()

    def of_data(x):
        pyro.module("my_baseline", net)
        average = AVERAGE if also_average else {}
        return {"nn_baseline": net, "nn_baseline_input": x, **average}

    guide, objective = rows_guide(of_data), TraceGraph_ELBO()
    plain = assert_exact(objective.bound(rows_model, rows_guide(lambda x: {})), X)
    optim = SGD(0.1)
    svi = SVI(rows_model, guide, optim, loss=objective)
    weights = net.linear.weight.clone()
    for _ in range(200):
        svi.step(X)
        pyro.get_param_store()["loc"], pyro.get_param_store()["weight"] = t(0.3), t(0.5)
    expected = ["loc", "my_baseline$$$linear.bias", "my_baseline$$$linear.weight", "weight"]
    assert optim.seen[0] == expected and not torch.equal(weights, net.linear.weight)
    bound = objective.bound(rows_model, guide)
    moments = assert_exact_for(bound, ("loc", "weight"))
    assert moments.variance["loc"] < plain.variance["loc"]


def assert_exact_for(bound, names):
    """As `assert_exact`, for the parameters of model and guide only."""
    from varigrad.testing import exact_gradient, expected_gradient

    _, exact = exact_gradient(bound, X)
    moments = expected_gradient(bound, X)
    for name in names:
        assert torch.allclose(moments.mean[name], exact[name], atol=1e-9)
    return moments


def gradients(guide, model=rows_model, seed=5):
    """One step's gradients by name."""
    pyro.set_rng_seed(seed)
    TraceGraph_ELBO().loss_and_grads(model, guide, X)
    return {n: p.grad for n, p in pyro.get_param_store().named_parameters()}


@pytest.mark.parametrize("kind", ["network", "value"])
def test_a_network_is_trained_by_its_own_loss_alone(kind):
    net = Net()

    def of_parameters(x):
        pyro.module("my_baseline", net)
        if kind == "value":
            return {"baseline_value": net(x.detach())}
        return {"nn_baseline": net, "nn_baseline_input": x}

    def of_nothing(x):
        return {}

    with_net = gradients(rows_guide(of_parameters))
    assert with_net["my_baseline$$$linear.weight"].abs().max() > 0
    pyro.clear_param_store()
    frozen = Net()
    frozen.load_state_dict(net.state_dict())

    def of_values(x):
        return {"baseline_value": frozen(x).detach()}

    # The same draws with the same values subtracted, and nothing to train.
    def held(x):
        loc = pyro.param("loc", t(0.3))
        with pyro.plate("rows", len(x)):
            options = {"baseline_value": frozen(x * loc.detach()).detach()}
            pyro.sample("z", dist.Bernoulli(logits=loc * x[:, 0]), infer={"baseline": options})

    without = gradients(held)
    assert torch.allclose(with_net["loc"], without["loc"]) and torch.allclose(with_net["weight"], without["weight"])
    assert set(without) == {"loc", "weight"}


def test_a_network_learns_the_mean_cost():
    net = nn.Linear(1, 1, dtype=f64)

    def model():
        z = pyro.sample("z", dist.Bernoulli(t(0.5)))
        pyro.factor("f", 3.0 + z)

    def guide():
        pyro.module("baseline", net)
        options = {"nn_baseline": net, "nn_baseline_input": torch.ones(1, dtype=f64)}
        pyro.sample("z", dist.Bernoulli(t(0.5)), infer={"baseline": options})

    svi = SVI(model, guide, SGD(0.02), loss=TraceGraph_ELBO())
    for _ in range(400):
        svi.step()
    assert net(torch.ones(1, dtype=f64)).item() == pytest.approx(3.5, abs=0.25)


def test_a_network_may_take_a_list():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def forward(self, inputs):
            assert isinstance(inputs, list)
            return self.net(torch.stack(inputs, -1))

    net = Pair()

    def of_list(x):
        pyro.module("baseline", net)
        return {"nn_baseline": net, "nn_baseline_input": (x[:, 0], x[:, 1])}

    assert gradients(rows_guide(of_list))["baseline$$$net.linear.weight"].abs().max() > 0


def test_a_network_that_nobody_registered_is_told_and_trained():
    net = Net()

    def of_data(x):
        return {"nn_baseline": net, "nn_baseline_input": x}

    with pytest.warns(UserWarning, match="'z': the network of its baseline is not registered"):
        found = gradients(rows_guide(of_data))
    assert found["z_baseline$$$linear.weight"].abs().max() > 0
    optim = SGD()
    SVI(rows_model, rows_guide(of_data), optim, loss=TraceGraph_ELBO()).step(X)
    assert "z_baseline$$$linear.weight" in optim.seen[0]


# What must not be


def test_a_parameter_of_both_is_an_error():
    net = Net()

    def shared_guide(x):
        pyro.module("net", net)
        with pyro.plate("rows", len(x)):
            options = {"nn_baseline": net, "nn_baseline_input": x}
            pyro.sample("z", dist.Bernoulli(logits=net(x)), infer={"baseline": options})

    message = r"'net\$\$\$linear.weight' is trained by a baseline's loss and by the ELBO at once"
    with pytest.raises(BaselineError, match=message):
        TraceGraph_ELBO().loss_and_grads(rows_model, shared_guide, X)


def test_an_input_that_is_not_detached_is_an_error():
    net = Net()

    def of_parameters(x):
        pyro.module("my_baseline", net)
        return {"baseline_value": net(x)}

    with pytest.raises(BaselineError, match=r"the parameter 'loc' is trained .*baseline_value does not detach"):
        TraceGraph_ELBO().loss_and_grads(rows_model, rows_guide(of_parameters), X)
    with pytest.raises(BaselineError, match="the parameter 'loc' is trained"):
        TraceGraph_ELBO()(rows_model, rows_guide(of_parameters))(X)


def test_a_value_may_depend_on_what_was_drawn_before():
    def guide():
        a = pyro.sample("a", dist.Bernoulli(logits=pyro.param("logit", t(0.2))))
        other = pyro.param("other", t([0.5, -0.3]))
        pyro.sample("b", dist.Bernoulli(logits=other[a.long()]), infer=infer(baseline_value=3 * a))

    assert_exact(TraceGraph_ELBO().bound(coins_model, guide))


def test_where_it_cannot_act_it_is_an_error():
    def of(distribution, objective=TraceGraph_ELBO, **more):
        def model():
            pyro.sample("z", dist.Normal(0.0, 1.0) if distribution.has_rsample else dist.Bernoulli(0.5))

        def guide():
            pyro.sample("z", distribution, infer={**infer(**AVERAGE), **more})

        return objective().loss(model, guide)

    with pytest.raises(BaselineError, match="'z': has a baseline that cannot act; because Normal is reparameterised"):
        of(dist.Normal(0.0, 1.0))
    with pytest.raises(BaselineError, match="'z': has a baseline that cannot act; because it is enumerated"):
        of(dist.Bernoulli(0.5), TraceEnum_ELBO, enumerate="parallel")

    def model():
        pyro.sample("a", dist.Bernoulli(0.3), infer=infer(**AVERAGE))
        pyro.sample("b", dist.Bernoulli(0.3))

    with pytest.raises(BaselineError, match="'a': has a baseline in the model; because the guide draws it"):
        TraceGraph_ELBO().loss(model, coins_guide())


# Shapes


@pytest.mark.parametrize("shape", [(), (1,), (3,), (3, 1), (1, 1)])
def test_shapes_broadcast(shape):
    def of_shape(x):
        return {"baseline_value": torch.full(shape, -1.5, dtype=f64)}

    assert_exact(TraceGraph_ELBO().bound(rows_model, rows_guide(of_shape)), X)


def test_a_shape_that_does_not_broadcast_is_an_error():
    def of_shape(x):
        return {"baseline_value": torch.zeros(2, dtype=f64)}

    with pytest.raises(BaselineError, match=r"the baseline has shape \(2,\), the cost \(3,\)"):
        TraceGraph_ELBO().loss_and_grads(rows_model, rows_guide(of_shape), X)


def test_a_plate_of_one_and_minibatches_that_change():
    net = Net()

    def of_data(x):
        pyro.module("my_baseline", net)
        return {"nn_baseline": net, "nn_baseline_input": x, **AVERAGE}

    svi = SVI(
        rows_model, rows_guide(of_data), SGD(0.01), loss=TraceGraph_ELBO(num_particles=2, vectorize_particles=True)
    )
    for size in (1, 3, 2, 1):
        assert svi.step(X[:size]) > 0
    net = Net()
    assert_exact(TraceGraph_ELBO().bound(rows_model, rows_guide(lambda x: AVERAGE)), X[:1])


def test_a_plate_that_is_subsampled():
    def model():
        with pyro.plate("rows", 3, subsample_size=2) as i:
            z = pyro.sample("z", dist.Bernoulli(t(0.4)))
            pyro.sample("y", dist.Normal(z, 1.0), obs=X[i, 0])

    def guide():
        logits = pyro.param("logits", t([0.1, 0.2, 0.3]))
        with pyro.plate("rows", 3, subsample_size=2) as i:
            pyro.sample("z", dist.Bernoulli(logits=logits[i]), infer=infer(**AVERAGE, baseline_value=X[i, 1]))

    assert_exact(TraceGraph_ELBO().bound(model, guide))


# Other distributions


def test_with_a_continuous_choice():
    def model():
        z = pyro.sample("z", dist.Normal(t(0.0), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=t(2.0))

    def guide():
        pyro.sample("z", NonreparameterizedNormal(pyro.param("loc", t(0.5)), t(0.8)), infer=infer(**AVERAGE))

    objective, seen = TraceGraph_ELBO(num_particles=100, vectorize_particles=True), []
    for _ in range(200):
        objective.loss_and_grads(model, guide)
        leaf = dict(pyro.get_param_store().named_parameters())["loc"]
        seen.append(leaf.grad.item())
        leaf.grad = None
    seen = torch.tensor(seen, dtype=f64)
    exact = 0.5 - (2.0 - 0.5)  # d/dm of m^2/2 + (2 - m)^2/2
    assert abs(seen.mean() - exact) < 4.5 * seen.std() / len(seen) ** 0.5


def test_nothing_is_left_behind_by_a_step():
    net = Net()

    def of_data(x):
        pyro.module("my_baseline", net)
        return {"nn_baseline": net, "nn_baseline_input": x, **AVERAGE}

    svi = SVI(rows_model, rows_guide(of_data), SGD(0.0), loss=TraceGraph_ELBO())

    def alive():
        gc.collect()
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    svi.step(X)
    before = alive()
    for _ in range(10):
        svi.step(X)
    assert alive() <= before + 1


def test_a_network_is_trained_by_the_sum_over_the_plate():
    """As Pyro's: a learning rate that was tuned there means the same here."""
    network = nn.Linear(1, 1)

    def model():
        with pyro.plate("d", 4):
            pyro.sample("z", dist.Bernoulli(torch.full((4,), 0.5)))

    def guide():
        pyro.module("baseline", network)
        p = pyro.param("p", torch.full((4,), 0.3), constraint=dist.constraints.unit_interval)
        given = {"nn_baseline": network, "nn_baseline_input": torch.zeros(4, 1)}
        with pyro.plate("d", 4):
            pyro.sample("z", dist.Bernoulli(p), infer={"baseline": given})

    network.bias.data.fill_(1000.0)
    pyro.infer.TraceGraph_ELBO().loss_and_grads(model, guide)
    assert network.bias.grad is not None
    # d/db of sum (f - b)^2 with b far above every f: about 2 b a plate element.
    assert abs(network.bias.grad.item() / (2 * 4 * 1000.0) - 1) < 0.01


@pytest.mark.parametrize("kind", ["method", "function", "of two inputs"])
def test_a_baseline_may_be_any_function(kind):
    """Pyro calls it, and trains the parameters of registered modules that it uses."""
    network = nn.Linear(1, 1)
    functions = {
        "method": network.forward,
        "function": lambda x: network(x) * 2,
        "of two inputs": lambda both: network(both[0]) + both[1],
    }

    def guide():
        pyro.module("baseline", network)
        p = pyro.param("p", torch.full((4,), 0.3), constraint=dist.constraints.unit_interval)
        x = torch.zeros(4, 1)
        given = {"nn_baseline": functions[kind], "nn_baseline_input": (x, x) if kind == "of two inputs" else x}
        with pyro.plate("d", 4):
            pyro.sample("z", dist.Bernoulli(p), infer={"baseline": given})

    def model():
        with pyro.plate("d", 4):
            pyro.sample("z", dist.Bernoulli(torch.full((4,), 0.5)))

    network.bias.data.fill_(1000.0)
    pyro.infer.TraceGraph_ELBO().loss_and_grads(model, guide)
    factor = 4 if kind == "function" else 1
    assert abs(network.bias.grad.item() / (2 * 4 * 1000.0 * factor) - 1) < 0.01
