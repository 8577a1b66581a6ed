"""Partly reparameterised draws: who is served, what it costs, and the company of other estimators."""

import copy
import pickle

import pytest
import torch

import varigrad as vg
from varigrad import distributions as dist
from varigrad.distributions.rng import Source
from varigrad.errors import SiteError
from varigrad.estimators import Enumerate, GRep, LeaveOneOut, MovingAverage, Pathwise, Rebar, Rsvi, Score
from varigrad.testing import assert_unbiased

BOTH = (GRep(), Rsvi(), Rsvi(0), GRep(baseline=MovingAverage()), Rsvi(2, baseline=MovingAverage()))


def t(value):
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("estimator", BOTH, ids=repr)
def test_copies_and_names(estimator):
    assert pickle.loads(pickle.dumps(estimator)) == estimator == copy.deepcopy(estimator)
    assert estimator.promises.unbiased and "unbiased" not in repr(estimator)


@pytest.mark.parametrize("estimator", BOTH, ids=repr)
@pytest.mark.parametrize("vectorize", [None, False])
def test_one_evaluation(estimator, vectorize):
    rows = []

    def model():
        z = vg.sample("z", dist.Gamma(t(2.0), t(1.0)))
        rows.append(z.numel())
        vg.sample("x", dist.Poisson(z), obs=t(3.0))

    def guide():
        a = vg.param("a", lambda: t(2.5), dist.constraints.positive)
        vg.sample("z", dist.Gamma(a, t(1.0)), estimator=estimator)

    bound = vg.ELBO(vectorize=vectorize)(model, guide).init()
    rows.clear()
    bound().backward()
    assert rows == [1]


@pytest.mark.parametrize("estimator", [GRep(), Rsvi()], ids=repr)
@pytest.mark.parametrize(
    ("family", "kind"),
    [
        (dist.Normal(0.0, 1.0), "Normal"),
        (dist.Bernoulli(torch.tensor(0.3)), "Bernoulli"),
        (dist.StudentT(3.0), "StudentT"),
        (dist.LogNormal(torch.zeros(2), torch.ones(2)).to_event(1), "Normal"),
    ],
)
def test_families_that_are_refused(estimator, family, kind):
    with pytest.raises(SiteError, match=f"and this is {kind}") as caught:
        vg.ELBO()(lambda: vg.sample("z", family), lambda: vg.sample("z", family, estimator=estimator))
    assert "Pathwise()" in str(caught.value)


@pytest.mark.parametrize("boost", [-1, 1.0, True, None])
def test_shape_augmentation(boost):
    with pytest.raises(SiteError, match="shape_augmentation must be a whole number"):
        Rsvi(boost)


def company(one, other, third):
    """A choice that is partly differentiable, in lanes and above a choice that is not differentiable."""

    def model():
        with vg.plate("n", 2):
            c = vg.sample("c", dist.Bernoulli(t(0.4)))
            z = vg.sample("z", dist.Gamma(t(2.0) + c, t(1.0)))
            w = vg.sample("w", dist.Bernoulli(z / (1 + z)))
            vg.sample("x", dist.Normal(z.log() + w - c, t(1.0)), obs=t([0.8, -0.3]))

    def guide():
        a = vg.param("a", lambda: t(2.2), dist.constraints.positive)
        with vg.plate("n", 2):
            c = vg.sample("c", dist.Bernoulli(logits=vg.param("u", lambda: t([0.3, -0.6]))), estimator=one)
            z = vg.sample("z", dist.Gamma(a + 0.5 * c, t([1.1, 1.6])), estimator=other)
            vg.sample("w", dist.Bernoulli(logits=vg.param("v", lambda: t(0.2)) + 0.3 * z), estimator=third)

    return model, guide


@pytest.mark.parametrize(
    ("one", "other", "third"), [(LeaveOneOut(2), GRep(), Score(MovingAverage())), (Enumerate(), Rsvi(), LeaveOneOut(2))]
)
def test_in_company(one, other, third):
    """The reference is made of leave-one-out at every site."""
    model, guide = company(one, other, third)
    assert_unbiased(model, guide, (), {"c": one, "z": other, "w": third}, draws=300)


def test_a_smooth_choice_above_is_refused():
    model, guide = company(Rebar(), GRep(), Score())
    with pytest.raises(SiteError, match="the draw of 'z' below it is only partly differentiable"):
        vg.ELBO()(model, guide)


@pytest.mark.parametrize("estimator", [GRep(), Rsvi()], ids=repr)
def test_a_value_that_is_given_has_no_score(estimator):
    model, guide = company(Score(), estimator, Score())
    held = vg.handlers.substitute(guide, {"z": t([0.7, 1.2])})
    bound = vg.ELBO()(model, held).init()
    bound().backward()
    assert bound.a.grad.isfinite()


@pytest.mark.parametrize("concentration", [0.05, 1.0, 1e4])
@pytest.mark.parametrize("estimator", [GRep(), Rsvi(), Pathwise()], ids=repr)
def test_extreme_concentrations(estimator, concentration):
    def guide():
        c = vg.param("c", lambda: torch.full((3,), concentration), dist.constraints.positive, event_dim=1)
        vg.sample("z", dist.Dirichlet(c), estimator=estimator)

    def model():
        vg.factor("f", vg.sample("z", dist.Dirichlet(torch.full((3,), concentration))) @ torch.tensor([1.0, 2.0, 0.5]))

    bound = vg.ELBO(weights={"z": 0.0}).bind(model, guide, Source(torch.Generator().manual_seed(2))).init()
    for _ in range(20):
        bound().backward()
    assert all(p.grad.isfinite().all() for p in bound.parameters())
