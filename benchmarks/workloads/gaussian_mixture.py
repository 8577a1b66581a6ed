"""A mixture of three Gaussians: 500 assignments in a plate by the score function, the locations pathwise."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch import distributions as td

from benchmarks.workload import Adam, Formula, Programs, Step, Workload

ADAM = Adam(lr=5e-3)
POINTS, COMPONENTS = 500, 3
SPREAD = 4.0
LOG_ROOT_TAU = 0.5 * math.log(math.tau)


def points() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    component = torch.randint(COMPONENTS, (POINTS,), generator=generator)
    return torch.tensor([-4.0, 0.0, 4.0])[component] + torch.randn(POINTS, generator=generator)


def start() -> Tensor:
    return torch.tensor([-3.0, 0.5, 3.0])


def varigrad() -> Programs:
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

    return Programs(model, guide, (points(),))


def pyro() -> Programs:
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

    return Programs(model, guide, (points(),), loss="TraceGraph_ELBO")


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


def formula() -> Formula:
    data, kinds = points(), torch.arange(COMPONENTS)
    parameters = {
        "weights": torch.full((COMPONENTS,), 1 / 3).log(),
        "loc": start(),
        "log_scale": torch.full((COMPONENTS,), 0.1).log(),
        "logits": torch.zeros(POINTS, COMPONENTS),
    }

    def objective(p: Mapping[str, Tensor], average: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        noise = torch.randn(COMPONENTS)
        locs = p["loc"] + p["log_scale"].exp() * noise
        log_probs = p["logits"].log_softmax(-1)
        # By inverse CDF, and as a mask: multinomial, gather and its gradient would be kernels of their own.
        below = torch.rand(POINTS, 1) > log_probs.detach().exp().cumsum(-1)[:, :-1]
        chosen = (below.sum(-1, keepdim=True) == kinds).to(locs.dtype)
        log_q = (chosen * log_probs).sum(-1)
        local = (chosen * p["weights"].log_softmax(-1)).sum(-1)
        local = local - 0.5 * (data - (chosen * locs).sum(-1)).square() - LOG_ROOT_TAU
        # log p(locs) - log q(locs) of the draw
        log_ratio = (0.5 * noise.square() - 0.5 * (locs / SPREAD).square() + p["log_scale"] - math.log(SPREAD)).sum()
        path = local.sum() + log_ratio
        cost = (local - log_q).detach()
        surrogate = -path - ((cost - average) * log_q).sum()
        return surrogate, (log_q.sum() - path, torch.lerp(average, cost, 0.1))

    return Formula(parameters, objective, torch.zeros(POINTS))


WORKLOAD = Workload(
    "Gaussian mixture: 500 categorical latents in a plate, 3 components",
    "score function, decaying average per element; locations pathwise",
    ADAM,
    varigrad,
    pyro,
    formula,
    lambda: {"data": points().numpy(), "start": start().numpy(), "spread": SPREAD},
    target=45.0,
    hand=hand,
    check_steps=400,
    at_least=2.0,
    at_most=1.5,
)
