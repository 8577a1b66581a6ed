"""`AutoDiscreteParallel`: independent distributions for discrete sites, which are enumerated."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor
from torch import distributions as td

from varigrad.compat.pyro import distributions as dist
from varigrad.compat.pyro import poutine, primitives
from varigrad.compat.pyro.distributions import constraints
from varigrad.compat.pyro.infer.autoguide.base import AutoGuide
from varigrad.compat.pyro.infer.autoguide.utils import deep_getattr, deep_setattr
from varigrad.compat.pyro.nn.module import PyroParam
from varigrad.compat.pyro.plates import plate
from varigrad.compat.pyro.poutine.messages import CondIndepStackFrame
from varigrad.distributions.finite_support import inner_of
from varigrad.language.messages import Program
from varigrad.language.runtime import lasting

_FAMILIES: dict[type, tuple[type, constraints.Constraint]] = {
    td.Bernoulli: (dist.Bernoulli, constraints.unit_interval),
    td.Categorical: (dist.Categorical, constraints.simplex),
    td.OneHotCategorical: (dist.OneHotCategorical, constraints.simplex),
}


class AutoDiscreteParallel(AutoGuide):
    """A distribution of the prior's family at each discrete site, with parameters `AutoDiscreteParallel.<site>_probs`.

    Args:
        model: the model; its latent sites are marked `infer={"enumerate": "parallel"}`.
    """

    def __init__(self, model: Program, *, create_plates: Program | None = None) -> None:
        super().__init__(model, create_plates=create_plates)
        self.__dict__["_found"] = None

    def _setup_prototype(self, *args: object, **kwargs: object) -> None:
        with torch.no_grad(), poutine.block():
            trace = poutine.util.prune_subsample_sites(poutine.trace(self.model).get_trace(*args, **kwargs))
        found: list[tuple[str, type, int, tuple[CondIndepStackFrame, ...]]] = []
        for name, site in trace.iter_stochastic_nodes():
            fn, events = inner_of(site["fn"])
            if site["infer"].get("enumerate") != "parallel":
                raise NotImplementedError(
                    f"{name!r}: expected to be discrete and marked for enumeration. Try: "
                    "config_enumerate(poutine.block(model, expose=[...]), 'parallel')"
                )
            known = next((entry for kind, entry in _FAMILIES.items() if isinstance(fn, kind)), None)
            if known is None:
                raise NotImplementedError(f"{name!r}: no distribution for a {type(fn).__name__}")
            family, constraint = known
            probs = fn.probs.detach().clone().contiguous()
            deep_setattr(self, f"{name}_probs", PyroParam(probs, constraint))
            found.append((name, family, events, site["cond_indep_stack"]))
        self.__dict__["_found"] = found

    def forward(self, *args: object, **kwargs: object) -> dict[str, Tensor]:
        """Sample every site; returns the values by name."""
        if self.__dict__["_found"] is None:
            with lasting():
                self._setup_prototype(*args, **kwargs)
        values = {}
        for name, family, events, frames in self.__dict__["_found"]:
            distribution = family(probs=deep_getattr(self, f"{name}_probs"))
            with ExitStack() as stack:
                for frame in frames:
                    if frame.vectorized:
                        stack.enter_context(plate(frame.name, frame.full_size, frame.size, dim=frame.dim))
                values[name] = primitives.sample(name, distribution.to_event(events), infer={"enumerate": "parallel"})
        return values
