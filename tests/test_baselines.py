"""Baselines change the variance of a gradient and never its mean, learn from the past and touch nothing else."""

import copy
import pickle

import pytest
import torch
from torch import nn

import varigrad as vg
from varigrad import distributions as dist
from varigrad.distributions.rng import Source
from varigrad.errors import BaselineError, SiteError
from varigrad.estimators import (
    Combination,
    DisARM,
    Draw,
    Enumerate,
    LeaveOneOut,
    MovingAverage,
    NeuralBaseline,
    NoBaseline,
    OptimalScore,
    Pathwise,
    Score,
    ValueBaseline,
)
from varigrad.estimators.baselines import _coefficients
from varigrad.gradients.outcomes import Outcomes
from varigrad.language.messages import Plate
from varigrad.testing import exact_gradient, expected_gradient, largest_difference

DATA = torch.tensor([0.8, -0.2, 1.4])


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def programs(baseline, above=None):
    """A choice above a plate of two; the baseline at `z` in the plate, another perhaps at `a`."""

    def guide():
        a = vg.sample("a", dist.Bernoulli(logits=vg.param("s", 0.4)), estimator=Score(above or NoBaseline()))
        with vg.plate("n", 2):
            logits = vg.param("t", torch.tensor([0.7, -0.3])) + a
            vg.sample("z", dist.Bernoulli(logits=logits), estimator=Score(baseline))

    def model():
        a = vg.sample("a", dist.Bernoulli(0.3))
        with vg.plate("n", 2):
            z = vg.sample("z", dist.Bernoulli(torch.tensor([0.3, 0.6])))
            vg.sample("x", dist.Normal(2 * z + a - 4, 1.0), obs=DATA[:2])

    return model, guide


def bound_of(baseline, above=None, **options):
    return vg.ELBO(**options).bind(*programs(baseline, above), Source(torch.Generator().manual_seed(1)))


def is_exact(bound, *args):
    moments = expected_gradient(bound, *args)
    value, gradient = exact_gradient(bound, *args)
    assert abs(moments.value - value) < 1e-9
    assert largest_difference(moments.mean, gradient) < 1e-9
    return moments


def state_of(bound, site="z"):
    return bound.estimator_states[site]


def total(moments):
    return sum(float(v.sum()) for v in moments.variance.values())


def linear(features=1, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(features, 1)


# Every baseline, in any state: the mean stays, and a good one lowers the variance.

STATES = {
    "moving average": lambda: (MovingAverage(0.5), torch.tensor(-9.3)),
    "per element": lambda: (MovingAverage(0.5, per_element=True), torch.tensor([-20.0, 3.0])),
    "network": lambda: (NeuralBaseline(linear(), torch.tensor([[0.4], [-1.0]])), None),
    "network of a choice above": lambda: (NeuralBaseline(linear(), lambda v: v["a"].unsqueeze(-1)), None),
    "network of two": lambda: (NeuralBaseline(nn.Bilinear(1, 1, 1), (torch.ones(2, 1), torch.ones(2, 1))), None),
    "value": lambda: (ValueBaseline(torch.tensor([-7.0, 12.0])), None),
    "number for all": lambda: (ValueBaseline(torch.tensor(5.0)), None),
    "sum": lambda: (MovingAverage(0.5) + ValueBaseline(torch.tensor(2.0)), (torch.tensor(-4.0), None)),
    "combination": lambda: (
        Combination(MovingAverage(0.9), NeuralBaseline(linear(), torch.ones(2, 1)), ValueBaseline(torch.ones(2))),
        (
            (torch.tensor(-4.0), None, None),
            torch.tensor([[3.0, 1.0, 0.5, 7.0], [1.0, 2.0, 0.1, 4.0], [0.5, 0.1, 1.0, -6.0]]),
        ),
    ),
    "sum of three": lambda: (
        MovingAverage(0.9) + NeuralBaseline(linear(), torch.ones(2, 1)) + MovingAverage(0.2, per_element=True),
        (torch.tensor(-4.0), None, torch.tensor([1.0, 2.0])),
    ),
}  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"particles": 2}, {"particles": 2, "vectorize": False}], ids=str)
@pytest.mark.parametrize("name", STATES)
def test_the_mean_is_exact_in_any_state(name, options):
    baseline, state = STATES[name]()
    bound = bound_of(baseline, MovingAverage(0.3), **options)
    if state is not None:
        bound.advance({"z": state, "a": torch.tensor(13.0)})
    is_exact(bound)
    for _ in range(3):
        bound()
    is_exact(bound)


