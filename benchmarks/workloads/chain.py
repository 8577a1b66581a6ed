"""A random walk of 100 latent sites, each observed with noise; mean-field guide, two parameters a site, pathwise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.workload import Adam, Formula, Programs, Workload

ADAM = Adam(lr=1e-2)
LENGTH = 100


def series(length: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(length, generator=generator).cumsum(0) + torch.randn(length, generator=generator)


def varigrad(length: int) -> Programs:
    import varigrad as vg
    from varigrad import distributions as dist

    def model(data):
        z = 0.0
        for t in range(length):
            z = vg.sample(f"z{t}", dist.Normal(z, 1.0))
            vg.sample(f"x{t}", dist.Normal(z, 1.0), obs=data[t])

    def guide(data):
        for t in range(length):
            loc = vg.param(f"loc{t}", 0.0)
            scale = vg.param(f"scale{t}", 0.5, constraint=dist.constraints.positive)
            vg.sample(f"z{t}", dist.Normal(loc, scale))

    return Programs(model, guide, (series(length).unbind(),))


def pyro(length: int) -> Programs:
    import pyro
    import pyro.distributions as dist

    def model(data):
        z = 0.0
        for t in range(length):
            z = pyro.sample(f"z{t}", dist.Normal(z, 1.0))
            pyro.sample(f"x{t}", dist.Normal(z, 1.0), obs=data[t])

    def zero():
        return torch.tensor(0.0)  # a new one for each parameter: Pyro takes over the storage it is given

    def half():
        return torch.tensor(0.5)

    def guide(data):
        for t in range(length):
            loc = pyro.param(f"loc{t}", zero)
            scale = pyro.param(f"scale{t}", half, constraint=dist.constraints.positive)
            pyro.sample(f"z{t}", dist.Normal(loc, scale))

    return Programs(model, guide, (series(length).unbind(),))


def formula(length: int) -> Formula:
    data = series(length).unbind()

    def objective(p: Mapping[str, Tensor], _: Any) -> tuple[Tensor, tuple[Tensor, Any]]:
        noise = torch.randn(length)
        draws = (p["loc"] + p["log_scale"].exp() * noise).unbind()
        log_ratio = (0.5 * noise.square() + p["log_scale"]).sum()
        before: Tensor | float = 0.0
        for z, x in zip(draws, data, strict=True):  # site by site, as in the programs
            log_ratio = log_ratio - 0.5 * (z - before).square() - 0.5 * (x - z).square()
            before = z
        loss = 0.5 * length * math.log(math.tau) - log_ratio
        return loss, (loss, ())

    return Formula({"loc": torch.zeros(length), "log_scale": torch.full((length,), 0.5).log()}, objective)


def of_length(length: int) -> Workload:
    """The chain with so many sites."""
    return Workload(
        f"chain of {length} latent sites, each observed, mean-field",
        "pathwise",
        ADAM,
        partial(varigrad, length),
        partial(pyro, length),
        partial(formula, length),
        lambda: {"data": series(length).numpy()},
        target=270.0,
        check_steps=30,
        at_least=2.0,
    )


WORKLOAD = of_length(LENGTH)
