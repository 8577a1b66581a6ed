"""Every word of a program: sample, param, module, plate, subsample, factor, deterministic; meaning as in Pyro."""

from functools import partial

import pytest
import torch

import varigrad as vg
from varigrad import distributions as dist
from varigrad.language.runtime import handlers_in_force

positive = dist.constraints.positive
nan = float("nan")
NORMAL = dist.Normal(0.0, 1.0)
t = torch.tensor


def messages(program, *args):
    """The trace of a run with a fixed seed."""
    return vg.handlers.trace(vg.handlers.seed(program, seed=0))(*args)


def loss(model, guide=lambda *args: None, *args, **options):
    bound = vg.ELBO(**options)(model, guide)
    return bound.init(*args)(*args)


# sample


def test_a_latent_site_is_drawn_and_an_observed_one_given():
    def program():
        z = vg.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        x = vg.sample("x", dist.Normal(z.sum(), 1.0), obs=t(2.0))
        return z, x

    run = messages(program)
    z, x = run.result
    assert (list(run), list(run.latents)) == (["z", "x"], ["z"])
    assert z.shape == (3,)
    assert x == 2.0
    assert (run["z"].observed, run["x"].observed) == (False, True)
    assert torch.equal(run["z"].value, z)


@pytest.mark.parametrize("obs", [1, True, 1.0, t(1.0)], ids=repr)
def test_an_observation_may_be_a_number(obs):
    model = lambda: vg.sample("x", dist.Bernoulli(vg.param("p", 0.25, dist.constraints.unit_interval)), obs=obs)  # noqa: E731
    assert torch.allclose(loss(model), -t(0.25).log())


def test_torch_distributions_do_as_well():
    model = lambda: vg.sample("x", torch.distributions.Normal(vg.param("m", 1.0), 2.0), obs=t(3.0))  # noqa: E731
    assert torch.allclose(loss(model), -torch.distributions.Normal(1.0, 2.0).log_prob(t(3.0)))


@pytest.mark.parametrize("missing", [0.0, nan, float("inf"), -3.0])
def test_obs_mask_observes_in_part(missing):
    """What is missing is the latent site `x_unobserved`; its entry in the data is never looked at."""
    data, known = t([0.5, missing, 2.0]), t([True, False, True])
    returned = []

    def model():
        m = vg.param("m", 1.0)
        with vg.plate("data", 3):
            returned.append(vg.sample("x", dist.Gamma(m.exp(), 1.0), obs=data, obs_mask=known))

    def guide():
        with vg.plate("data", 3), vg.handlers.mask(mask=~known):
            vg.sample("x_unobserved", dist.Gamma(vg.param("a", torch.full((3,), 2.0), positive), 1.0))

    bound = vg.ELBO()(model, guide)
    value = bound()
    value.backward()
    assert all(p.grad.isfinite().all() for p in bound.parameters())
    assert torch.equal(returned[-1][known], data[known])
    assert returned[-1][1].isfinite()
    assert torch.allclose(bound.terms()["x_observed"], dist.Gamma(t(1.0).exp(), 1.0).log_prob(data[known]).sum())
    run = messages(model)
    assert {"x_observed", "x_unobserved", "x"} <= run.keys()
    assert torch.equal(run["x"].value, returned[-1])


def test_obs_mask_draws_from_its_own_generator():
    def model():
        with vg.plate("data", 2):
            vg.sample("x", NORMAL, obs=t([0.0, nan]), obs_mask=t([True, False]))

    before = torch.random.get_rng_state()
    messages(model)
    assert torch.equal(torch.random.get_rng_state(), before)


# param and module


def test_a_param_is_one_tensor_however_often_it_is_named():
    calls = []

    def init():
        calls.append(1)
        return torch.rand(2)

    def model():
        first, second = vg.param("w", init), vg.param("w")
        assert first is second
        vg.sample("x", dist.Normal(first.sum(), 1.0), obs=t(0.0))

    bound = vg.ELBO()(model, lambda: None)
    bound(), bound()
    assert len(calls) == 1
    run = messages(lambda: (vg.param("w", init), vg.param("w")))
    assert torch.equal(*run.result)