def test_a_good_baseline_lowers_the_exact_variance():
    none = total(is_exact(bound_of(NoBaseline())))
    found = {}
    for name, baseline, steps in (
        ("average", MovingAverage(0.9), 60),
        ("per element", MovingAverage(0.9, per_element=True), 60),
        ("bad value", ValueBaseline(torch.tensor(30.0)), 0),
    ):
        bound = bound_of(baseline, MovingAverage(0.9))
        for _ in range(steps):
            bound()
        found[name] = total(is_exact(bound))
    assert found["per element"] < found["average"] < none / 3
    assert found["bad value"] > 10 * none


def test_a_network_lowers_the_exact_variance_below_that_of_an_average():
    """What the choice above says about the cost, an average over both cannot know."""

    def with_(baseline):
        def guide():
            a = vg.sample("a", dist.Bernoulli(logits=torch.tensor(0.4)), estimator=Score())
            vg.sample("z", dist.Bernoulli(logits=vg.param("t", 0.7) + 0 * a), estimator=Score(baseline))

        def model():
            a = vg.sample("a", dist.Bernoulli(0.3))
            z = vg.sample("z", dist.Bernoulli(0.3))
            vg.sample("x", dist.Normal(6 * a + 0.3 * z, 1.0), obs=torch.tensor(0.5))

        bound = vg.ELBO().bind(model, guide, Source(torch.Generator().manual_seed(1))).init()
        if any(n.startswith("baselines") for n, _ in bound.named_parameters()):
            optimiser = torch.optim.Adam([p for n, p in bound.named_parameters() if n.startswith("baselines")], 0.2)
            for _ in range(300):
                optimiser.zero_grad()
                bound().backward()
                optimiser.step()
        else:
            for _ in range(60):
                bound()
        return total(is_exact(bound))

    network = with_(NeuralBaseline(linear(), lambda v: v["a"].reshape(1)))
    average = with_(MovingAverage(0.9))
    assert network < average / 3
    assert average < with_(NoBaseline())


# The decaying average.


def draw_of(*plates, particles=None):
    return Draw(dist.Bernoulli(0.5), torch.tensor(1.0), plates=plates, particles=particles)


def test_the_average_is_the_one_before_this_draw():
    average, state = MovingAverage(0.9), None
    expected = 0.0
    for cost in (3.0, -1.0, 4.0, 1.0):
        guess = average.guess(torch.tensor(cost), draw_of(), state)
        assert float(guess.value) == pytest.approx(expected, abs=1e-12)
        expected = 0.9 * expected + 0.1 * cost
        assert float(guess.state) == pytest.approx(expected)
        assert guess.regression is None
        state = guess.state


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.99])
def test_decay(decay):
    guess = MovingAverage(decay).guess(torch.tensor(2.0), draw_of(), torch.tensor(7.0))
    assert float(guess.state) == pytest.approx(decay * 7 + (1 - decay) * 2)


@pytest.mark.parametrize("decay", [1.0, -0.1, 1.5, float("nan")])
def test_decay_out_of_range(decay):
    with pytest.raises(BaselineError, match=r"decay must be in \[0, 1\)"):
        MovingAverage(decay)


def test_pooled_averages_have_no_shape():
    n = Plate("n", 3, -1)
    guess = MovingAverage(0.5).guess(torch.tensor([1.0, 2.0, 6.0]), draw_of(n), None)
    assert guess.value.shape == guess.state.shape == ()
    assert float(guess.state) == pytest.approx(1.5)


def test_elements_keep_averages_of_their_own_by_index():
    average = MovingAverage(0.5, per_element=True)
    some = Plate("n", 4, -1, torch.tensor([2, 0]))
    guess = average.guess(torch.tensor([8.0, 4.0]), draw_of(some), None)
    assert guess.state.tolist() == [2, 0, 4, 0]
    others = Plate("n", 4, -1, torch.tensor([3, 2, 1]))
    guess = average.guess(torch.tensor([1.0, 1.0, 1.0]), draw_of(others), guess.state)
    assert guess.value.tolist() == [0, 4, 0]
    assert guess.state.tolist() == [2, 0.5, 2.5, 0.5]


