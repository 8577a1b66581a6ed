"""Estimators that look at costs between the values of a discrete support."""

from dataclasses import dataclass

import pytest
import torch

import varigrad as vg
from varigrad import distributions as dist
from varigrad.distributions.rng import Source
from varigrad.errors import SiteError
from varigrad.estimators import (
    DisARM,
    DoubleControlVariate,
    Enumerate,
    Estimator,
    LeaveOneOut,
    MovingAverage,
    MuProp,
    NeuralBaseline,
    Pathwise,
    Rebar,
    Rodeo,
    Score,
    Surrogate,
)
from varigrad.estimators.control_variate_weights import coefficients
from varigrad.gradients.moments import FIRST_ALARM, SECOND_ALARM
from varigrad.objectives import BiasWarning
from varigrad.testing import exact_gradient, expected_gradient, gradient_of, largest_difference
from varigrad.testing.conformance import sampled_error
from varigrad.testing.registered_program import Case


def t(*values):
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=torch.float64)


TABLE = t(-1.0, 2.0)


def coin_guide():
    vg.sample("z", dist.Bernoulli(logits=vg.param("t", lambda: t(0.7))))


def coin_model(mean):
    def model():
        z = vg.sample("z", dist.Bernoulli(t(0.3)))
        vg.sample("x", dist.Normal(mean(z), t(1.0)), obs=t(0.8))

    return model


def without_gradients(z):
    with torch.no_grad():
        return 3 * z - 1


def beside_a_half(z):
    return torch.stack([z, 0.5 + 0 * z], -1)


@torch.jit.script
def scripted(z: torch.Tensor) -> torch.Tensor:
    return 3 * z.round() - 1


class Square(torch.autograd.Function):
    """Gradients are switched off inside, and yet there is one."""

    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return z * z

    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


STEPS = {
    "no_grad": without_gradients,
    "the decorator": torch.no_grad()(lambda z: 3 * z - 1),
    "the index of a maximum": lambda z: TABLE[beside_a_half(z).max(-1).indices],
    "the order": lambda z: TABLE[beside_a_half(z).sort(-1)[1][..., 0]],
    "remainder": lambda z: (1.7 * z) % 1.0,
    "scripted": scripted,
    "index": lambda z: TABLE[z.long()],
    "comparison": lambda z: torch.where(z > 0.5, 2.0, -1.0).double(),
    "rounding": lambda z: 3 * z.round() - 1,
    "detach": lambda z: 3 * z.detach() - 1,
    "number": lambda z: t(3 * float(z.reshape(-1)[0]) - 1),
}


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
@pytest.mark.parametrize("how", STEPS)
def test_rebar_refuses_what_has_no_derivative(how):
    with pytest.raises(SiteError, match="Rebar cannot serve this site") as caught:
        vg.ELBO(estimators={"z": Rebar()})(coin_model(STEPS[how]), coin_guide)
    assert "'z'" in str(caught.value) and "Try: " in str(caught.value)


@pytest.mark.parametrize("how", sorted(STEPS.keys() - {"index", "number"}))
def test_pathwise_is_not_the_default_there(how):
    def guide():
        vg.sample("z", dist.Normal(vg.param("t", lambda: t(0.7)), t(1.0)))

    def model():
        z = vg.sample("z", dist.Normal(t(0.3), t(1.0)))
        vg.sample("x", dist.Normal(STEPS[how](z), t(1.0)), obs=t(0.8))

    with pytest.warns(BiasWarning, match="'z': Pathwise was asked for"):
        vg.ELBO(estimators={"z": Pathwise()})(model, guide).init()
    assert "comparison" in vg.ELBO()(model, guide).plan()["z"].why


RIGHT = {
    "a function of one's own": lambda z: 3 * Square.apply(z),
    "the order's values": lambda z: beside_a_half(z).sort(-1).values[..., 0],
    "noted on the way": lambda z: (vg.deterministic("seen", z.detach()), 3 * z)[1],
}


@pytest.mark.parametrize("how", RIGHT)
def test_pathwise_is_right_there(how):
    def guide():
        vg.sample("z", dist.Normal(vg.param("t", lambda: t(0.7)), t(1.0)))

    def model():
        z = vg.sample("z", dist.Normal(t(0.3), t(1.0)))
        vg.sample("x", dist.Normal(RIGHT[how](z), t(1.0)), obs=t(0.8))

    assert vg.ELBO()(model, guide).plan()["z"].estimator == "Pathwise()"


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
@pytest.mark.parametrize("how", STEPS)
def test_muprop_is_right_there_all_the_same(how):
    bound = vg.ELBO(estimators={"z": MuProp(MovingAverage())}, vectorize=None)(coin_model(STEPS[how]), coin_guide)
    bound()
    assert largest_difference(expected_gradient(bound).mean, exact_gradient(bound)[1]) < 1e-9