@pytest.mark.parametrize(
    ("init", "constraint"),
    [
        (t([0.3, 2.0]), positive),
        (t([0.2, 0.9]), dist.constraints.unit_interval),
        (t([-4.0, 4.0]), dist.constraints.real),
        (t([0.2, 0.3, 0.5]), dist.constraints.simplex),
        (t([2.5, 2.9]), dist.constraints.interval(2.0, 3.0)),
        (t([[1.0, 0.0], [0.5, 2.0]]), dist.constraints.lower_cholesky),
        (t([[2.0, 0.5], [0.5, 1.0]]), dist.constraints.positive_definite),
    ],
    ids=lambda x: str(x) if not isinstance(x, torch.Tensor) else "",
)
def test_a_param_starts_at_its_value_and_stays_in_its_constraint(init, constraint):
    seen = []

    def model():
        seen.append(vg.param("w", init, constraint))
        vg.factor("f", (seen[-1] * torch.arange(1.0, 1 + init.numel()).reshape(init.shape)).sum())

    svi = vg.SVI(model, lambda: None, vg.optim.SGD(lr=0.01), seed=0)
    assert torch.allclose(seen[-1], init, atol=1e-6)
    svi.run(5)
    assert constraint.check(seen[-1]).all()
    assert not torch.allclose(seen[-1], init)
    assert constraint.check(dict(svi.bound.constrained_values())["w"]).all()


def test_names_with_dots_are_paths():
    model = lambda: vg.factor("f", vg.param("layer.0.w", 1.0) + vg.param("layer.b", 1.0))  # noqa: E731
    bound = vg.ELBO()(model, lambda: None)
    assert (
        set(dict(bound.named_parameters()))
        == {"layer.0.w", "layer.b"}
        == set(bound.state_dict()) - {"_estimators.steps"}
    )


def test_a_param_in_a_plate_is_cut_to_the_minibatch():
    full, seen = torch.arange(10.0), []

    def model():
        with vg.plate("data", 10, subsample_size=4) as indices:
            seen.append((indices, vg.param("w", full, event_dim=0), vg.param("v", full)))
            vg.sample("x", dist.Normal(seen[-1][1], 1.0), obs=vg.subsample(torch.zeros(10)))

    svi = vg.SVI(model, lambda: None, vg.optim.SGD(lr=0.1), seed=0)
    with pytest.warns(UserWarning, match="parameter 'v' is not reached"):
        svi.step()
    indices, cut, whole = seen[-1]
    assert torch.equal(cut, full[indices])
    assert whole.shape == (10,)
    moved = (svi.bound.w != full).nonzero().flatten()
    assert set(moved.tolist()) == set(indices.tolist()) - {0}  # at 0 the gradient is 0


class Net(torch.nn.Module):
    """A model that is a module."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 1)
        self.frozen = torch.nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x):
        vg.sample("y", dist.Normal(self.linear(x).sum() + self.frozen.sum(), 1.0), obs=t(1.0))

    def method(self, x):
        self.forward(x)


@pytest.mark.parametrize("how", ["module", "nn.Module", "bound method", "partial", "handled", "guide"])
def test_modules_are_owned_and_learnt(how):
    net, x = Net(), torch.ones(2)
    model, guide = {
        "module": (lambda x: vg.module("net", net)(x), lambda x: None),
        "nn.Module": (net, lambda x: None),
        "bound method": (net.method, lambda x: None),
        "partial": (partial(net), lambda x: None),
        "handled": (vg.handlers.scale(net, scale=2.0), lambda x: None),
        "guide": (lambda x: vg.factor("f", vg.sample("z", NORMAL)), ParameterStore(net)),
    }[how]
    svi = vg.SVI(model, guide, vg.optim.Adam(lr=0.1), seed=0).init(x)
    named = dict(svi.bound.named_parameters())
    (prefix,) = {n.removesuffix(".linear.weight") for n in named if n.endswith("linear.weight")}
    assert named[f"{prefix}.linear.weight"] is net.linear.weight
    assert f"{prefix}.linear.weight" in svi.bound.state_dict()
    before = net.linear.weight.detach().clone()
    svi.step(x)
    assert not torch.equal(net.linear.weight, before)
    assert net.frozen == 1


class ParameterStore(torch.nn.Module):
    """A guide that is a module and declares a param too."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        vg.sample("z", dist.Normal(self.net.linear(x).sum(), vg.param("s", 1.0, positive)))


# plate


def test_plates_take_the_rightmost_free_dimension():
    def program():
        a, b, c = vg.plate("a", 2), vg.plate("b", 3), vg.plate("c", 5, dim=-4)
        with a:
            one = vg.sample("one", NORMAL)
            with b:
                two = vg.sample("two", dist.Normal(torch.zeros(3, 1, 7), 1.0).to_event(1))
                with c:
                    four = vg.sample("four", NORMAL)
        with b:
            again = vg.sample("again", NORMAL)
        return one, two, four, again

    shapes = [tuple(v.shape) for v in messages(program).result]
    assert shapes == [(2,), (3, 2, 7), (5, 1, 3, 2), (3,)]


