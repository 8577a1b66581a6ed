"""Draws that are reparameterised in part: means and variances by quadrature, means by sampling."""

import torch

import varigrad as vg
from laws.base import by_plate, law, seeded, t
from varigrad import distributions as dist
from varigrad.distributions.rng import Source
from varigrad.estimators import (
    GRep,
    Pathwise,
    Rsvi,
    ValueBaseline,
)
from varigrad.testing import PROGRAMS, check_case


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
    bound.draw_from(Laid(grid))
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
        by_plate(one, dist.Gamma, torch.square, of_gamma, concentration=0.8, rate=1.5)
        by_plate(one, dist.Beta, torch.square, of_beta, concentration1=2.5, concentration0=0.7)
        by_plate(one, dist.Chi2, torch.square, lambda df: df * (df + 2), df=3.0)
        by_plate(
            one,
            dist.InverseGamma,
            abs,
            lambda concentration, rate: rate / (concentration - 1),
            concentration=6.0,
            rate=1.5,
        )