def test_partly_differentiable_draws_below_are_refused():
    def model():
        z = vg.sample("z", dist.Bernoulli(t(0.3)))
        y = vg.sample("y", dist.Gamma(t(2.0), t(1.0)))
        vg.sample("x", dist.Normal(z + y, t(1.0)), obs=t(0.8))

    def guide():
        z = vg.sample("z", dist.Bernoulli(logits=vg.param("t", lambda: t(0.7))))
        vg.sample("y", dist.RejectionGamma(2.0 + z, t(1.0)))

    with pytest.raises(SiteError, match="the draw of 'y' below it is only partly differentiable"):
        vg.ELBO(estimators={"z": Rebar()})(model, guide)


@pytest.mark.parametrize("estimator", [MuProp(), Rebar()])
def test_categories_are_indices(estimator):
    def model():
        vg.sample("z", dist.Categorical(t(0.3, 0.7)))

    def guide():
        vg.sample("z", dist.Categorical(logits=vg.param("t", lambda: t(0.7, 0.1))))

    with pytest.raises(SiteError, match="OneHotCategorical and one_hot @ table"):
        vg.ELBO(estimators={"z": estimator})(model, guide)


@pytest.mark.parametrize("temperature", [0.0, -1.0, 100.0, float("nan")])
def test_rebars_temperature(temperature):
    with pytest.raises(SiteError, match="temperature"):
        Rebar(temperature=temperature)


def test_values_need_no_gradients():
    bound = vg.ELBO(estimators={"z": Rebar()})(coin_model(lambda z: 3 * z - 1), coin_guide)
    with torch.no_grad():
        assert torch.isfinite(bound())
    assert bound.evaluate(particles=3) < 0


def test_rebar_learns_and_its_state_is_kept():
    """Least squares find the weight, the temperature moves, and the variance falls."""

    def guide():
        with vg.plate("n", 40):
            vg.sample("z", dist.Bernoulli(logits=vg.param("t", lambda: torch.linspace(-2, 2, 40).double())))

    def model():
        with vg.plate("n", 40):
            z = vg.sample("z", dist.Bernoulli(t(0.5)))
            vg.factor("f", 4 * (z - 0.45).square() + z)

    def variance(estimator, learn):
        elbo = vg.ELBO(estimators={"z": estimator})
        bound = elbo.bind(model, guide, Source(torch.Generator().manual_seed(1))).init()
        for _ in range(learn):
            bound()
        return bound, bound.gradients(300)["t"].var(0).sum()

    _, fixed = variance(Rebar(train=False), 0)
    bound, learnt = variance(Rebar(), 400)
    assert learnt < fixed / 4
    learning, (log_temperature, _), *_ = bound.estimator_states["z"]
    (eta,) = coefficients(learning, (1.0,), learning[0])
    assert eta > 1.5 and log_temperature.exp() > 2
    other = vg.ELBO(estimators={"z": Rebar()})(model, guide)
    other.load_state_dict(bound.state_dict())
    assert torch.equal(other.estimator_states["z"][0][0], learning[0])


def two_layers(first, second):
    def model():
        a = vg.sample("a", dist.Bernoulli(t(0.3, 0.6)).to_event(1))
        b = vg.sample("b", dist.Bernoulli(logits=a.flip(-1) * t(1.0, -1.0) + 0.2).to_event(1))
        vg.sample("x", dist.Normal((a * b).sum(-1) + b[..., 0], t(0.8)), obs=t(0.9))

    def guide():
        a = vg.sample("a", dist.Bernoulli(logits=vg.param("s", lambda: t(0.4, -0.8))).to_event(1), estimator=first)
        logits = vg.param("t", lambda: t(0.1, 0.6)) + a * vg.param("w", lambda: t(1.5, -1.0))
        vg.sample("b", dist.Bernoulli(logits=logits).to_event(1), estimator=second)

    return Case(model, guide, family="Bernoulli")


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1)).double()