def test_a_plate_with_a_dim_may_be_entered_in_any_order():
    rows, columns = vg.plate("rows", 3, dim=-2), vg.plate("columns", 2, dim=-1)
    with rows, columns:
        assert vg.sample("x", NORMAL).shape == (3, 2)
    with columns, rows:
        assert vg.sample("x", NORMAL).shape == (3, 2)
    with rows:
        assert vg.sample("x", NORMAL).shape == (3, 1)


def test_a_plate_without_size_leaves_it_to_the_sites():
    def model():
        with vg.plate("data") as indices:
            assert indices is None
            vg.sample("x", dist.Normal(vg.param("m", 0.0), 1.0), obs=torch.zeros(6))

    assert torch.allclose(loss(model), -6 * NORMAL.log_prob(t(0.0)))


def test_a_plate_gives_its_indices():
    with vg.plate("all", 4) as indices:
        assert indices == range(4)
    with vg.plate("given", 9, subsample=t([7, 2])) as indices:
        assert indices.tolist() == [7, 2]
    with vg.plate("drawn", 9, subsample_size=4) as indices:
        assert len(set(indices.tolist())) == 4
        assert 0 <= min(indices) <= max(indices) < 9
    with vg.plate("full", 3, subsample_size=3) as indices:
        assert indices == range(3)
    assert list(vg.plate("loop", 3)) == [0, 1, 2]
    assert list(vg.plate("loop", 9, subsample=t([7, 2]))) == [7, 2]


DATA = torch.arange(6.0)


@pytest.mark.parametrize("size", [6, 3, 1])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("loop", [False, True], ids=["vectorised", "sequential"])
def test_likelihoods_are_scaled_by_size_over_subsample(size, given, loop):
    picked = t([4, 0, 3, 1, 2, 5])[:size]
    seen = []

    def model():
        options = {"subsample": picked} if given else {"subsample_size": size}
        if loop:
            indices = list(vg.plate("data", 6, **options))
            seen.append(t(indices))
            for i in vg.plate("data", 6, subsample=t(indices)):
                vg.sample(f"x{i}", dist.Normal(vg.param("m", 0.0), 1.0), obs=DATA[i])
        else:
            with vg.plate("data", 6, **options) as indices:
                seen.append(torch.as_tensor(indices))
                vg.sample("x", dist.Normal(vg.param("m", 0.0), 1.0), obs=vg.subsample(DATA))

    value = loss(model)
    assert torch.allclose(value, -6 / size * NORMAL.log_prob(DATA[seen[-1]]).sum())


def test_scales_of_nested_plates_multiply():
    def model():
        with vg.plate("rows", 4, subsample_size=2), vg.plate("columns", 9, subsample_size=3):
            vg.sample("x", dist.Normal(vg.param("m", 0.0), 1.0), obs=torch.zeros(3, 2))
            vg.factor("f", torch.ones(3, 2))
        for _ in vg.plate("loop", 4, subsample_size=2):
            with vg.plate("inner", 2):
                vg.deterministic(f"d{_}", torch.ones(2))
                vg.factor(f"g{_}", torch.ones(2))

    terms = vg.ELBO()(model, lambda: None).terms()
    assert torch.allclose(terms["x"], 36 * NORMAL.log_prob(t(0.0)))
    assert terms["f"] == 36
    assert sum(v for k, v in terms.items() if k.startswith("g")) == 8


def test_a_minibatch_is_shared_between_guide_and_model_and_drawn_anew():
    seen = []

    def model():
        with vg.plate("data", 100, subsample_size=5) as indices:
            seen.append(indices)
            vg.sample("z", NORMAL)

    def guide():
        with vg.plate("data", 100, subsample_size=5) as indices:
            seen.append(indices)
            vg.sample("z", dist.Normal(vg.param("m", torch.zeros(100), event_dim=0), 1.0))

    svi = vg.SVI(model, guide, vg.optim.Adam(), seed=0)
    seen.clear()
    svi.step(), svi.step()
    for inside_guide, inside_model in (seen[:2], seen[2:]):
        assert torch.equal(inside_guide, inside_model)
    assert not torch.equal(seen[0], seen[2])


def test_the_expected_loss_of_minibatches_is_the_full_loss():
    """Over all 15 minibatches of 2 in 6, each equally likely."""

    def model(pair):
        with vg.plate("data", 6, subsample=pair):
            vg.sample("x", dist.Normal(vg.param("m", 0.5), 1.0), obs=vg.subsample(DATA))

    losses = [loss(model, lambda p: None, t([i, j])) for i in range(6) for j in range(i)]
    full = -dist.Normal(0.5, 1.0).log_prob(DATA).sum()
    assert torch.allclose(torch.stack(losses).mean(), full)


