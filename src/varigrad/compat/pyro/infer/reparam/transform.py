"""`TransformReparam`: samples the base distribution and applies the transforms."""

from __future__ import annotations

from torch import distributions as td

from varigrad.compat.pyro import primitives
from varigrad.compat.pyro.infer.reparam.reparam import Reparam
from varigrad.compat.pyro.poutine.messages import Dictionary
from varigrad.distributions.finite_support import inner_of
from varigrad.distributions.mixin import Independent
from varigrad.errors import SiteError


class TransformReparam(Reparam):
    """Draws the site `name_base` from the base distribution, and applies the transforms to its value."""

    def apply(self, msg: Dictionary) -> Dictionary:
        name, fn = msg["name"], msg["fn"]
        events = len(fn.event_shape)
        fn, _ = inner_of(fn)
        if not isinstance(fn, td.TransformedDistribution):
            raise SiteError(f"{type(fn).__name__} is no TransformedDistribution", site=name)
        base = fn.base_dist
        missing = events - len(base.event_shape)
        value = primitives.sample(
            f"{name}_base", Independent(base, missing) if missing > 0 else base, infer=msg["infer"]
        )
        for transform in fn.transforms:
            value = transform(value)
        return {**msg, "value": value}
