"""A random walk of 100 latent sites, each observed with noise; mean-field guide, two parameters a site, pathwise."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.workload import Adam, Programs, Step, Workload, pyro_step, varigrad_step

ADAM = Adam(lr=1e-2)
LENGTH = 100


def series() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(LENGTH, generator=generator).cumsum(0) + torch.randn(LENGTH, generator=generator)


def varigrad(seed: int) -> Step:
    import varigrad as vg
    from varigrad import distributions as dist

    def model(data):
        z = 0.0
        for t in range(LENGTH):
            z = vg.sample(f"z{t}", dist.Normal(z, 1.0))
            vg.sample(f"x{t}", dist.Normal(z, 1.0), obs=data[t])

    def guide(data):
        for t in range(LENGTH):
            loc = vg.param(f"loc{t}", 0.0)
            scale = vg.param(f"scale{t}", 0.5, constraint=dist.constraints.positive)
            vg.sample(f"z{t}", dist.Normal(loc, scale))

    return varigrad_step(Programs(model, guide, (series().unbind(),)), ADAM, seed)


def pyro(seed: int) -> Step:
    import pyro
    import pyro.distributions as dist

    def model(data):
        z = 0.0
        for t in range(LENGTH):
            z = pyro.sample(f"z{t}", dist.Normal(z, 1.0))
            pyro.sample(f"x{t}", dist.Normal(z, 1.0), obs=data[t])

    def zero():
        return torch.tensor(0.0)  # a new one for each parameter: Pyro takes over the storage it is given

    def half():
        return torch.tensor(0.5)

    def guide(data):
        for t in range(LENGTH):
            loc = pyro.param(f"loc{t}", zero)
            scale = pyro.param(f"scale{t}", half, constraint=dist.constraints.positive)
            pyro.sample(f"z{t}", dist.Normal(loc, scale))

    return pyro_step(Programs(model, guide, (series().unbind(),)), ADAM, "Trace_ELBO", seed)


WORKLOAD = Workload(
    "chain of 100 latent sites, each observed, mean-field",
    "pathwise",
    {"varigrad": varigrad, "pyro": pyro},
    check_steps=30,
    at_least=2.0,
)
