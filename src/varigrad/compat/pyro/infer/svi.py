"""`SVI`: stochastic variational inference with Pyro's arguments."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from varigrad._torch_internals import foreach_norm
from varigrad.compat.pyro.infer.elbo import ELBO
from varigrad.compat.pyro.infer.unregistered import Unregistered
from varigrad.compat.pyro.infer.util import captured_params, torch_backward, torch_item, zero_grads
from varigrad.compat.pyro.params.param_store import Asking
from varigrad.compat.pyro.primitives import get_param_store
from varigrad.errors import VarigradError
from varigrad.language.messages import Program


class SVI:
    """Fits the parameters in the parameter store.

    Args:
        model, guide: programs.
        optim: one of `pyro.optim`: called with the unconstrained tensors that a step has asked for.
        loss: an objective, or a function `(model, guide, *args, **kwargs)` that returns a differentiable scalar.
        loss_and_grads: a function like `loss` that leaves gradients in `.grad`; default: a backward pass of `loss`.

    Raises:
        VarigradError: (a `ValueError`) `optim` is an optimiser of torch's, or `loss` is none of these.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        optim: Callable[[Iterable[Tensor]], object],
        loss: ELBO | Program,
        loss_and_grads: Program | None = None,
        num_samples: int = 0,
        num_steps: int = 0,
        **kwargs: object,
    ) -> None:
        if isinstance(optim, (torch.optim.Optimizer, type)) or not callable(optim):
            raise VarigradError(
                f"optim must be an optimiser of pyro.optim, got {optim!r}",
                because="the parameters are known only once the programs have run",
                try_="pyro.optim.Adam({'lr': 1e-3}), or pyro.optim.PyroOptim(torch.optim.Adam, {'lr': 1e-3})",
            )
        if isinstance(loss, type) or not (isinstance(loss, ELBO) or callable(loss)):
            raise VarigradError(f"loss must be an objective or a function, got {loss!r}", try_="Trace_ELBO()")
        if num_samples or num_steps:
            warnings.warn(
                "num_samples and num_steps do nothing. Try: calling step, and Predictive", FutureWarning, stacklevel=2
            )
        self.model = model
        self.guide = guide
        self.optim = optim
        self._unregistered = Unregistered()
        if isinstance(loss, ELBO):
            self.loss: Program = loss.loss
            self.loss_and_grads: Program = loss.loss_and_grads
        else:
            self.loss = loss
            self.loss_and_grads = self._backward_of_loss
        if loss_and_grads is not None:
            self.loss_and_grads = loss_and_grads

    def step(self, *args: object, **kwargs: object) -> Any:
        """One gradient step; returns the loss before it, a number (or a tuple of them, if the loss is one).

        A step whose gradient is not finite changes nothing, with a warning.
        """
        store = get_param_store()
        if self._by_engine():
            with Asking(store) as names:
                loss = self._elbo.looked_at(self._unregistered.look, self.model, self.guide, args, kwargs)
        else:
            with captured_params() as names:
                loss = self.loss_and_grads(self.model, self.guide, *args, **kwargs)
        leaves = store._params
        params = [leaves[name] for name in names if name in leaves]
        if _all_finite([p.grad for p in params if p.grad is not None]):
            self.optim(params)
        else:
            warnings.warn("Encountered NaN or inf: gradient. The parameters are left as they were", stacklevel=2)
        zero_grads(params)
        return _items(loss)

    def evaluate_loss(self, *args: object, **kwargs: object) -> Any:
        """The loss in a fresh run; nothing is updated."""
        with torch.no_grad():
            return _items(self.loss(self.model, self.guide, *args, **kwargs))

    def _by_engine(self) -> bool:
        """Whether the loss is our engine's, which says by itself what it asks for."""
        return getattr(self.loss_and_grads, "__func__", None) is ELBO.loss_and_grads

    @property
    def _elbo(self) -> ELBO:
        found: ELBO = self.loss_and_grads.__self__  # type: ignore[attr-defined]
        return found

    def _backward_of_loss(self, model: Program, guide: Program, *args: object, **kwargs: object) -> Any:
        loss = self.loss(model, guide, *args, **kwargs)
        if isinstance(loss, tuple):
            raise VarigradError(
                "loss returns a tuple, and it is not said what of it is to be differentiated",
                try_="SVI(..., loss, loss_and_grads=f), where f calls backward() and returns the tuple",
            )
        torch_backward(loss, retain_graph=True)
        return loss


def _items(loss: Any) -> Any:
    if isinstance(loss, tuple):
        return type(loss)(map(torch_item, loss))
    return torch_item(loss)


def _all_finite(grads: list[torch.Tensor]) -> bool:
    if len(grads) < 8 and not any(g.is_cuda for g in grads):  # reading a few numbers is cheaper than an operation
        return all(math.isfinite(g.item() if g.dim() == 0 else g.sum().item()) for g in grads)
    norms = foreach_norm(grads)
    return math.isfinite(torch.stack([n.to(norms[0]) for n in norms]).sum().item())