def test_elements_of_nested_plates():
    rows, columns = Plate("r", 2, -2), Plate("c", 3, -1, torch.tensor([0, 2]))
    average = MovingAverage(0.0, per_element=True)
    cost = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    guess = average.guess(cost, draw_of(columns, rows), None)
    assert guess.state.tolist() == [[1, 0, 2], [3, 0, 4]]
    again = average.guess(cost, draw_of(columns, rows), guess.state)
    assert again.value.tolist() == cost.tolist()


def test_particles_share_the_averages_of_elements():
    n, particles = Plate("n", 2, -1), Plate("particles", 3, -2)
    average = MovingAverage(0.5, per_element=True)
    cost = torch.tensor([[1.0, 0.0], [2.0, 0.0], [6.0, 3.0]])
    guess = average.guess(cost, draw_of(n, particles, particles=-2), None)
    assert guess.state.reshape(-1).tolist() == [1.5, 0.5]
    assert torch.broadcast_shapes(guess.value.shape, cost.shape) == cost.shape


@pytest.mark.parametrize("per_element", [False, True])
@pytest.mark.parametrize("sizes", [(2, 1, 3, 2), (1, 3), (3, 1)], ids=str)
def test_minibatches_may_change_their_size(per_element, sizes):
    baseline = MovingAverage(0.5, per_element=per_element)

    def guide(batch):
        with vg.plate("n", 3, subsample=torch.arange(batch)):
            vg.sample("z", dist.Bernoulli(logits=vg.param("t", torch.zeros(3), event_dim=0)), estimator=Score(baseline))

    def model(batch):
        with vg.plate("n", 3, subsample=torch.arange(batch)):
            z = vg.sample("z", dist.Bernoulli(torch.tensor(0.3)))
            vg.sample("x", dist.Normal(z, 1.0), obs=vg.subsample(DATA))

    bound = vg.ELBO()(model, guide)
    for size in sizes:
        bound(size)
        is_exact(bound, size)
        assert state_of(bound).shape == ((3,) if per_element else ())


