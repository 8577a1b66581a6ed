"""Bayesian logistic regression, 10,000 rows and 50 columns, mean-field guide, pathwise."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.workload import Adam, Programs, Step, Workload, pyro_step, varigrad_step

ADAM = Adam(lr=1e-2)
ROWS, COLUMNS = 10_000, 50


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, COLUMNS, generator=generator)
    truth = torch.randn(COLUMNS, generator=generator)
    return x, torch.bernoulli((x @ truth).sigmoid(), generator=generator)


def varigrad(seed: int) -> Step:
    import varigrad as vg
    from varigrad import distributions as dist

    def model(x, y):
        weights = vg.sample("weights", dist.Normal(torch.zeros(COLUMNS), 1.0).to_event(1))
        bias = vg.sample("bias", dist.Normal(0.0, 10.0))
        with vg.plate("rows", ROWS):
            vg.sample("y", dist.Bernoulli(logits=x @ weights + bias), obs=y)

    def guide(x, y):
        loc = vg.param("loc", lambda: torch.zeros(COLUMNS))
        scale = vg.param("scale", lambda: torch.full((COLUMNS,), 0.1), constraint=dist.constraints.positive)
        bias_loc = vg.param("bias_loc", 0.0)
        bias_scale = vg.param("bias_scale", 0.1, constraint=dist.constraints.positive)
        vg.sample("weights", dist.Normal(loc, scale).to_event(1))
        vg.sample("bias", dist.Normal(bias_loc, bias_scale))

    return varigrad_step(Programs(model, guide, data()), ADAM, seed)


def pyro(seed: int) -> Step:
    import pyro
    import pyro.distributions as dist

    def model(x, y):
        weights = pyro.sample("weights", dist.Normal(torch.zeros(COLUMNS), 1.0).to_event(1))
        bias = pyro.sample("bias", dist.Normal(0.0, 10.0))
        with pyro.plate("rows", ROWS):
            pyro.sample("y", dist.Bernoulli(logits=x @ weights + bias), obs=y)

    def guide(x, y):
        loc = pyro.param("loc", lambda: torch.zeros(COLUMNS))
        scale = pyro.param("scale", lambda: torch.full((COLUMNS,), 0.1), constraint=dist.constraints.positive)
        bias_loc = pyro.param("bias_loc", lambda: torch.tensor(0.0))
        bias_scale = pyro.param("bias_scale", lambda: torch.tensor(0.1), constraint=dist.constraints.positive)
        pyro.sample("weights", dist.Normal(loc, scale).to_event(1))
        pyro.sample("bias", dist.Normal(bias_loc, bias_scale))

    return pyro_step(Programs(model, guide, data()), ADAM, "Trace_ELBO", seed)


WORKLOAD = Workload(
    "logistic regression, 10000 x 50, mean-field",
    "pathwise",
    {"varigrad": varigrad, "pyro": pyro},
    check_steps=300,
)
