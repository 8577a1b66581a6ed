"""What a constant, a term upstream and another element must not do to a draw of the gradient."""

import torch

import varigrad as vg
from laws.base import TOLERANCE, drawn, hold, law, logits, seeded, t
from varigrad import distributions as dist
from varigrad.estimators import (
    ARM,
    ARMS,
    DisARM,
    DoubleControlVariate,
    Enumerate,
    LeaveOneOut,
    LocalExpectation,
    Rodeo,
    Score,
    SelfCritical,
    StochasticAD,
    SumAndSample,
    UnorderedSet,
)
from varigrad.testing import exact_gradient, largest_difference


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