def test_sequential_plates_nest_with_vectorised_ones():
    def program():
        for i in vg.plate("outer", 2):
            with vg.plate("inner", 3):
                vg.sample(f"z{i}", NORMAL)
                for j in vg.plate("innermost", 2):
                    vg.sample(f"y{i}{j}", NORMAL)

    run = messages(program)
    assert [tuple(v.shape) for v in run.latents.values()] == [(3,)] * 6
    assert [p.name for p in run["y10"].plates] == ["outer", "inner", "innermost"]
    assert handlers_in_force() == ()


@pytest.mark.parametrize("leave", ["break", "raise"])
def test_a_loop_that_is_left_early_leaves_its_plate(leave):
    def program():
        for _ in vg.plate("loop", 3):
            vg.sample("z", NORMAL)
            if leave == "raise":
                raise KeyError
            break
        return vg.sample("after", NORMAL)

    if leave == "raise":
        with pytest.raises(KeyError):
            messages(program)
    else:
        assert messages(program)["after"].plates == ()
    assert handlers_in_force() == ()


# subsample, factor, deterministic


def test_subsample_cuts_along_every_plate():
    data = torch.arange(4 * 6 * 2.0).reshape(4, 6, 2)
    rows, columns = t([3, 0]), t([5, 1, 2])
    with vg.plate("columns", 6, subsample=columns, dim=-1), vg.plate("rows", 4, subsample=rows, dim=-2):
        assert torch.equal(vg.subsample(data, event_dim=1), data[rows][:, columns])
        assert torch.equal(vg.subsample(data[..., 0]), data[rows][:, columns][..., 0])
        assert vg.subsample(torch.ones(1, 6)).shape == (1, 3)
        assert vg.subsample(t(1.0)).shape == ()
    with vg.plate("whole", 4):
        assert vg.subsample(torch.ones(4)).shape == (4,)
    assert vg.subsample(data) is data


def test_a_factor_adds_to_the_model_and_is_subtracted_in_the_guide():
    model = lambda: vg.factor("f", 2 * vg.param("a", 3.0))  # noqa: E731
    assert loss(model) == -6
    both = lambda: vg.factor("g", vg.param("a", 3.0))  # noqa: E731
    assert loss(model, both) == -3


def test_a_deterministic_is_recorded_and_costs_nothing():
    def model():
        z = vg.sample("z", NORMAL)
        with vg.plate("p", 2):
            assert vg.deterministic("square", z**2) == z**2
        vg.sample("x", dist.Normal(z, 1.0), obs=t(0.0))

    run = messages(model)
    assert run["square"].value == run["z"].value ** 2
    assert [p.name for p in run["square"].plates] == ["p"]
    terms = vg.ELBO()(model, lambda: vg.sample("z", dist.Normal(vg.param("m", 0.0), 1.0))).terms()
    assert terms.keys() == {"z", "x"}


def test_a_trace_prints_a_table():
    def program():
        with vg.plate("p", 2):
            vg.sample("z", NORMAL)
        vg.sample("x", NORMAL, obs=t(0.0))
        vg.param("m", 0.0)

    text = repr(messages(program))
    for word in ("site", "latent", "observed", "param", "Normal", "(2,)", "p"):
        assert word in text


# Pyro has the same words with the same meaning


def pyro_like(lib, distributions, data):
    """One program in two libraries."""
    scale = lib.param("scale", t(0.7), constraint=positive)
    with lib.plate("outer", 3, dim=-2):
        z = lib.sample("z", distributions.Normal(0.0, 1.0).expand([3, 1]), obs=t([[0.1], [0.2], [0.3]]))
        with lib.plate("inner", 8, subsample=t([1, 5]), dim=-1):
            x = lib.sample("x", distributions.Normal(z, scale), obs=lib.subsample(data, event_dim=0))
            lib.factor("f", x.square())
    for i in lib.plate("loop", 4, subsample=t([2, 0])):
        lib.sample(f"y{i}", distributions.Gamma(2.0, 1.0), obs=t(1.0 + i))
    lib.deterministic("d", z.sum())


def test_words_mean_what_they_mean_in_pyro():
    data = torch.linspace(-1, 1, 24).reshape(3, 8)
    # What Pyro 1.9.2 gives: `poutine.trace(pyro_like).get_trace(pyro, pyro.distributions, data).log_prob_sum()`.
    wanted = torch.tensor(-21.594924926757812)
    found = -loss(lambda: pyro_like(vg, dist, data))
    assert torch.allclose(found, wanted)
