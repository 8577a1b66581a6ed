"""Steps: operations whose derivative is zero wherever it exists, and the jumps it misses are part of the gradient."""

from __future__ import annotations

import sys
from types import FrameType

from torch import Tensor

from varigrad.terms.exempt_comparisons import is_harmless

_STEPS = frozenset(
    """round floor ceil trunc fix sign sgn heaviside floor_divide __floordiv__ __rfloordiv__ frac histc fmod remainder
    __mod__ __rmod__ special_round hardshrink threshold _threshold copysign angle bernoulli poisson normal binomial
    fake_quantize_per_tensor_affine fake_quantize_per_channel_affine""".split()  # noqa: SIM905 - reads better as words
)
_SWITCHES = frozenset(("no_grad", "inference_mode", "set_grad_enabled"))


def is_step(name: str, args: tuple[object, ...], result: object, silent: bool) -> bool:
    """Whether a floating-point value went into a step function, a comparison or a conversion, or left torch.

    Args:
        name: the operator's.
        args: what it was called with, plain.
        result: what it answered.
        silent: whether answers that are no tensors say nothing of the values.
    """
    if not any(_floating(a) for a in args):
        return False
    if silent and not isinstance(result, Tensor):
        return False
    if name not in _STEPS and _floating(result):
        return False
    return not is_harmless(_caller())


def users_choice() -> bool:
    """Whether it was the user who switched gradients off, not torch or a function with a derivative of its own."""
    frame: FrameType | None = _caller()
    inner = None
    while frame is not None:
        code, module = frame.f_code, str(frame.f_globals.get("__name__"))
        if module == "torch.autograd.function":
            return False
        if code.co_name == "decorate_context" or not _SWITCHES.isdisjoint(code.co_names):
            culprit = inner if code.co_name == "decorate_context" and inner is not None else module
            return culprit.split(".")[0] not in ("torch", "varigrad")
        frame, inner = frame.f_back, module
    return True


def _floating(value: object) -> bool:
    if isinstance(value, (tuple, list)):
        return any(_floating(v) for v in value)
    return isinstance(value, Tensor) and value.is_floating_point()


def _caller() -> FrameType:
    """The frame that called the function of torch; the tracker's own frames are left out."""
    frame = sys._getframe(1)
    while str(frame.f_globals.get("__name__")).startswith("varigrad.terms.") and frame.f_back is not None:
        frame = frame.f_back
    return frame
