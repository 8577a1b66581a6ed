"""The primitives: sample, param, module, factor, deterministic, subsample; `plate` is in `plates.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch import distributions as td
from torch.distributions import constraints

from varigrad.distributions.mixin import Masked
from varigrad.errors import ParameterError, ShapeError, SiteError, SiteNameError
from varigrad.language.messages import (
    Factor,
    Forward,
    Message,
    Module,
    Param,
    Record,
    Sample,
    SiteEstimator,
    Subsample,
    evolve,
)
from varigrad.language.runtime import Scope, apply
from varigrad.language.value_conversion import as_numbers, check_unmasked

M = TypeVar("M", bound=nn.Module)

OBSERVED, UNOBSERVED = "_observed", "_unobserved"
"""What the two parts of a site with `obs_mask` are called, after its name."""

_GLOB = frozenset("*?[]")


def sample(
    name: str,
    distribution: td.Distribution,
    obs: Tensor | None = None,
    *,
    obs_mask: Tensor | None = None,
    estimator: SiteEstimator | None = None,
    notes: Mapping[str, object] | None = None,
    auxiliary: bool = False,
) -> Tensor:
    """A random choice named `name`.

    Args:
        name: unique within a run of the program.
        distribution: any `torch.distributions` object, batch shape `[*plates]`.
        obs: the observed value, `[*plates, *event]`; None for a latent choice.
        obs_mask: bool, `[*plates]`: where False, the value is missing and drawn as the latent site
            `name + "_unobserved"`, which the guide then has to have.
        estimator: how the gradient through this choice is estimated (guides only), e.g. `Score(MovingAverage())`.
        notes: annotations of the site, for users' handlers and for traces.
        auxiliary: a choice of the guide that the model does not have: noise that other sites are made of. Those sites
            are `Delta`s, or what is left of their distribution given the noise; the densities together have to be
            that of the model's sites.

    Returns:
        The value, `[*plates, *event]`.

    Raises:
        SiteNameError: the name is not a non-empty string.
        SiteError: `distribution` is not a distribution, `obs` is neither a tensor nor a number, or the estimator is
            given for an observed site.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> def model():
        ...     z = vg.sample("z", dist.Normal(0.0, 1.0))
        ...     return vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(2.0))
        >>> model()
        tensor(2.)
    """
    _check_name(name)
    if not isinstance(distribution, td.Distribution):
        raise SiteError(
            f"sample needs a distribution, got {type(distribution).__name__}",
            site=name,
            try_="param for a learnable tensor, deterministic for a computed one",
        )
    if auxiliary and obs is not None:
        raise SiteError("is auxiliary and observed", site=name, because="only a guide's own draws are auxiliary")
    if estimator is not None and obs is not None:
        raise SiteError("is observed, so no estimator can act on it", site=name, try_="estimator= in the guide")
    if obs_mask is not None:
        if obs is None:
            raise SiteError("obs_mask needs obs", site=name, try_="obs=data with anything finite where it is missing")
        return partly_observed(name, distribution, obs, obs_mask, estimator, notes)
    mask = None
    while isinstance(distribution, Masked):
        mask = distribution.density_mask if mask is None else mask & distribution.density_mask
        distribution = distribution.base
    if obs is not None and not isinstance(obs, Tensor):
        obs = as_numbers(name, float(obs) if isinstance(obs, int) else obs, "obs")  # a density wants floating point
    if obs is not None and (obs.layout is not torch.strided or obs.is_nested):
        raise SiteError(
            f"obs is a {'nested' if obs.is_nested else 'sparse'} tensor ({obs.layout})",
            site=name,
            because="a log-density is computed for each element of a dense tensor",
            try_="torch.nested.to_padded_tensor(obs, 0.0) with obs_mask=" if obs.is_nested else "obs.to_dense()",
        )
    message = Sample(name, distribution, obs, obs is not None, (), mask, 1.0, estimator, notes or {}, auxiliary)
    return value_of(message)


def partly_observed(
    name: str,
    distribution: td.Distribution,
    obs: Tensor | None,
    obs_mask: Tensor,
    estimator: SiteEstimator | None = None,
    notes: Mapping[str, object] | None = None,
) -> Tensor:
    """A site in two parts: `name_observed` where `obs_mask`, with the value `obs` (None: drawn), and `name_unobserved`,
    drawn, elsewhere.

    Args:
        name, distribution, obs, obs_mask, estimator, notes: see `sample`.

    Returns:
        The value, `[*plates, *event]`.
    """
    if not isinstance(obs_mask, Tensor) or obs_mask.dtype != torch.bool:
        raise SiteError("obs_mask must be a bool tensor", site=name)
    event = len(distribution.event_shape)
    given = obs_mask.reshape(obs_mask.shape + (1,) * event)

    def where(mask: Tensor) -> Scope:
        def handler(message: Message, forward: Forward) -> Message:
            if isinstance(message, Sample):
                message = evolve(message, mask=mask if message.mask is None else message.mask & mask)
            return forward(message)

        return Scope(handler)

    with where(obs_mask):
        seen = sample(name + OBSERVED, distribution, obs, notes=notes)
    with where(~obs_mask):
        missing = sample(name + UNOBSERVED, distribution, estimator=estimator, notes=notes)
    return deterministic(name, torch.where(given, seen, missing), event_dim=event)


def param(
    name: str,
    init: Tensor | float | Callable[[], Tensor] | None = None,
    constraint: constraints.Constraint = constraints.real,
    event_dim: int | None = None,
) -> Tensor:
    """A learnable tensor named `name`; the objective that runs the program owns it.

    Args:
        name: shared by every statement (in model and guide) that means the same parameter.
        init: its first value, or a function that makes it (called once).
        constraint: where it lives; it is optimised in an unconstrained space.
        event_dim: number of rightmost dimensions that are no plates: inside a subsampled plate, the
            dimensions left of them are cut down to the minibatch.

    Returns:
        The constrained value.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> def guide():
        ...     scale = vg.param("scale", 1.0, dist.constraints.positive)
        ...     vg.sample("z", dist.Normal(vg.param("loc", torch.zeros(())), scale))
        >>> sorted(vg.handlers.trace(guide)())
        ['loc', 'scale', 'z']
    """
    _check_name(name)
    if not isinstance(constraint, constraints.Constraint):
        raise ParameterError(
            f"constraint must be a constraint, got {constraint!r}", site=name, try_="dist.constraints.positive"
        )
    return value_of(Param(name, init, constraint, event_dim))


def module(name: str, value: M) -> M:
    """Declare that the parameters of `value` are to be learnt, under the prefix `name`.

    Args:
        name: prefix of the parameters' names.
        value: an `nn.Module`.

    Returns:
        The module itself.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> network = torch.nn.Linear(2, 1)
        >>> def guide():
        ...     net = vg.module("net", network)
        ...     vg.sample("z", dist.Normal(net(torch.ones(2)).squeeze(), 1.0))
        >>> def model():
        ...     vg.sample("z", dist.Normal(0.0, 1.0))
        >>> loss = vg.ELBO()(model, guide)
        >>> loss().backward()
        >>> sorted(name for name, _ in loss.named_parameters())
        ['net.bias', 'net.weight']
    """
    _check_name(name)
    if not isinstance(value, nn.Module):
        raise SiteError(f"module needs a torch.nn.Module, got {type(value).__name__}", site=name)
    return apply(Module(name, value)).value  # type: ignore[return-value]  # a handler may answer with a twin of it


def factor(name: str, log_factor: Tensor | float) -> None:
    """Add `log_factor`, `[*plates]`, to the log-density.

    Args:
        name: unique within a run of the program.
        log_factor: the summand, in nats, `[*plates]`.

    Raises:
        SiteError: it is neither a tensor nor a number.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> def model():
        ...     z = vg.sample("z", dist.Normal(0.0, 1.0))
        ...     vg.factor("positive", -torch.relu(-z))
        >>> sorted(vg.handlers.trace(model)())
        ['positive', 'z']
    """
    _check_name(name)
    apply(Factor(name, as_numbers(name, log_factor, "log_factor")))


def deterministic(name: str, value: Tensor, event_dim: int | None = None) -> Tensor:
    """Record a computed value in traces and predictions under `name`; returns it.

    Args:
        name: unique within a run of the program.
        value: what is recorded, `[*plates, *event]`.
        event_dim: number of rightmost dimensions that are no plates, for those who read traces.

    Returns:
        The value, as it was given, or as a handler replaced it.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> def model():
        ...     z = vg.sample("z", dist.Normal(0.0, 1.0))
        ...     return vg.deterministic("twice", 2 * z)
        >>> trace = vg.handlers.trace(model)()
        >>> bool(trace["twice"].value == 2 * trace["z"].value)
        True
    """
    _check_name(name)
    return apply(Record(name, value, event_dim=event_dim)).value


def subsample(data: Tensor, event_dim: int = 0) -> Tensor:
    """`data`, `[*plates, *event]`, cut down to the minibatch of the plates around this call.

    Args:
        data: full-size along every plate's dimension.
        event_dim: number of rightmost dimensions that are no plates.

    Returns:
        The rows of `data` that belong to the minibatches in use, `[*batch, *event]`.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> data = torch.arange(10.0)
        >>> def model():
        ...     with vg.plate("data", 10, subsample_size=4):
        ...         return vg.subsample(data, event_dim=0)
        >>> model().shape
        torch.Size([4])
    """
    if not isinstance(data, Tensor):
        check_unmasked(None, data, "what subsample is given")
        raise ShapeError(f"subsample needs a tensor, got {type(data).__name__}")
    return apply(Subsample(data, event_dim)).value


def value_of(message: Sample | Param) -> Tensor:
    """The value that the handlers in force, or the message's default, give a random choice or a parameter.

    Raises:
        SiteError: a handler left it without one.
    """
    value = apply(message).value
    if value is None:
        raise SiteError(
            "no handler gave it a value",
            site=message.name,
            because="a handler took the message and neither sent it on nor answered it",
            try_="return forward(message) in that handler",
        )
    return value


def _check_name(name: object) -> None:
    if type(name) is str and name.isidentifier():
        return  # the most common names, at a fraction of the cost
    if not isinstance(name, str) or not name:
        raise SiteNameError(f"a name is a non-empty string, got {name!r}")
    if not _GLOB.isdisjoint(name):
        raise SiteNameError("contains one of * ? [ ], which choose sites by pattern", site=name)
