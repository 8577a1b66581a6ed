"""Tables of elementwise operations: the C expression that computes each of them.

`{0}`, `{1}` are the operands in the order of torch's schema, converted to the type that the operation computes in;
`{0:raw}` is the operand as it is, `@` the `f` with which C's functions of single precision end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

SAME: Mapping[str, str] = {
    "_to_copy": "{0}",
    "abs": "fabs@({0})",
    "acos": "acos@({0})",
    "acosh": "acosh@({0})",
    "addcdiv": "{0} + {3} * {1} / {2}",
    "addcmul": "{0} + {3} * {1} * {2}",
    "asin": "asin@({0})",
    "asinh": "asinh@({0})",
    "atan": "atan@({0})",
    "atan2": "atan2@({0}, {1})",
    "atanh": "atanh@({0})",
    "ceil": "ceil@({0})",
    "clamp_max": "smaller@({0}, {1})",
    "clamp_min": "larger@({0}, {1})",
    "clone": "{0}",
    "copy": "{1}",
    "cos": "cos@({0})",
    "cosh": "cosh@({0})",
    "detach": "{0}",
    "digamma": "digamma@({0})",
    "erf": "erf@({0})",
    "erfc": "erfc@({0})",
    "exp": "exp@({0})",
    "exp2": "exp2@({0})",
    "expm1": "expm1@({0})",
    "floor": "floor@({0})",
    "hardtanh_backward": "{1} <= {2} || {1} >= {3} ? 0 : {0}",
    "leaky_relu": "{0} > 0 ? {0} : {0} * {1}",
    "leaky_relu_backward": "{1} > 0 ? {0} : {0} * {2}",
    "lerp": "fabs@({2}) < 0.5 ? {0} + {2} * ({1} - {0}) : {1} - ({1} - {0}) * (1 - {2})",
    "lgamma": "loggamma@({0})",
    "log": "log@({0})",
    "log10": "log10@({0})",
    "log1p": "log1p@({0})",
    "log2": "log2@({0})",
    "log_sigmoid_backward": "{0} * sigmoid@(-{1})",
    "logaddexp": "logaddexp@({0}, {1})",
    "masked_fill": "{1:raw} ? {2} : {0}",
    "maximum": "{1} != {1} ? {1} : larger@({0}, {1})",
    "minimum": "{1} != {1} ? {1} : smaller@({0}, {1})",
    "mul": "{0} * {1}",
    "neg": "-{0}",
    "reciprocal": "1 / {0}",
    "relu": "larger@({0}, 0)",
    "reshape": "{0}",
    "rsqrt": "1 / sqrt@({0})",
    "sgn": "signum@({0})",
    "sigmoid": "sigmoid@({0})",
    "sigmoid_backward": "{0} * {1} * (1 - {1})",
    "sign": "signum@({0})",
    "silu": "{0} * sigmoid@({0})",
    "silu_backward": "{0} * sigmoid@({1}) * (1 + {1} * (1 - sigmoid@({1})))",
    "sin": "sin@({0})",
    "sinh": "sinh@({0})",
    "special_xlog1py": "xlog1py@({0}, {1})",
    "sqrt": "sqrt@({0})",
    "tan": "tan@({0})",
    "tanh": "tanh@({0})",
    "tanh_backward": "{0} * (1 - {1} * {1})",
    "threshold_backward": "{1} <= {2} ? 0 : {0}",
    "trunc": "trunc@({0})",
    "where": "{0:raw} ? {1} : {2}",
    "xlogy": "xlogy@({0}, {1})",
}
"""Operations that compute in the type of their result."""

INTEGER: Mapping[str, str] = {
    "abs": "{0} < 0 ? -{0} : {0}",
    "clamp_max": "{0} < {1} ? {0} : {1}",
    "clamp_min": "{0} > {1} ? {0} : {1}",
    "maximum": "{0} > {1} ? {0} : {1}",
    "minimum": "{0} < {1} ? {0} : {1}",
    "relu": "{0} > 0 ? {0} : 0",
    "sgn": "({0} > 0) - ({0} < 0)",
    "sign": "({0} > 0) - ({0} < 0)",
}
"""Operations of whole numbers that are written otherwise than those of real numbers."""

BITS: Mapping[str, str] = {
    "__and__": "{0} & {1}",
    "__rshift__": "shifted({0}, {1})",
    "bitwise_and": "{0} & {1}",
    "bitwise_or": "{0} | {1}",
    "bitwise_xor": "{0} ^ {1}",
}
"""Operations of whole numbers and truth values alone."""

COMPARED: Mapping[str, str] = {
    "eq": "{0} == {1}",
    "ge": "{0} >= {1}",
    "gt": "{0} > {1}",
    "isinf": "isinf((double){0})",
    "isnan": "{0} != {0}",
    "le": "{0} <= {1}",
    "logical_and": "{0} != 0 && {1} != 0",
    "logical_not": "{0} == 0",
    "logical_or": "{0} != 0 || {1} != 0",
    "logical_xor": "({0} != 0) != ({1} != 0)",
    "lt": "{0} < {1}",
    "ne": "{0} != {1}",
}
"""Operations that compute in the type that their operands have in common, and return true or false."""

POWERS: Mapping[float, str] = {
    0.5: "sqrt@({0})",
    1.0: "{0}",
    2.0: "{0} * {0}",
    3.0: "{0} * {0} * {0}",
    4.0: "({0} * {0}) * ({0} * {0})",
    -0.5: "1 / sqrt@({0})",
    -1.0: "1 / {0}",
    -2.0: "1 / ({0} * {0})",
}
"""`pow` with a number for an exponent, by the exponent."""


def special(name: str, values: Mapping[str, object], kind: torch.dtype) -> str | None:
    """The expression of an operation that depends on its arguments; None for any other operation."""
    rule = _SPECIAL.get(name)
    return None if rule is None else rule(values, kind)


def _sum(values: Mapping[str, object], kind: torch.dtype) -> str:
    return "{0} + {1}" if values["alpha"] == 1 else "{0} + {2} * {1}"


def _difference(values: Mapping[str, object], kind: torch.dtype) -> str:
    return "{0} - {1}" if values["alpha"] == 1 else "{0} - {2} * {1}"


def _reversed(values: Mapping[str, object], kind: torch.dtype) -> str:
    return "{1} - {0}" if values["alpha"] == 1 else "{1} - {2} * {0}"


def _quotient(values: Mapping[str, object], kind: torch.dtype) -> str | None:
    how = values.get("rounding_mode")
    if how is None:
        return "{0} / {1}"
    return f"{how}@({{0}} / {{1}})" if how == "trunc" and kind.is_floating_point else None


def _remainder(values: Mapping[str, object], kind: torch.dtype) -> str | None:
    if kind.is_floating_point:
        return "modulo@({0}, {1})"
    # Whole numbers have no remainder by 0: torch raises an error, and has to look for that.
    return "modulo_of_whole({0}, {1})" if isinstance(values["other"], int) and values["other"] else None


def _power(values: Mapping[str, object], kind: torch.dtype) -> str:
    exponent = values["exponent"]
    known = POWERS.get(float(exponent)) if isinstance(exponent, (int, float)) else None
    return known or "pow@({0}, {1})"


def _clamped(values: Mapping[str, object], kind: torch.dtype) -> str:
    if not kind.is_floating_point:
        low = "{0}" if values["min"] is None else "({0} > {1} ? {0} : {1})"
        return low if values["max"] is None else f"{low} < {{2}} ? {low} : {{2}}"
    low = "{0}" if values["min"] is None else "larger@({0}, {1})"
    return low if values["max"] is None else f"smaller@({low}, {{2}})"


def _cross_entropy(values: Mapping[str, object], kind: torch.dtype) -> str | None:
    if values["weight"] is not None or values["pos_weight"] is not None or values["reduction"] != 0:
        return None
    return "(1 - {1}) * {0} + softplus@(-{0})"


def _polygamma(values: Mapping[str, object], kind: torch.dtype) -> str | None:
    order = values["n"]
    return {0: "digamma@({1})", 1: "trigamma@({1})"}.get(order) if isinstance(order, int) else None


def _elu_backward(values: Mapping[str, object], kind: torch.dtype) -> str:
    slope = "({5} + {1} * {2})" if values["is_result"] else "{1} * {2} * exp@({5} * {3})"
    return f"{{5}} <= 0 ? {{0}} * {{3}} * {slope} : {{0}} * {{2}}"


def _gelu(values: Mapping[str, object], kind: torch.dtype) -> str | None:
    return f"{{0}} * {_NORMAL.format('{0}')}" if values["approximate"] == "none" else None


def _gelu_backward(values: Mapping[str, object], kind: torch.dtype) -> str | None:
    density = "exp@(-{1} * {1} / 2) * (M_2_SQRTPI * M_SQRT1_2 / 2)"
    return f"{{0}} * ({_NORMAL.format('{1}')} + {{1}} * {density})" if values["approximate"] == "none" else None


_NORMAL = "((1 + erf@({} * M_SQRT1_2)) / 2)"
"""The normal distribution's cumulative distribution function."""

