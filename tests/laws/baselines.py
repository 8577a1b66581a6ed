"""Baselines: what they know, when they know it, and what they refuse."""

import torch

import varigrad as vg
from laws.base import TOLERANCE, bernoulli, drawn, hold, law, logits, seeded, t
from varigrad import distributions as dist
from varigrad.errors import BaselineError
from varigrad.estimators import (
    Combination,
    LeaveOneOut,
    MovingAverage,
    NeuralBaseline,
    OptimalScore,
    Score,
    ValueBaseline,
)
from varigrad.gradients.outcomes import Outcomes
from varigrad.testing import exact_gradient, expected_gradient, largest_difference


def _costs(bound):
    """The cost for z = 0 and z = 1, by hand."""
    z = t(0.0, 1.0)
    q = dist.Bernoulli(logits=bound.t.detach())
    return dist.Bernoulli(t(0.3)).log_prob(z) + dist.Normal(2 * z, t(1.0)).log_prob(t(0.8)) - q.log_prob(z)


def _outcome(bound, z):
    """What the bound estimates if `z` is drawn."""
    bound.draw_from(Outcomes((z,)))
    return bound.estimate()


@law
def a_moving_average_is_carried_and_used_before_it_sees_the_draw():
    for per_element in (False, True):
        bound = seeded(vg.ELBO(), *bernoulli(Score(MovingAverage(0.9, per_element=per_element))))
        average = t(0.0)
        for z in (1, 0, 1, 1):
            cost = _costs(bound)[z]
            result = _outcome(bound, z)
            (grad,) = torch.autograd.grad(result.surrogate, [bound.t])
            score = z - torch.sigmoid(bound.t.detach())
            assert torch.allclose(grad, (cost - average) * score)
            average = 0.9 * average + 0.1 * cost
            bound.advance(result.state)
            assert torch.allclose(bound.estimator_states["z"], average)


@law
def a_network_is_trained_by_its_squared_error_alone():
    net = torch.nn.Linear(1, 1).double()
    guide_input = []

    def model():
        z = vg.sample("z", dist.Bernoulli(t(0.3)))
        vg.sample("x", dist.Normal(2 * z, t(1.0)), obs=t(0.8))

    def guide():
        logit = logits("t", 0.7)
        guide_input[:] = [logit.reshape(1)]  # a parameter of the guide: the network must not move it
        vg.sample("z", dist.Bernoulli(logits=logit), estimator=Score(NeuralBaseline(net, lambda _: guide_input[0])))

    bound, _ = hold(model, guide, elbo=vg.ELBO())
    costs, plain = _costs(bound), bernoulli(Score())
    value = net(bound.t.detach().reshape(1)).detach().squeeze()
    for z in (0, 1):
        surrogate = _outcome(bound, z).surrogate
        weight, bias, logit = torch.autograd.grad(surrogate, [net.weight, net.bias, bound.t], allow_unused=True)
        assert bias is not None, "the network is not trained"
        assert torch.allclose(bias.squeeze(), 2 * (costs[z] - value))
        assert torch.allclose(weight.squeeze(), 2 * (costs[z] - value) * bound.t.detach())
        assert torch.allclose(logit, (costs[z] - value) * (z - torch.sigmoid(bound.t.detach())))
    assert largest_difference(expected_gradient(bound).mean, expected_gradient(vg.ELBO()(*plain)).mean) < TOLERANCE


@law
def the_second_baseline_learns_what_the_first_leaves():
    bound = seeded(vg.ELBO(), *bernoulli(Score(ValueBaseline(t(-2.0)) + MovingAverage(0.5))))
    result = _outcome(bound, 1)
    assert torch.allclose(result.state["z"][1], 0.5 * (_costs(bound)[1] + 2.0))
    (grad,) = torch.autograd.grad(result.surrogate, [bound.t])
    assert torch.allclose(grad, (_costs(bound)[1] + 2.0) * (1 - torch.sigmoid(bound.t.detach())))


@law
def a_value_baseline_is_detached():
    def guide():
        logit = logits("t", 0.7)
        vg.sample("z", dist.Bernoulli(logits=logit), estimator=Score(ValueBaseline(3 * logit)))

    hold(bernoulli(Score())[0], guide)


@law
def a_combination_is_the_best_of_the_past():
    """By hand, and with the coefficients of a least-squares fit once they are known."""
    bound = seeded(vg.ELBO(), *bernoulli(Score(Combination(ValueBaseline(t(2.0)), MovingAverage(0.5), decay=0.5))))
    values, products, average = t(2.0, 0.0), torch.zeros(2, 3, dtype=torch.float64), t(0.0)
    for step, z in enumerate((1, 0, 1, 1, 0, 0)):
        cost = _costs(bound)[z]
        values = torch.stack([t(2.0), average])
        if step == 0:
            share = t(0.5, 0.5)
        elif step == 1:  # nothing is known of an average that was zero
            share = torch.stack([products[0, 2] / products[0, 0], t(0.5)])
        else:
            share = torch.linalg.solve(products[:, :2], products[:, 2])
        result = _outcome(bound, z)
        (grad,) = torch.autograd.grad(result.surrogate, [bound.t])
        expected = (cost - (share * values).sum()) * (z - torch.sigmoid(bound.t.detach()))
        assert torch.allclose(grad, expected, rtol=0.02), (step, grad, expected)
        products = 0.5 * products + 0.5 * values.unsqueeze(-1) * torch.cat([values, cost.reshape(1)])
        average = 0.5 * average + 0.5 * cost
        bound.advance(result.state)
        assert torch.allclose(bound.estimator_states["z"][1], products)


