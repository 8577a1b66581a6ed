"""Detects user hooks, modes and `torch.func` transforms, which would see tensors without provenance.

The fast path runs an operation on plain tensors. A user's dispatch mode, a hook on the tensors that autograd saves, and
the levels of a `torch.func` transform would then see values without provenance.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import FrameType

from torch import Tensor
from torch.jit import is_tracing  # type: ignore[attr-defined] # torch does not name it among its exports

from varigrad._torch_internals import dispatch_mode_stack, function_modes, innermost_transform, saved_hooks


def foreign_modes() -> bool:
    """Whether a mode that is not ours intercepts the operations that reach torch's dispatcher."""
    return any(not type(mode).__module__.startswith("varigrad.") for mode in dispatch_mode_stack())


def are_traced(tensors: Iterable[Tensor]) -> bool:
    """Whether a mode that records a graph takes one of these tensors for an input of it."""
    for mode in dispatch_mode_stack():
        known = getattr(getattr(mode, "tracer", None), "tensor_tracker", ())
        if any(tensor in known for tensor in tensors):
            return True
    return False


def anyone_listens() -> bool:
    """Whether code that is neither torch's nor ours, or a trace that keeps values, sees what an operation does."""
    if innermost_transform() is not None or function_modes() or is_tracing():
        return True
    hooks = saved_hooks(True)
    return hooks is not None and not all(str(getattr(h, "__module__", "")).startswith("torch.") for h in hooks)


def called_by_user() -> bool:
    """Whether the method of torch that is at work was called by code that is neither torch's nor ours."""
    frame: FrameType | None = sys._getframe(1)
    between = ("varigrad.terms.tracked", "torch._tensor", "torch.overrides", "varigrad.terms.data_assignment")
    while frame is not None and frame.f_globals.get("__name__") in between:
        frame = frame.f_back
    return frame is not None and str(frame.f_globals.get("__name__")).split(".")[0] not in ("torch", "varigrad")
