"""The tutorial's coin: a Beta guide for a Beta-Bernoulli model, by the score function with a decaying average."""

from __future__ import annotations

import torch
from torch import distributions as td

from benchmarks.workload import Adam, Programs, Step, Workload, pyro_step, varigrad_step

ADAM = Adam(lr=5e-4, betas=(0.93, 0.999))
START = 15.0
PRIOR = 10.0


def tosses() -> torch.Tensor:
    return torch.tensor([1.0] * 6 + [0.0] * 4)


def varigrad(seed: int) -> Step:
    import varigrad as vg
    from varigrad import distributions as dist
    from varigrad.estimators import MovingAverage, Score

    def model(data):
        fairness = vg.sample("fairness", dist.Beta(PRIOR, PRIOR))
        with vg.plate("tosses", len(data)):
            vg.sample("toss", dist.Bernoulli(fairness), obs=data)

    def guide(data):
        a = vg.param("a", START, constraint=dist.constraints.positive)
        b = vg.param("b", START, constraint=dist.constraints.positive)
        vg.sample("fairness", dist.Beta(a, b), estimator=Score(MovingAverage(0.9)))

    return varigrad_step(Programs(model, guide, (tosses(),)), ADAM, seed)


def pyro(seed: int) -> Step:
    import pyro
    import pyro.distributions as dist
    from pyro.distributions.testing.fakes import NonreparameterizedBeta

    decaying_average = {"baseline": {"use_decaying_avg_baseline": True, "baseline_beta": 0.9}}
    prior = torch.tensor(PRIOR)
    start = torch.tensor(START)

    def model(data):
        fairness = pyro.sample("fairness", dist.Beta(prior, prior))
        with pyro.plate("tosses", len(data)):
            pyro.sample("toss", dist.Bernoulli(fairness), obs=data)

    def guide(data):
        a = pyro.param("a", start, constraint=dist.constraints.positive)
        b = pyro.param("b", start, constraint=dist.constraints.positive)
        pyro.sample("fairness", NonreparameterizedBeta(a, b), infer=decaying_average)

    return pyro_step(Programs(model, guide, (tosses(),)), ADAM, "TraceGraph_ELBO", seed)


def hand(seed: int) -> Step:
    torch.manual_seed(seed)
    data = tosses()
    log_a = torch.tensor(START).log().requires_grad_()
    log_b = torch.tensor(START).log().requires_grad_()
    optimizer = ADAM.torch([log_a, log_b])
    prior = td.Beta(PRIOR, PRIOR, validate_args=False)
    average = torch.zeros(())

    def step() -> float:
        nonlocal average
        q = td.Beta(log_a.exp(), log_b.exp(), validate_args=False)
        z = q.sample()
        log_q = q.log_prob(z)
        log_p = prior.log_prob(z) + td.Bernoulli(z, validate_args=False).log_prob(data).sum()
        bound = log_p - log_q.detach()
        optimizer.zero_grad()
        (-(bound - average) * log_q).backward()
        optimizer.step()
        average = 0.9 * average + 0.1 * bound
        return -bound.item()

    return step


WORKLOAD = Workload(
    "coin of the tutorial: one Beta latent, 10 tosses",
    "score function, decaying average",
    {"varigrad": varigrad, "pyro": pyro, "hand": hand},
    check_steps=400,
    at_least=3.0,
    at_most=1.5,
)
