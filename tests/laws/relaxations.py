"""Relaxations: biased, so held to the mean that their formula has."""

import math

import torch

import varigrad as vg
from laws.base import TOLERANCE, bernoulli, drawn, hold, law, logits, seeded, t
from varigrad import distributions as dist
from varigrad.estimators import (
    Annealed,
    GappedStraightThrough,
    GumbelRao,
    GumbelSoftmax,
    LeaveOneOut,
    Score,
    StraightThrough,
    StraightThroughGumbel,
)
from varigrad.testing import exact_gradient, expected_gradient


def _coin_cost(z, theta):
    """The bound's terms, each continued between 0 and 1, and something curved."""
    prior = z * math.log(3 / 7) + math.log(0.7)
    own = z * theta - torch.nn.functional.softplus(theta)
    return prior - own - 0.5 * (0.8 - 2 * z).square() - 0.5 * math.log(2 * math.pi)


def _formula(estimator, logit):
    """The mean of the gradient by the logit, by integration over the concrete variable."""
    theta = t(logit)

    def by_value(z):
        z = z.detach().requires_grad_()
        return torch.autograd.grad(_coin_cost(z, theta).sum(), z)[0]

    def explicit(z):
        return torch.sigmoid(theta) - z  # of -log q at a given value

    probs = torch.stack([torch.sigmoid(-theta), torch.sigmoid(theta)])
    corners = t(0.0, 1.0)
    if isinstance(estimator, StraightThrough):
        slope = (probs[0] * probs[1]).expand(2)
    elif isinstance(estimator, GappedStraightThrough):
        lead = torch.stack([max(-theta, t(estimator.gap)), max(theta, t(estimator.gap))])
        soft = torch.sigmoid(lead / estimator.temperature)
        slope = soft * (1 - soft) / estimator.temperature
    else:
        step = 1e-3  # midpoints: the jump of the straight-through value is at a boundary
        z = step * (torch.arange(-40_000, 40_000, dtype=torch.float64) + 0.5)
        logistic = z - theta
        density = torch.sigmoid(logistic) * torch.sigmoid(-logistic) * step
        soft = torch.sigmoid(z / estimator.temperature)
        value = soft if isinstance(estimator, GumbelSoftmax) else (z > 0).to(soft.dtype)
        slope = soft * (1 - soft) / estimator.temperature
        return float((density * (by_value(value) * slope + explicit(value))).sum())
    return float((probs * (by_value(corners) * slope + explicit(corners))).sum())


@law
def relaxations_have_the_means_of_their_formulas():
    for logit in (0.7, -2.0):
        found = {}
        for estimator in (
            GumbelSoftmax(0.6),
            StraightThrough(),
            StraightThroughGumbel(0.6),
            GumbelRao(2, 0.6),
            GappedStraightThrough(0.7, 1.0),
        ):
            model, guide = bernoulli(estimator, logit=logit)
            bound = seeded(vg.ELBO(), model, guide)
            nodes = 12 if isinstance(estimator, GumbelRao) else 48
            moments = expected_gradient(bound, nodes=nodes)
            found[type(estimator)] = moments
            wanted = _formula(estimator, logit)
            error = abs(float(moments.mean["t"]) - wanted)
            assert error < (1e-6 if moments.count > 2 else TOLERANCE), (estimator, logit, error)
            assert abs(wanted - float(exact_gradient(bound)[1]["t"])) > 0.01, estimator
        one = found[GumbelRao].variance["t"], found[StraightThroughGumbel].variance["t"]
        assert one[0] < one[1]


@law
def the_average_over_given_noise_keeps_the_mean():
    for logit in (0.7, -2.0):
        means = [
            expected_gradient(seeded(vg.ELBO(), *bernoulli(e, logit=logit)), nodes=6).mean["t"]
            for e in (StraightThroughGumbel(0.6), GumbelRao(2, 0.6))
        ]
        assert abs(means[0] - means[1]) < TOLERANCE