@pytest.mark.parametrize("per_element", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_drawn_minibatches(per_element, batch):
    baseline = MovingAverage(0.5, per_element=per_element)

    def guide():
        with vg.plate("n", 3, subsample_size=batch):
            vg.sample("z", dist.Bernoulli(logits=vg.param("t", torch.zeros(3), event_dim=0)), estimator=Score(baseline))

    def model():
        with vg.plate("n", 3, subsample_size=batch):
            z = vg.sample("z", dist.Bernoulli(torch.tensor(0.3)))
            vg.sample("x", dist.Normal(z, 1.0), obs=vg.subsample(DATA))

    bound = vg.ELBO()(model, guide)
    for _ in range(8):
        bound()
    assert state_of(bound).shape == ((3,) if per_element else ())
    is_exact(bound)


@pytest.mark.parametrize("per_element", [False, True])
def test_plates_of_one_element(per_element):
    baseline = MovingAverage(0.5, per_element=per_element)

    def guide():
        with vg.plate("one", 1, dim=-2), vg.plate("n", 3, dim=-1):
            vg.sample("z", dist.Bernoulli(logits=vg.param("t", torch.zeros(1, 3))), estimator=Score(baseline))

    def model():
        with vg.plate("one", 1, dim=-2), vg.plate("n", 3, dim=-1):
            z = vg.sample("z", dist.Bernoulli(torch.tensor(0.3)))
            vg.sample("x", dist.Normal(z, 1.0), obs=DATA.reshape(1, 3))

    bound = vg.ELBO()(model, guide)
    for _ in range(3):
        bound()
    is_exact(bound)
    assert state_of(bound).shape == ((1, 3) if per_element else ())


# Networks.


def run_outcomes(bound, path):
    bound.draw_from(Outcomes(path))
    return bound.estimate()


def test_a_network_gets_the_gradient_of_its_squared_error_and_nothing_else():
    net = linear()
    bound, plain = bound_of(NeuralBaseline(net, torch.tensor([[0.4], [-1.0]]))), bound_of(NoBaseline())
    mine = [p for n, p in bound.named_parameters() if not n.startswith("baselines.")]
    for path in ((0, 0, 0), (1, 0, 1), (1, 1, 1)):
        a, z = torch.tensor(float(path[0])), torch.tensor(path[1:]).double()
        q = dist.Bernoulli(logits=bound.t.detach() + a)
        cost = dist.Normal(2 * z + a - 4, 1.0).log_prob(DATA[:2]) - q.log_prob(z)
        cost = cost + dist.Bernoulli(torch.tensor([0.3, 0.6])).log_prob(z)
        wanted = torch.autograd.grad(
            (cost - net(torch.tensor([[0.4], [-1.0]])).squeeze(-1)).square().mean(), net.weight
        )
        with_net, without = run_outcomes(bound, path).surrogate, run_outcomes(plain, path).surrogate
        (found,) = torch.autograd.grad(with_net, net.weight, retain_graph=True)
        assert torch.allclose(found, -wanted[0])  # the surrogate climbs
        # The part for model and guide differs by the baseline times the score, and by nothing else.
        ours = torch.autograd.grad(with_net, mine)
        theirs = torch.autograd.grad(without, list(plain.parameters()))
        guess = net(torch.tensor([[0.4], [-1.0]])).squeeze(-1).detach()
        score = z - torch.sigmoid(bound.t.detach() + a)
        by_name = {n: g for (n, _), g in zip(plain.named_parameters(), theirs, strict=True)}
        for (name, _), grad in zip(plain.named_parameters(), ours, strict=True):
            assert torch.allclose(grad, by_name[name] - (guess * score if name == "t" else 0))
    assert largest_difference(expected_gradient(bound).mean, expected_gradient(plain).mean) < 1e-9


def test_the_input_is_detached():
    net, box = linear(), {}

    def guide():
        shift = vg.param("shift", 0.5)
        box["x"] = (3 * shift).reshape(1)
        logits = vg.param("t", 0.7) + shift
        vg.sample("z", dist.Bernoulli(logits=logits), estimator=Score(NeuralBaseline(net, lambda _: box["x"])))

    def model():
        z = vg.sample("z", dist.Bernoulli(0.3))
        vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(0.8))

    bound = vg.ELBO()(model, guide)
    is_exact(bound)
    loss = bound.estimate().surrogate
    shift, t = torch.autograd.grad(loss, [bound.shift, bound.t])
    assert torch.allclose(shift, t)  # through the logits and no other way


def test_the_elbo_leaves_the_network_alone():
    """A network that predicts perfectly is not moved, whatever the bound does."""
    net = linear()
    nn.init.zeros_(net.weight)

    def guide():
        logits = vg.param("t", torch.tensor(0.0))
        vg.sample("z", dist.Bernoulli(logits=logits), estimator=Score(NeuralBaseline(net, torch.ones(1))))

    def model():
        z = vg.sample("z", dist.Bernoulli(0.5))
        vg.sample("x", dist.Normal(0.0 * z, 1.0), obs=torch.tensor(0.8))

    bound = vg.ELBO()(model, guide)
    with torch.no_grad():
        net.bias.fill_(float(-bound()))
    bound().backward()
    assert torch.allclose(net.bias.grad, torch.zeros(1), atol=1e-12)
    assert torch.allclose(net.weight.grad, torch.zeros(1, 1), atol=1e-12)


def test_names_states_and_learning_rates():
    net = linear()
    bound = bound_of(NeuralBaseline(net, torch.ones(2, 1)))
    names = {"s", "t", "baselines.z.weight", "baselines.z.bias"}
    assert set(dict(bound.named_parameters())) == names
    assert names <= set(bound.state_dict())
    assert bound.get_parameter("baselines.z.weight") is net.weight

    start = {n: p.detach().clone() for n, p in bound.named_parameters()}
    options = lambda name: {"lr": 0.5 if name.startswith("baselines.") else 1e-30}  # noqa: E731
    svi = vg.SVI(*programs(NeuralBaseline(net, torch.ones(2, 1))), vg.optim.SGD(1.0, options=options), seed=0)
    svi.step()
    for name, parameter in svi.bound.named_parameters():
        assert torch.equal(parameter, start[name]) != name.startswith("baselines."), name


