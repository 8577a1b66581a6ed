"""Fast laws of the gradient machinery: what `tests/mutants/` holds mutants to, and pytest the source.

Nearly all are exact: every outcome of the draws is run, Normal draws are Gauss-Hermite nodes. A law is a function
without arguments that raises `AssertionError` if it is broken.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial, wraps
from itertools import pairwise

import numpy as np
import torch
from leaks import KINDS

import varigrad as vg
from varigrad import distributions as dist
from varigrad.distributions.rng import Source
from varigrad.errors import BaselineError, SiteError
from varigrad.estimators import (
    ARM,
    ARMS,
    Annealed,
    Antithetic,
    Combination,
    DisARM,
    DoubleControlVariate,
    Draw,
    Enumerate,
    Estimator,
    GappedStraightThrough,
    GRep,
    GumbelRao,
    GumbelSoftmax,
    Lax,
    LeaveOneOut,
    LocalExpectation,
    MeasureValued,
    MovingAverage,
    MuProp,
    NeuralBaseline,
    OptimalScore,
    Pathwise,
    Rebar,
    Relax,
    Rodeo,
    Rsvi,
    Score,
    SelfCritical,
    Sobol,
    StochasticAD,
    StraightThrough,
    StraightThroughGumbel,
    SumAndSample,
    Surrogate,
    UnorderedSet,
    ValueBaseline,
)
from varigrad.gradients.exact import NotEnumerable, Outcomes, _next
from varigrad.objectives.gradients import DIRECT, by_site, leaves_of
from varigrad.testing import PROGRAMS, check_case, exact_gradient, expected_gradient, gradient_of, largest_difference

LAWS: dict[str, Callable[[], None]] = {}
TOLERANCE = 1e-9


def law(function, name=None):
    LAWS[name or function.__name__.replace("_", " ")] = function
    return function


def t(*values):
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=torch.float64)


def logits(name, *values):
    return vg.param(name, lambda: t(*values))


def hold(model, guide, *, steps=2, elbo=None):
    """The mean of the gradient estimate is the exact gradient."""
    bound = (elbo or vg.ELBO())(model, guide)
    for _ in range(steps):
        bound()
    moments = expected_gradient(bound)
    value, gradient = exact_gradient(bound)
    assert abs(moments.value - value) < TOLERANCE
    assert largest_difference(moments.mean, gradient) < TOLERANCE
    return bound, moments


def seeded(elbo, model, guide, seed=3):
    return elbo.bind(model, guide, Source(torch.Generator().manual_seed(seed))).init()


def drawn(bound, seed=11):
    """One draw of the gradient, with the seed that decides it."""
    bound.source = Source(torch.Generator().manual_seed(seed))
    named = dict(bound.named_parameters())
    grads = torch.autograd.grad(bound.estimate().surrogate, list(named.values()), allow_unused=True)
    return dict(zip(named, grads, strict=True))


def network(*sizes):
    """Layers with seeded parameters and tanh in between."""
    torch.manual_seed(20261123)
    layers = [torch.nn.Linear(a, b) for a, b in pairwise(sizes)]
    return torch.nn.Sequential(*[m for layer in layers for m in (layer, torch.nn.Tanh())][:-1]).double()


# The registry: every estimator on small programs, side by side and in a loop.

ESTIMATORS = {
    "score": Score(),
    "moving average": Score(MovingAverage(0.7)),
    "moving average per element": Score(MovingAverage(0.7, per_element=True)),
    "combination": Score(Combination(MovingAverage(0.7), MovingAverage(0.2), decay=0.5)),
    "optimal score": OptimalScore(MovingAverage(0.5), decay=0.5),
    "leave one out": LeaveOneOut(2),
    "leave one out of particles": LeaveOneOut(),
    "enumerate": Enumerate(),
    "disarm": DisARM(),
    "arm": ARM(),
    "arms": ARMS(3),
    "local expectation": LocalExpectation(),
    "unordered set": UnorderedSet(2),
    "sum and sample": SumAndSample(1),
    "stochastic ad": StochasticAD(),
    "self critical": SelfCritical(),
    "muprop": MuProp(MovingAverage(0.7)),
    "double control": DoubleControlVariate(2),
    "double control with weight": DoubleControlVariate(2, -1.0, train=False),
    "rodeo": Rodeo(2),
    "rodeo with weights": Rodeo(2, 0.5, -1.0, 0.7, train=False),
    "rodeo with a network": Rodeo(2, 0.5, network=network(2, 5, 2), train=False),
}
ONE_LANE = ("score", "moving average", "moving average per element", "combination", "optimal score")
NO_CATEGORIES = ("arm", "arms", "muprop", *(e for e in ESTIMATORS if e.startswith(("double", "rodeo"))))
PER_ELEMENT = ("enumerate", "local expectation", "unordered set", "sum and sample", "stochastic ad")
MANY = {("arm", "plate_under_global"), ("arms", "plate_under_global"), ("arms", "plate_entered_twice")}
SMALL = (
    "bernoulli", "categorical", "extreme_probabilities", "mixture", "categorical_chain", "scaled", "masked",
    "control_flow", "sites_that_come_and_go", "subsampled_plate", "plate_under_global", "plate_entered_twice",
)  # fmt: skip
REFUSED = {
    *((e, p) for e in NO_CATEGORIES for p in ("categorical", "mixture", "categorical_chain")),
    *((e, p) for e in PER_ELEMENT for p in ("masked", "plate_entered_twice")),
}


def _registered(name, program):
    def unbiased():
        loops = (None,) if name in ONE_LANE else (None, False)
        for vectorize in loops:
            verdict = check_case(ESTIMATORS[name], program, PROGRAMS[program], vectorize)
            assert verdict.how == ("refused" if (name, program) in REFUSED else "exact"), verdict
            assert verdict.passed, verdict
            if vectorize is None and verdict.how == "exact" and PROGRAMS[program].broadcasts:
                assert verdict.side_by_side, verdict

    return unbiased


for _program in SMALL:
    for _name in ESTIMATORS:
        if (_name, _program) in MANY:  # outcomes; tests/test_laws.py runs them
            continue
        law(_registered(_name, _program), f"{_name} on {_program}")
for _program in ("event", "binomial"):
    law(_registered("stochastic ad", _program), f"stochastic ad on {_program}")
law(_registered("double control with weight", "one_hot"), "double control on one_hot")
for _program in ("chain", "nested_plates", "sequential_plate"):  # too many outcomes with alternatives
    for _name in ONE_LANE:
        law(_registered(_name, _program), f"{_name} on {_program}")


@law
def loss_has_minus_the_gradient():
    case = PROGRAMS["categorical_chain"]
    for estimator in (Score(), LeaveOneOut(2)):
        bound = seeded(vg.ELBO(estimators={"z*": estimator}), case.model, case.guide)
        wanted = drawn(bound)
        bound.source = Source(torch.Generator().manual_seed(11))
        with torch.no_grad():
            value = bound.estimate().value
        bound.source = Source(torch.Generator().manual_seed(11))
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
        bound.install({"z": (average, value)})
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


@dataclass(frozen=True)
class Weighed(Estimator):
    """The score function times a function, of mean 1, of a uniform number."""

    function: Callable
    degree: int | None = None

    def refusal(self, distribution):
        return None

    def draw(self, distribution, lanes, source, *state):
        p = distribution.probs
        return Draw(distribution, source.bernoulli(p), noise=source.uniform(p.shape, p, degree=self.degree))

    def surrogate(self, draw, cost, state):
        return Surrogate(cost * draw.log_q * self.function(draw.noise))


@law
def uniform_numbers_are_integrated_over_or_sampled():
    case = PROGRAMS["bernoulli"]

    def bound_of(*options):
        return seeded(vg.ELBO(estimators={"z": Weighed(*options)}), case.model, case.guide)

    def smooth(u):
        return u.exp() / (math.e - 1)

    def jump(u):
        return (u < 0.3) / 0.3

    bound = bound_of(smooth)
    try:
        expected_gradient(bound)
    except NotEnumerable as error:
        assert "uniform number" in str(error) and "degree=n" in str(error)
    else:
        raise AssertionError("nothing is known of what is made of the number")
    _, exact = exact_gradient(bound)
    assert largest_difference(expected_gradient(bound, nodes=2).mean, exact) > 1e-6
    assert largest_difference(expected_gradient(bound, nodes=12).mean, exact) < TOLERANCE
    # u^3 has mean 1 / 4 by two nodes, u^6 has mean 1 / 7 by four.
    cubic = expected_gradient(bound_of(lambda u: 4 * u**3, 3))
    fine = expected_gradient(bound_of(lambda u: 4 * u**3), nodes=20)
    assert cubic.count == 8 and largest_difference(cubic.mean, exact) < TOLERANCE
    assert largest_difference(cubic.variance, fine.variance) < TOLERANCE
    for function, how, passed in (
        (smooth, "quadrature", True),
        (lambda u: smooth(u) + 1e-4, "quadrature", False),
        (jump, "sampled", True),
        (lambda u: jump(u) + 0.5, "sampled", False),
    ):
        verdict = check_case(Weighed(function), "bernoulli", case, draws=4_000)
        assert (verdict.how, verdict.passed) == (how, passed), verdict
    verdict = check_case(Weighed(smooth), "zero_logits", PROGRAMS["zero_logits"], draws=4_000)
    assert (verdict.how, verdict.passed) == ("sampled", True), verdict  # two numbers have too many nodes


def _coins(estimator, target, *start):
    """The mean of (b - target)^2 over some coins, with nothing else in the bound."""
    start = t(start)

    def model():
        z = vg.sample("z", dist.Bernoulli(logits=start).to_event(1))
        vg.factor("f", (z - target).square().mean(-1))

    def guide():
        vg.sample("z", dist.Bernoulli(logits=vg.param("t", start)).to_event(1), estimator=estimator)

    return seeded(vg.ELBO(weights={"z": 0.0}), model, guide)


def _trained(bound, steps):
    for _ in range(steps):
        bound()
    return bound


@law
def no_weight_of_a_double_control_variate_biases():
    for alpha in (0.0, -1.0, 0.5):
        for program in ("bernoulli", "one_hot", "masked"):
            estimator = DoubleControlVariate(2, alpha, train=False)
            verdict = check_case(estimator, program, PROGRAMS[program])
            assert verdict.how == "exact" and verdict.passed, verdict


@law
def weights_of_control_variates_are_learnt():
    """A coin's gradient has no variance left; that of many, a fraction of leave-one-out's, where it is known."""
    for target, start in ((0.45, 0.0), (0.49, 2.0), (0.49, -2.0)):
        bound = _trained(_coins(Rodeo(2), target, start), 300)
        assert float(expected_gradient(bound).variance["t"].sum()) < 1e-12
    for estimator, limit in ((LeaveOneOut(2), 1.4e-9), (DoubleControlVariate(2), 6e-11), (Rodeo(2), 2e-10)):
        bound = _trained(_coins(estimator, 0.499, *[0.5] * 200), 100)
        found = torch.stack([drawn(bound, seed)["t"] for seed in range(200)])
        assert limit / 2.5 < float(found.var(0).mean()) < limit, (estimator, found.var(0).mean())


@law
def what_was_asked_for_is_what_is_used_first():
    for made in (DoubleControlVariate(2, -0.3), Rodeo(2, -0.3, 0.2, 0.1)):
        fixed = replace(made, train=False)
        one, two = (expected_gradient(_coins(e, 0.45, 0.3, -0.6)).variance["t"] for e in (made, fixed))
        assert torch.equal(one, two)


@law
def slopes_that_are_not_finite_count_nothing():
    """A square root at zero."""

    def model():
        z = vg.sample("z", dist.Bernoulli(t(0.3)))
        vg.factor("f", z.sqrt())

    for estimator in (DoubleControlVariate(2, -1.0, train=False), Rodeo(2, 0.5, -1.0, train=False)):

        def guide(estimator=estimator):
            vg.sample("z", dist.Bernoulli(logits=logits("t", 0.7)), estimator=estimator)

        hold(model, guide)


@law
def a_network_of_steps_is_trained_to_lower_the_variance():
    """And nothing else is trained by that, nor the network by anything else."""

    def model():
        z = vg.sample("z", dist.Bernoulli(t(0.5, 0.5)).to_event(1))
        vg.factor("f", z.sum(-1).exp())

    def bound_of(estimator):
        def guide():
            vg.sample("z", dist.Bernoulli(logits=logits("t", 0.3, -0.6)).to_event(1), estimator=estimator)

        return seeded(vg.ELBO(), model, guide)

    net = network(2, 8, 2)
    plain, trained = _trained(bound_of(Rodeo(2)), 200), bound_of(Rodeo(2, network=net))
    assert torch.equal(drawn(trained)["t"], drawn(bound_of(Rodeo(2)))["t"]), "its weight starts at zero"
    assert [n for n, _ in trained.named_parameters() if n != "t"] == [f"baselines.z.{n}" for n in net.state_dict()]
    adam = torch.optim.Adam(net.parameters(), lr=0.03)
    for _ in range(200):
        adam.zero_grad()
        trained().backward()
        adam.step()
    assert largest_difference(expected_gradient(trained).mean, exact_gradient(trained)[1]) < TOLERANCE
    before, after = (float(expected_gradient(b).variance["t"].sum()) for b in (plain, trained))
    assert after < 0.85 * before, (before, after)


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


def _by_plate(estimator, family, function, exact, **parameters):
    """An estimator on many equal elements of a plate is as many draws of its gradient: held to 5 standard errors."""
    many = 4000

    def model():
        with vg.plate("n", many):
            z = vg.sample("z", family(**{k: t(v) for k, v in parameters.items()}))
            vg.factor("f", function(z))

    def guide():
        with vg.plate("n", many):
            free = {
                k: vg.param(k, lambda v=v: torch.full((many,), v, dtype=torch.float64)) for k, v in parameters.items()
            }
            vg.sample("z", family(**free), estimator=estimator)

    # Nothing but the factor counts.
    found = drawn(seeded(vg.ELBO(weights={"z": 0.0}), model, guide))
    leaves = {k: t(v).requires_grad_() for k, v in parameters.items()}
    wanted = dict(zip(leaves, torch.autograd.grad(exact(**leaves), list(leaves.values())), strict=True))
    for name, gradient in found.items():
        error = (gradient.mean() - wanted[name]).abs()
        assert error < 5 * gradient.std() / many**0.5 + 1e-9, (family, name, error)


@law
def measure_valued_derivatives():
    square, one = torch.square, MeasureValued()
    _by_plate(
        one,
        dist.Normal,
        lambda z: square(z) + torch.sin(2 * z),
        lambda loc, scale: square(loc) + square(scale) + torch.sin(2 * loc) * torch.exp(-2 * square(scale)),
        loc=0.5,
        scale=0.8,
    )
    _by_plate(
        one,
        dist.Gamma,
        square,
        lambda concentration, rate: concentration * (concentration + 1) / square(rate),
        concentration=2.5,
        rate=1.5,
    )
    _by_plate(one, dist.Exponential, square, lambda rate: 2 / square(rate), rate=1.5)
    _by_plate(one, dist.Poisson, square, lambda rate: square(rate) + rate, rate=3.0)


@law
def steps_to_neighbours_of_counts():
    square, one = torch.square, StochasticAD()
    _by_plate(one, dist.Poisson, square, lambda rate: square(rate) + rate, rate=3.0)
    _by_plate(one, dist.Geometric, square, lambda probs: (1 - probs) * (2 - probs) / square(probs), probs=0.4)

    def negative_binomial(probs):
        return dist.NegativeBinomial(t(2.5), probs)

    odds = lambda p: p / (1 - p)  # noqa: E731
    _by_plate(
        one,
        negative_binomial,
        square,
        lambda probs: square(2.5 * odds(probs)) + 2.5 * odds(probs) / (1 - probs),
        probs=0.4,
    )


# What a constant, a term upstream and another element must not do to a draw of the gradient.


def _shifted(estimator, shift, particles):
    def model():
        z = vg.sample("z", dist.Bernoulli(t(0.3)))
        vg.sample("x", dist.Normal(2 * z, t(1.0)), obs=t(0.8))
        vg.factor("shift", shift + 0 * z)

    def guide():
        vg.sample("z", dist.Bernoulli(logits=logits("t", 0.7)), estimator=estimator)

    return seeded(vg.ELBO(particles), model, guide)


@law
def a_constant_cancels_in_every_draw():
    alone = (
        LeaveOneOut(3),
        Enumerate(),
        DisARM(),
        ARM(),
        ARMS(3),
        LocalExpectation(),
        UnorderedSet(2),
        SumAndSample(1),
        StochasticAD(),
        SelfCritical(),
        DoubleControlVariate(2, -1.0, train=False),
        Rodeo(2, 0.5, -1.0, train=False),
    )
    for estimator, particles in (*((e, 1) for e in alone), (LeaveOneOut(), 3)):
        plain, moved = (_shifted(estimator, shift, particles) for shift in (0.0, 7.0))
        for seed in range(8):
            assert torch.allclose(drawn(plain, seed)["t"], drawn(moved, seed)["t"], atol=1e-12)


@law
def what_is_not_downstream_is_left_out():
    def program(shift):
        def model():
            a = vg.sample("a", dist.Bernoulli(t(0.3)))
            z = vg.sample("z", dist.Bernoulli(t(0.6)))
            vg.factor("of_a", shift * a)
            vg.sample("x", dist.Normal(z, t(1.0)), obs=t(0.8))

        def guide():
            vg.sample("a", dist.Bernoulli(logits=t(0.2)), estimator=Score())
            vg.sample("z", dist.Bernoulli(logits=logits("t", 0.7)), estimator=Score())

        return seeded(vg.ELBO(), model, guide)

    for seed in range(4):
        assert torch.allclose(drawn(program(0.0), seed)["t"], drawn(program(5.0), seed)["t"], atol=1e-12)


@law
def an_element_of_a_plate_has_its_own_cost():
    def program(other):
        def model():
            with vg.plate("n", 2):
                z = vg.sample("z", dist.Bernoulli(t(0.3, 0.6)))
                vg.sample("x", dist.Normal(z, t(1.0)), obs=t(0.8, other))

        def guide():
            with vg.plate("n", 2):
                vg.sample("z", dist.Bernoulli(logits=logits("t", 0.7, -0.3)), estimator=Score())

        return seeded(vg.ELBO(), model, guide)

    for seed in range(4):
        one, other = (drawn(program(x), seed)["t"] for x in (0.0, 5.0))
        assert torch.allclose(one[0], other[0], atol=1e-12)
        assert not torch.allclose(one[1], other[1])


@law
def a_minibatch_estimates_the_full_gradient():
    def program(size):
        def model():
            with vg.plate("n", 3, subsample_size=size):
                z = vg.sample("z", dist.Bernoulli(vg.subsample(t(0.3, 0.6, 0.2))))
                vg.sample("x", dist.Normal(z, t(1.0)), obs=vg.subsample(t(0.8, -0.2, 0.4)))

        def guide():
            with vg.plate("n", 3, subsample_size=size):
                vg.sample("z", dist.Bernoulli(logits=vg.param("t", lambda: t(0.7, -0.3, 0.2), event_dim=0)))

        return model, guide

    _, wanted = exact_gradient(vg.ELBO()(*program(3)))
    for size in (1, 2, 3):
        assert largest_difference(hold(*program(size))[1].mean, wanted) < TOLERANCE


# Dependencies: nothing that leaves torch is lost, and crossed plates are noticed.


def _written(write):
    def leak(z):
        buffer = torch.zeros(2)
        write(buffer, z)
        return buffer[0]

    return leak


def _scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(_double)


def _double(x: torch.Tensor) -> torch.Tensor:
    return x * 2 + 1


LEAKS = {
    "if": lambda z: torch.tensor(1.5) if z else torch.tensor(0.2),
    "item": lambda z: torch.tensor(2 * z.item()),
    "numpy": lambda z: torch.tensor(np.add(z.numpy(), 1.0).item()),
    "index": lambda z: torch.tensor([0.3, 1.4])[int(z)],
    "setitem": _written(lambda b, z: b.__setitem__(0, z)),
    "add_": _written(lambda b, z: b.add_(z)),
    "out": _written(lambda b, z: torch.mul(z, torch.ones(2), out=b)),
    "mask shape": lambda z: torch.tensor(float(len(torch.ones(1)[z.reshape(1).bool()]))),
    "nonzero shape": lambda z: torch.tensor(float(z.reshape(1).nonzero().shape[0])),
    "where shape": lambda z: torch.tensor(float(len(torch.where(z.reshape(1))[0]))),
    "vmap closure": lambda z: torch.func.vmap(lambda i: i * z)(torch.ones(2))[0],
    "scripted": lambda z: _scripted()(z),
    "tensor of list": lambda z: torch.tensor([z, 1.0])[0],
    "data": lambda z: torch.nn.Parameter(torch.zeros(())).data.copy_(z),
}


def _leaking(leak, estimator):
    def guide():
        a = vg.sample("a", dist.Bernoulli(logits=vg.param("s", 0.4)), estimator=estimator)
        vg.sample("b", dist.Bernoulli(logits=vg.param("t", -0.6) + leak(a)), estimator=estimator)

    def model():
        a = vg.sample("a", dist.Bernoulli(torch.tensor(0.3)))
        b = vg.sample("b", dist.Bernoulli(torch.tensor(0.6)))
        vg.sample("x", dist.Normal(leak(a) - b, 1.0), obs=torch.tensor(0.9))

    return model, guide


def _double_precision(function):
    @wraps(function)
    def inside():
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            function()
        finally:
            torch.set_default_dtype(before)

    return inside


def _leak_law(leak):
    return _double_precision(lambda: [hold(*_leaking(leak, e)) for e in (Score(MovingAverage(0.5)), LeaveOneOut(2))])


for _name, _leak in LEAKS.items():
    law(_leak_law(_leak), f"leak by {_name}")


for _kind, _ways in KINDS.items():
    for _name, _leak in _ways.items():
        law(_leak_law(_leak), f"way out, {_kind}: {_name}")


def _by_other_ways(where):
    def model():
        a = vg.sample("a", dist.Bernoulli(torch.tensor(0.3)))
        x = torch.tensor([0.9, -0.4])
        if where == "mask":
            with vg.plate("n", 2), vg.handlers.mask(mask=torch.stack([a > 0, a < 2])):
                vg.sample("x", dist.Normal(0.0, 1.0), obs=x)
        elif where == "scale":
            with vg.plate("n", 2), vg.handlers.scale(scale=1 + 2 * a):
                vg.sample("x", dist.Normal(0.0, 1.0), obs=x)
        elif where == "obs":
            with vg.plate("n", 2):
                vg.sample("x", dist.Normal(0.0, 1.0), obs=x + a)
        elif where == "factor":
            vg.factor("x", 1.3 * a)
        else:
            # The indices alone say what was drawn: the data in the statement do not.
            with vg.plate("n", 2, subsample=a.long().reshape(1)) as indices:
                vg.sample("x", dist.Normal(0.0, 1.0), obs=x[vg.terms.provenance.untracked(indices)])

    def guide():
        vg.sample("a", dist.Bernoulli(logits=vg.param("s", 0.4)), estimator=Score())

    return model, guide


for _where in ("mask", "scale", "obs", "factor", "subsample"):
    law(_double_precision(lambda where=_where: hold(*_by_other_ways(where))), f"dependent {_where}")


@law
@_double_precision
def a_distribution_may_hide_its_tensors():
    class Hidden(torch.distributions.Distribution):
        arg_constraints = {}
        has_rsample = False
        has_enumerate_support = True
        support = torch.distributions.constraints.boolean

        def __init__(self, logits):
            super().__init__(logits.shape, validate_args=False)
            self.box = {"logits": [logits]}

        def expand(self, batch_shape, _instance=None):
            return Hidden(self.box["logits"][0].expand(batch_shape))

        def inner(self):
            return torch.distributions.Bernoulli(logits=self.box["logits"][0])

        def sample(self, sample_shape=()):
            return self.inner().sample(sample_shape)

        def enumerate_support(self, expand=True):
            return self.inner().enumerate_support(expand)

        def log_prob(self, value):
            return self.inner().log_prob(value)

    def guide():
        a = vg.sample("a", dist.Bernoulli(logits=vg.param("s", 0.4)))
        vg.sample("b", Hidden(vg.param("t", -0.6) + a))

    def model():
        a = vg.sample("a", dist.Bernoulli(torch.tensor(0.3)))
        b = vg.sample("b", Hidden(torch.tensor(0.2) * a))
        vg.sample("x", dist.Normal(b, 1.0), obs=torch.tensor(0.9))

    hold(model, guide)


def _crossing(read_through, estimator):
    """Discrete sites in a plate, something outside that reads their sum, the same plate for the likelihood."""

    def guide():
        with vg.plate("n", 2):
            z = vg.sample("z", dist.Bernoulli(logits=vg.param("t", torch.tensor([0.7, -0.3]))), estimator=estimator)
        if read_through == "site":
            vg.sample("g", dist.Bernoulli(logits=vg.param("u", 0.2) + z.sum()))

    def model():
        n = vg.plate("n", 2)
        with n:
            z = vg.sample("z", dist.Bernoulli(torch.tensor([0.3, 0.6])))
        if read_through == "site":
            g = vg.sample("g", dist.Bernoulli(0.2 + 0.3 * z.sum()))
        elif read_through == "sum":
            g = z.sum()
        elif read_through == "item":
            g = torch.tensor(float(z.sum().item()))
        with n:
            if read_through == "flip":
                g = z.flip(0)
            vg.sample("x", dist.Normal(g * torch.tensor([1.0, -2.0]), 1.0), obs=torch.tensor([0.8, -1.2]))

    return model, guide


def _crossing_law(read_through):
    def crossed():
        for estimator in (Score(), LeaveOneOut(2), DisARM()):
            bound, _ = hold(*_crossing(read_through, estimator))
            assert bound.plan()["z"].crossed == ("n",)
        try:
            hold(*_crossing(read_through, Enumerate()))
        except vg.errors.SiteError as error:
            assert "Enumerate cannot serve" in str(error)

    return _double_precision(crossed)


for _read in ("sum", "site", "item", "flip"):
    law(_crossing_law(_read), f"plate crossed by {_read}")


@law
def masks_do_not_touch_what_the_draw_follows():
    """The draw of a masked choice follows its density all the same, and something that is not masked reads it."""
    mask = torch.tensor([True, False])

    def model():
        z = vg.sample("z", dist.Bernoulli(t(0.3, 0.6)).mask(mask).to_event(1))
        vg.sample("x", dist.Normal(z.sum(-1), t(1.0)), obs=t(0.8))

    def guide():
        vg.sample("z", dist.Bernoulli(logits=logits("t", 0.7, -0.3)).mask(mask).to_event(1))

    hold(model, guide)


# Mixing is found whatever the first draws happen to be.


def _mixing(size, read, start, estimator):
    def guide():
        with vg.plate("n", size):
            vg.sample("z", dist.Bernoulli(logits=vg.param("t", lambda: t(start).expand(size))), estimator=estimator)

    def model():
        with vg.plate("n", size):
            z = vg.sample("z", dist.Bernoulli(t(0.4)).expand((size,)))
            weights = torch.arange(1, size + 1)
            vg.sample("x", dist.Normal(read(z) * weights, t(1.0)), obs=t(0.3).expand(size))

    return model, guide


READS = {
    "flip": lambda z: z.flip(0),
    "roll": lambda z: z.roll(2, 0),
    "sum": lambda z: z.sum(),
    "product": lambda z: z.prod(),
    "any": lambda z: (z > 0).any(),
}


def _mixing_law(read):
    def found():
        for size, start in ((2, 0.7), (3, -0.4), (4, 0.1), (4, 6.0)):
            if (size, read) == (2, "roll"):
                continue  # rolls all the way round
            model, guide = _mixing(size, READS[read], start, Score())
            for seed in range(8):
                bound = seeded(vg.ELBO(), model, guide, seed)
                assert bound.plan()["z"].crossed == ("n",), (size, start, seed)
        for seed in range(12):
            torch.manual_seed(seed)
            for estimator in (LeaveOneOut(2), DisARM()):
                hold(*_mixing(2 if read != "roll" else 3, READS[read], 2.0, estimator), steps=0)

    return found


for _read in READS:
    law(_mixing_law(_read), f"mixing by {_read} is found")


# Closed-form divergences.


@law
def a_gradient_is_the_sum_of_its_parts():
    """And what comes by a draw belongs to the site that was drawn, not to those before it."""

    def model():
        a = vg.sample("a", dist.Normal(t(0.0), 1.0))
        b = vg.sample("b", dist.Normal(a, 1.0))
        z = vg.sample("z", dist.Bernoulli(t(0.4)))
        vg.sample("x", dist.Normal(b + z, vg.param("sd", t(1.5))), obs=t(2.0))

    def guide():
        a = vg.sample("a", dist.Normal(vg.param("m", t(0.3)), 1.0))
        vg.sample("b", dist.Normal(vg.param("w", t(0.5)) * a, 1.0))
        vg.sample("z", dist.Bernoulli(logits=vg.param("l", t(0.2))))

    own = {"m": "a", "w": "b", "l": "z", "sd": DIRECT}
    for vectorize in (True, False):
        bound = vg.ELBO(3, {"z": Score()}, vectorize=vectorize)(model, guide)
        leaves = leaves_of(bound)
        result = bound.estimate()
        whole = torch.autograd.grad(result.surrogate, list(leaves.values()), retain_graph=True)
        parts = by_site(result.parts(), list(leaves.values()))
        assert set(parts) == set(own.values())
        for i, (name, grad) in enumerate(zip(leaves, whole, strict=True)):
            found = {site: part[i] for site, part in parts.items() if part[i] is not None and abs(part[i]) > 1e-12}
            assert set(found) == {own[name]} and abs(found[own[name]] - grad) < 1e-12


@law
def divergences_in_closed_form():
    def guide():
        a = vg.sample("a", dist.Bernoulli(logits=logits("a_logit", 0.4)))
        with vg.plate("n", 3, subsample_size=2), vg.handlers.scale(scale=1.5):
            vg.sample("b", dist.Bernoulli(logits=logits("b_logit", -0.3) + a))

    def model():
        a = vg.sample("a", dist.Bernoulli(t(0.3)))
        with vg.plate("n", 3, subsample_size=2), vg.handlers.scale(scale=1.5):
            b = vg.sample("b", dist.Bernoulli(logits=logits("w", 0.7) * a))
            vg.sample("x", dist.Normal(b - a, t(1.0)), obs=vg.subsample(t(0.9, 0.1, -0.6)))

    _, plain = hold(model, guide)
    for kl in (True, ("b",)):
        _, closed = hold(model, guide, elbo=vg.ELBO(analytic_kl=kl))
        assert sum(float(closed.variance[n].sum()) for n in closed.variance) != sum(
            float(plain.variance[n].sum()) for n in plain.variance
        )


@law
def a_divergence_is_not_taken_for_the_density_of_its_site():
    """Both have its name: particles stay side by side, and elements of a plate have costs of their own."""

    def program(**options):
        with vg.plate("n", 2):
            z = vg.sample("z", dist.Normal(logits("m", 0.3, -0.2), t(1.0)), **options)
            vg.factor("f", z.square())

    for estimator in (Pathwise(), Score()):
        bound = seeded(vg.ELBO(2, analytic_kl=True), program, lambda e=estimator: program(estimator=e))
        assert bound.side_by_side and not bound._layout.mixed


@law
def a_divergence_is_an_expectation_over_its_own_draw_alone():
    def guide():
        a = vg.sample("a", dist.Bernoulli(logits=logits("a_logit", 0.4)))
        vg.sample("b", dist.Bernoulli(logits=logits("b_logit", -0.3) + 1.5 * a))

    def model():
        b = vg.sample("b", dist.Bernoulli(t(0.6)))
        vg.sample("a", dist.Bernoulli(0.2 + 0.6 * b))
        vg.sample("x", dist.Normal(b, t(1.0)), obs=t(0.9))

    hold(model, guide, elbo=vg.ELBO(analytic_kl=True))


# Continuous choices: Normal draws are Gauss-Hermite nodes, which makes the expectation exact.


class Nodes(Outcomes):
    """Outcomes for which a Normal takes Gauss-Hermite nodes."""

    count = 5

    def draw(self, distribution, *, reparameterised=False, lanes=None):
        if not isinstance(distribution, torch.distributions.Normal):
            return super().draw(distribution, reparameterised=reparameterised, lanes=lanes)
        nodes, weights = np.polynomial.hermite_e.hermegauss(self.count)
        shape = distribution.batch_shape
        probs = torch.tensor(weights / weights.sum()).expand(*shape, self.count)
        noise = torch.tensor(nodes)[self.index(probs, lanes=lanes)]
        value = distribution.loc + distribution.scale * noise
        return value if reparameterised else value.detach()

    def normal(self, shape, like):
        nodes, weights = np.polynomial.hermite_e.hermegauss(self.count)
        return torch.tensor(nodes)[self.index(torch.tensor(weights / weights.sum()).expand(*shape, self.count))]


def mean_by_nodes(bound, count):
    """Mean and variance of the gradient, as `expected_gradient`."""
    Nodes.count = count
    named = {n: p for n, p in bound.named_parameters() if not n.startswith("baselines.")}
    mean = {n: torch.zeros_like(p) for n, p in named.items()}
    path, source, total = (), bound.source, 0.0
    while path is not None:
        bound.source = nodes = Nodes(path)
        grads = torch.autograd.grad(bound.estimate().surrogate, list(named.values()), allow_unused=True)
        for name, grad in zip(named, grads, strict=True):
            if grad is not None:
                mean[name] += nodes.probability * grad
        total += nodes.probability
        path = _next(nodes.taken)
    bound.source = source
    assert abs(total - 1) < TOLERANCE
    return mean


CONTINUOUS = {
    "pathwise": Pathwise(),
    "sticking the landing": Pathwise(sticking_the_landing=True),
    "score": Score(MovingAverage(0.5)),
    "antithetic": Pathwise(coupling=Antithetic()),
}


def _continuous(name):
    def unbiased():
        for program, count, extra in (
            ("normal", 60, ({},)),
            ("plate_of_normals_under_a_switch", 2, ({}, {"switch": Enumerate()})),
        ):
            case = PROGRAMS[program]
            for others in extra:
                for kl in (False, True):
                    particles = 1 if CONTINUOUS[name].drawing.coupling is None else 2
                    config = vg.ELBO(particles, {"z": CONTINUOUS[name], **others}, analytic_kl=kl)
                    bound = seeded(config, case.model, case.guide)
                    bound()
                    _, wanted = gradient_of(bound, case.exact)
                    assert largest_difference(mean_by_nodes(bound, count), wanted) < 1e-7, (program, others, kl)

    return unbiased


for _name in CONTINUOUS:
    law(_continuous(_name), f"{_name} on normals")


def _value_by_nodes(bound, count):
    Nodes.count = count
    path, source, value = (), bound.source, 0.0
    while path is not None:
        bound.source = nodes = Nodes(path)
        with torch.no_grad():
            result = float(bound.estimate().value)
        value += nodes.probability * result
        path = _next(nodes.taken)
    bound.source = source
    return value


@law
def a_chain_of_normals_with_parameters_everywhere():
    """Against finite differences of the expected value, which knows no estimator."""

    def guide():
        a = vg.sample("a", dist.Normal(logits("m", 0.3), vg.param("s", lambda: t(0.8), dist.constraints.positive)))
        vg.sample("b", dist.Normal(logits("n", -0.2) + logits("w", 0.5) * a, t(0.6)))

    def model():
        a = vg.sample("a", dist.Normal(logits("prior", 0.1), t(1.0)))
        b = vg.sample("b", dist.Normal(logits("v", 0.7) * a, t(0.9)))
        vg.sample("x", dist.Normal(a - b, t(0.7)), obs=t(0.8))

    path, stick = Pathwise(), Pathwise(sticking_the_landing=True)
    for one, two in ((path, path), (stick, stick), (path, stick), (stick, path), (Score(), path), (stick, Score())):
        bound = seeded(vg.ELBO(estimators={"a": one, "b": two}), model, guide)
        found = mean_by_nodes(bound, 4)
        for name, parameter in bound.named_parameters():
            values = []
            for step in (1e-4, -1e-4):
                with torch.no_grad():
                    parameter += step
                    values.append(_value_by_nodes(bound, 4))
                    parameter -= step
            assert abs((values[0] - values[1]) / 2e-4 - float(found[name])) < 1e-6, (one, two, name)


@law
def sticking_the_landing_has_no_variance_at_the_posterior():
    def model():
        z = vg.sample("z", dist.Normal(t(0.0), t(1.0)))
        vg.sample("x", dist.Normal(z, t(1.0)), obs=t(0.8))

    def guide():
        vg.sample("z", dist.Normal(logits("m", 0.4), vg.param("s", lambda: t(0.5).sqrt(), dist.constraints.positive)))

    for sticking in (True, False):
        bound = seeded(vg.ELBO(estimators={"z": Pathwise(sticking_the_landing=sticking)}), model, guide)
        worst = max(float(g.abs().max()) for seed in range(4) for g in drawn(bound, seed).values())
        assert (worst < 1e-12) == sticking, worst


@law
def a_kinked_choice_is_not_pathwise():
    def guide():
        vg.sample("z", dist.Normal(logits("m", 0.3), t(1.0)))

    for kink in (lambda z: (z > 0).to(z.dtype), lambda z: 1.0 if z > 0 else 0.0, torch.round):

        def model(kink=kink):
            z = vg.sample("z", dist.Normal(t(0.0), t(1.0)))
            vg.sample("x", dist.Normal(kink(z), t(1.0)), obs=t(0.8))

        plan = vg.ELBO()(model, guide).plan()
        assert plan["z"].estimator.startswith("Score("), plan["z"]


@law
def a_density_that_jumps_is_not_pathwise():
    class Histogram(torch.distributions.Distribution):
        arg_constraints, support = {}, dist.constraints.real

        def log_prob(self, z):
            return torch.where(z.abs() < 1, 0.5, 0.1).log()

    halves = dist.Categorical(t([0.5, 0.5]))
    jumps = {
        "a class of the user's": lambda z: Histogram(validate_args=False),
        "a mixture": lambda z: dist.MixtureSameFamily(halves, dist.Uniform(t([-1.0, -9.0]), t([1.0, 9.0]))),
        "a slope": lambda z: dist.TransformedDistribution(
            dist.Normal(t(0.0), 1.0), [dist.transforms.LeakyReLUTransform()]
        ),
        "beyond a support": lambda z: dist.HalfNormal(t(1.0), validate_args=False),
    }
    moves = {
        "an end": lambda z: dist.Uniform(-1.0, 2 + z, validate_args=False),
        "an end of a mixture": lambda z: dist.MixtureSameFamily(
            halves, dist.Uniform(t(-9.0), torch.stack([z, z + 9])), validate_args=False
        ),
        "a scale": lambda z: dist.Pareto(z.exp(), 2.0, validate_args=False),
        "an image": lambda z: dist.TransformedDistribution(
            dist.Exponential(t(1.0)), [torch.distributions.AffineTransform(z, 2.0)], validate_args=False
        ),
    }
    smooth = {
        "counts": lambda z: dist.Binomial(3, logits=z),
        "a tail": lambda z: dist.Pareto(t(0.1), z.exp()),
        "a scaled image": lambda z: dist.TransformedDistribution(
            dist.Exponential(t(1.0)), [torch.distributions.AffineTransform(t(0.0), z.exp())]
        ),
        "two tails": lambda z: dist.AsymmetricLaplace(z, 1.0, 2.0),
    }

    def guide():
        vg.sample("z", dist.Normal(logits("m", 0.3), t(1.0)))

    for name, family in (jumps | moves | smooth).items():

        def model(name=name, family=family):
            if name in jumps:
                vg.sample("z", family(None))
            else:
                vg.sample("x", family(vg.sample("z", dist.Normal(t(0.0), t(1.0)))), obs=t(2.0))

        plan = vg.ELBO()(model, guide).plan()
        assert plan["z"].estimator.startswith("Pathwise" if name in smooth else "Score("), (name, plan["z"])
        with torch.device("cpu"):
            assert vg.ELBO()(model, guide).plan()["z"] == plan["z"], name


@law
def a_uniform_as_a_factor_is_a_jump_and_a_geometric_is_not():
    def guide():
        vg.sample("z", dist.Normal(logits("m", 0.3), t(1.0)))

    for family, estimator in (
        (lambda z: dist.Uniform(-1.0, 2 + z), "Score("),
        (lambda z: dist.Geometric(logits=z), "Pathwise"),
    ):

        def model(family=family):
            vg.factor("f", family(vg.sample("z", dist.Normal(t(0.0), t(1.0)))).log_prob(t(2.0)))

        plan = vg.ELBO()(model, guide).plan()["z"]
        assert plan.estimator.startswith(estimator), plan
        with torch.device("cpu"):
            assert vg.ELBO()(model, guide).plan()["z"] == plan


@law
def a_score_function_wants_a_support_that_stays():
    def model():
        vg.factor("f", (vg.sample("z", dist.Normal(t(0.0), t(1.0))) > 0).to(torch.float64))

    def guide():
        vg.sample("z", dist.Uniform(-1.0, 1 + logits("m", 0.3).exp()), estimator=Score())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            vg.ELBO()(model, guide)
        except SiteError as error:
            assert "moves with a parameter" in str(error)
        else:
            raise AssertionError("a score function over moving ends")

    def point():
        vg.sample("z", dist.Delta(logits("m", 0.3)))

    assert vg.ELBO()(model, point).plan()["z"].estimator == "Pathwise()"


@law
def a_log_density_remembers_nothing():
    """Neither what was drawn before answers for a density, nor what was computed in an earlier step."""

    def model():
        vg.sample("z", dist.LogNormal(t(0.0), t(1.0)))

    def found(cache):
        def guide():
            power = torch.distributions.transforms.PowerTransform(logits("s", 2.0), cache_size=cache)
            z = dist.TransformedDistribution(dist.LogNormal(t(0.0), t(1.0)), [power])
            vg.sample("z", z, estimator=Score())

        return torch.stack([g["s"] for g in map(partial(drawn, seeded(vg.ELBO(), model, guide)), range(5))])

    assert torch.allclose(found(0), found(1))
    holder = torch.nn.Module()
    holder.p = torch.nn.Parameter(t(0.3))
    kept = dist.Bernoulli(probs=holder.p)

    def observing():
        vg.module("h", holder)
        vg.sample("x", kept, obs=t(1.0))

    bound = vg.ELBO()(observing, lambda: None)
    for p in (0.3, 0.6):
        holder.p.data.fill_(p)
        holder.p.grad = None
        bound().backward()
        assert abs(float(holder.p.grad) + 1 / p) < 1e-9, (p, holder.p.grad)


@law
def correlations_are_drawn_as_their_density_says():
    n = 40_000
    for kind in (dist.LKJCholesky, torch.distributions.LKJCholesky):
        tril = Source(torch.Generator().manual_seed(7)).draw(kind(3, t(1.0)).expand((n,)))
        squares = (tril @ tril.mT).square()
        for i, j in ((1, 0), (2, 0), (2, 1)):
            one = squares[:, i, j]
            assert abs(float((one.mean() - 0.25) / (one.std() / n**0.5))) < 5, (kind, i, j)


@law
def a_partial_reparameterisation_has_a_score_part():
    verdict = check_case(Pathwise(), "rejection_gamma", PROGRAMS["rejection_gamma"], None)
    assert verdict.passed, verdict


class Laid(Source):
    """Every draw is this row of values."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def draw(self, distribution, **options):
        return self.values


