"""Checks user-defined distributions: `rsample` must carry derivatives, and no parameter may move the support.

The families of torch and varigrad need no such check. For any other class, the first check marks the parameters that
require gradients, and computes a draw and its log-density once more.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch import distributions as td

from varigrad.distributions.finite_support import listed
from varigrad.distributions.rng import global_state, set_global_state
from varigrad.distributions.tensor_walk import is_known, replace_tensors, tensors_of
from varigrad.errors import SiteError
from varigrad.estimators.base import Estimator
from varigrad.language.messages import Sample
from varigrad.terms.escapes import Escapes, Provenance
from varigrad.terms.provenance import track_provenance

_PARAMETER, _VALUE = frozenset(("parameter",)), frozenset(("value",))
_REACH = (1e-2, 1.0, 1e2)
"""How far from a drawn value, in units of its size, a jump of the density is looked for,"""
_POINTS, _HALVINGS = 16, 40
"""at how many points on either side, and how often each interval is halved towards its largest change."""


class _Each(Escapes):
    """An `Escapes` record that keeps the inputs of each discontinuous function separately."""

    def __init__(self) -> None:
        self.each: list[Provenance] = []
        super().__init__(watch=True)

    @property
    def nondifferentiable(self) -> Provenance:
        """Nothing, so that what is added to it is what comes in."""
        return frozenset()

    @nondifferentiable.setter
    def nondifferentiable(self, provenance: Provenance) -> None:
        self.each.append(provenance)


def check_own_family(message: Sample, estimator: Estimator) -> None:
    """Refuse what a class that is not known makes of a gradient in silence.

    Args:
        message: the guide's site, with the value that was drawn while gradients were enabled.
        estimator: the site's.

    Raises:
        SiteError: a pathwise draw carries no gradient; a score function is asked of a density that jumps where a
            parameter says; listed values move with a parameter.
    """
    distribution, value = message.distribution, message.value
    if value is None or is_known(distribution) or not any(p.requires_grad for p in tensors_of(distribution)[0]):
        return
    kind = type(distribution).__name__
    with torch.enable_grad():
        if estimator.drawing.pathwise and distribution.has_rsample and value.is_floating_point():
            if not value.requires_grad:
                raise SiteError(
                    f"{type(estimator).__name__} cannot serve this site",
                    site=message.name,
                    because=f"{kind} declares has_rsample = True, and what its rsample returned carries no gradient, "
                    "though a parameter of it requires one",
                    try_=f"has_rsample = False in {kind} (the score function then serves it), or an rsample that is a "
                    "differentiable function of the parameters and of noise",
                )
        elif not estimator.drawing.pathwise and estimator.needs.cost and _moves(distribution, value):
            raise SiteError(
                f"{type(estimator).__name__} cannot serve this site",
                site=message.name,
                because=f"the support of {kind} moves with a parameter, and a score function "
                "misses what the moving ends contribute",
                try_="Pathwise() and a model that is smooth in the value, or a family whose support stays",
            )


def _moves(distribution: td.Distribution, value: Tensor) -> bool:
    """Whether listed values, or a jump of the density, lie where a parameter says."""
    if distribution.has_enumerate_support:
        values = listed(distribution)
        return values is not None and values.requires_grad
    if not value.is_floating_point() or distribution.event_shape:
        return False
    compared = _noted(distribution, lambda d, v: d.log_prob(v), value)
    return any(each >= _PARAMETER | _VALUE for each in compared) and _jumps(distribution, value.detach())


def draw_steps(distribution: td.Distribution, value: Tensor) -> bool:
    """Whether the `rsample` of a class that is not known compares or rounds what depends on a parameter."""
    return any(each >= _PARAMETER for each in _noted(distribution, lambda d, _: d.rsample(), value))


def _noted(
    distribution: td.Distribution, function: Callable[[td.Distribution, Tensor], Tensor], value: Tensor
) -> list[Provenance]:
    """What went into the step functions that a class's own method calls."""
    escapes = _Each()

    def marked(tensor: Tensor) -> Tensor:
        return track_provenance(tensor, _PARAMETER, escapes) if tensor.requires_grad else tensor

    state = global_state()
    try:
        function(replace_tensors(distribution, marked), track_provenance(value, _VALUE, escapes))
    except Exception:
        return []  # it cannot be looked at: the run itself has gone through
    finally:
        set_global_state(state)
    return [each for each in escapes.each if each]


@torch.no_grad()
def _jumps(distribution: td.Distribution, value: Tensor) -> bool:
    """Whether the log-density jumps, or ends, somewhere around the drawn values."""
    value = value.double()
    reach = torch.cat([torch.linspace(-r, r, 2 * _POINTS + 1, dtype=torch.float64) for r in _REACH]).unique()
    at = value + (1 + value.abs()) * reach.to(value).reshape(-1, *(1,) * value.dim())
    try:
        low, high = at[:-1], at[1:]
        first, last = distribution.log_prob(low), distribution.log_prob(high)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            between = distribution.log_prob(middle)
            left = ((between - first).abs() >= (last - between).abs()) & (first != between)
            low, high = torch.where(left, low, middle), torch.where(left, middle, high)
            first, last = torch.where(left, first, between), torch.where(left, between, last)
    except Exception:
        return True  # values are refused where a parameter says
    return bool(((last - first).abs() > 1e-2 + 1e-6 * first.nan_to_num(neginf=0.0).abs()).any())