@law
def optimal_constants_are_those_of_the_past():
    """Averages of f s^2 and of s^2, used before they see the draw; with the true ones a coin has no variance."""
    for logit in (0.7, -2.0):

        def guide(logit=logit):
            vg.sample("z", dist.Bernoulli(logits=logits("t", logit)), estimator=OptimalScore(decay=0.5))

        model, _ = bernoulli(Score())
        bound = seeded(vg.ELBO(), model, guide)
        first = second = t(0.0)
        costs, p = _costs(bound), torch.sigmoid(t(logit))
        for z in (1, 0, 1):
            score = z - p
            constant = first / second if second > 0 else 0.0
            result = _outcome(bound, z)
            (grad,) = torch.autograd.grad(result.surrogate, [bound.t])
            assert torch.allclose(grad, (costs[z] - constant) * score)
            first, second = 0.5 * (first + costs[z] * score**2), 0.5 * (second + score**2)
            bound.advance(result.state)
        q, scores = torch.stack([1 - p, p]), t(0.0, 1.0) - p
        bound.advance({"z": (None, (torch.stack([(q * costs * scores**2).sum(), (q * scores**2).sum()]),))}, steps=0)
        moments = expected_gradient(bound)
        assert largest_difference(moments.mean, exact_gradient(bound)[1]) < TOLERANCE
        assert moments.variance["t"] < TOLERANCE


@law
def optimal_constants_differ_between_parameters():
    """Each logit of a choice and each coin of an event has the constant that is best for it alone."""
    row, grid = t(0.4, -0.2, 1.0), torch.cartesian_prod(t(0.0, 1.0), t(0.0, 1.0))
    eye = torch.eye(3, dtype=torch.float64)
    for family, start, values, scores, own, of in (
        (
            lambda x: dist.Categorical(logits=x),
            row,
            torch.arange(3),
            eye - row.softmax(-1),
            eye - row.softmax(-1),  # a choice holds its logits normalised
            lambda z: t(-1.0, 0.3, 2.0)[z],
        ),
        (
            lambda x: dist.Bernoulli(logits=x).to_event(1),
            row[:2],
            grid,
            grid - row[:2].sigmoid(),
            eye[:2, :2],
            lambda z: (z * t(0.5, 3.0)).sum(-1).exp(),
        ),
    ):

        def model(family=family, start=start, of=of):
            vg.factor("f", of(vg.sample("z", family(start))))

        def guide(family=family, start=start):
            vg.sample("z", family(vg.param("t", start.clone)), estimator=OptimalScore())

        bound = seeded(vg.ELBO(weights={"z": 0.0}), model, guide)
        costs, weights = of(values).unsqueeze(-1), family(start).log_prob(values).exp().unsqueeze(-1)
        averages = torch.stack([(weights * costs * scores**2).sum(0), (weights * scores**2).sum(0)])
        bound.advance({"z": (None, (averages,))}, steps=0)
        moments = expected_gradient(bound)
        gradient = (weights * costs * scores).sum(0)
        best = (weights * (((costs - averages[0] / averages[1]) * scores) @ own) ** 2).sum(0) - gradient**2
        assert torch.allclose(moments.mean["t"], gradient)
        assert torch.allclose(moments.variance["t"], best)
        one = averages[0].sum() / averages[1].sum()
        assert best.sum() < 0.99 * ((weights * ((costs - one) * scores) ** 2).sum(0) - gradient**2).sum()


@law
def leave_one_out_is_vargrad():
    """Half the variance of the log-ratio over the draws has minus its gradient, draw by draw."""
    seen = []

    def model():
        z = vg.sample("z", dist.Categorical(t(0.2, 0.5, 0.3)))
        seen[:] = [z]
        vg.sample("x", dist.Normal(t(-1.0, 0.0, 2.0)[z], t(1.0)), obs=t(0.4))

    def guide():
        vg.sample("z", dist.Categorical(logits=logits("t", 0.1, -0.4, 0.9)), estimator=LeaveOneOut(3))

    bound = seeded(vg.ELBO(), model, guide)
    for seed in range(6):
        found = drawn(bound, seed)["t"]
        z = seen[0].detach().reshape(-1)
        log_p = t(0.2, 0.5, 0.3).log()[z] + dist.Normal(t(-1.0, 0.0, 2.0)[z], t(1.0)).log_prob(t(0.4))
        half = 0.5 * (log_p - bound.t.log_softmax(-1)[z]).var()
        (grad,) = torch.autograd.grad(half, [bound.t])
        assert len(z) == 3 and torch.allclose(found, -grad)


def _refused(text, model, guide):
    try:
        bound = vg.ELBO()(model, guide)
        for _ in range(2):
            bound()
    except BaselineError as error:
        assert text in str(error), error
    else:
        raise AssertionError(f"no error says {text!r}")


@law
def a_baseline_does_not_see_its_own_draw():
    net = torch.nn.Linear(1, 1).double()
    for view in (lambda z: (2 * z).reshape(1), lambda z: t(z.item()).reshape(1)):
        own = NeuralBaseline(net, lambda values, view=view: view(values["z"]))
        _refused("depends on its own draw", *bernoulli(Score(own)))


@law
def a_network_is_not_shared_nor_built_anew():
    net = torch.nn.Linear(1, 1).double()

    def guide():
        vg.module("net", net)
        estimator = Score(NeuralBaseline(net, t(1.0).reshape(1)))
        vg.sample("z", dist.Bernoulli(logits=net(t(1.0).reshape(1)).squeeze()), estimator=estimator)

    model, _ = bernoulli(Score())
    _refused("shares the parameter", model, guide)

    def fresh():
        estimator = Score(NeuralBaseline(torch.nn.Linear(1, 1).double(), t(1.0).reshape(1)))
        vg.sample("z", dist.Bernoulli(logits=logits("t", 0.7)), estimator=estimator)

    _refused("a new object in every run", model, fresh)
