"""Continuous choices: Normal draws are Gauss-Hermite nodes, which makes the expectation exact."""

import numpy as np
import torch
from registry import ESTIMATORS

import varigrad as vg
from laws.base import TOLERANCE, drawn, law, logits, seeded, t
from varigrad import distributions as dist
from varigrad.estimators import (
    Enumerate,
    Pathwise,
    Score,
)
from varigrad.gradients.outcomes import Outcomes, _next
from varigrad.testing import PROGRAMS, gradient_of, largest_difference


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
        nodes = Nodes(path)
        bound.draw_from(nodes)
        grads = torch.autograd.grad(bound.estimate().surrogate, list(named.values()), allow_unused=True)
        for name, grad in zip(named, grads, strict=True):
            if grad is not None:
                mean[name] += nodes.probability * grad
        total += nodes.probability
        path = _next(nodes.taken)
    bound.draw_from(source)
    assert abs(total - 1) < TOLERANCE
    return mean


CONTINUOUS = {
    "pathwise": "pathwise",
    "sticking the landing": "sticking_the_landing",
    "score": "moving_average",
    "antithetic": "antithetic",
}
"""Law -> entry of the registry."""


def _continuous(name):
    entry = ESTIMATORS[CONTINUOUS[name]]

    def unbiased():
        for program, count, extra in (
            ("normal", 60, ({},)),
            ("plate_of_normals_under_a_switch", 2, ({}, {"switch": Enumerate()})),
        ):
            case = PROGRAMS[program]
            for others in extra:
                for kl in (False, True):
                    config = vg.ELBO(entry.particles, {"z": entry.make(), **others}, analytic_kl=kl)
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
        nodes = Nodes(path)
        bound.draw_from(nodes)
        with torch.no_grad():
            result = float(bound.estimate().value)
        value += nodes.probability * result
        path = _next(nodes.taken)
    bound.draw_from(source)
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
