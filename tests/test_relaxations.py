"""Biased estimators, which serve by name: they say so, refuse what they cannot differentiate, keep a schedule."""

import pickle
import re

import pytest
import torch
from graph_harness import by_graph, svi_of, taken
from torch import distributions as td

import varigrad as vg
from varigrad import distributions as dist
from varigrad.distributions.rng import Source
from varigrad.errors import SiteError
from varigrad.estimators import (
    Annealed,
    GappedStraightThrough,
    GumbelRao,
    GumbelSoftmax,
    LeaveOneOut,
    StraightThrough,
    StraightThroughGumbel,
)
from varigrad.testing import assert_unbiased

ALL = (GumbelSoftmax(), StraightThrough(), StraightThroughGumbel(), GumbelRao(), GappedStraightThrough())
TABLE = torch.tensor([0.3, 1.4], dtype=torch.float64)


def t(value):
    return torch.tensor(value, dtype=torch.float64)


def model():
    z = vg.sample("z", dist.Bernoulli(t(0.3)))
    vg.sample("x", dist.Normal(2 * z, t(1.0)), obs=t(0.8))


def guide():
    vg.sample("z", dist.Bernoulli(logits=vg.param("t", lambda: t(0.7))))


def rare():
    vg.sample("z", dist.Bernoulli(logits=vg.param("t", lambda: t(-2.0))))


def bound_of(estimator, program=model, **options):
    source = Source(torch.Generator().manual_seed(1))
    return vg.ELBO(estimators={"z": estimator}, **options).bind(program, guide, source)


# What shows


@pytest.mark.parametrize("estimator", ALL, ids=lambda e: type(e).__name__)
def test_they_say_that_they_are_biased(estimator):
    assert "unbiased=False" in repr(estimator)
    assert pickle.loads(pickle.dumps(estimator)) == estimator
    plan = bound_of(estimator).plan()
    assert not plan["z"].unbiased and plan["z"].alternatives == 0
    assert re.search(r"z: \w+\(.*\) has unbiased=False", str(plan))
    found = vg.compare(model, rare, (), {"z": [estimator, LeaveOneOut(2)]}, budget=4000)
    name = found.measured[0].estimator
    assert found[name].verdict == "biased by name" and "says so itself; here by up to" in found[name].because
    assert abs(found[name].rows[0].z) > 2 and found.recommended == "LeaveOneOut(k=2)"
    alone = vg.compare(model, rare, (), {"z": [estimator]}, budget=20)
    assert alone.recommended is None and "none of these estimators is unbiased" in alone.advice[0].text


def test_they_are_no_default_and_fail_a_test_of_bias():
    assert "Score" in vg.ELBO()(model, guide).plan()["z"].estimator
    with pytest.raises(AssertionError, match="'t' is biased by"):
        assert_unbiased(model, guide, (), {"z": StraightThrough()})


@pytest.mark.parametrize("estimator", ALL, ids=lambda e: type(e).__name__)
def test_one_evaluation(estimator):
    rows = []

    def counted():
        z = vg.sample("z", dist.Bernoulli(t(0.3)))
        rows.append(z.numel())
        vg.sample("x", dist.Normal(2 * z, t(1.0)), obs=t(0.8))

    bound = bound_of(estimator, counted)
    rows.clear()
    bound()
    assert rows == [1]


def test_a_value_alone_is_that_of_the_program():
    """Without gradients there is nothing to soften for: `evaluate` bounds the evidence."""
    bound = bound_of(GumbelSoftmax(0.5))
    values = {round(bound.evaluate(), 9) for _ in range(40)}
    assert len(values) == 2
    assert len({round(float(bound.estimate().value), 9) for _ in range(40)}) == 40


def test_a_divergence_in_closed_form_is_not_relaxed():
    def prior_alone():
        vg.sample("z", dist.Bernoulli(t(0.3)))

    for estimator in ALL:
        bound = bound_of(estimator, prior_alone, analytic_kl=True)
        (logit,) = bound.parameters()
        (grad,) = torch.autograd.grad(bound.estimate().surrogate, logit)
        kl = td.kl_divergence(td.Bernoulli(logits=logit), td.Bernoulli(t(0.3)))
        assert torch.allclose(grad, -torch.autograd.grad(kl, logit)[0])


