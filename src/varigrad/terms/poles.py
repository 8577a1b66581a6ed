"""Poles: finds calls of functions with a pole (divisions, ...) whose argument may reach it, in exploring runs.

Where a denominator changes its sign, the quotient jumps, and the gradient misses the jump there. A division alone does
not count as a discontinuous operation, or most models would lose pathwise gradients; a denominator that crosses zero
between two explored runs does (`pole_crossings.py`). The signs of tensors are tracked from operation to operation, so
that denominators known to be positive are left out.
"""

# ruff: noqa: SIM905 - a list of words reads better as words
from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from varigrad._torch_internals import version_of
from varigrad.distributions.finite_support import support_of

NONE, NOT_NEGATIVE, POSITIVE = 0, 1, 2

_ABOVE = (
    type(constraints.positive), type(constraints.nonnegative), type(constraints.unit_interval),
    type(constraints.half_open_interval(0.0, 1.0)),
)  # fmt: skip
_POSITIVE = frozenset("exp exp2 softplus sigmoid softmax cosh expit special_expit".split())
_KEEP_POSITIVE = frozenset("abs absolute square relu norm linalg_norm linalg_vector_norm".split())
DISTANCES = frozenset("cdist pairwise_distance dist l1_loss mse_loss huber_loss smooth_l1_loss".split())
"""Functions that vanish where their first two arguments are equal, and are positive elsewhere."""
_MATRIX_SIZES = frozenset("linalg_matrix_norm matrix_norm nuclear_norm frobenius_norm linalg_svdvals svdvals".split())
_NOT_NEGATIVE = _KEEP_POSITIVE | DISTANCES | _MATRIX_SIZES | {"var", "std", "pdist"}
_PRODUCTS = frozenset("mul __mul__ __rmul__ multiply div __truediv__ __rdiv__ true_divide divide".split())
_KEPT = _PRODUCTS | frozenset(
    """sum mean prod amax amin max min maximum sqrt clone contiguous reshape view expand expand_as unsqueeze squeeze
    transpose permute flatten __getitem__ select index_select gather stack cat to float double log1p expm1 cumsum
    cumprod mT T diagonal flip roll repeat broadcast_to reciprocal""".split()
)
"""Functions of which the result is as positive as the least positive argument."""
_SUMS = frozenset("add __add__ __radd__".split())

_DENOMINATORS: Mapping[str, int] = {
    **dict.fromkeys(
        "div __truediv__ true_divide divide _foreach_div polygamma special_polygamma special_zeta".split(), 1
    ),
    **dict.fromkeys(
        """reciprocal rsqrt digamma lgamma normalize cosine_similarity __rdiv__ __rtruediv__ special_digamma special_psi
        special_gammaln special_entr _foreach_reciprocal _foreach_rsqrt cosine_embedding_loss _weight_norm""".split(),
        0,
    ),
    "addcdiv": 2,
    "_foreach_addcdiv": 2,
    "kl_div": 1,
}
"""Functions with a pole at zero or below, and which of their arguments may reach it."""
LAYERS: Mapping[str, int] = {
    "rms_norm": 3, "layer_norm": 4, "native_layer_norm": 4, "group_norm": 4,
    "batch_norm": 7, "native_batch_norm": 7, "instance_norm": 7,
}  # fmt: skip
"""Layers that divide by a standard deviation, and where they take `eps`, which keeps it from zero."""
_TINY = 1e-10
_POWERS = frozenset("pow __pow__ float_power _foreach_pow".split())
_LOGARITHMS = frozenset("log log2 log10".split())
"""Of what may be zero: what is negative has none, which is found otherwise."""
_MATRIX_POWERS = frozenset("matrix_power linalg_matrix_power".split())
MATRICES: Mapping[str, int] = {
    **dict.fromkeys(
        """inverse linalg_inv linalg_inv_ex pinverse linalg_pinv linalg_solve linalg_solve_ex linalg_solve_triangular
        linalg_tensorinv linalg_tensorsolve linalg_lu_solve linalg_ldl_solve linalg_lstsq cholesky_inverse
        linalg_cond""".split(),
        0,
    ),
    **dict.fromkeys("lu_solve triangular_solve cholesky_solve".split(), 1),
}
"""Functions with a pole where a matrix has no inverse, and which of their arguments it is."""
_WHATEVER_THE_SIGN: Mapping[str, int] = {"tan": 0, **MATRICES}
"""Functions that have poles at positive numbers, or at matrices of positive numbers, too."""


WITH_POLES = frozenset({*_DENOMINATORS, *LAYERS, *_WHATEVER_THE_SIGN, *_LOGARITHMS, *_POWERS, *_MATRIX_POWERS})
"""The functions whose poles are tracked here."""


