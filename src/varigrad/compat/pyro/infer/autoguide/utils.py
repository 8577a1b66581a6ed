"""Sets and reads attributes under dotted names."""

from __future__ import annotations

from torch import nn

from varigrad._torch_internals import own_modules
from varigrad.compat.pyro.nn.module import PyroModule


def deep_setattr(obj: nn.Module, key: str, val: object) -> None:
    """`obj.a.b = val` for the key "a.b"; modules on the way are made."""
    *path, last = key.split(".")
    for part in path:
        if part not in own_modules(obj):
            setattr(obj, part, PyroModule())
        obj = getattr(obj, part)
    setattr(obj, last, val)


def deep_getattr(obj: object, key: str) -> object:
    """`obj.a.b` for the key "a.b"."""
    for part in key.split("."):
        obj = getattr(obj, part)
    return obj