# Schedules


def test_a_schedule_is_saved_and_resumed_and_goes_on_in_captured_steps():
    def make():
        chosen = {"z": GumbelSoftmax(Annealed(2.0, 0.3, 12))}
        return svi_of(model, guide, vg.ELBO(estimators=chosen))

    with by_graph():
        whole = make()
        losses = [float(whole.step()) for _ in range(12)]
        assert taken(whole) > 0 and int(whole.bound.estimator_states["z"]) == 12
        half = make()
        first = [float(half.step()) for _ in range(6)]
        state = pickle.loads(pickle.dumps(half.state()))
        other = make()
        other.load_state(state)
        assert int(other.bound.estimator_states["z"]) == 6
        assert first + [float(other.step()) for _ in range(6)] == pytest.approx(losses)


def test_looking_at_gradients_leaves_a_schedule_where_it_is():
    bound = bound_of(GumbelSoftmax(Annealed(2.0, 0.3, 12)))
    bound()
    bound.gradients(5)
    vg.compare(model, guide, (), {"z": [GumbelSoftmax()]}, budget=20, at=bound)
    assert bound.estimator_states["z"] == 1


# Bad input


@pytest.mark.parametrize(
    "make", [GumbelSoftmax, StraightThroughGumbel, lambda x: GumbelRao(2, x), GappedStraightThrough]
)
@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf"), True, "hot", None])
def test_temperatures(make, temperature):
    with pytest.raises(SiteError, match="temperature must be a positive number"):
        make(temperature)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Annealed(0.0, 1.0, 5), "start must be a positive number"),
        (lambda: Annealed(1.0, -1.0, 5), "end must be a positive number"),
        (lambda: Annealed(1.0, 0.5, 0), "steps must be a whole number"),
        (lambda: GumbelRao(0), "k must be a whole number"),
        (lambda: GumbelRao(2.5), "k must be a whole number"),
        (lambda: GappedStraightThrough(gap=-0.1), "gap must be a number of at least 0"),
    ],
)
def test_options(make, text):
    with pytest.raises(SiteError, match=text):
        make()


