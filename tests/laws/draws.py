"""Draws follow their distributions: fixed seed, |z| < 5."""

from functools import partial

import torch

import varigrad as vg
from laws.base import drawn, law, logits, seeded, t
from varigrad import distributions as dist
from varigrad.distributions.rng import Source
from varigrad.estimators import (
    Score,
)


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