@law
def a_straight_through_mean_is_exact_where_costs_are_linear():
    """In every choice: beside sites with other estimators, in lanes, plates and minibatches, side by side and not."""

    def program(other):
        def model():
            with vg.plate("n", 2, subsample_size=1):
                a = vg.sample("a", dist.Bernoulli(vg.subsample(t(0.3, 0.6))))
                b = vg.sample("b", dist.OneHotCategorical(t(0.2, 0.5, 0.3)))
                c = vg.sample("c", dist.Bernoulli(t(0.4, 0.7)).to_event(1))
                vg.factor("f", a * (b @ t(0.5, -1.0, 2.0)) + (b * t(1.0, 0.3, -0.4)).sum(-1) * c[..., 0] - c.sum(-1))

        def guide():
            u, v = logits("u", 0.2, -0.4), logits("v", 0.1, -0.6)
            row = torch.stack([torch.zeros_like(u[0]), *u])
            with vg.plate("n", 2, subsample_size=1):
                free = vg.param("t", lambda: t(0.7, -0.3), event_dim=0)
                vg.sample("a", dist.Bernoulli(logits=free), estimator=StraightThrough())
                vg.sample("b", dist.OneHotCategorical(logits=row), estimator=other)
                vg.sample("c", dist.Bernoulli(logits=v).to_event(1), estimator=StraightThrough())

        return model, guide

    for other, vectorize in (
        (StraightThrough(), None),
        (Score(), None),
        (LeaveOneOut(2), True),
        (LeaveOneOut(2), False),
    ):
        hold(*program(other), elbo=vg.ELBO(vectorize=vectorize), steps=1)
    hold(*program(StraightThrough()), elbo=vg.ELBO(analytic_kl=True), steps=1)


@law
def a_relaxed_choice_of_two_is_a_coin():
    """One-hot with logits (theta, 0), many draws of each: within 5 standard errors."""
    many = 4000
    costs = t(0.3, -1.0)

    def mean(estimator, family, f):
        def model():
            with vg.plate("n", many):
                vg.factor("f", f(vg.sample("z", family(t(0.0).expand(many)))))

        def guide():
            with vg.plate("n", many):
                free = vg.param("t", lambda: torch.full((many,), 0.8, dtype=torch.float64))
                vg.sample("z", family(free), estimator=estimator)

        grad = drawn(seeded(vg.ELBO(weights={"z": 0.0}), model, guide))["t"]
        return grad.mean(), grad.var() / many

    def one_hot(theta):
        return dist.OneHotCategorical(logits=torch.stack([theta, torch.zeros_like(theta)], -1))

    for estimator in (
        GumbelSoftmax(0.6),
        StraightThrough(),
        StraightThroughGumbel(0.6),
        GumbelRao(3, 0.6),
        GappedStraightThrough(0.7, 1.0),
    ):
        one, error = mean(estimator, one_hot, lambda z: (z * costs).sum(-1).exp())
        two, also = mean(
            estimator, lambda theta: dist.Bernoulli(logits=theta), lambda z: (z * costs[0] + (1 - z) * costs[1]).exp()
        )
        assert abs(one - two) < 5 * (error + also).sqrt() + 1e-12, estimator


@law
def impossible_categories_of_relaxed_choices_cost_nothing():
    def model():
        z = vg.sample("z", dist.OneHotCategorical(t(0.2, 0.5, 0.3)))
        vg.factor("f", (z * t(0.5, -1.0, 2.0)).sum(-1).square())

    def guide():
        free = vg.param("t", lambda: t(0.7, -0.2))
        row = torch.stack([free[0], t(-torch.inf), free[1]])
        vg.sample("z", dist.OneHotCategorical(logits=row))

    for estimator in (
        GumbelSoftmax(),
        StraightThrough(),
        StraightThroughGumbel(),
        GumbelRao(2),
        GappedStraightThrough(),
    ):
        bound = seeded(vg.ELBO(estimators={"z": estimator}), model, guide)
        for seed in range(4):
            assert drawn(bound, seed)["t"].isfinite().all(), estimator


@law
def a_temperature_follows_its_schedule():
    schedule = Annealed(2.0, 0.5, 4)
    bound = seeded(vg.ELBO(), *bernoulli(GumbelSoftmax(schedule)))
    for step, temperature in enumerate((2.0, 2.0**0.5, 1.0, 0.5**0.5, 0.5, 0.5)):
        fixed = seeded(vg.ELBO(), *bernoulli(GumbelSoftmax(temperature)))
        assert torch.allclose(drawn(bound, step)["t"], drawn(fixed, step)["t"])
        bound()
        assert bound.estimator_states["z"] == step + 1
