"""What estimators do, alone and beside each other: their means, their evaluations, their exact cases."""

import torch
from registry import network

import varigrad as vg
from laws.base import TOLERANCE, by_plate, drawn, hold, law, logits, seeded, t
from varigrad import distributions as dist
from varigrad.distributions.rng import Source
from varigrad.estimators import (
    ARM,
    ARMS,
    DisARM,
    DoubleControlVariate,
    Enumerate,
    Lax,
    LeaveOneOut,
    LocalExpectation,
    MeasureValued,
    MovingAverage,
    MuProp,
    OptimalScore,
    Rebar,
    Relax,
    Rodeo,
    Score,
    SelfCritical,
    StochasticAD,
    SumAndSample,
    UnorderedSet,
)
from varigrad.testing import PROGRAMS, exact_gradient, expected_gradient, largest_difference


@law
def loss_has_minus_the_gradient():
    case = PROGRAMS["categorical_chain"]
    for estimator in (Score(), LeaveOneOut(2)):
        bound = seeded(vg.ELBO(estimators={"z*": estimator}), case.model, case.guide)
        wanted = drawn(bound)
        bound.draw_from(Source(torch.Generator().manual_seed(11)))
        with torch.no_grad():
            value = bound.estimate().value
        bound.draw_from(Source(torch.Generator().manual_seed(11)))
        loss = bound()
        loss.backward()
        assert torch.allclose(loss, -value)
        for name, parameter in bound.named_parameters():
            assert torch.allclose(parameter.grad, -wanted[name])


@law
def particles_are_averaged():
    case = PROGRAMS["bernoulli"]
    for vectorize in (True, False):
        hold(case.model, case.guide, elbo=vg.ELBO(3, {"z": Score(MovingAverage(0.5))}, vectorize=vectorize))


@law
def estimators_mix():
    """Sites with different estimators downstream of each other, with parameters of the model in between."""

    def program(one, two, three):
        def guide():
            a = vg.sample("a", dist.Bernoulli(logits=logits("a_logit", 0.4)), estimator=one)
            b = vg.sample("b", dist.Bernoulli(logits=logits("b_logit", -0.3) + a), estimator=two)
            vg.sample("c", dist.Bernoulli(logits=logits("c_logit", 0.2) - b * a), estimator=three)

        def model():
            w = logits("w", 0.6)
            a = vg.sample("a", dist.Bernoulli(t(0.3)))
            b = vg.sample("b", dist.Bernoulli(logits=w * a))
            c = vg.sample("c", dist.Bernoulli(0.2 + 0.5 * b))
            vg.sample("x", dist.Normal(w * a + c - b, t(1.0)), obs=t(0.9))
            vg.sample("y", dist.Normal(w * a, t(1.0)), obs=t(-0.4))

        return model, guide

    for kinds in (
        (Score(), LeaveOneOut(2), Enumerate()),
        (Enumerate(), Score(), DisARM()),
        (DisARM(), Enumerate(), Score(MovingAverage(0.5))),
        (LeaveOneOut(2), DisARM(), Score()),
        (LocalExpectation(), Score(), ARMS(3)),
        (Score(), ARM(), LocalExpectation()),
    ):
        for vectorize in (True, False):
            hold(*program(*kinds), elbo=vg.ELBO(vectorize=vectorize))


@law
def normalising_changes_the_length_only():
    """Of past signals' mean square, which is carried; and the plan says that the mean is not the gradient's."""
    case = PROGRAMS["categorical"]
    estimator = Score(MovingAverage(0.5), normalise=True)
    bound = seeded(vg.ELBO(estimators={"z": estimator}), case.model, case.guide)
    average = spread = 0.0
    for _ in range(3):
        bound()
        following = bound.estimator_states["z"][0]  # (average + cost) / 2
        spread = 0.9 * spread + 0.1 * (2 * (following - average)) ** 2
        average = following
    assert torch.allclose(bound.estimator_states["z"][1], spread)
    assert not bound.plan().sites[0].unbiased
    _, gradient = exact_gradient(bound)
    for value in (spread, t(9.0)):
        bound.advance({"z": (average, value)}, steps=0)
        mean = expected_gradient(bound).mean["t"]
        assert torch.allclose(mean * value.sqrt().clamp(min=1), gradient["t"], atol=TOLERANCE)