def sign_of(value: Any) -> int:
    """What is known of a number, or of all entries of a tensor."""
    known = getattr(value, "_sign", None)
    if known is not None:
        return int(known) if known and version_of(value._plain) == value._signed else NONE  # else it was written to
    if isinstance(value, Tensor):
        if value.requires_grad or value.is_complex():
            return NONE
        try:
            value = value.min().item() if value.numel() else 1.0
        except RuntimeError:  # inside vmap and its like a tensor has no numbers
            return NONE
    if not isinstance(value, (int, float)):
        return POSITIVE if value is None else NONE
    return POSITIVE if value > 0 else NOT_NEGATIVE if value == 0 else NONE


def sign_after(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """What is known of a function's result."""
    if name in _POSITIVE:
        return POSITIVE
    if name in DISTANCES and kwargs.get("weight") is not None:
        return NONE
    if name == "hypot":
        return max(NOT_NEGATIVE, *map(sign_of, args))
    if name in _NOT_NEGATIVE:
        return POSITIVE if name in _KEEP_POSITIVE and args and sign_of(args[0]) == POSITIVE else NOT_NEGATIVE
    if name in ("pow", "__pow__"):
        base = sign_of(args[0])
        even = len(args) > 1 and isinstance(args[1], (int, float)) and args[1] % 2 == 0
        return POSITIVE if base == POSITIVE else NOT_NEGATIVE if even or base else NONE
    if name in ("clamp", "clamp_min", "clip"):
        low, high = (args[i] if len(args) > i else kwargs.get(key) for i, key in ((1, "min"), (2, "max")))
        return min(sign_of(high), max(sign_of(args[0]), NONE if low is None else sign_of(low)))
    if name in _PRODUCTS and len(args) > 1 and args[0] is args[1]:
        return max(NOT_NEGATIVE, sign_of(args[0]))
    if name not in _SUMS and name not in _KEPT:
        return NONE
    tensors = [part for a in args for part in (a if isinstance(a, (list, tuple)) else (a,)) if _counts(name, part)]
    signs = [sign_of(part) for part in tensors]
    if name in _SUMS:
        return NONE if NONE in signs else max(signs, default=NONE)
    return min(signs, default=NONE)


def _counts(name: str, part: Any) -> bool:
    """Whether an argument is a number of the computation, not a size or a place."""
    arithmetic = name in _SUMS or name in _PRODUCTS
    return (isinstance(part, Tensor) and (part.is_floating_point() or arithmetic)) or (
        arithmetic and isinstance(part, (int, float))
    )


def given(name: str, place: int, args: Sequence[Any], kwargs: Mapping[str, Any], default: Any = None) -> Any:
    """An argument, by position or by keyword."""
    return args[place] if place < len(args) else kwargs.get(name, default)


def denominator(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The argument that must not reach a pole, if a function has one and it is not known to be positive."""
    if name in LAYERS:
        eps = given("eps", LAYERS[name], args, kwargs, 1.0)
        return args[0] if args and eps is not None and eps <= _TINY else None
    if name in _MATRIX_POWERS:
        return args[0] if args and given("n", 1, args, kwargs, 0) < 0 else None
    if name in _LOGARITHMS:
        return args[0] if args and sign_of(args[0]) != POSITIVE else None
    if name in _POWERS:
        return _base_or_exponent(args[0] if args else None, given("exponent", 1, args, kwargs))
    if name == "__rpow__" and len(args) > 1:
        return _base_or_exponent(args[1], args[0])
    if name in _WHATEVER_THE_SIGN:
        return given("", _WHATEVER_THE_SIGN[name], args, kwargs)
    place = _DENOMINATORS.get(name)
    if place is None or place >= len(args):
        return None
    found = args[place]
    for value in found if isinstance(found, (list, tuple)) else (found,):
        if sign_of(value) != POSITIVE and (value is found or getattr(value, "_provenance", None) is not None):
            return value
    return None


def _base_or_exponent(base: Any, exponent: Any) -> Any:
    """The base of a power whose exponent may be negative; the exponent of a power of zero: 0, 1 or infinite."""
    if sign_of(base) == POSITIVE or exponent is None:
        return None
    if getattr(base, "_provenance", None) is None:
        return exponent
    return base if sign_of(exponent) == NONE else None


def place_of(frame: FrameType | None) -> str | None:
    """The line of the program that calls; None where a family divides, whose parameters are checked."""
    while frame is not None:
        module = str(frame.f_globals.get("__name__"))
        if module.startswith("torch.distributions."):
            return None
        if not module.startswith(("varigrad.terms.", "torch.")):
            break
        frame = frame.f_back
    if frame is None or str(frame.f_globals.get("__name__")).startswith("varigrad."):
        return None
    return f"{frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.f_lineno}"


def sign_of_draws(distribution: td.Distribution) -> int:
    """What the support of a family says of its draws; those of a family on [0, 1] are zero with probability zero."""
    support = support_of(distribution)
    if isinstance(support, _ABOVE):
        return POSITIVE if sign_of(support.lower_bound) != NONE else NONE
    return POSITIVE if support is constraints.simplex else NONE