def _over(grid, estimator, family, function, **parameters):
    """`parameter -> mean and variance of its gradient, exact gradient`, by integration over the draw."""
    count = len(grid)

    def model():
        with vg.plate("n", count):
            vg.factor("f", function(vg.sample("z", family(**{k: t(v) for k, v in parameters.items()}))))

    def guide():
        with vg.plate("n", count):
            free = {
                k: vg.param(k, lambda v=v: torch.full((count,), v, dtype=torch.float64)) for k, v in parameters.items()
            }
            vg.sample("z", family(**free), estimator=estimator)

    bound = seeded(vg.ELBO(weights={"z": 0.0}), model, guide)
    bound.source = Laid(grid)
    named = dict(bound.named_parameters())
    grads = torch.autograd.grad(bound.estimate().surrogate, list(named.values()))
    leaves = {k: t(v).requires_grad_() for k, v in parameters.items()}
    density = family(**leaves).log_prob(grid).exp()
    total = torch.trapezoid(density * function(grid), grid)
    wanted = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))
    found = {}
    for name, grad in zip(named, grads, strict=True):
        mean = torch.trapezoid(density.detach() * grad, grid)
        found[name] = mean, torch.trapezoid(density.detach() * (grad - mean).square(), grid), wanted[name]
    return found