def test_networks_of_a_sum_have_names_of_their_own():
    first, second = linear(), linear(seed=1)
    both = NeuralBaseline(first, torch.ones(2, 1)) + NeuralBaseline(second, torch.ones(2, 1))
    bound = bound_of(both, NeuralBaseline(linear(seed=2), torch.ones(1)))
    names = {n.rsplit(".", 1)[0] for n, _ in bound.named_parameters() if n.startswith("baselines.")}
    assert names == {"baselines.z.0", "baselines.z.1", "baselines.a"}
    is_exact(bound)


def test_a_shared_parameter_is_an_error():
    net = linear()

    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self):
            logits = self.net(torch.ones(1)).squeeze()
            vg.sample("z", dist.Bernoulli(logits=logits), estimator=Score(NeuralBaseline(self.net, torch.ones(1))))

    with pytest.raises(BaselineError, match=r"'z': its network shares the parameter 'guide.net.weight'"):
        vg.ELBO()(lambda: vg.sample("z", dist.Bernoulli(0.3)), Guide())


def test_a_network_built_in_every_run_is_an_error():
    def guide():
        estimator = Score(NeuralBaseline(nn.Linear(1, 1), torch.ones(1)))
        vg.sample("z", dist.Bernoulli(logits=vg.param("t", 0.7)), estimator=estimator)

    with pytest.raises(BaselineError, match="'z': its network is a new object in every run"):
        vg.ELBO()(lambda: vg.sample("z", dist.Bernoulli(0.3)), guide)()


@pytest.mark.parametrize("shape", [(3,), (2, 2), (4, 1)], ids=str)
def test_a_network_of_another_shape_is_an_error(shape):
    with pytest.raises(
        BaselineError, match=r"the baseline has shape .*one value for each element of the site's plates"
    ):
        bound_of(ValueBaseline(torch.zeros(shape)))()


# Values and sums.


def test_a_value_is_detached_and_may_have_a_last_dimension():
    for value in (torch.tensor([-7.0, 12.0]), torch.tensor([[-7.0], [12.0]])):
        bound = bound_of(ValueBaseline(value))
        (grad,) = torch.autograd.grad(run_outcomes(bound, (0, 1, 1)).surrogate, bound.t)
        other = bound_of(NoBaseline())
        (plain,) = torch.autograd.grad(run_outcomes(other, (0, 1, 1)).surrogate, other.t)
        score = 1 - torch.sigmoid(bound.t.detach())
        assert torch.allclose(grad, plain - torch.tensor([-7.0, 12.0]) * score)


def test_the_second_learns_what_the_first_leaves():
    cost, state = torch.tensor(10.0), None
    both = ValueBaseline(torch.tensor(4.0)) + MovingAverage(0.5) + MovingAverage(0.0)
    guess = both.guess(cost, draw_of(), state)
    assert float(guess.value) == 4
    assert [s if s is None else float(s) for s in guess.state] == [None, 3.0, 6.0]
    guess = both.guess(cost, draw_of(), guess.state)
    assert float(guess.value) == 13
    assert [s if s is None else float(s) for s in guess.state] == [None, 4.5, 3.0]


def test_a_sum_is_flat_and_regressions_add():
    nets = [linear(seed=i) for i in range(2)]
    parts = [NeuralBaseline(n, torch.ones(1)) for n in nets]
    both = parts[0] + (MovingAverage() + parts[1])
    assert both.parts == (parts[0], MovingAverage(), parts[1])
    cost = torch.tensor(2.0)
    guess = both.guess(cost, draw_of(), (None, torch.tensor(0.5), None))
    first, second = (n(torch.ones(1)).squeeze() for n in nets)
    wanted = (cost - first).square() + (cost - first.detach() - 0.5 - second).square()
    assert torch.allclose(guess.regression, wanted)
    assert torch.allclose(guess.value, (first + 0.5 + second).detach())
    for net, term in zip(nets, (first, second), strict=True):
        found, expected = (torch.autograd.grad(l, net.bias, retain_graph=True)[0] for l in (guess.regression, wanted))
        assert torch.allclose(found, expected)
        assert term.requires_grad


