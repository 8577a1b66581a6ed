"""Checks the options of a site, `infer=`, at the sample statement."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from varigrad.errors import BaselineError, SiteError

_KNOWN = ("baseline", "enumerate", "expand", "is_auxiliary", "num_samples", "tmc")

_BASELINE = ("baseline_beta", "baseline_value", "nn_baseline", "nn_baseline_input", "use_decaying_avg_baseline")


def check_infer(name: str, infer: Mapping[str, Any], observed: bool) -> None:
    """Everything that can be seen to be wrong where the site is.

    Keys that are not known are left to handlers of the program's own, unless they look like a slip.

    Raises:
        BaselineError: an unknown or contradictory option of a baseline, or a baseline of an observed site.
        SiteError: a key that is almost one of those known, or a way of enumerating that does not exist.
    """
    for key in infer:
        near = get_close_matches(key, _KNOWN, 1, 0.85) if isinstance(key, str) and key not in _KNOWN else []
        if near:
            raise SiteError(f"infer has the unknown key {key!r} (did you mean {near[0]!r}?)", site=name)
    way = infer.get("enumerate")
    if way not in (None, "parallel", "sequential"):
        raise SiteError(f"enumerate must be 'parallel' or 'sequential', got {way!r}", site=name)
    if infer.get("baseline") is not None:
        _check_baseline(name, infer["baseline"])
        if observed and acts(infer["baseline"]):
            raise BaselineError(
                "is observed, so a baseline cannot act on it",
                site=name,
                because="there is no draw whose gradient it could improve",
                try_="the baseline at the guide's site",
            )


def acts(baseline: Mapping[str, object] | None) -> bool:
    """Whether the options amount to a baseline at all."""
    if not baseline:
        return False
    given = baseline.get("nn_baseline") is not None or baseline.get("baseline_value") is not None
    return given or bool(baseline.get("use_decaying_avg_baseline"))


def _check_baseline(name: str, options: object) -> None:
    if not isinstance(options, Mapping):
        raise BaselineError(
            f"baseline must be a dictionary of options, got {type(options).__name__}",
            site=name,
            try_="infer={'baseline': {'use_decaying_avg_baseline': True}}",
        )
    for key in options:
        if key not in _BASELINE:
            near = get_close_matches(str(key), _BASELINE, 1)
            raise BaselineError(
                f"baseline has the unknown option {key!r}" + (f" (did you mean {near[0]!r}?)" if near else ""),
                site=name,
                because=f"the options are {', '.join(_BASELINE)}",
            )
    network, value = options.get("nn_baseline"), options.get("baseline_value")
    if network is not None and value is not None:
        raise BaselineError(
            "has both nn_baseline and baseline_value", site=name, try_="one of them, or their sum as baseline_value"
        )
    if network is not None and not callable(network):
        raise BaselineError(f"nn_baseline must be a network or a function, got {type(network).__name__}", site=name)
    if (network is None) != (options.get("nn_baseline_input") is None):
        has, lacks = ("nn_baseline", "nn_baseline_input")[:: 1 if network is not None else -1]
        raise BaselineError(f"has {has} and no {lacks}", site=name, try_=f"both {has} and {lacks}")
    beta = options.get("baseline_beta", 0.9)
    if isinstance(beta, bool) or not isinstance(beta, (int, float)) or not 0 <= beta < 1:
        raise BaselineError(f"baseline_beta must be in [0, 1), got {beta!r}", site=name)
