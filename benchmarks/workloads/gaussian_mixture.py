"""A mixture of three Gaussians: 500 assignments in a plate by the score function, the locations pathwise."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as td

from benchmarks.workload import Adam, Programs, Step, Workload, pyro_step, varigrad_step

ADAM = Adam(lr=5e-3)
POINTS, COMPONENTS = 500, 3
SPREAD = 4.0


def points() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    component = torch.randint(COMPONENTS, (POINTS,), generator=generator)
    return torch.tensor([-4.0, 0.0, 4.0])[component] + torch.randn(POINTS, generator=generator)


def start() -> Tensor:
    return torch.tensor([-3.0, 0.5, 3.0])


def varigrad(seed: int) -> Step:
    import varigrad as vg
    from varigrad import distributions as dist
    from varigrad.estimators import MovingAverage, Score

    def model(data):
        weights = vg.param("weights", lambda: torch.full((COMPONENTS,), 1 / 3), constraint=dist.constraints.simplex)
        with vg.plate("components", COMPONENTS):
            locs = vg.sample("locs", dist.Normal(0.0, SPREAD))
        with vg.plate("points", POINTS):
            component = vg.sample("component", dist.Categorical(weights))
            vg.sample("x", dist.Normal(locs[component], 1.0), obs=data)

    def guide(data):
        loc = vg.param("loc", start)
        scale = vg.param("scale", lambda: torch.full((COMPONENTS,), 0.1), constraint=dist.constraints.positive)
        logits = vg.param("logits", lambda: torch.zeros(POINTS, COMPONENTS))
        with vg.plate("components", COMPONENTS):
            vg.sample("locs", dist.Normal(loc, scale))
        with vg.plate("points", POINTS):
            estimator = Score(MovingAverage(0.9, per_element=True))
            vg.sample("component", dist.Categorical(logits=logits), estimator=estimator)

    return varigrad_step(Programs(model, guide, (points(),)), ADAM, seed)


def pyro(seed: int) -> Step:
    import pyro
    import pyro.distributions as dist

    # Pyro's average has the shape of the cost: one for each element of the plate.
    decaying_average = {"baseline": {"use_decaying_avg_baseline": True, "baseline_beta": 0.9}}

    def model(data):
        weights = pyro.param("weights", lambda: torch.full((COMPONENTS,), 1 / 3), constraint=dist.constraints.simplex)
        with pyro.plate("components", COMPONENTS):
            locs = pyro.sample("locs", dist.Normal(0.0, SPREAD))
        with pyro.plate("points", POINTS):
            component = pyro.sample("component", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(locs[component], 1.0), obs=data)

    def guide(data):
        loc = pyro.param("loc", start)
        scale = pyro.param("scale", lambda: torch.full((COMPONENTS,), 0.1), constraint=dist.constraints.positive)
        logits = pyro.param("logits", lambda: torch.zeros(POINTS, COMPONENTS))
        with pyro.plate("components", COMPONENTS):
            pyro.sample("locs", dist.Normal(loc, scale))
        with pyro.plate("points", POINTS):
            pyro.sample("component", dist.Categorical(logits=logits), infer=decaying_average)

    return pyro_step(Programs(model, guide, (points(),)), ADAM, "TraceGraph_ELBO", seed)


def hand(seed: int) -> Step:
    torch.manual_seed(seed)
    data = points()
    to_simplex = td.transform_to(td.constraints.simplex)
    weights_free = to_simplex.inv(torch.full((COMPONENTS,), 1 / 3)).requires_grad_()
    loc = start().requires_grad_()
    log_scale = torch.full((COMPONENTS,), 0.1).log().requires_grad_()
    logits = torch.zeros(POINTS, COMPONENTS, requires_grad=True)
    optimizer = ADAM.torch([weights_free, loc, log_scale, logits])
    prior = td.Normal(0.0, SPREAD, validate_args=False)
    average = torch.zeros(POINTS)

    def step() -> float:
        nonlocal average
        q_locs = td.Normal(loc, log_scale.exp(), validate_args=False)
        q_component = td.Categorical(logits=logits, validate_args=False)
        locs = q_locs.rsample()
        component = q_component.sample()
        log_q = q_component.log_prob(component)
        p_component = td.Categorical(to_simplex(weights_free), validate_args=False)
        local = p_component.log_prob(component)
        local = local + td.Normal(locs[component], 1.0, validate_args=False).log_prob(data)
        path = local.sum() + prior.log_prob(locs).sum() - q_locs.log_prob(locs).sum()
        cost = local.detach() - log_q.detach()
        optimizer.zero_grad()
        (-path - ((cost - average) * log_q).sum()).backward()
        optimizer.step()
        average = torch.lerp(average, cost, 0.1)
        return (log_q.detach().sum() - path.detach()).item()

    return step


WORKLOAD = Workload(
    "Gaussian mixture: 500 categorical latents in a plate, 3 components",
    "score function, decaying average per element; locations pathwise",
    {"varigrad": varigrad, "pyro": pyro, "hand": hand},
    check_steps=400,
    at_least=2.0,
    at_most=1.5,
)
