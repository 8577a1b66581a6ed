"""Detects `w.data = z`, which replaces the memory of a plain tensor and is the one write no tracked tensor sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from varigrad.terms.escapes import Escapes
from varigrad.terms.provenance import Tracked, get_provenance

_DATA = Tensor.data


class Guard(TorchFunctionMode):
    """A mode that detects that a tracked tensor's memory replaces a plain tensor's.

    It sees every call of a torch function, so it is used only where a program is explored or has done such a thing.
    """

    def __init__(self, escapes: Escapes) -> None:
        super().__init__()
        self.escapes = escapes

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        if getattr(func, "__self__", None) is _DATA and len(args) == 2 and type(args[1]) is Tracked:
            self.escapes.swapped = True
            self.escapes.add(get_provenance(args[1]))
        return func(*args, **(kwargs or {}))