@law
def partly_reparameterised_draws_by_quadrature():
    """Means; and variances beside those that were measured by hand."""

    def grows(z):
        return z * torch.log1p(z)

    positive = torch.linspace(1e-6, 80.0, 100_001, dtype=torch.float64)
    three = ValueBaseline(t(3.0))
    for estimator, known in ((GRep(), 2.62), (Rsvi(0), 1.47), (GRep(baseline=three), None)):
        found = _over(positive, estimator, dist.Gamma, grows, concentration=2.5, rate=1.0)
        for mean, _, exact in found.values():
            assert abs(mean - exact) < 1e-6, (estimator, mean, exact)
        assert known is None or abs(found["concentration"][1] / known - 1) < 0.05, found
    inside = torch.linspace(1e-7, 1 - 1e-7, 100_001, dtype=torch.float64)
    found = _over(inside, GRep(), dist.Beta, torch.exp, concentration1=2.5, concentration0=3.5)
    for mean, _, exact in found.values():
        assert abs(mean - exact) < 1e-6, (mean, exact)


@law
def partly_reparameterised_draws_by_sampling():
    def of_gamma(concentration, rate):
        return concentration * (concentration + 1) / rate.square()

    def of_beta(concentration1, concentration0):
        both = concentration1 + concentration0
        return concentration1 * (concentration1 + 1) / (both * (both + 1))

    for one in (GRep(), Rsvi(), Rsvi(3)):
        _by_plate(one, dist.Gamma, torch.square, of_gamma, concentration=0.8, rate=1.5)
        _by_plate(one, dist.Beta, torch.square, of_beta, concentration1=2.5, concentration0=0.7)
        _by_plate(one, dist.Chi2, torch.square, lambda df: df * (df + 2), df=3.0)
        _by_plate(
            one,
            dist.InverseGamma,
            abs,
            lambda concentration, rate: rate / (concentration - 1),
            concentration=6.0,
            rate=1.5,
        )