@law
def evaluations_are_what_the_docstrings_say():
    """How many rows of the model's term are computed, by each estimator, side by side and one by one."""
    five = torch.full((5,), 0.2, dtype=torch.float64)
    coins, choice = dist.Bernoulli(t(0.3, 0.6, 0.4)).to_event(1), dist.Categorical(five)
    for estimator, family, evaluations in (
        (Score(), choice, 1),
        (OptimalScore(), choice, 1),
        (LeaveOneOut(3), choice, 3),
        (Enumerate(), choice, 6),
        (DisARM(), coins, 2),
        (ARM(), coins, 2),
        (ARMS(4), coins, 4),
        (LocalExpectation(), coins, 4),
        (LocalExpectation(), choice, 5),
        (UnorderedSet(3), choice, 3),
        (SumAndSample(2), choice, 3),
        (SelfCritical(), coins, 2),
        (StochasticAD(), coins, 2),
        (MuProp(), coins, 2),
        (Rebar(), coins, 3),
        (DoubleControlVariate(3), coins, 3),
        (Rodeo(4), coins, 4),
        (Relax(network(3, 5, 1)), coins, 1),
        (Lax(network(1, 5, 1)), dist.Normal(t(0.0), t(1.0)), 1),
        (MeasureValued(), dist.Normal(t(0.0), t(1.0)), 4),
        (MeasureValued(), dist.Normal(t(0.0, 0.0), t(1.0)).to_event(1), 7),
        (MeasureValued(), dist.Gamma(t(2.0), t(1.0)), 3),
        (MeasureValued(), dist.Poisson(t(2.0)), 2),
    ):
        rows = []

        def model(family=family, rows=rows):
            z = vg.sample("z", family)
            rows.append(z.shape[: z.dim() - len(family.event_shape)].numel())
            vg.factor("f", (z if family.event_shape else z.unsqueeze(-1)).sum(-1) * t(0.3))

        def guide(family=family, estimator=estimator):
            vg.sample("z", family, estimator=estimator)

        for vectorize in (True, False):
            bound = seeded(vg.ELBO(vectorize=vectorize), model, guide)
            rows.clear()
            bound()
            assert sum(rows) == evaluations, (estimator, vectorize, rows)


@law
def arms_of_two_is_disarm():
    case = PROGRAMS["extreme_probabilities"]
    one, two = (
        expected_gradient(seeded(vg.ELBO(estimators={"z": e}), case.model, case.guide)) for e in (ARMS(2), DisARM())
    )
    assert largest_difference(one.mean, two.mean) < TOLERANCE
    assert largest_difference(one.variance, two.variance) < TOLERANCE


@law
def local_expectations_of_an_event():
    """Coordinate by coordinate, one-hot events and impossible values among them."""
    one = LocalExpectation()

    def coins():
        w = vg.param("w", lambda: t(0.5, -1.0))
        z = vg.sample("z", dist.Bernoulli(t(0.3, 0.6)).to_event(1))
        vg.sample("x", dist.Normal((w * z).sum(-1), t(1.0)), obs=t(0.3))

    def guide_of_coins():
        vg.sample("z", dist.Bernoulli(logits=logits("t", 0.7, -0.3)).to_event(1), estimator=one)

    def rows():
        with vg.plate("n", 2):
            c = vg.sample("c", dist.OneHotCategorical(t(0.2, 0.5, 0.3).expand(2, 2, 3)).to_event(1))
            loc = (c * t(-1.0, 0.3, 2.0)).sum(-1).prod(-1)
            vg.sample("x", dist.Normal(loc, t(1.0)), obs=t(0.3, -0.9))

    def guide_of_rows():
        u = logits("u", 0.2, -0.4)
        row = torch.stack([torch.zeros_like(u), u, torch.full_like(u, -torch.inf)], -1)
        with vg.plate("n", 2):
            vg.sample("c", dist.OneHotCategorical(logits=row.expand(2, 2, 3)).to_event(1), estimator=one)

    for model, guide, alternatives in ((coins, guide_of_coins, 2), (rows, guide_of_rows, 4)):
        for vectorize in (True, False):
            bound, _ = hold(model, guide, elbo=vg.ELBO(vectorize=vectorize))
            assert [s.alternatives for s in bound.plan().sites] == [alternatives]


