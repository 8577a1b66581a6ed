"""Helpers for handlers: predicates of sites, and continuations of unfinished runs for enumeration."""

from __future__ import annotations

from torch import Tensor

from varigrad.compat.pyro import settings
from varigrad.compat.pyro.poutine.messages import Dictionary, _Subsample
from varigrad.compat.pyro.poutine.trace_struct import Trace


def enable_validation(is_validate: bool) -> None:
    """Switch the checks of handlers on or off."""
    settings.set(validate_poutine=is_validate)


def is_validation_enabled() -> bool:
    """Whether they are on."""
    return bool(settings.get("validate_poutine"))


def site_is_subsample(site: Dictionary) -> bool:
    """Whether it is the minibatch of a plate."""
    return site["type"] == "sample" and isinstance(site["fn"], _Subsample)


def site_is_factor(site: Dictionary) -> bool:
    """Whether it is a factor: no value, only a log-density."""
    return site["type"] == "sample" and site["is_observed"] and type(site["fn"]).__name__ == "Unit"


def prune_subsample_sites(trace: Trace) -> Trace:
    """A copy of a trace without the minibatches of plates."""
    trace = trace.copy()
    for name, site in list(trace.nodes.items()):
        if site_is_subsample(site):
            trace.remove_node(name)
    return trace


def enum_extend(trace: Trace, msg: Dictionary, num_samples: int | None = None) -> list[Trace]:
    """Copies of a trace that go on with each value of a site (or the first `num_samples`)."""
    values = msg["fn"].enumerate_support(expand=False)
    return [_extended(trace, msg, value) for value in values[: None if num_samples in (None, -1) else num_samples]]


def mc_extend(trace: Trace, msg: Dictionary, num_samples: int | None = None) -> list[Trace]:
    """Copies of a trace that go on with draws of a site."""
    return [_extended(trace, msg, msg["fn"].sample()) for _ in range(num_samples or 1)]


def _extended(trace: Trace, msg: Dictionary, value: Tensor) -> Trace:
    twin = trace.copy()
    node = {**msg, "value": value.reshape(msg["fn"].batch_shape + msg["fn"].event_shape), "done": True}
    twin.add_node(msg["name"], **node)
    return twin


def discrete_escape(trace: Trace, msg: Dictionary) -> bool:
    """Whether a site is discrete, latent, and not in the trace yet."""
    return all_escape(trace, msg) and bool(getattr(msg["fn"], "has_enumerate_support", False))


def all_escape(trace: Trace, msg: Dictionary) -> bool:
    """Whether a site is latent, and not in the trace yet."""
    return (
        msg["type"] == "sample"
        and not msg["is_observed"]
        and not isinstance(msg["fn"], _Subsample)
        and msg["name"] not in trace
    )