# Relaxations: biased, so held to the mean that their formula has.


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
            model, guide = _bernoulli(estimator, logit=logit)
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
            expected_gradient(seeded(vg.ELBO(), *_bernoulli(e, logit=logit)), nodes=6).mean["t"]
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
    bound = seeded(vg.ELBO(), *_bernoulli(GumbelSoftmax(schedule)))
    for step, temperature in enumerate((2.0, 2.0**0.5, 1.0, 0.5**0.5, 0.5, 0.5)):
        fixed = seeded(vg.ELBO(), *_bernoulli(GumbelSoftmax(temperature)))
        assert torch.allclose(drawn(bound, step)["t"], drawn(fixed, step)["t"])
        bound()
        assert bound.estimator_states["z"] == step + 1


# Draws that are coupled across particles.


class Recorder(Source):
    """A source that remembers the numbers that it gave."""

    def normal(self, shape, like):
        self.numbers = super().normal(shape, like)
        return self.numbers


def _coupled(coupling, particles, family, many=3, seed=0):
    """Values `[particles, many]` of a site in a plate, below another one with three lanes, and the source."""
    source = Recorder(torch.Generator().manual_seed(seed))
    seen, bound = [], None

    def model():
        s = vg.sample("s", dist.Bernoulli(t(0.4)))
        with vg.plate("n", many):
            z = vg.sample("z", family(0 * s))
            if bound is not None and bound.source is source:  # else the run is only a look, with draws of its own
                seen[:] = [z.detach()[0]]
            vg.factor("f", z + s)

    def guide():
        s = vg.sample("s", dist.Bernoulli(t(0.4)), estimator=Enumerate())
        with vg.plate("n", many):
            vg.sample("z", family(0 * s), estimator=Pathwise(coupling=coupling))

    bound = vg.ELBO(particles).bind(model, guide, source)
    bound()
    return seen[0], source


