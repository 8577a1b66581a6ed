"""The word that all of Pyro's distributions have in common."""

from __future__ import annotations


class _Any(type):
    """Says yes for what has Pyro's methods, without a common parent to get in the way of torch's attributes."""

    def __instancecheck__(cls, instance: object) -> bool:
        return super().__instancecheck__(instance) or getattr(type(instance), "is_pyro_distribution", False)

    def __subclasscheck__(cls, kind: type) -> bool:
        return super().__subclasscheck__(kind) or getattr(kind, "is_pyro_distribution", False)


class Distribution(metaclass=_Any):
    """What `isinstance(x, pyro.distributions.Distribution)` asks for; every family of this package answers yes."""