MIXED = {
    "rebar over disarm": lambda: (Rebar(), DisARM()),
    "rebar over score": lambda: (Rebar(), Score(MovingAverage())),
    "rebar over rebar": lambda: (Rebar(), Rebar(train=False)),
    "rebar over muprop": lambda: (Rebar(baseline=MovingAverage()), MuProp()),
    "disarm over rebar": lambda: (DisARM(), Rebar()),
    "muprop over rebar": lambda: (MuProp(), Rebar()),
    "leave one out over rebar": lambda: (LeaveOneOut(3), Rebar(baseline=NeuralBaseline(network(), lambda v: v["a"]))),
}


@pytest.mark.slow
@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("pair", MIXED)
def test_layers_with_different_estimators(pair, vectorize):
    case = two_layers(*MIXED[pair]())
    particles, batches = (100, 300) if vectorize else (5, 200)
    bound = vg.ELBO(particles, vectorize=vectorize)(case.model, case.guide)
    _, gradient = exact_gradient(vg.ELBO()(two_layers(Score(), Score()).model, two_layers(Score(), Score()).guide))
    gradient = {n: g for n, g in gradient.items() if not n.startswith("baselines.")}
    for alarm, count in ((FIRST_ALARM, batches), (SECOND_ALARM, 10 * batches)):
        error, limit = sampled_error(bound, case, gradient, count, alarm)
        if error <= limit:
            return
    raise AssertionError(f"|z| = {error}, limit {limit}")


@pytest.mark.slow
def test_a_draw_that_is_differentiated_through_below_a_relaxed_one():
    """A reparameterised choice between REBAR's site and the data, and an enumerated one."""

    def model():
        a = vg.sample("a", dist.Bernoulli(t(0.3)))
        y = vg.sample("y", dist.Normal(a, t(1.0)))
        c = vg.sample("c", dist.Bernoulli(t(0.4)))
        vg.factor("f", -0.5 * (y + c * a - 0.7).square())

    def guide():
        a = vg.sample("a", dist.Bernoulli(logits=vg.param("s", lambda: t(0.4))), estimator=Rebar())
        loc = vg.param("m", lambda: t(0.2)) + a * vg.param("w", lambda: t(0.7))
        y = vg.sample("y", dist.Normal(loc, t(0.6)), estimator=Pathwise())
        vg.sample("c", dist.Bernoulli(logits=a - 0.3 + 0.0 * y), estimator=Enumerate())

    def value(p):
        total = 0.0
        for a, qa in ((0.0, 1 - p["s"].sigmoid()), (1.0, p["s"].sigmoid())):
            loc = p["m"] + a * p["w"]
            prior = dist.Bernoulli(t(0.3)).log_prob(t(a)) - qa.log()
            kl = torch.distributions.kl_divergence(dist.Normal(loc, t(0.6)), dist.Normal(t(a), t(1.0)))
            logit = t(a - 0.3)
            for c, qc in ((0.0, 1 - logit.sigmoid()), (1.0, logit.sigmoid())):
                own = dist.Bernoulli(t(0.4)).log_prob(t(c)) - qc.log()
                total = total + qa * qc * (prior - kl + own - 0.5 * ((loc + c * a - 0.7) ** 2 + t(0.36)))
        return total

    bound = vg.ELBO(100)(model, guide)
    _, gradient = gradient_of(bound, value)
    case = Case(model, guide, family="Bernoulli")
    for alarm, count in ((FIRST_ALARM, 400), (SECOND_ALARM, 4000)):
        error, limit = sampled_error(bound, case, gradient, count, alarm)
        if error <= limit:
            return
    raise AssertionError(f"|z| = {error}, limit {limit}")


@dataclass(frozen=True)
class Attached(Estimator):
    """Keeps what it should not: a state with a graph."""

    def refusal(self, distribution):
        return None

    def surrogate(self, draw, cost, state):
        return Surrogate(cost * draw.log_q, (draw.log_q.sum(), None))


@pytest.mark.parametrize(
    "estimator",
    [
        MuProp(MovingAverage()),
        MuProp(MovingAverage() + MovingAverage(0.5)),
        Rebar(baseline=MovingAverage()),
        DoubleControlVariate(2),
        Rodeo(2),
        Attached(),
    ],
)
def test_no_graph_is_carried_to_the_next_step(estimator):
    bound = vg.ELBO(estimators={"z": estimator})(coin_model(lambda z: 3 * z - 1), coin_guide)
    for _ in range(3):
        bound()

    def tensors(state):
        if isinstance(state, tuple):
            return [t for part in state for t in tensors(part)]
        return [] if state is None else [state]

    found = tensors(bound.estimator_states["z"])
    assert found and not any(t.requires_grad for t in found)
