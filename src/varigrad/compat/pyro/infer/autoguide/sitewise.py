"""Pyro's `AutoNormal` and `AutoDelta`: guides with one independent distribution for each site."""

from __future__ import annotations

import torch
from torch import Tensor

from varigrad import guides as native
from varigrad.compat.pyro.distributions import constraints
from varigrad.compat.pyro.infer.autoguide.base import Inside, ModelGuide
from varigrad.compat.pyro.infer.autoguide.initialization import InitFunction, init_to_feasible, init_to_median
from varigrad.guides.base import Latent
from varigrad.language.messages import Program


class _Sitewise(Inside):
    """Mixin for guides that accept a model without latent sites, of which only the model's parameters are fitted."""

    def without_sites(self) -> None:
        pass


class _Normal(_Sitewise, native.AutoNormal):
    def make_site(self, latent: Latent, start: Tensor) -> None:
        self.keeper._keep(f"locs.{latent.name}", start)
        self.keeper._keep(
            f"scales.{latent.name}", torch.full_like(start, self._init_scale), self.keeper.scale_constraint
        )

    def parameter(self, kind: str, latent: Latent) -> Tensor:
        return self.keeper._read(f"{'locs' if kind == 'loc' else 'scales'}.{latent.name}")

    def scale(self, stored: Tensor) -> Tensor:
        return stored


class AutoNormal(ModelGuide):
    """Independent normals, one for each element of each site, pushed to the site's support.

    Its parameters are `AutoNormal.locs.<site>` and `AutoNormal.scales.<site>`.

    Args:
        model, init_loc_fn, create_plates: see `ModelGuide`.
        init_scale: starting standard deviation in the unconstrained space.
    """

    scale_constraint: constraints.Constraint = constraints.softplus_positive

    def __init__(
        self,
        model: Program,
        *,
        init_loc_fn: InitFunction = init_to_feasible,
        init_scale: float = 0.1,
        create_plates: Program | None = None,
    ) -> None:
        self.__dict__["_init_scale"] = init_scale
        super().__init__(model, init_loc_fn, create_plates)

    def _build(self, model: Program) -> native.AutoGuide:
        return _Normal(self, model, init_scale=self.__dict__["_init_scale"])


class _Delta(_Sitewise, native.AutoDelta):
    def make_site(self, latent: Latent, start: Tensor) -> None:
        value = latent.transform(start)
        self.keeper._keep(latent.name, value, self.keeper._support(latent.name))

    def parameter(self, kind: str, latent: Latent) -> Tensor:
        return self.keeper._read(latent.name)

    def point(self, stored: Tensor, latent: Latent) -> Tensor:
        return stored

    def dims(self, latent: Latent) -> int:
        return latent.event_dim

    def median(self) -> dict[str, Tensor]:
        with torch.no_grad():
            return {latent.name: self.parameter("value", latent).detach() for latent in self._latents}

    def marginal(self, latent: Latent) -> tuple[Tensor, Tensor]:
        free = latent.transform.inv(self.parameter("value", latent))
        return free, torch.zeros_like(free)


class AutoDelta(ModelGuide):
    """A point at each site: maximum a posteriori estimation. Its parameters are `AutoDelta.<site>`, in the support.

    Args:
        model, init_loc_fn, create_plates: see `ModelGuide`.
    """

    def __init__(
        self,
        model: Program,
        init_loc_fn: InitFunction = init_to_median,
        *,
        create_plates: Program | None = None,
    ) -> None:
        super().__init__(model, init_loc_fn, create_plates)

    def _build(self, model: Program) -> native.AutoGuide:
        return _Delta(self, model)

    def _support(self, name: str) -> constraints.Constraint:
        support: constraints.Constraint = self.__dict__["_tracer"].trace.nodes[name]["fn"].support
        while isinstance(support, constraints.independent):
            support = support.base_constraint
        return support
