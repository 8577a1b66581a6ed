"""What a workload is. Loads none of the systems: each of their processes loads only its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Step = Callable[[], float]
"""Takes one gradient step; returns the loss before it as a Python number."""

Run = Callable[[int], Sequence[float]]
"""Takes that many steps, or somewhat more; returns their losses."""

Start = Callable[[int], Run]
"""From a seed for the draws; starting points are the same for all seeds. To start again must not compile again."""


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

    def numpyro(self) -> Any:
        import numpyro

        return numpyro.optim.Adam(self.lr, *self.betas)

    def torch(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        import torch

        return torch.optim.Adam(parameters, lr=self.lr, betas=self.betas, fused=True)


@dataclass(frozen=True)
class Programs:
    """Model and guide with the arguments of a step.

    Attributes:
        loss: what Pyro and NumPyro call the objective that uses the workload's estimator.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    args: tuple[Any, ...] = ()
    loss: str = "Trace_ELBO"


@dataclass(frozen=True)
class Formula:
    """A step written out by hand, to be compiled.

    Attributes:
        parameters: `name -> starting value`, unconstrained.
        objective: `(parameters, average) -> surrogate to minimise, (loss, next average)`, of tensors only.
        average: what it starts from, if it keeps one.
    """

    parameters: Mapping[str, Tensor]
    objective: Callable[[Mapping[str, Tensor], Any], tuple[Tensor, tuple[Tensor, Any]]]
    average: Any = ()


@dataclass(frozen=True)
class Workload:
    """The same work, written for several systems.

    Attributes:
        title: what it is, in a few words.
        estimator: the gradient estimator, the same on all systems but NumPyro, which has no baselines.
        adam: the optimiser.
        varigrad, pyro: the programs, with modules of their own at every call.
        formula: the same by hand, as a function that a compiler can take.
        arrays: data and starting points for `benchmarks/numpyro_programs.py`, as numpy has them.
        target: microseconds a compiled step may take.
        hand: the same by hand, with torch's distributions and autograd, from a seed.
        check_steps: after how many steps the losses of the systems are compared; also how many steps NumPyro takes in
            one compiled call.
        at_least: how many times faster than Pyro the eager step has to be.
        at_most: how many times as long as the eager step by hand it may take; None if there is none.
    """

    title: str
    estimator: str
    adam: Adam
    varigrad: Callable[[], Programs]
    pyro: Callable[[], Programs]
    formula: Callable[[], Formula]
    arrays: Callable[[], dict[str, Any]]
    target: float
    hand: Callable[[int], Step] | None = None
    check_steps: int = 200
    at_least: float = 1.0
    at_most: float | None = None

    @property
    def has_baseline(self) -> bool:
        """Whether NumPyro's estimator is another one, for want of baselines."""
        return "average" in self.estimator
