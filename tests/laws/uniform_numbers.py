"""Estimators that draw uniform numbers besides: these are integrated over, or sampled."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import varigrad as vg
from laws.base import TOLERANCE, law, seeded
from varigrad.estimators import (
    Draw,
    Estimator,
    Surrogate,
)
from varigrad.gradients.outcomes import NotEnumerable
from varigrad.testing import PROGRAMS, check_case, exact_gradient, expected_gradient, largest_difference


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