# What a baseline may look at.


def seeing(view):
    box = {}

    def guide():
        a = vg.sample("a", dist.Bernoulli(logits=vg.param("s", 0.4)), estimator=Score())
        net = NETS[0]
        looked = NeuralBaseline(net, lambda values: view(values, box).reshape(1))
        z = vg.sample("z", dist.Bernoulli(logits=vg.param("t", 0.7) + a), estimator=Score(looked))
        b = vg.sample("b", dist.Bernoulli(logits=vg.param("u", 0.1) + z), estimator=Score())
        box["after"], box["b"] = 2 * z + 1, b

    def model():
        a = vg.sample("a", dist.Bernoulli(0.3))
        z = vg.sample("z", dist.Bernoulli(0.2 + 0.3 * a))
        b = vg.sample("b", dist.Bernoulli(0.2 + 0.3 * z))
        vg.sample("x", dist.Normal(a + b, 1.0), obs=torch.tensor(0.8))

    return model, guide


NETS = [None]


@pytest.fixture(autouse=True)
def _net():
    NETS[0] = nn.Linear(1, 1).double()


@pytest.mark.parametrize(
    "view",
    [
        lambda values, box: values["z"],
        lambda values, box: torch.exp(values["z"]) * 0,
        lambda values, box: values["b"],
        lambda values, box: values["a"] + values["b"].cumsum(0) if values["b"].dim() else values["a"] * values["b"],
        lambda values, box: box["after"],
        lambda values, box: box["b"],
    ],
    ids=["own", "own, times zero", "downstream", "both", "computed", "kept"],
)
def test_its_own_draw_is_not_to_be_seen(view):
    with pytest.raises(BaselineError, match="'z': its baseline depends on its own draw"):
        vg.ELBO()(*seeing(view))()


@pytest.mark.parametrize("view", [lambda values, box: values["a"], lambda values, box: torch.ones(1)])
def test_choices_upstream_may_be_seen(view):
    bound = vg.ELBO()(*seeing(view))
    bound()
    is_exact(bound)


@pytest.mark.parametrize(
    "leak",
    [lambda z: torch.tensor(z.item()), lambda z: torch.tensor(1.0 if z > 0 else 0.0), lambda z: z.detach()],
    ids=["item", "branch", "detach"],
)
def test_a_value_that_left_torch_is_its_own_draw_too(leak):
    def view(values, box):
        return leak(values["z"])

    with pytest.raises(BaselineError, match="'z': its baseline depends on its own draw"):
        vg.ELBO()(*seeing(view))()


@pytest.mark.parametrize("estimator", [Enumerate(), LeaveOneOut(2), DisARM()], ids=repr)
def test_only_score_functions_take_a_baseline(estimator):
    with pytest.raises(TypeError, match="baseline"):
        type(estimator)(baseline=MovingAverage())


def test_a_baseline_that_cannot_act_is_an_error():
    def guide():
        vg.sample("z", dist.Normal(vg.param("m", 0.0), 1.0), estimator=Pathwise(baseline=MovingAverage()))

    with pytest.raises(SiteError, match="'z': a baseline has no effect on a pathwise gradient"):
        vg.ELBO()(lambda: vg.sample("z", dist.Normal(0.0, 1.0)), guide)()


def test_a_rejection_sampler_uses_its_baseline():
    def guide():
        q = dist.RejectionGamma(vg.param("a", 2.5, dist.constraints.positive), torch.tensor(1.2))
        vg.sample("z", q, estimator=Pathwise(baseline=MovingAverage(0.5)))

    def model():
        z = vg.sample("z", dist.Gamma(2.0, 1.0))
        vg.sample("x", dist.Poisson(z), obs=torch.tensor(3.0))

    bound = vg.ELBO()(model, guide)
    bound()
    assert state_of(bound).shape == ()


# State.


