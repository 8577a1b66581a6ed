"""What a workload is, and how a program becomes a step on each system."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Step = Callable[[], float]
"""Takes one gradient step; returns the loss before it as a Python number, on every system."""


@dataclass(frozen=True)
class Workload:
    """The same work, written for several systems.

    Attributes:
        title: what it is, in a few words.
        estimator: the gradient estimator, the same on all systems.
        systems: `name -> function that builds a step` from a seed for its draws (starting points are the same for
            all seeds). A builder runs in a process of its own.
        check_steps: after how many steps the losses of the systems are compared.
        at_least: how many times faster than Pyro it has to be.
        at_most: how many times as long as the hand-written step it may take; None if there is none.
    """

    title: str
    estimator: str
    systems: Mapping[str, Callable[[int], Step]]
    check_steps: int = 200
    at_least: float = 1.0
    at_most: float | None = None


@dataclass(frozen=True)
class Adam:
    """The optimiser's settings, and how each system spells them."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)

    def varigrad(self) -> Any:
        import varigrad as vg

        return vg.optim.Adam(lr=self.lr, betas=self.betas)

    def pyro(self) -> Any:
        # Fused as on the other systems, though Pyro's users rarely say so: it is quicker for Pyro too.
        import pyro

        return pyro.optim.Adam({"lr": self.lr, "betas": self.betas, "fused": True})

    def torch(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.lr, betas=self.betas, fused=True)


@dataclass(frozen=True)
class Programs:
    """Model and guide with the arguments of a step."""

    model: Callable[..., Any]
    guide: Callable[..., Any]
    args: tuple[Any, ...] = ()


def varigrad_step(programs: Programs, adam: Adam, seed: int) -> Step:
    """A step of `vg.SVI`."""
    import varigrad as vg

    svi = vg.SVI(programs.model, programs.guide, adam.varigrad(), vg.ELBO(), seed=seed)
    svi.init(*programs.args)
    return lambda: svi.step(*programs.args)


def pyro_step(programs: Programs, adam: Adam, loss: str, seed: int) -> Step:
    """A step of `pyro.infer.SVI` with the named loss, validation off (also that of `torch.distributions`)."""
    import pyro
    from pyro import infer

    pyro.enable_validation(False)
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    svi = infer.SVI(programs.model, programs.guide, adam.pyro(), getattr(infer, loss)())
    return lambda: svi.step(*programs.args)


def through_compat(build: Callable[[int], Step]) -> Callable[[int], Step]:
    """A step written for Pyro, on varigrad: `import pyro` in it means `varigrad.compat.pyro`."""

    def built(seed: int) -> Step:
        import varigrad.compat.pyro as compat

        compat.install()
        return build(seed)

    return built
