"""Discontinuous operations: their derivatives miss the jumps, so pathwise gradients through them are biased."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType

from torch import Tensor

from varigrad.terms.exempt_comparisons import is_harmless

_STEPS = frozenset(
    """round floor ceil trunc fix sign sgn heaviside floor_divide __floordiv__ __rfloordiv__ frac histc fmod remainder
    __mod__ __rmod__ special_round hardshrink threshold _threshold copysign angle bernoulli poisson normal binomial
    fake_quantize_per_tensor_affine fake_quantize_per_channel_affine
    atan2 arctan2 nextafter frexp mode histogram histogramdd _histogramdd_from_bin_cts
    nan_to_num nansum nanmean nanmedian nanquantile fmax fmin""".split()  # noqa: SIM905 - reads better as words
)
"""Functions that jump: `atan2` at its branch cut, those that step over NaN where a value becomes NaN."""

_FACTORS: Mapping[str, tuple[int, ...]] = {
    "slogdet": (0,), "linalg_slogdet": (0,), "_linalg_slogdet": (0,),
    "qr": (0, 1), "linalg_qr": (0, 1),
    "svd": (0, 2), "linalg_svd": (0, 2), "_linalg_svd": (0, 2), "svd_lowrank": (0, 2), "pca_lowrank": (0, 2),
    "linalg_eigh": (1,), "_linalg_eigh": (1,),
    "linalg_lu": (0, 1, 2),
}  # fmt: skip
"""Which of several results jump while the others are continuous: signs and factors that a convention makes unique."""

_SWITCHES_TO_A_JUMP: Mapping[str, tuple[str, int, Callable[[object], bool]]] = {
    **dict.fromkeys(("grid_sample",), ("mode", 2, lambda mode: mode == "nearest")),
    **dict.fromkeys(
        ("grid_sampler", "grid_sampler_2d", "grid_sampler_3d", "_grid_sampler_2d_cpu_fallback"),
        ("interpolation_mode", 2, lambda mode: mode == 1),
    ),
    "gumbel_softmax": ("hard", 2, bool),
    **dict.fromkeys(("norm", "cdist", "_cdist_forward", "dist", "pairwise_distance"), ("p", 2, lambda p: p == 0)),
    **dict.fromkeys(("linalg_norm", "linalg_vector_norm"), ("ord", 1, lambda p: p == 0)),
    **dict.fromkeys(("linalg_pinv", "linalg_matrix_rank"), ("atol", 1, lambda bound: bound is not None)),
}
"""An option, where it stands among the arguments, and for which of its values a function jumps."""
_BY_KEYWORD: Mapping[str, str] = {"linalg_pinv": "rtol", "pinverse": "rcond"}
"""Options that make a function jump whenever they are given."""

_STEPPED: Mapping[str, tuple[str, int]] = {
    **dict.fromkeys(("grid_sample", "grid_sampler", "grid_sampler_2d", "grid_sampler_3d"), ("grid", 1)),
    "_grid_sampler_2d_cpu_fallback": ("grid", 1),
    **dict.fromkeys(("hinge_embedding_loss", "poisson_nll_loss"), ("target", 1)),
    "cosine_embedding_loss": ("target", 2),
    "gaussian_nll_loss": ("var", 2),  # clamped under `no_grad`
}
"""The argument by which a function jumps; by its others it does not."""

_CONSTANT = frozenset(
    """zeros_like ones_like full_like empty_like rand_like randn_like new new_empty new_empty_strided new_full new_ones
    new_tensor new_zeros detach data""".split()  # noqa: SIM905 - reads better as words
)
"""Functions that make a tensor after another's shape only, and those that lose a derivative on purpose."""

_SWITCHES = frozenset(("no_grad", "inference_mode", "set_grad_enabled"))


def is_step(
    name: str,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    result: object,
    silent: bool,
    tracked: Callable[[object], bool],
) -> bool:
    """Whether a floating-point value went into a step function, a comparison or a conversion, or left torch.

    Args:
        name: the operator's.
        args, kwargs: what it was called with.
        result: what it answered.
        silent: whether answers that are no tensors say nothing of the values.
        tracked: whether an argument depends on a choice.
    """
    if not any(_floating(a) for a in (*args, *kwargs.values())):
        return False
    if silent and not isinstance(result, Tensor):
        return False
    if not (name in _STEPS or not _floating(result) or _is_coarse(name, args, result)):
        if name not in _STEPPED and name not in _SWITCHES_TO_A_JUMP and name not in _BY_KEYWORD:
            return False
        if not _jumps_here(name, args, kwargs, tracked):
            return False
    return not is_harmless(_caller())


def _jumps_here(
    name: str, args: Sequence[object], kwargs: Mapping[str, object], tracked: Callable[[object], bool]
) -> bool:
    """Whether a function jumps by an argument that depends on a choice, with the options that it was given."""
    if name in _STEPPED and not tracked(_given(*_STEPPED[name], args, kwargs)):
        return False
    if _BY_KEYWORD.get(name) in kwargs:
        return True
    if name not in _SWITCHES_TO_A_JUMP:
        return name in _STEPPED
    option, place, jumps = _SWITCHES_TO_A_JUMP[name]
    if name == "norm":
        place = 1
    value = _given(option, place, args, kwargs)
    return not isinstance(value, Tensor) and jumps(value)


def _given(name: str, place: int, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
    return args[place] if place < len(args) else kwargs.get(name)


def _is_coarse(name: str, args: Sequence[object], result: object) -> bool:
    """Whether a result is of eight bits or less, which its argument was not, or shows the bits of another type."""
    if not isinstance(result, Tensor) or not args or not isinstance(args[0], Tensor):
        return False
    before = args[0].dtype
    return result.dtype != before and (result.dtype.itemsize == 1 or name in ("view", "view_dtype"))


def jumping_parts(name: str) -> tuple[int, ...]:
    """Which of several results jump, by position."""
    return _FACTORS.get(name, ())


def has_no_derivative(name: str, inputs: Sequence[Tensor], result: object) -> bool:
    """Whether torch has no derivative of a floating-point result, and does not report it.

    Args:
        name: the operator's.
        inputs: the plain tensors that it was given and that depend on a choice.
        result: what it answered.
    """
    return (
        isinstance(result, Tensor)
        and result.is_floating_point()
        and not result.requires_grad
        and name not in _CONSTANT
        and any(i.requires_grad for i in inputs)
    )


def users_choice() -> bool:
    """Whether it was the user who switched gradients off, not torch or a function with a custom derivative."""
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
