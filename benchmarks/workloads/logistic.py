"""Bayesian logistic regression, 10,000 rows and 50 columns, mean-field guide, pathwise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks.workload import Adam, Formula, Programs, Workload

ADAM = Adam(lr=1e-2)
ROWS, COLUMNS = 10_000, 50


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, COLUMNS, generator=generator)
    truth = torch.randn(COLUMNS, generator=generator)
    return x, torch.bernoulli((x @ truth).sigmoid(), generator=generator)


def varigrad() -> Programs:
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

    return Programs(model, guide, data())


def pyro() -> Programs:
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

    return Programs(model, guide, data())


def formula() -> Formula:
    x, y = data()
    parameters = {
        "loc": torch.zeros(COLUMNS),
        "log_scale": torch.full((COLUMNS,), 0.1).log(),
        "bias_loc": torch.tensor(0.0),
        "bias_log_scale": torch.tensor(0.1).log(),
    }

    def objective(p: Mapping[str, Tensor], _: Any) -> tuple[Tensor, tuple[Tensor, Any]]:
        noise, bias_noise = torch.randn(COLUMNS), torch.randn(())
        weights = p["loc"] + p["log_scale"].exp() * noise
        bias = p["bias_loc"] + p["bias_log_scale"].exp() * bias_noise
        # log p - log q of the draws
        log_ratio = (0.5 * noise.square() - 0.5 * weights.square() + p["log_scale"]).sum()
        log_ratio = log_ratio + 0.5 * bias_noise.square() - 0.5 * (bias / 10).square()
        log_ratio = log_ratio + p["bias_log_scale"] - math.log(10)
        loss = binary_cross_entropy_with_logits(x @ weights + bias, y, reduction="sum") - log_ratio
        return loss, (loss, ())

    return Formula(parameters, objective)


WORKLOAD = Workload(
    "logistic regression, 10000 x 50, mean-field",
    "pathwise",
    ADAM,
    varigrad,
    pyro,
    formula,
    lambda: dict(zip(("x", "y"), (part.numpy() for part in data()), strict=True)),
    target=110.0,
    check_steps=300,
)