@pytest.mark.parametrize("how", ["state_dict", "deepcopy", "pickle"])
@pytest.mark.parametrize("name", ["moving average", "per element", "sum of three"])
def test_states_are_saved_and_restored(name, how):
    baseline = STATES[name]()[0]
    bound = bound_of(baseline)
    for _ in range(4):
        bound()
    if how == "deepcopy":
        other = copy.deepcopy(bound)
    else:
        state = bound.state_dict()
        other = bound_of(copy.deepcopy(baseline))
        other.load_state_dict(pickle.loads(pickle.dumps(state)) if how == "pickle" else state)
    mine, yours = state_of(bound), state_of(other)
    pairs = zip(mine, yours, strict=True) if isinstance(mine, tuple) else [(mine, yours)]
    for one, two in pairs:
        assert one is two is None or (one is not two and torch.equal(one, two))
    assert bound.steps == other.steps
    if how != "deepcopy":  # whose guide is the same closure, with the first bound's networks
        a, b = (run_outcomes(x, (1, 0, 1)).surrogate for x in (bound, other))
        assert torch.equal(a, b)


def test_an_estimate_changes_no_state():
    bound = bound_of(MovingAverage(0.5))
    bound()
    before = state_of(bound).clone()
    bound.estimate()
    expected_gradient(bound)
    bound.evaluate(particles=3)
    assert torch.equal(state_of(bound), before)
    bound()
    assert not torch.equal(state_of(bound), before)


def test_states_do_not_grow_and_hold_no_graph():
    bound = bound_of(STATES["sum of three"]()[0], MovingAverage(0.9, per_element=True))
    sizes = []
    for _ in range(5):
        for _ in range(10):
            bound().backward()
        states = bound.estimator_states
        sizes.append(len(pickle.dumps(states)))
        tensors = [*states["z"], states["a"]]
        assert not any(s.requires_grad for s in tensors if s is not None)
        assert set(states) == {"a", "z"}
    assert max(sizes) - min(sizes) < 16


def test_a_moving_average_follows_the_program_to_another_dtype():
    def model():
        vg.sample("z", dist.Bernoulli(torch.tensor(0.3)))

    def guide():
        vg.sample("z", dist.Bernoulli(logits=vg.param("t", 0.5)), estimator=Score(MovingAverage()))

    bound = vg.ELBO()(model, guide)
    bound()
    bound.to(torch.float64)
    assert bound().dtype == torch.float64


# Combinations.


def test_a_combination_finds_out_which_of_its_parts_is_good():
    good, wild = MovingAverage(0.9, per_element=True), ValueBaseline(torch.tensor([40.0, -70.0]))
    found = {}
    for name, baseline in (("good", good), ("both", Combination(good, wild)), ("wild", wild)):
        bound = bound_of(baseline, MovingAverage(0.9))
        for _ in range(200):
            bound()
        found[name] = total(is_exact(bound))
    assert found["both"] < 1.2 * found["good"] < 0.01 * found["wild"]


def test_equal_parts_share_equally():
    bound = bound_of(Combination(MovingAverage(0.9), MovingAverage(0.9), NoBaseline()))
    for _ in range(50):
        bound()
    shares = _coefficients(state_of(bound)[1])
    # What tells them apart is the ridge alone, 1000 units of rounding: a rounding moves a share by 1/1000. The
    # products, their scaling and the elimination round some ten times, to one side or the other.
    assert abs(float(shares[0] - shares[1])) < 0.02 and 0.7 < float(shares[:2].sum()) < 1.3
    assert torch.isclose(shares[2], torch.tensor(1 / 3))  # of nothing


def test_parts_of_very_different_size():
    parts = ValueBaseline(torch.tensor([1e6, -1e6])), ValueBaseline(torch.tensor([1e-6, 2e-6]))
    bound = bound_of(Combination(*parts))
    costs = torch.tensor([-3.0, 5.0])
    products = torch.stack([p.value for p in parts]) @ torch.stack([*[p.value for p in parts], costs]).T / 2
    values = _coefficients(products) @ torch.stack([p.value for p in parts])
    assert torch.allclose(values, costs, rtol=1e-3), values
    bound()