def _normal(zero):
    return dist.Normal(vg.param("m", lambda: t(0.3)) + zero, t(2.0))


@law
def antithetic_particles_are_mirror_images():
    z, source = _coupled(Antithetic(), 6, _normal)
    noise = (z - 0.3) / 2.0
    assert noise.shape == (6, 3) and torch.allclose(noise[3:], -noise[:3])
    assert source.numbers.shape == (3, 9) and torch.allclose(noise[:3], source.numbers[:, :3])
    half = torch.rand(1000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    class Given(Source):
        def uniform(self, shape, like, degree=None):
            return half

    u = Antithetic().numbers(Given(), 2000, 1, half, normal=False)
    assert torch.equal((u[1000:] * 2**53).long(), 2**53 - 1 - (half * 2**53).long())  # the same grid, turned round
    z, _ = _coupled(Antithetic(), 2, lambda zero: dist.Gamma(vg.param("m", lambda: t(3.0)) + zero, t(1.0)), many=2000)
    correlation = torch.corrcoef(z)[0, 1]
    # By 200,000 pairs it is -0.795; the standard error of 2,000 is below 0.01.
    assert abs(correlation + 0.795) < 0.04, correlation
    assert (z.mean(1) - 3).abs().max() < 5 * (3 / 2000) ** 0.5


@law
def sobol_particles_are_spread_evenly_and_anew_each_time():
    for k in (4, 8):
        z, _ = _coupled(Sobol(), k, _normal, many=500)
        u = torch.special.ndtr((z - 0.3) / 2.0)
        strata = (k * u).long().sort(0).values
        assert (strata == torch.arange(k).unsqueeze(-1)).all(), "one in each"
        assert ((u - 0.5).mean(1).abs() < 5 * (1 / 12 / 500) ** 0.5).all()  # each by itself is uniform
        other, _ = _coupled(Sobol(), k, _normal, many=500, seed=1)
        assert torch.isclose(z, other).double().mean() < 0.01


@law
def coupled_particles_lower_the_variance_of_a_normal():
    """Normal(.5, .8), z^2 + sin 2z: variances as measured elsewhere, and the exact mean."""
    many = 4000

    def model():
        with vg.plate("n", many):
            z = vg.sample("z", dist.Normal(t(0.0), t(1.0)))
            vg.factor("f", z.square() + torch.sin(2 * z))

    m, s = t(0.5).requires_grad_(), t(0.8).requires_grad_()
    exact = torch.autograd.grad(m**2 + s**2 + torch.sin(2 * m) * torch.exp(-2 * s**2), [m, s])
    for particles, coupling, *measured in (
        (1, None, 2.08, 8.05),
        (2, Antithetic(), 0.50, 7.5),
        (8, Sobol(), 0.083, 0.57),
    ):

        def guide(coupling=coupling):
            with vg.plate("n", many):
                free = [vg.param(n, lambda v=v: torch.full((many,), v)) for n, v in (("m", t(0.5)), ("s", t(0.8)))]
                vg.sample("z", dist.Normal(*free), estimator=Pathwise(coupling=coupling))

        found = drawn(seeded(vg.ELBO(particles, weights={"z": 0.0}), model, guide))
        for gradient, mean, variance in zip((found["m"], found["s"]), exact, measured, strict=True):
            assert (gradient.mean() - mean).abs() < 5 * gradient.std() / many**0.5
            assert abs(float(gradient.var()) / variance - 1) < 0.15, (coupling, gradient.var())


# Networks for control variates.


@law
def a_network_that_knows_nothing_does_not_bias():
    """By quadrature: of two uniform numbers, whose logarithms take many nodes, or of a Normal one."""
    for program, size in (("bernoulli", 1), ("one_hot", 3)):
        case = PROGRAMS[program]
        bound = _trained(seeded(vg.ELBO(estimators={"z": Relax(network(size, 5, 1))}), case.model, case.guide), 2)
        if size == 1:
            mean = expected_gradient(bound, nodes=32).mean
            assert largest_difference(mean, exact_gradient(bound)[1]) < 5e-6
        verdict = check_case(Relax(network(size, 5, 1)), program, case, draws=4_000, outcomes=1_000)
        assert verdict.passed, verdict
    case = PROGRAMS["normal"]
    bound = _trained(seeded(vg.ELBO(estimators={"z": Lax(network(1, 5, 1))}), case.model, case.guide), 2)
    assert largest_difference(mean_by_nodes(bound, 60), gradient_of(bound, case.exact)[1]) < 1e-7


@law
def networks_learn_to_be_control_variates():
    """From the squared gradient alone, which trains nothing else: a fair coin of 64, and a step in a Normal choice."""

    def coin():
        with vg.plate("n", 64):
            z = vg.sample("z", dist.Bernoulli(logits=t(0.0)))
            vg.factor("f", (z - 0.45).square())

    def step():
        with vg.plate("n", 64):
            z = vg.sample("z", dist.Normal(t(0.2), t(1.0)))
            vg.factor("f", 3.0 + (z > 0).to(z.dtype))

    normal, bernoulli = (lambda m: dist.Normal(m, t(1.0))), (lambda m: dist.Bernoulli(logits=m))
    for model, family, kind, limit in ((coin, bernoulli, Relax, 1e-4), (step, normal, Lax, 0.25)):
        net = network(1, 10, 1)

        def program(family=family, estimator=kind(net)):
            with vg.plate("n", 64):
                start = vg.param("t", torch.full((64,), 0.2 if family is normal else 0.0).double())
                vg.sample("z", family(start), estimator=estimator)

        bound = seeded(vg.ELBO(weights={"z": 0.0}), model, program)
        assert {n for n, _ in bound.named_parameters()} == {"t", *(f"baselines.z.{n}" for n in net.state_dict())}
        adam = torch.optim.Adam(net.parameters(), lr=0.02)
        for _ in range(300):
            adam.zero_grad()
            bound().backward()
            adam.step()
        found = torch.cat([drawn(bound, seed)["t"] for seed in range(40)])
        assert float(found.var()) < limit, (kind, found.var())
        exact = 0.025 if kind is Relax else math.exp(-0.02) / math.sqrt(2 * math.pi)
        assert abs(float(found.mean()) - exact) < 5 * float(found.std()) / len(found) ** 0.5


# Baselines.


def _bernoulli(estimator, obs=0.8, logit=0.7):
    def model():
        z = vg.sample("z", dist.Bernoulli(t(0.3)))
        vg.sample("x", dist.Normal(2 * z, t(1.0)), obs=t(obs))

    def guide():
        vg.sample("z", dist.Bernoulli(logits=logits("t", logit)), estimator=estimator)

    return model, guide


def _costs(bound):
    """The cost for z = 0 and z = 1, by hand."""
    z = t(0.0, 1.0)
    q = dist.Bernoulli(logits=bound.t.detach())
    return dist.Bernoulli(t(0.3)).log_prob(z) + dist.Normal(2 * z, t(1.0)).log_prob(t(0.8)) - q.log_prob(z)


def _outcome(bound, z):
    """What the bound estimates if `z` is drawn."""
    bound.source = Outcomes((z,))
    return bound.estimate()


@law
def a_moving_average_is_carried_and_used_before_it_sees_the_draw():
    for per_element in (False, True):
        bound = seeded(vg.ELBO(), *_bernoulli(Score(MovingAverage(0.9, per_element=per_element))))
        average = t(0.0)
        for z in (1, 0, 1, 1):
            cost = _costs(bound)[z]
            result = _outcome(bound, z)
            (grad,) = torch.autograd.grad(result.surrogate, [bound.t])
            score = z - torch.sigmoid(bound.t.detach())
            assert torch.allclose(grad, (cost - average) * score)
            average = 0.9 * average + 0.1 * cost
            bound.advance(result.state)
            assert torch.allclose(bound.get_extra_state()["estimators"]["z"], average)


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
    costs, plain = _costs(bound), _bernoulli(Score())
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
    bound = seeded(vg.ELBO(), *_bernoulli(Score(ValueBaseline(t(-2.0)) + MovingAverage(0.5))))
    result = _outcome(bound, 1)
    assert torch.allclose(result.state["z"][1], 0.5 * (_costs(bound)[1] + 2.0))
    (grad,) = torch.autograd.grad(result.surrogate, [bound.t])
    assert torch.allclose(grad, (_costs(bound)[1] + 2.0) * (1 - torch.sigmoid(bound.t.detach())))


@law
def a_value_baseline_is_detached():
    def guide():
        logit = logits("t", 0.7)
        vg.sample("z", dist.Bernoulli(logits=logit), estimator=Score(ValueBaseline(3 * logit)))

    hold(_bernoulli(Score())[0], guide)


@law
def a_combination_is_the_best_of_the_past():
    """By hand, and with the coefficients of a least-squares fit once they are known."""
    bound = seeded(vg.ELBO(), *_bernoulli(Score(Combination(ValueBaseline(t(2.0)), MovingAverage(0.5), decay=0.5))))
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

        model, _ = _bernoulli(Score())
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
        bound.install({"z": (None, (torch.stack([(q * costs * scores**2).sum(), (q * scores**2).sum()]),))})
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
        bound.install({"z": (None, (averages,))})
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
        _refused("depends on its own draw", *_bernoulli(Score(own)))


@law
def a_network_is_not_shared_nor_built_anew():
    net = torch.nn.Linear(1, 1).double()

    def guide():
        vg.module("net", net)
        estimator = Score(NeuralBaseline(net, t(1.0).reshape(1)))
        vg.sample("z", dist.Bernoulli(logits=net(t(1.0).reshape(1)).squeeze()), estimator=estimator)

    model, _ = _bernoulli(Score())
    _refused("shares the parameter", model, guide)

    def fresh():
        estimator = Score(NeuralBaseline(torch.nn.Linear(1, 1).double(), t(1.0).reshape(1)))
        vg.sample("z", dist.Bernoulli(logits=logits("t", 0.7)), estimator=estimator)

    _refused("a new object in every run", model, fresh)


# Draws: fixed seed, |z| < 5.


@law
def draws_follow_their_distributions():
    source = Source(torch.Generator().manual_seed(7))
    n = 40_000
    p = torch.tensor([0.2, 0.5, 0.3])
    for distribution in (
        dist.Bernoulli(torch.tensor(0.3)).expand((n,)),
        dist.Normal(torch.tensor(0.4), torch.tensor(2.0)).expand((n,)),
        dist.Beta(torch.tensor(2.0), torch.tensor(3.0)).expand((n,)),
    ):
        draws = source.draw(distribution)
        z = (draws.mean() - distribution.mean[0]) / (distribution.variance[0] / n).sqrt()
        assert abs(float(z)) < 5, (distribution, z)
        assert abs(float(draws.var() / distribution.variance[0]) - 1) < 0.05
    share = torch.nn.functional.one_hot(source.draw(dist.Categorical(p).expand((n,))), 3).double().mean(0)
    assert float(((share - p) / (p * (1 - p) / n).sqrt()).abs().max()) < 5


@law
def a_compiled_callable_is_followed():  # last: it loads the compiler
    _leak_law(torch.compile(_double, backend="eager"))()
