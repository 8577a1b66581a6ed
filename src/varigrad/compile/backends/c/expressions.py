"""Elementwise operations: writes each as an expression of C, with type conversions and literals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from varigrad.compile.backends.c import ops_pointwise
from varigrad.compile.backends.c.buffers import TYPES, BufferView
from varigrad.compile.backends.c.fusion import LoopWriter
from varigrad.compile.backends.c.loop_nests import Loop
from varigrad.compile.graph.errors import Unsupported


def write_elementwise(
    writer: LoopWriter, operation: str, name: str, out: BufferView, values: Mapping[str, object]
) -> None:
    """Write an operation as a statement in a loop over the elements of its result.

    Args:
        operation: with its overload, for the error.
        name: the operation's name in the tables.
        values: its arguments by the names in the schema: a `BufferView` for each tensor.

    Raises:
        Unsupported: the tables do not have it, or not for numbers of this type.
    """
    operands = list(values.values())
    kind = out.kind
    text = ops_pointwise.special(name, values, out.kind)
    if text is None and not out.kind.is_floating_point:
        text = ops_pointwise.INTEGER.get(name) or ops_pointwise.BITS.get(name)
    if text is None and name in ops_pointwise.COMPARED:
        text, kind = ops_pointwise.COMPARED[name], common_type(operands)
    text = text or ops_pointwise.SAME.get(name)
    if text is None or ("@" in text and not kind.is_floating_point):
        raise Unsupported(f"{operation} of {kind}")
    used = [i for i, _ in enumerate(operands) if f"{{{i}}}" in text or f"{{{i}:" in text]
    tensors = [own for own in (operands[i] for i in used) if isinstance(own, BufferView)]
    if kind == torch.bool and name not in ops_pointwise.COMPARED:
        text = f"({text}) != 0"  # a sum of truth values is true or false, and its variable an `int`
    template = text.replace("@", "f" if kind == torch.float32 else "")

    def express(loop: Loop, names: list[str]) -> str:
        left = iter(names)
        words: list[object] = [None] * len(operands)
        for i in used:
            own = operands[i]
            words[i] = _Variable(next(left), own.kind, kind) if isinstance(own, BufferView) else literal(own, kind)
        return template.format(*words)

    writer.write(out, tensors, express)


@dataclass(frozen=True)
class _Variable:
    """The name of a C variable, converted to the type of the computation; `{0:raw}` is the name alone."""

    name: str
    kind: torch.dtype
    wanted: torch.dtype

    def __format__(self, how: str) -> str:
        if how == "raw" or self.kind == self.wanted:
            return self.name
        return f"({self.name} != 0)" if self.wanted == torch.bool else f"(({TYPES[self.wanted]}){self.name})"


def literal(value: object, kind: torch.dtype) -> str:
    """A Python number as a literal of C.

    Raises:
        Unsupported: it is something else than a number.
    """
    if not isinstance(value, (bool, int, float)):
        raise Unsupported(f"an argument {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        text = "NAN" if math.isnan(value) else "INFINITY" if value > 0 else "-INFINITY"
    elif kind == torch.bool:
        text = str(int(bool(value)))  # 0.5 is true
    else:
        text = repr(float(value)) if kind.is_floating_point else repr(int(value))
    return f"(({TYPES[kind]}){text})"


def common_type(operands: Sequence[object]) -> torch.dtype:
    """The type that operands are compared in: tensors with dimensions count before those without, then numbers."""
    found = torch.bool
    for some in (
        [
            torch.get_default_dtype() if isinstance(o, float) else torch.int64
            for o in operands
            if isinstance(o, (int, float))
        ],
        [o.kind for o in operands if isinstance(o, BufferView) and not o.shape],
        [o.kind for o in operands if isinstance(o, BufferView) and o.shape],
    ):
        own = torch.bool
        for kind in some:
            own = torch.promote_types(own, kind)
        if some:
            found = own if _rank(own) >= _rank(found) else found
    return found


def _rank(kind: torch.dtype) -> int:
    return 2 if kind.is_floating_point else int(kind != torch.bool)
