"""`Distribution`, the type that `isinstance` checks of Pyro programs use."""

from __future__ import annotations


class _Any(type):
    """Metaclass whose `isinstance` accepts every class with Pyro's methods, so that families need no common parent."""

    def __instancecheck__(cls, instance: object) -> bool:
        return super().__instancecheck__(instance) or getattr(type(instance), "is_pyro_distribution", False)

    def __subclasscheck__(cls, kind: type) -> bool:
        return super().__subclasscheck__(kind) or getattr(kind, "is_pyro_distribution", False)


class Distribution(metaclass=_Any):
    """The type for `isinstance(x, pyro.distributions.Distribution)`, which is True for every family here."""
