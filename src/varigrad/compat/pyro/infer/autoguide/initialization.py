"""Initial values of Pyro's guides: functions of a site that call varigrad's."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from varigrad import guides as native
from varigrad.compat.pyro.poutine.messages import Dictionary, view
from varigrad.compat.pyro.poutine.messenger import Messenger
from varigrad.errors import SiteError
from varigrad.language import handlers
from varigrad.language.messages import Forward, Message, Sample, evolve

InitFunction = Callable[[Dictionary], Tensor]
Initial = Any
"""A site's first value, or without a site, the function with its options filled in."""


def _statement(site: Dictionary) -> Sample:
    return Sample(site["name"], site["fn"], None, False)


def _draws(site: Dictionary, count: int = 1) -> Tensor:
    fn = site["fn"]
    return torch.stack([fn.sample().expand(fn.batch_shape + fn.event_shape) for _ in range(count)])


def init_to_feasible(site: Dictionary | None = None) -> Initial:
    """Where unconstrained values are zero, independently of the prior."""
    if site is None:
        return init_to_feasible
    return native.init_to_feasible(_statement(site), _draws(site))


def init_to_sample(site: Dictionary | None = None) -> Initial:
    """A draw from the prior."""
    return init_to_sample if site is None else _draws(site)[0]


def init_to_median(
    site: Dictionary | None = None, num_samples: int = 15, *, fallback: InitFunction | None = init_to_feasible
) -> Initial:
    """The median of draws from the prior; `fallback` where it is not finite, or outside the support."""
    if site is None:
        return functools.partial(init_to_median, num_samples=num_samples, fallback=fallback)
    value = _draws(site, num_samples).median(0).values
    if bool(value.isfinite().all()) and bool(site["fn"].support.check(value).all()):
        return value
    return _fallen_back(site, fallback, "its median is not finite, or outside the support")


def init_to_mean(site: Dictionary | None = None, *, fallback: InitFunction | None = init_to_median) -> Initial:
    """The prior's mean; `fallback` where there is none, or it is outside the support."""
    if site is None:
        return functools.partial(init_to_mean, fallback=fallback)
    fn = site["fn"]
    try:
        mean = fn.mean.detach().expand(fn.batch_shape + fn.event_shape)
    except NotImplementedError:
        return _fallen_back(site, fallback, "its distribution has no mean")
    if bool(mean.isfinite().all()) and bool(fn.support.check(mean).all()):
        return mean
    return _fallen_back(site, fallback, "its mean is not finite, or outside the support")


def init_to_uniform(site: Dictionary | None = None, radius: float = 2.0) -> Initial:
    """Unconstrained values uniform in `[-radius, radius]`."""
    if site is None:
        return functools.partial(init_to_uniform, radius=radius)
    return native.init_to_uniform(_statement(site), _draws(site), radius)


def init_to_value(
    site: Dictionary | None = None,
    values: Mapping[str, Tensor | float] | None = None,
    *,
    fallback: InitFunction | None = init_to_uniform,
) -> Initial:
    """The given values, by site; `fallback` for the others."""
    values = {} if values is None else values
    if site is None:
        return functools.partial(init_to_value, values=values, fallback=fallback)
    if site["name"] in values:
        fn = site["fn"]
        return torch.as_tensor(values[site["name"]]).detach().expand(fn.batch_shape + fn.event_shape)
    return _fallen_back(site, fallback, "no value is given for it")


class _InitToGenerated:
    def __init__(self, generate: Callable[[], InitFunction]) -> None:
        self.generate = generate
        self._init: InitFunction | None = None
        self._seen: set[str] = set()

    def __call__(self, site: Dictionary) -> Tensor:
        if self._init is None or site["name"] in self._seen:
            self._init, self._seen = self.generate(), set()
        self._seen.add(site["name"])
        return self._init(site)


def init_to_generated(
    site: Dictionary | None = None, generate: Callable[[], InitFunction] = lambda: init_to_uniform
) -> Initial:
    """What `generate()` returns, called anew for each guide: for starting again somewhere else."""
    init = _InitToGenerated(generate)
    return init if site is None else init(site)


def _fallen_back(site: Dictionary, fallback: InitFunction | None, because: str) -> Tensor:
    if fallback is None:
        raise SiteError("has no initial value", site=site["name"], because=because, try_="fallback=init_to_median")
    value: Tensor = fallback(site)
    return value


class InitMessenger(Messenger):
    """Gives latent sites the values of an initialiser, on which sites after them then depend."""

    def __init__(self, init_fn: InitFunction) -> None:
        super().__init__()
        self.init_fn = init_fn

    def _handle(self, message: Message, forward: Forward) -> Message:
        if type(message) is Sample and not message.observed and message.value is None:
            msg = view(message)
            assert msg is not None
            if not getattr(msg["fn"].support, "is_discrete", False):
                with torch.no_grad(), handlers.block():
                    value = self.init_fn(msg)
                if value is not None:
                    message = evolve(message, value=value)
        return forward(message)
