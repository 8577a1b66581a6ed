"""Pyro's optimisers: torch's, with parameters that are added when steps first use them."""

from typing import TYPE_CHECKING, Any

from varigrad.compat.pyro.optim import pytorch_optimizers as pytorch_optimizers
from varigrad.compat.pyro.optim.lr_scheduler import PyroLRScheduler as PyroLRScheduler
from varigrad.compat.pyro.optim.optim import AdagradRMSProp as AdagradRMSProp
from varigrad.compat.pyro.optim.optim import ClippedAdam as ClippedAdam
from varigrad.compat.pyro.optim.optim import DCTAdam as DCTAdam
from varigrad.compat.pyro.optim.optim import PyroOptim as PyroOptim

pytorch_optims: list[str] = [*pytorch_optimizers.OPTIMIZERS, *pytorch_optimizers.SCHEDULERS]
globals().update({name: getattr(pytorch_optimizers, name) for name in pytorch_optims})

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
