"""Matrix products in C: small ones are written as loops, large ones call torch's own BLAS."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from varigrad.compile.backends.c.buffers import TYPES, BufferView, column, element, head, row
from varigrad.compile.backends.c.fusion import LoopWriter, Out, only
from varigrad.compile.graph.errors import Unsupported

FEW = 8
"""Products with fewer columns are computed entry by entry, not row by row."""
LARGE = 4096
"""Products with more multiplications are left to BLAS."""


def product(
    w: LoopWriter, out: BufferView, a: BufferView, b: BufferView, start: BufferView | None = None, sign: str = ""
) -> None:
    """`out = start + a b`, or `-a b` with a sign of `-`."""
    (m, k), n = a.shape, b.shape[1]
    if w.products and m * n * k > LARGE:
        found = out if start is None else w.buffer(out.shape, out.stride, out.kind)
        if _by_library(w, found, a, b, sign):
            if start is not None:
                w.write(out, [found, start], lambda _, names: " + ".join(names))
            return
    kind = TYPES[out.kind]
    rows, columns, terms = head("m", m), head("n", n), head("k", k)
    first = "0" if start is None else element(start.expand(out.shape), "m", "n")
    c, term = element(out, "m", "n"), f"{sign}{element(a, 'm', 'k')} * {element(b, 'k', 'n')}"
    if b.stride[0] == 1 or n < FEW:  # entry by entry
        lines = [rows, columns, "{", f"{kind} total = {first};", "#pragma omp simd reduction(+:total)", terms]
        lines += [f"total += {term};", f"{c} = total;", "}"]
    else:  # row by row
        lines = [rows, "{", "#pragma omp simd", columns, f"{c} = {first};", terms]
        lines += ["#pragma omp simd", columns, f"{c} += {term};", "}"]
    w.lines(lines, [a.memory, b.memory, *([] if start is None else [start.memory])], [out.memory])


def _mm(w: LoopWriter, out: Out, a: BufferView, b: BufferView) -> None:
    product(w, only(out), a, b)


def _dot(w: LoopWriter, out: Out, a: BufferView, b: BufferView) -> None:
    product(w, column(column(only(out))), row(a), column(b))


def _addmm(
    w: LoopWriter, out: Out, x: BufferView, a: BufferView, b: BufferView, beta: float = 1, alpha: float = 1
) -> None:
    if beta != 1 or alpha != 1:
        raise Unsupported("a product with factors")
    product(w, only(out), a, b, x)


def _bmm(w: LoopWriter, out: Out, a: BufferView, b: BufferView) -> None:
    found = only(out)
    for i in range(len(a.shape) and a.shape[0]):
        product(w, found.select(0, i), a.select(0, i), b.select(0, i))


def _by_library(w: LoopWriter, out: BufferView, a: BufferView, b: BufferView, sign: str) -> bool:
    """Write a large product as a call of BLAS, which counts columns first: it is asked for the transpose, `b' a'`.

    Returns:
        False where the operands lie in a way that BLAS does not take; nothing has been written then.
    """
    if _leading(out.shape, out.stride) is None:
        out, a, b = _transposed(out), _transposed(b), _transposed(a)
    (m, k), n, words = a.shape, b.shape[1], []
    for place in (b, a):
        plain, turned = _leading(place.shape, place.stride), _leading(place.shape[::-1], place.stride[::-1])
        if plain is None and turned is None:
            return False
        words += ["'N'" if plain is not None else "'T'", str(turned if plain is None else plain)]
    leading = _leading(out.shape, out.stride)
    if leading is None or out.kind not in (torch.float32, torch.float64):
        return False
    name = "sgemm" if out.kind == torch.float32 else "dgemm"
    starts = [f"{p.memory} + {p.offset}" for p in (b, a, out)]
    call = f"product({name}, {words[0]}, {words[2]}, {n}, {m}, {k}, {starts[0]}, {words[1]}, {starts[1]}, {words[3]}, "
    w.lines([f"{call}{sign}1, 0, {starts[2]}, {leading});"], [a.memory, b.memory], [out.memory])
    w.multiplies = True
    return True


def _leading(shape: Sequence[int], stride: Sequence[int]) -> int | None:
    """The distance of rows in memory, if the entries of a row are neighbours and rows do not overlap; else None."""
    (rows, columns), (row, column) = shape, stride
    if (column == 1 or columns == 1) and (rows == 1 or row >= columns):
        return max(row, columns) if rows > 1 else columns
    return None


def _transposed(x: BufferView) -> BufferView:
    return BufferView(x.memory, x.offset, x.shape[::-1], x.stride[::-1], x.kind)


RULES: Mapping[str, Callable[..., None]] = {
    "addmm": _addmm,
    "bmm": _bmm,
    "dot": _dot,
    "mm": _mm,
}