_SPECIAL: Mapping[str, Callable[[Mapping[str, object], torch.dtype], str | None]] = {
    "add": _sum,
    "binary_cross_entropy_with_logits": _cross_entropy,
    "bitwise_not": lambda _, kind: "!{0}" if kind == torch.bool else "~{0}",
    "clamp": _clamped,
    "div": _quotient,
    "elu": lambda *_: "{0} > 0 ? {0} * {2} : expm1@({0} * {3}) * {1} * {2}",
    "elu_backward": _elu_backward,
    "fill": lambda *_: "{1}",
    "full": lambda *_: "{1}",
    "full_like": lambda *_: "{1}",
    "gelu": _gelu,
    "gelu_backward": _gelu_backward,
    "hardtanh": lambda _, kind: "smaller@(larger@({0}, {1}), {2})" if kind.is_floating_point else None,
    "new_full": lambda *_: "{2}",
    "new_ones": lambda *_: "1",
    "new_zeros": lambda *_: "0",
    "ones": lambda *_: "1",
    "ones_like": lambda *_: "1",
    "polygamma": _polygamma,
    "pow": _power,
    "round": lambda values, _: None if values.get("decimals") else "rint@({0})",
    "remainder": _remainder,
    "rsub": _reversed,
    "scalar_tensor": lambda *_: "{0}",
    "softplus": lambda *_: "{0} * {1} > {2} ? {0} : log1p@(exp@({0} * {1})) / {1}",
    "softplus_backward": lambda *_: "{1} * {2} > {3} ? {0} : {0} * sigmoid@({1} * {2})",
    "sub": _difference,
    "zero": lambda *_: "0",
    "zeros": lambda *_: "0",
    "zeros_like": lambda *_: "0",
}
