"""`LocScaleReparam`: decentres a site's location and scale, by a fixed or learnt degree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from varigrad.compat.pyro import primitives
from varigrad.compat.pyro.infer.reparam.reparam import Reparam
from varigrad.compat.pyro.poutine.messages import Dictionary
from varigrad.distributions.finite_support import inner_of
from varigrad.errors import SiteError


class LocScaleReparam(Reparam):
    r"""Decentres a family with `loc` and `scale`: the site `name_decentered` is drawn with :math:`\mu c,\ \sigma^c`.

    Args:
        centered: `c` in [0, 1]: 1 leaves the site as it is, 0 decentres it; a tensor for each element; None for a
            parameter `name_centered`, to be learnt.
        shape_params: names of further arguments of the family.

    References:
        Gorinova, Moore, Hoffman (2019), Automatic reparameterisation of probabilistic programs.
    """

    def __init__(self, centered: Tensor | float | None = None, shape_params: Sequence[str] | None = ()) -> None:
        if centered is not None and not bool(
            ((torch.as_tensor(centered) >= 0) & (torch.as_tensor(centered) <= 1)).all()
        ):
            raise SiteError(f"centered must be in [0, 1], got {centered!r}")
        self.centered = centered
        self.shape_params: tuple[str, ...] = tuple(shape_params or ())

    def apply(self, msg: Dictionary) -> Dictionary:
        name, fn = msg["name"], msg["fn"]
        base, events = inner_of(fn)
        if not hasattr(base, "loc") or not hasattr(base, "scale"):
            raise SiteError(f"{type(base).__name__} has no loc and scale", site=name)
        loc, scale = base.loc, base.scale
        centered: Any = self.centered
        if centered is None:
            shape = fn.event_shape
            centered = primitives.param(
                f"{name}_centered", lambda: loc.new_full(shape, 0.5), constraint=constraints.unit_interval
            )
        given = {key: getattr(base, key) for key in self.shape_params}
        twin = type(base)(loc=loc * centered, scale=scale**centered, **given)
        drawn = primitives.sample(f"{name}_decentered", twin.to_event(events) if events else twin, infer=msg["infer"])
        value = loc + scale ** (1 - centered) * (drawn - centered * loc)
        return {**msg, "value": value}
