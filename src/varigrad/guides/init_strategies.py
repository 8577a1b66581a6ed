"""Initial values of automatic guides: functions of a latent site and some draws of it from the prior.

Each takes the site's message (with `name` and `distribution`) and draws `[draws, *site]`, and returns a value `[*site]`
in the support. Users can pass other such functions: `AutoNormal(model, init=lambda site, draws: draws[0])`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch import distributions as td

from varigrad.distributions.families import Uniform
from varigrad.distributions.mixin import unmasked
from varigrad.distributions.unconstrained import is_identity, unconstrained
from varigrad.errors import SiteError
from varigrad.language.messages import Sample
from varigrad.language.primitives import sample

Init = Callable[[Sample, Tensor], Tensor]

FARTHEST = 50.0
"""A draw on the edge of the support (a Gamma's that rounds to zero) is infinitely far out; it counts as this far."""


def init_to_median(site: Sample, draws: Tensor) -> Tensor:
    """Start at the median of the draws, taken of their unconstrained values.

    Args:
        site: the site's message.
        draws: draws from the prior, `[draws, *site]`.

    Returns:
        A value in the support, `[*site]`.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> def model():
        ...     with vg.plate("data", 3):
        ...         rate = vg.sample("rate", dist.Gamma(2.0, 1.0))
        ...         vg.sample("x", dist.Poisson(rate), obs=torch.tensor([1.0, 0.0, 4.0]))
        >>> guide = vg.guides.AutoNormal(model, init=vg.guides.init_to_median)
        >>> guide()["rate"].shape
        torch.Size([3])
    """
    transform = unconstrained(site.distribution.support)
    start: Tensor = transform(_free(transform, draws).median(0).values)
    return start


def init_to_mean(site: Sample, draws: Tensor) -> Tensor:
    """Start at the prior's mean; where it has none, or one outside the support, at the median of the draws.

    Args:
        site: the site's message.
        draws: draws from the prior, `[draws, *site]`.

    Returns:
        A value in the support, `[*site]`.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> def model():
        ...     with vg.plate("data", 3):
        ...         rate = vg.sample("rate", dist.Gamma(2.0, 1.0))
        ...         vg.sample("x", dist.Poisson(rate), obs=torch.tensor([1.0, 0.0, 4.0]))
        >>> guide = vg.guides.AutoNormal(model, init=vg.guides.init_to_mean)
        >>> guide()["rate"].shape
        torch.Size([3])
    """
    prior = unmasked(site.distribution)
    try:
        mean = prior.mean
    except NotImplementedError:
        return init_to_median(site, draws)
    mean = mean.expand(prior.batch_shape + prior.event_shape)
    if mean.shape != draws.shape[1:]:  # a minibatch, or plates that expand the site
        try:
            mean = mean.expand(draws.shape[1:])
        except RuntimeError:
            return init_to_median(site, draws)
    inside = bool(prior.support.check(mean).all()) and bool(mean.isfinite().all())  # type: ignore[union-attr]
    return mean if inside else init_to_median(site, draws)


def init_to_sample(site: Sample, draws: Tensor) -> Tensor:
    """Start at a draw from the prior.

    Args:
        site: the site's message.
        draws: draws from the prior, `[draws, *site]`.

    Returns:
        A value in the support, `[*site]`.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> def model():
        ...     with vg.plate("data", 3):
        ...         rate = vg.sample("rate", dist.Gamma(2.0, 1.0))
        ...         vg.sample("x", dist.Poisson(rate), obs=torch.tensor([1.0, 0.0, 4.0]))
        >>> guide = vg.guides.AutoNormal(model, init=vg.guides.init_to_sample)
        >>> guide()["rate"].shape
        torch.Size([3])
    """
    return draws[0]


def init_to_feasible(site: Sample, draws: Tensor) -> Tensor:
    """Start where unconstrained values are zero, independently of the prior.

    Args:
        site: the site's message.
        draws: draws from the prior, `[draws, *site]`.

    Returns:
        A value in the support, `[*site]`.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> def model():
        ...     with vg.plate("data", 3):
        ...         rate = vg.sample("rate", dist.Gamma(2.0, 1.0))
        ...         vg.sample("x", dist.Poisson(rate), obs=torch.tensor([1.0, 0.0, 4.0]))
        >>> guide = vg.guides.AutoNormal(model, init=vg.guides.init_to_feasible)
        >>> guide()["rate"].shape
        torch.Size([3])
    """
    transform = unconstrained(site.distribution.support)
    start: Tensor = transform(torch.zeros_like(transform.inv(draws[0])))
    return start


def init_to_uniform(site: Sample, draws: Tensor, radius: float = 2.0) -> Tensor:
    """Start at unconstrained values uniform in `[-radius, radius]`.

    Args:
        site: the site's message.
        draws: draws from the prior, `[draws, *site]`.
        radius: how far from zero the values may be.

    Returns:
        A value in the support, `[*site]`.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> def model():
        ...     with vg.plate("data", 3):
        ...         rate = vg.sample("rate", dist.Gamma(2.0, 1.0))
        ...         vg.sample("x", dist.Poisson(rate), obs=torch.tensor([1.0, 0.0, 4.0]))
        >>> guide = vg.guides.AutoNormal(model, init=vg.guides.init_to_uniform)
        >>> guide()["rate"].shape
        torch.Size([3])
    """
    transform = unconstrained(site.distribution.support)
    like = torch.zeros_like(transform.inv(draws[0]))
    start: Tensor = transform(sample(f"{site.name}_start", Uniform(like - radius, like + radius)))
    return start


def init_to_value(values: Mapping[str, Tensor | float], fallback: Init | None = init_to_uniform) -> Init:
    """The given values, by site; `fallback` for the others.

    Args:
        values: constrained values by site, `[*site]`.
        fallback: an initialiser for sites without a value; None: there must be none.

    Returns:
        An initialiser.

    Raises:
        SiteError: (when the guide is built) a site has no value and there is no fallback.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> def model():
        ...     with vg.plate("data", 3):
        ...         rate = vg.sample("rate", dist.Gamma(2.0, 1.0))
        ...         vg.sample("x", dist.Poisson(rate), obs=torch.tensor([1.0, 0.0, 4.0]))
        >>> init = vg.guides.init_to_value({"rate": torch.tensor([1.0, 2.0, 3.0])})
        >>> guide = vg.guides.AutoDelta(model, init=init)
        >>> guide()["rate"].detach()
        tensor([1., 2., 3.])
    """

    def start(site: Sample, draws: Tensor) -> Tensor:
        if site.name in values:
            return torch.as_tensor(values[site.name]).detach().to(draws).expand(draws.shape[1:])
        if fallback is None:
            raise SiteError("has no initial value", site=site.name, try_="a value for it, or fallback=init_to_median")
        return fallback(site, draws)

    return start


def init_to_generated(generate: Callable[[], Init]) -> Init:
    """`generate()` returns an initialiser each time a guide is built: for starting again somewhere else.

    It is called once for each guide, at its first site.

    Args:
        generate: makes an initialiser.

    Returns:
        An initialiser.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> def model():
        ...     with vg.plate("data", 3):
        ...         rate = vg.sample("rate", dist.Gamma(2.0, 1.0))
        ...         vg.sample("x", dist.Poisson(rate), obs=torch.tensor([1.0, 0.0, 4.0]))
        >>> init = vg.guides.init_to_generated(lambda: vg.guides.init_to_uniform)
        >>> guide = vg.guides.AutoNormal(model, init=init)
        >>> guide()["rate"].shape
        torch.Size([3])
    """
    made: dict[str, Init] = {}

    def start(site: Sample, draws: Tensor) -> Tensor:
        if not made or site.name in seen:
            made["init"] = generate()
            seen.clear()
        seen.add(site.name)
        return made["init"](site, draws)

    seen: set[str] = set()
    return start


def _free(transform: td.Transform, draws: Tensor) -> Tensor:
    free: Tensor = transform.inv(draws)
    return free if is_identity(transform) else free.nan_to_num(0.0, FARTHEST, -FARTHEST).clamp(-FARTHEST, FARTHEST)
