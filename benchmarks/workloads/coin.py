"""The tutorial's coin: a Beta guide for a Beta-Bernoulli model, by the score function with a decaying average."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch import distributions as td

from benchmarks.workload import Adam, Formula, Programs, Step, Workload

ADAM = Adam(lr=5e-4, betas=(0.93, 0.999))
START = 15.0
PRIOR = 10.0


def tosses() -> Tensor:
    return torch.tensor([1.0] * 6 + [0.0] * 4)


def varigrad() -> Programs:
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

    return Programs(model, guide, (tosses(),))


def pyro() -> Programs:
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

    return Programs(model, guide, (tosses(),), loss="TraceGraph_ELBO")


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


def formula() -> Formula:
    data, prior = tosses(), torch.tensor(PRIOR)
    start = torch.tensor(START).log()

    def log_beta(z: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return (a - 1) * z.log() + (b - 1) * (1 - z).log() - a.lgamma() - b.lgamma() + (a + b).lgamma()

    def objective(p: Mapping[str, Tensor], average: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        a, b = p["log_a"].exp(), p["log_b"].exp()
        z = torch._sample_dirichlet(torch.stack([a, b]).detach())[0]
        log_q = log_beta(z, a, b)
        log_p = log_beta(z, prior, prior) + data.sum() * z.log() + (1 - data).sum() * (1 - z).log()
        bound = log_p - log_q.detach()
        return -(bound - average) * log_q, (-bound, 0.9 * average + 0.1 * bound)

    return Formula({"log_a": start, "log_b": start}, objective, torch.zeros(()))


WORKLOAD = Workload(
    "coin of the tutorial: one Beta latent, 10 tosses",
    "score function, decaying average",
    ADAM,
    varigrad,
    pyro,
    formula,
    lambda: {"data": tosses().numpy(), "prior": PRIOR, "start": START},
    target=8.0,
    hand=hand,
    check_steps=400,
    at_least=3.0,
    at_most=1.5,
)
