"""Draws that are coupled across particles."""

import torch

import varigrad as vg
from laws.base import drawn, law, seeded, t
from varigrad import distributions as dist
from varigrad.distributions.rng import Source
from varigrad.estimators import (
    Antithetic,
    Enumerate,
    Pathwise,
    Sobol,
)


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
