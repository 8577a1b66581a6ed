"""Pyro's continuous guides (`AutoMultivariateNormal`, ...): one distribution for all sites together."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td

from varigrad import guides as native
from varigrad.compat.pyro import distributions as dist
from varigrad.compat.pyro import poutine
from varigrad.compat.pyro.distributions import constraints, transforms
from varigrad.compat.pyro.infer.autoguide.base import Inside, ModelGuide
from varigrad.compat.pyro.infer.autoguide.initialization import InitFunction, init_to_feasible, init_to_median
from varigrad.distributions.flattened import Flattened
from varigrad.errors import is_whole
from varigrad.guides.base import Latent
from varigrad.guides.joint import JointGuide
from varigrad.language.messages import Program, evolve
from varigrad.language.trace import Trace


class _Joint(Inside, JointGuide):
    def _latent(self, name: str, traces: list[Trace]) -> Latent:
        # Where the model masks a site, its elements have no prior, and spread: as in Pyro, that is no error.
        return evolve(super()._latent(name, traces), mask=None)

    def make_joint(self, start: Tensor) -> None:
        self.name = f"_{self.keeper._pyro_name}_latent"
        self.keeper._start(start)

    def normal(self) -> td.Distribution:
        found: td.Distribution = self.keeper.get_posterior()
        return found

    def location(self) -> Tensor:
        found: Tensor = self.keeper._loc_scale()[0]
        return found

    def deviations(self) -> Tensor:
        found: Tensor = self.keeper._loc_scale()[1]
        return found


class AutoContinuous(ModelGuide):
    """Interface of guides that draw one vector of unconstrained values, the site `_<guide>_latent`.

    Derive from it and give `get_posterior`, the vector's distribution; attributes that are `nn.Parameter`s,
    `PyroParam`s or modules are its parameters. `latent_dim` is the size of the vector, known once the guide is built.

    Args:
        model, init_loc_fn: see `ModelGuide`.
    """

    def __init__(self, model: Program, init_loc_fn: InitFunction = init_to_median) -> None:
        super().__init__(model, init_loc_fn)

    def _build(self, model: Program) -> native.AutoGuide:
        return _Joint(self, model)

    def _start(self, start: Tensor) -> None:
        """Where the vector starts; parameters are made here."""
        self.__dict__["latent_dim"] = len(start)
        self.__dict__["_init"] = start

    def _init_loc(self) -> Tensor:
        """The vector at which the guide starts."""
        found: Tensor = self.__dict__["_init"]
        return found

    def get_posterior(self, *args: object, **kwargs: object) -> td.Distribution:
        """The distribution of the unconstrained vector, `[latent_dim]`."""
        raise NotImplementedError(f"{type(self).__name__} has to say what its get_posterior is")

    def sample_latent(self, *args: object, **kwargs: object) -> Tensor:
        """A draw of the vector, as a statement."""
        self._ready(args, kwargs)
        with poutine.trace() as inner:
            self(*args, **kwargs)
        found: Tensor = inner.trace.nodes[self._native.name]["value"]
        return found

    def _loc_scale(self, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        """Medians and standard deviations of the vector, `[latent_dim]`."""
        raise NotImplementedError(f"{type(self).__name__} has no medians in closed form")

    def _flattened(self) -> Flattened:
        found: Flattened = self._native.joint()
        return found


class AutoDiagonalNormal(AutoContinuous):
    """Independent normals, as one vector. Its parameters are `AutoDiagonalNormal.loc` and `.scale`.

    Args:
        model, init_loc_fn: see `ModelGuide`.
        init_scale: starting standard deviation in the unconstrained space.
    """

    scale_constraint: constraints.Constraint = constraints.softplus_positive

    def __init__(self, model: Program, init_loc_fn: InitFunction = init_to_median, init_scale: float = 0.1) -> None:
        self.__dict__["_init_scale"] = _positive(init_scale)
        super().__init__(model, init_loc_fn)

    def _start(self, start: Tensor) -> None:
        super()._start(start)
        self.loc: torch.nn.Parameter = torch.nn.Parameter(start.clone())
        self._keep("scale", torch.full_like(start, self.__dict__["_init_scale"]), self.scale_constraint)

    def get_posterior(self, *args: object, **kwargs: object) -> td.Distribution:
        posterior: td.Distribution = dist.Normal(self.loc, self.scale).to_event(1)
        return posterior

    def _loc_scale(self, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        return self.loc, self.scale


class AutoMultivariateNormal(AutoContinuous):
    """A normal with a full covariance. Its parameters are `AutoMultivariateNormal.loc`, `.scale` and `.scale_tril`,
    whose product with `scale` is the covariance's Cholesky factor.

    Args:
        model, init_loc_fn: see `ModelGuide`.
        init_scale: starting standard deviation in the unconstrained space.
    """

    scale_constraint: constraints.Constraint = constraints.softplus_positive
    scale_tril_constraint: constraints.Constraint = constraints.unit_lower_cholesky

    def __init__(self, model: Program, init_loc_fn: InitFunction = init_to_median, init_scale: float = 0.1) -> None:
        self.__dict__["_init_scale"] = _positive(init_scale)
        super().__init__(model, init_loc_fn)

    def _start(self, start: Tensor) -> None:
        super()._start(start)
        self.loc: torch.nn.Parameter = torch.nn.Parameter(start.clone())
        self._keep("scale", torch.full_like(start, self.__dict__["_init_scale"]), self.scale_constraint)
        self._keep("scale_tril", torch.eye(len(start)).to(start), self.scale_tril_constraint)

    def get_posterior(self, *args: object, **kwargs: object) -> td.Distribution:
        posterior: td.Distribution = dist.MultivariateNormal(self.loc, scale_tril=self._factor())
        return posterior

    def _factor(self) -> Tensor:
        factor: Tensor = self.scale.unsqueeze(-1) * self.scale_tril
        return factor

    def _loc_scale(self, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        return self.loc, torch.linalg.vector_norm(self._factor(), dim=-1)


class AutoLowRankMultivariateNormal(AutoContinuous):
    """A normal with covariance `D (I + W W') D`, `D` the diagonal matrix of `scale`, `W` being `cov_factor`.

    Args:
        model, init_loc_fn: see `ModelGuide`.
        init_scale: starting standard deviation in the unconstrained space, about.
        rank: columns of `W`; None: the square root of the number of coordinates, rounded.
    """

    scale_constraint: constraints.Constraint = constraints.softplus_positive

    def __init__(
        self,
        model: Program,
        init_loc_fn: InitFunction = init_to_median,
        init_scale: float = 0.1,
        rank: int | None = None,
    ) -> None:
        if rank is not None and not is_whole(rank):
            raise ValueError(f"Expected rank > 0 but got {rank}")
        self.__dict__.update(_init_scale=_positive(init_scale), rank=rank)
        super().__init__(model, init_loc_fn)

    def _start(self, start: Tensor) -> None:
        super()._start(start)
        rank = self.__dict__["rank"] or round(len(start) ** 0.5)
        self.__dict__["rank"] = rank
        self.loc: torch.nn.Parameter = torch.nn.Parameter(start.clone())
        scale = self.__dict__["_init_scale"] * 0.5**0.5  # the factor doubles the variance, about
        self._keep("scale", torch.full_like(start, scale), self.scale_constraint)
        self.cov_factor: torch.nn.Parameter = torch.nn.Parameter(torch.randn(len(start), rank).to(start) / rank**0.5)

    def get_posterior(self, *args: object, **kwargs: object) -> td.Distribution:
        scale = self.scale
        posterior: td.Distribution = dist.LowRankMultivariateNormal(
            self.loc, self.cov_factor * scale.unsqueeze(-1), scale * scale
        )
        return posterior

    def _loc_scale(self, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        return self.loc, self.scale * (1 + self.cov_factor.square().sum(-1)).sqrt()


class AutoNormalizingFlow(AutoContinuous):
    """A flow from a standard normal.

    Args:
        model: see `ModelGuide`.
        init_transform_fn: makes the transform, a module perhaps, for a given size of the vector.
    """

    def __init__(self, model: Program, init_transform_fn: Callable[[int], td.Transform]) -> None:
        super().__init__(model, init_to_feasible)
        self._init_transform_fn = init_transform_fn

    def _start(self, start: Tensor) -> None:
        super()._start(start)
        self.transform: td.Transform = self._init_transform_fn(len(start))
        self.register_buffer("_prototype_tensor", torch.zeros_like(start))

    def get_base_dist(self) -> td.Distribution:
        """The standard normal, `[latent_dim]`."""
        zeros = self._prototype_tensor
        base: td.Distribution = dist.Normal(zeros, torch.ones_like(zeros)).to_event(1)
        return base

    def get_posterior(self, *args: object, **kwargs: object) -> td.Distribution:
        posterior: td.Distribution = dist.TransformedDistribution(self.get_base_dist(), [self.transform])
        return posterior


class AutoIAFNormal(AutoNormalizingFlow):
    """Inverse autoregressive flows from a standard normal.

    Args:
        model: see `ModelGuide`.
        hidden_dim: sizes of the hidden layers; default: two of the size of the vector.
        num_transforms: how many flows, one after the other.
        init_transform_kwargs: more for `pyro.distributions.transforms.affine_autoregressive`.
    """

    def __init__(
        self,
        model: Program,
        hidden_dim: int | Sequence[int] | None = None,
        init_loc_fn: InitFunction | None = None,
        num_transforms: int = 1,
        **init_transform_kwargs: Any,
    ) -> None:
        if init_loc_fn is not None:
            warnings.warn("init_loc_fn does nothing for AutoIAFNormal", FutureWarning, stacklevel=2)
        hidden = [hidden_dim] if isinstance(hidden_dim, int) else hidden_dim

        def flows(size: int) -> td.Transform:
            made = [
                transforms.affine_autoregressive(size, hidden_dims=hidden, **init_transform_kwargs)
                for _ in range(num_transforms)
            ]
            return transforms.ComposeTransformModule(made)

        super().__init__(model, flows)


class AutoLaplaceApproximation(AutoContinuous):
    """A point at the posterior's mode; `laplace_approximation` then turns it into a normal around it.

    Args:
        model, init_loc_fn: see `ModelGuide`.
    """

    def _start(self, start: Tensor) -> None:
        super()._start(start)
        self.loc: torch.nn.Parameter = torch.nn.Parameter(start.clone())

    def get_posterior(self, *args: object, **kwargs: object) -> td.Distribution:
        return dist.Delta(self.loc, event_dim=1)

    def _loc_scale(self, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        return self.loc, torch.zeros_like(self.loc)

    def laplace_approximation(self, *args: object, **kwargs: object) -> AutoMultivariateNormal:
        """A guide that is the normal with the curvature of the model's log-density at the mode.

        Raises:
            torch.linalg.LinAlgError: the log-density is not concave there.
        """
        self._ready(args, kwargs)
        joint, names = self._flattened(), [latent.name for latent in self._native.latents]

        def loss(vector: Tensor) -> Tensor:
            values = dict(zip(names, joint.values(vector), strict=True))
            trace = poutine.trace(poutine.condition(self.model, data=values)).get_trace(*args, **kwargs)
            minus_log_density: Tensor = -trace.log_prob_sum() - joint.log_slope(vector)
            return minus_log_density

        with poutine.block():
            hessian = torch.autograd.functional.hessian(loss, self.loc.detach())
        covariance = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
        factor = torch.linalg.cholesky(covariance)
        scale = factor.diagonal().clone()
        guide = AutoMultivariateNormal(self.model, self.init_loc_fn)
        guide._setup_prototype(*args, **kwargs)
        guide.loc = torch.nn.Parameter(self.loc.detach().clone())
        guide._keep("scale", scale, guide.scale_constraint)
        guide._keep("scale_tril", factor / scale.unsqueeze(-1), guide.scale_tril_constraint)
        return guide


def _positive(init_scale: object) -> float:
    if not isinstance(init_scale, (int, float)) or not init_scale > 0:
        raise ValueError(f"Expected init_scale > 0. but got {init_scale}")
    return float(init_scale)