@pytest.mark.parametrize("estimator", ALL, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize(
    ("family", "because", "try_"),
    [
        (dist.Categorical(torch.ones(3)), "needs values between the categories", "one_hot @ table"),
        (dist.Categorical(torch.ones(2, 3)).to_event(1), "needs values between the categories", "OneHotCategorical"),
        (dist.Normal(0.0, 1.0), "is for Bernoulli and OneHotCategorical choices, and this is Normal", "LeaveOneOut"),
        (dist.Poisson(torch.tensor(1.0)), "and this is Poisson", "LeaveOneOut"),
    ],
)
def test_families(estimator, family, because, try_):
    with pytest.raises(SiteError, match=because) as caught:
        vg.ELBO()(lambda: vg.sample("z", family), lambda: vg.sample("z", family, estimator=estimator))
    assert try_ in str(caught.value)


JUMPS = {
    "number": lambda z: t(z.item()),
    "branch": lambda z: TABLE[0] if z else TABLE[1],
    "index": lambda z: TABLE[z.long()],
    "index by number": lambda z: TABLE[int(z)],
    "comparison": lambda z: torch.where(z == 1, TABLE[0], TABLE[1]),
    "boolean": lambda z: torch.where(z.bool(), TABLE[0], TABLE[1]),
    "not": lambda z: torch.logical_not(z).to(TABLE),
    "round": torch.round,
    "floor": lambda z: z // 1,
    "rounding mode": lambda z: torch.div(z, 0.7, rounding_mode="floor"),
    "to integer": lambda z: z.to(torch.int64).to(TABLE),
    "type": lambda z: z.type(torch.int64).to(TABLE),
    "one hot": lambda z: torch.nn.functional.one_hot(z.long(), 2).to(TABLE) @ TABLE,
    "embedding": lambda z: torch.nn.functional.embedding(z.long(), TABLE.unsqueeze(-1)).squeeze(-1),
    "argmax": lambda z: TABLE[torch.stack([1 - z, z]).argmax(-1)],
    "numpy": lambda z: t(float(z.numpy())),
    "list": lambda z: t(z.tolist()),
}
LOST = {
    "detach": lambda z: z.detach(),
    "partly detached": lambda z: z + z.detach(),
    "data": lambda z: z.data,
    "copy": lambda z: torch.tensor(z),
}


@pytest.mark.filterwarnings("ignore:To copy construct")
@pytest.mark.parametrize("use", [*JUMPS, *LOST])
def test_models_that_cannot_be_differentiated(use):
    def stepped():
        z = vg.sample("z", dist.Bernoulli(t(0.3)))
        vg.sample("x", dist.Normal({**JUMPS, **LOST}[use](z), t(1.0)), obs=t(0.8))

    with pytest.raises(SiteError, match="cannot serve this site") as caught:
        bound_of(GumbelSoftmax(), stepped)
    reason = "compared, rounded, converted" if use in JUMPS else "detached"
    assert reason in str(caught.value) and "z * a + (1 - z) * b" in str(caught.value)


def test_models_that_let_validation_look():
    def validated():
        z = vg.sample("z", td.Bernoulli(t(0.3)))
        vg.sample("x", td.Normal(2 * z, t(1.0), validate_args=True), obs=t(0.8))

    with pytest.raises(SiteError, match=r"validation of raw torch\.distributions"):
        bound_of(GumbelSoftmax(), validated)

    def unvalidated():
        z = vg.sample("z", td.Bernoulli(t(0.3)))  # its own support is checked at values of the support only
        vg.sample("x", td.Normal(2 * z, t(1.0), validate_args=False), obs=t(0.8))

    assert bound_of(GumbelSoftmax(), unvalidated)().isfinite()


@pytest.mark.parametrize("estimator", ALL, ids=lambda e: type(e).__name__)
def test_raw_families_and_straight_through_ones(estimator):
    """The rsample of torch's own straight-through family is not used."""

    def one_hot():
        z = vg.sample("z", td.OneHotCategorical(t([0.2, 0.5, 0.3])))
        vg.factor("f", (z * t([0.5, -1.0, 2.0])).sum(-1).exp())

    def straight():
        free = vg.param("t", lambda: t([0.2, -0.3, 0.1]), event_dim=1)
        vg.sample("z", td.OneHotCategoricalStraightThrough(logits=free), estimator=estimator)

    bound = vg.ELBO()(one_hot, straight).init()
    bound().backward()
    assert bound.t.grad.isfinite().all() and bound.t.grad.abs().sum() > 0


@pytest.mark.parametrize("estimator", ALL, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("logit", [-60.0, 0.0, 60.0])
def test_probabilities_near_nought_and_one(estimator, logit):
    def single():
        z = vg.sample("z", dist.Bernoulli(torch.tensor(0.3)))
        vg.sample("x", dist.Normal(2 * z, 1.0), obs=torch.tensor(0.8))

    def extreme():
        vg.sample("z", dist.Bernoulli(logits=vg.param("t", torch.tensor(logit))), estimator=estimator)

    bound = vg.ELBO()(single, extreme).init()
    for _ in range(20):
        bound().backward()
    assert bound.t.grad.isfinite()


@pytest.mark.parametrize("config", [vg.ELBO(5), vg.ELBO(3, vectorize=False), vg.Renyi(particles=4)])
def test_particles_and_renyi_bounds(config):
    bound = config(model, lambda: vg.sample("z", dist.Bernoulli(logits=vg.param("t", t(0.7))), estimator=ALL[3]))
    bound.init()().backward()
    assert bound.t.grad.isfinite()
