"""What `SVI` may be made of: wrong kinds of arguments are named before anything runs."""

from __future__ import annotations

from typing import Any, Literal

import torch

from varigrad.distributions.rng import check_seed
from varigrad.errors import VarigradError
from varigrad.objectives.bound import Bound

Compile = bool | Literal["wait"]


def check_arguments(optim: Any, objective: Any, seed: Any, skip_nonfinite: Any) -> None:
    """Raise where one is not what it has to be.

    Raises:
        VarigradError: it says which one, and what to write.
    """
    if isinstance(optim, (torch.optim.Optimizer, type)):
        raise VarigradError(
            f"optim must be a configuration, got {optim!r}",
            because="the parameters to optimise are known only once the programs have run",
            try_="vg.optim.Adam(lr=1e-3), or lambda parameters: torch.optim.SGD(parameters, lr=0.1)",
        )
    if not (callable(optim) or hasattr(optim, "build")):
        raise VarigradError(
            f"optim must be a configuration, or a function from parameters to an optimiser, got {optim!r}",
            try_="vg.optim.Adam(lr=1e-3)",
        )
    if isinstance(objective, type) or not (isinstance(objective, Bound) or hasattr(objective, "bind")):
        raise VarigradError(f"objective must be an ELBO(...) or a bound, got {objective!r}", try_="vg.ELBO()")
    check_seed(seed)
    if not isinstance(skip_nonfinite, bool):
        raise VarigradError(f"skip_nonfinite must be True or False, got {skip_nonfinite!r}")


def check_compile(compile: Any) -> None:
    """Raise unless it is one of the three.

    Raises:
        VarigradError: it is not.
    """
    if not (isinstance(compile, bool) or (isinstance(compile, str) and compile == "wait")):
        raise VarigradError(f'compile must be False, True or "wait", got {compile!r}')