def test_networks_of_a_combination_are_trained_each_by_the_whole_cost():
    one, two = linear(seed=1), linear(seed=2)
    both = bound_of(Combination(NeuralBaseline(one, torch.ones(2, 1)), NeuralBaseline(two, torch.ones(2, 1))))
    assert {n for n, _ in both.named_parameters() if n.startswith("baselines.")} == {
        f"baselines.z.{i}.{p}" for i in range(2) for p in ("weight", "bias")
    }
    for net in (one, two):
        alone = bound_of(NeuralBaseline(net, torch.ones(2, 1)))
        grads = []
        for bound in (alone, both):
            bound.draw_from(Source(torch.Generator().manual_seed(3)))
            grads.append(torch.autograd.grad(bound.estimate().surrogate, list(net.parameters())))
        assert all(torch.allclose(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("make", [lambda: Combination(MovingAverage()), lambda: Combination(MovingAverage(), 0.3)])
def test_a_combination_of_one_is_none(make):
    with pytest.raises(BaselineError, match=r"two or more baselines.*Try: Combination\("):
        make()


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decays_of_combinations_and_constants(decay):
    for make in (lambda: Combination(NoBaseline(), NoBaseline(), decay=decay), lambda: OptimalScore(decay=decay)):
        with pytest.raises(BaselineError, match=r"decay must be in \[0, 1\)"):
            make()


def test_an_optimal_score_beats_an_average_where_the_score_is_not_even():
    """Its constant weighs costs by the squared score: a rare value, which has a large one, counts for more."""

    def bound(estimator):
        def program(**options):
            vg.sample("z", dist.Bernoulli(logits=vg.param("t", 2.5)), **options)

        return vg.ELBO(weights={"z": 0.0}).bind(
            lambda: vg.factor("f", 3 * vg.sample("z", dist.Bernoulli(0.5))),
            lambda: program(estimator=estimator),
            Source(torch.Generator().manual_seed(0)),
        )

    found = {}
    for name, estimator in (("average", Score(MovingAverage(0.99))), ("optimal", OptimalScore(decay=0.998))):
        one = bound(estimator)
        for _ in range(1500):
            one()
        found[name] = total(expected_gradient(one))
    assert found["optimal"] < 0.1 * found["average"]


def test_families_whose_parameters_are_free():
    """The mean over many draws is the gradient that the plain score function has, on average over the same draws."""
    positive = dist.constraints.positive
    many = 10_000
    for family, parameters in (
        (dist.Gamma, {"concentration": 2.5, "rate": 1.5}),
        (dist.Beta, {"concentration1": 2.0, "concentration0": 3.0}),
        (dist.Normal, {"loc": 0.5, "scale": 0.8}),
        (dist.LogNormal, {"loc": 0.1, "scale": 0.4}),
        (dist.Laplace, {"loc": 0.1, "scale": 0.4}),
        (dist.Exponential, {"rate": 1.5}),
        (dist.Poisson, {"rate": 2.5}),
        (dist.Geometric, {"logits": -0.4}),
        (lambda logits: dist.Binomial(5, logits=logits), {"logits": 0.4}),
        (lambda logits: dist.NegativeBinomial(torch.tensor(2.5), logits=logits), {"logits": -0.4}),
    ):

        def model(family=family, parameters=parameters):
            with vg.plate("n", many):
                z = vg.sample("z", family(**{k: torch.tensor(v) for k, v in parameters.items()}))
                vg.factor("f", torch.log1p(z.abs()))

        def guide(estimator, family=family, parameters=parameters):
            free = {
                k: vg.param(
                    k, torch.full((many,), v), event_dim=0, constraint=positive if v > 0 else dist.constraints.real
                )
                for k, v in parameters.items()
            }
            with vg.plate("n", many):
                vg.sample("z", family(**free), estimator=estimator)

        grads = {}
        for estimator in (Score(), OptimalScore()):
            bound = vg.ELBO(weights={"z": 0.0}).bind(
                model, lambda e=estimator: guide(e), Source(torch.Generator().manual_seed(1))
            )
            bound()
            for name, each in bound.gradients(1, seed=5).items():
                grads.setdefault(name, []).append(each[0])
        for name, (plain, optimal) in grads.items():
            difference = plain - optimal
            assert abs(difference.mean()) < 5 * difference.std() / many**0.5, (family, name)
            assert optimal.var() < plain.var()