@law
def values_without_replacement():
    """Five values: ties, probabilities near zero and one, impossible values, in front of another site."""

    def model():
        c = vg.sample("c", dist.Categorical(t(0.2, 0.3, 0.1, 0.2, 0.2)))
        z = vg.sample("z", dist.Bernoulli(t(0.2, 0.9, 0.4, 0.3, 0.6)[c]))
        vg.sample("x", dist.Normal(t(-1.0, 0.3, 2.0, 0.5, -0.2)[c] + z, t(1.0)), obs=t(0.3))

    def guide(estimator, row):
        row = t(*row)
        free = torch.where(row.isfinite(), vg.param("t", lambda: row.clamp(min=-50.0)), row)
        c = vg.sample("c", dist.Categorical(logits=free), estimator=estimator)
        vg.sample("z", dist.Bernoulli(logits=logits("u", 0.3) - t(0.2) * c), estimator=Score())

    inf = torch.inf
    for row, estimators in (
        (
            (0.5, -0.5, 0.5, -3.0, 1.0),
            (UnorderedSet(2), UnorderedSet(3), SumAndSample(1), SumAndSample(3), StochasticAD()),
        ),
        ((0.0, 0.0, 0.0, 0.0, 0.0), (UnorderedSet(2), SumAndSample(2))),
        ((30.0, 0.0, 1.0, -40.0, 2.0), (UnorderedSet(2), SumAndSample(2), StochasticAD())),
        ((-inf, 0.3, -inf, 0.3, -inf), (UnorderedSet(3), SumAndSample(2), SumAndSample(3), StochasticAD())),
        ((-inf, 0.0, -inf, -inf, -inf), (UnorderedSet(2), SumAndSample(1), StochasticAD())),
    ):
        for estimator in estimators:
            hold(model, lambda e=estimator, row=row: guide(e, row), steps=1)


@law
def measure_valued_derivatives():
    square, one = torch.square, MeasureValued()
    by_plate(
        one,
        dist.Normal,
        lambda z: square(z) + torch.sin(2 * z),
        lambda loc, scale: square(loc) + square(scale) + torch.sin(2 * loc) * torch.exp(-2 * square(scale)),
        loc=0.5,
        scale=0.8,
    )
    by_plate(
        one,
        dist.Gamma,
        square,
        lambda concentration, rate: concentration * (concentration + 1) / square(rate),
        concentration=2.5,
        rate=1.5,
    )
    by_plate(one, dist.Exponential, square, lambda rate: 2 / square(rate), rate=1.5)
    by_plate(one, dist.Poisson, square, lambda rate: square(rate) + rate, rate=3.0)


@law
def steps_to_neighbours_of_counts():
    square, one = torch.square, StochasticAD()
    by_plate(one, dist.Poisson, square, lambda rate: square(rate) + rate, rate=3.0)
    by_plate(one, dist.Geometric, square, lambda probs: (1 - probs) * (2 - probs) / square(probs), probs=0.4)

    def negative_binomial(probs):
        return dist.NegativeBinomial(t(2.5), probs)

    odds = lambda p: p / (1 - p)  # noqa: E731
    by_plate(
        one,
        negative_binomial,
        square,
        lambda probs: square(2.5 * odds(probs)) + 2.5 * odds(probs) / (1 - probs),
        probs=0.4,
    )
