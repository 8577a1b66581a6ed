"""Rubin's eight schools, not centred, mean-field guide, pathwise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.workload import Adam, Formula, Programs, Workload

ADAM = Adam(lr=1e-2)
SCHOOLS = 8


def data() -> tuple[Tensor, Tensor]:
    effect = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    error = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
    return effect, error


def varigrad() -> Programs:
    import varigrad as vg
    from varigrad import distributions as dist

    def model(effect, error):
        mu = vg.sample("mu", dist.Normal(0.0, 5.0))
        tau = vg.sample("tau", dist.HalfCauchy(5.0))
        with vg.plate("schools", SCHOOLS):
            theta = vg.sample("theta", dist.Normal(0.0, 1.0))
            vg.sample("y", dist.Normal(mu + tau * theta, error), obs=effect)

    def guide(effect, error):
        positive = dist.constraints.positive
        mu = vg.param("mu.loc", 0.0), vg.param("mu.scale", 1.0, constraint=positive)
        tau = vg.param("tau.loc", 0.0), vg.param("tau.scale", 1.0, constraint=positive)
        theta = (
            vg.param("theta.loc", lambda: torch.zeros(SCHOOLS)),
            vg.param("theta.scale", lambda: torch.ones(SCHOOLS), constraint=positive),
        )
        vg.sample("mu", dist.Normal(*mu))
        vg.sample("tau", dist.LogNormal(*tau))
        with vg.plate("schools", SCHOOLS):
            vg.sample("theta", dist.Normal(*theta))

    return Programs(model, guide, data())


def pyro() -> Programs:
    import pyro
    import pyro.distributions as dist

    def model(effect, error):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("schools", SCHOOLS):
            theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(mu + tau * theta, error), obs=effect)

    def zero():
        return torch.tensor(0.0)  # a new one for each parameter: Pyro takes over the storage it is given

    def one():
        return torch.tensor(1.0)

    def guide(effect, error):
        positive = dist.constraints.positive
        mu = pyro.param("mu.loc", zero), pyro.param("mu.scale", one, constraint=positive)
        tau = pyro.param("tau.loc", zero), pyro.param("tau.scale", one, constraint=positive)
        theta = (
            pyro.param("theta.loc", lambda: torch.zeros(SCHOOLS)),
            pyro.param("theta.scale", lambda: torch.ones(SCHOOLS), constraint=positive),
        )
        pyro.sample("mu", dist.Normal(*mu))
        pyro.sample("tau", dist.LogNormal(*tau))
        with pyro.plate("schools", SCHOOLS):
            pyro.sample("theta", dist.Normal(*theta))

    return Programs(model, guide, data())


def formula() -> Formula:
    effect, error = data()
    parameters = {
        **{f"{name}_loc": torch.zeros(shape) for name, shape in (("mu", ()), ("tau", ()), ("theta", SCHOOLS))},
        **{f"{name}_log_scale": torch.zeros(shape) for name, shape in (("mu", ()), ("tau", ()), ("theta", SCHOOLS))},
    }

    def objective(p: Mapping[str, Tensor], _: Any) -> tuple[Tensor, tuple[Tensor, Any]]:
        noise = {name: torch.randn_like(p[f"{name}_loc"]) for name in ("mu", "tau", "theta")}
        mu, log_tau, theta = (p[f"{name}_loc"] + p[f"{name}_log_scale"].exp() * e for name, e in noise.items())
        tau = log_tau.exp()
        # -log q, but for the constants that the Normal priors of mu and theta take back; q(tau) has one more
        entropy = sum((0.5 * e.square() + p[f"{name}_log_scale"]).sum() for name, e in noise.items())
        entropy = entropy + log_tau + 0.5 * math.log(math.tau)
        prior = -0.5 * (mu / 5).square() - math.log(5) - 0.5 * theta.square().sum()
        prior = prior + math.log(2 / (5 * math.pi)) - (tau / 5).square().log1p()
        misfit = (effect - mu - tau * theta) / error
        likelihood = -(0.5 * misfit.square() + error.log() + 0.5 * math.log(math.tau)).sum()
        loss = -(likelihood + prior + entropy)
        return loss, (loss, ())

    return Formula(parameters, objective)


WORKLOAD = Workload(
    "eight schools, not centred, mean-field",
    "pathwise",
    ADAM,
    varigrad,
    pyro,
    formula,
    lambda: dict(zip(("effect", "error"), (part.numpy() for part in data()), strict=True)),
    target=9.0,
    check_steps=300,
    at_least=2.0,
)
