"""Closed-form divergences, and the parts of a gradient."""

import torch

import varigrad as vg
from laws.base import hold, law, logits, seeded, t
from varigrad import distributions as dist
from varigrad.estimators import (
    Pathwise,
    Score,
)
from varigrad.objectives.gradient_draws import DIRECT, by_site, leaves_of


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
        assert bound.side_by_side and not bound.discovered.vectorization.mixed


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
