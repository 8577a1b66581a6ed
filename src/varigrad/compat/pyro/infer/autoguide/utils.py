"""Sets and reads attributes under dotted names."""

from __future__ import annotations

from typing import Any

from varigrad.compat.pyro.nn.module import PyroModule


def deep_setattr(obj: Any, key: str, val: Any) -> None:
    """`obj.a.b = val` for the key "a.b"; modules on the way are made."""
    *path, last = key.split(".")
    for part in path:
        if part not in obj._modules:
            setattr(obj, part, PyroModule())
        obj = getattr(obj, part)
    setattr(obj, last, val)


def deep_getattr(obj: Any, key: str) -> Any:
    """`obj.a.b` for the key "a.b"."""
    for part in key.split("."):
        obj = getattr(obj, part)
    return obj
