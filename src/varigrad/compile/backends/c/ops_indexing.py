"""Indexing operations in C: concatenation, slices, look-ups by index, scatters and triangles move elements."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import torch

from varigrad.compile.backends.c.buffers import BufferView, column, suffix, trailing, with_zero_stride
from varigrad.compile.backends.c.expressions import literal
from varigrad.compile.backends.c.fusion import LoopWriter, Out, copy, fill, only
from varigrad.compile.backends.c.loop_nests import Loop
from varigrad.compile.graph.errors import Unsupported
from varigrad.shapes import join

Jump = tuple[BufferView, int, int]
"""An index tensor, how many entries there are, and the stride between them."""


def _of_numbers_too(rule: Callable[..., None]) -> Callable[..., None]:
    """A rule along a dimension, extended to tensors without dimensions, which count as one entry, as in torch."""

    @functools.wraps(rule)
    def widened(w: LoopWriter, out: Out, *given: object) -> None:
        rule(w, [_widened(o) for o in out], *map(_widened, given))

    return widened


def _widened(given: object) -> object:
    """An argument of a rule; with one dimension, of one entry, if it is a tensor without dimensions."""
    if isinstance(given, BufferView) and not given.shape:
        return column(given)
    return given


def _cat(w: LoopWriter, out: Out, parts: Sequence[BufferView], dim: int = 0) -> None:
    found, start = only(out), 0
    for part in parts:
        if part.shape == (0,) and len(found.shape) > 1:
            continue
        length = part.shape[dim]
        target = found.narrow(dim % len(found.shape), start, length)
        if not w.is_aliased(part, target):
            copy(w, target, part)
        start += length


def _stack(w: LoopWriter, out: Out, parts: Sequence[BufferView], dim: int = 0) -> None:
    found = only(out)
    for i, part in enumerate(parts):
        copy(w, found.select(dim % len(found.shape), i), part)


@_of_numbers_too
def _flip(w: LoopWriter, out: Out, x: BufferView, dims: Sequence[int]) -> None:
    for d in dims:
        x = x.narrow(d % len(x.shape), x.shape[d] - 1, x.shape[d], -1)
    copy(w, only(out), x)


def _diag_embed(w: LoopWriter, out: Out, x: BufferView, offset: int = 0, dim1: int = -2, dim2: int = -1) -> None:
    found = only(out)
    if offset or (dim1, dim2) != (-2, -1):
        raise Unsupported("a diagonal of this form")
    fill(w, found)
    stride = (*found.stride[:-2], found.stride[-2] + found.stride[-1])
    copy(w, BufferView(found.memory, found.offset, x.shape, stride, found.kind), x)


def _select_backward(w: LoopWriter, out: Out, grad: BufferView, sizes: Sequence[int], dim: int, index: int) -> None:
    found = only(out)
    fill(w, found)
    copy(w, found.select(dim % len(sizes), index % sizes[dim]), grad)


def _slice_backward(
    w: LoopWriter, out: Out, grad: BufferView, sizes: Sequence[int], dim: int, start: int, end: int, step: int
) -> None:
    found = only(out)
    fill(w, found)
    copy(w, _sliced(found, dim, start, end, step), grad)


def _select_scatter(w: LoopWriter, out: Out, x: BufferView, part: BufferView, dim: int, index: int) -> None:
    found = only(out)
    copy(w, found, x)
    copy(w, found.select(dim % len(x.shape), index % x.shape[dim]), part)


def _slice_scatter(
    w: LoopWriter,
    out: Out,
    x: BufferView,
    part: BufferView,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> None:
    found = only(out)
    copy(w, found, x)
    copy(w, _sliced(found, dim, start, end, step), part)


def _sliced(x: BufferView, dim: int, start: int | None, end: int | None, step: int) -> BufferView:
    steps = range(*slice(start, end, step).indices(x.shape[dim]))
    return x.narrow(dim % len(x.shape), steps.start, len(steps), step)


@_of_numbers_too
def _index_select(w: LoopWriter, out: Out, x: BufferView, dim: int, index: BufferView) -> None:
    found = only(out)
    dim %= len(x.shape)
    at = trailing(index, len(x.shape) - dim - 1)
    _look_up(w, found, x.narrow(dim, 0, 1).expand(found.shape), [(at, x.shape[dim], x.stride[dim])])


@_of_numbers_too
def _gather(w: LoopWriter, out: Out, x: BufferView, dim: int, index: BufferView, sparse_grad: bool = False) -> None:
    found = only(out)
    dim %= len(x.shape)
    base = BufferView(x.memory, x.offset, found.shape, with_zero_stride(x.stride, dim), x.kind)
    _look_up(w, found, base, [(index, x.shape[dim], x.stride[dim])])


def _embedding(w: LoopWriter, out: Out, weight: BufferView, index: BufferView, *rest: object) -> None:
    found = only(out)
    base = weight.narrow(0, 0, 1).without(0).expand(found.shape)
    _look_up(w, found, base, [(trailing(index, 1), weight.shape[0], weight.stride[0])])


def _index(w: LoopWriter, out: Out, x: BufferView, indices: Sequence[BufferView | None]) -> None:
    found = only(out)
    base, jumps = _advanced(found, x, indices)
    _look_up(w, found, base, jumps, wraps=True)


def _advanced(result: BufferView, x: BufferView, indices: Sequence[BufferView | None]) -> tuple[BufferView, list[Jump]]:
    """`x[indices]`: a view of its first elements, in the result's shape, and the jumps from there.

    Returns:
        The view, and for each index tensor `(index, number of entries, stride)`.
    """
    places = [d for d, i in enumerate(indices) if i is not None]
    given = [i for i in indices if i is not None]
    if not places or places != list(range(places[0], places[-1] + 1)) or any(i.kind == torch.bool for i in given):
        raise Unsupported("an index of this form")
    shape = join(*(i.shape for i in given))
    first, last = places[0], places[-1] + 1
    stride = (*x.stride[:first], *(0 for _ in shape), *x.stride[last:])
    after = len(x.shape) - last
    jumps = [(trailing(i.expand(shape), after), x.shape[d], x.stride[d]) for d, i in zip(places, given, strict=True)]
    return BufferView(x.memory, x.offset, result.shape, stride, x.kind), jumps


def _look_up(w: LoopWriter, out: BufferView, base: BufferView, jumps: Sequence[Jump], wraps: bool = False) -> None:
    """`out[i] = base[i + jumps]`; `wraps`: negative indices count from the end."""

    def express(loop: Loop, names: list[str]) -> str:
        found = [(f"WRAP({i}, {n})" if wraps else i, n, s) for i, (_, n, s) in zip(names, jumps, strict=True)]
        return w.look_up(loop, base, found)

    w.write(out, [place for place, _, _ in jumps], express, whole=[base.memory], fixed_shape=True)


@_of_numbers_too
def _index_copy(w: LoopWriter, out: Out, x: BufferView, dim: int, index: BufferView, source: BufferView) -> None:
    found = only(out)
    if found != x:
        copy(w, found, x)
    _put(w, found, dim, index, source, "=")


@_of_numbers_too
def _index_add(
    w: LoopWriter, out: Out, x: BufferView, dim: int, index: BufferView, source: BufferView, alpha: float = 1
) -> None:
    if alpha != 1:
        raise Unsupported("index_add with a factor")
    copy(w, only(out), x)
    _put(w, only(out), dim, index, source, "+=")


def _put(w: LoopWriter, out: BufferView, dim: int, index: BufferView, source: BufferView, operator: str) -> None:
    dim %= len(out.shape)
    at = trailing(index, len(out.shape) - dim - 1)
    base = BufferView(out.memory, out.offset, source.shape, with_zero_stride(out.stride, dim), out.kind)
    _scatter_to(w, base, [(at, out.shape[dim], out.stride[dim])], source, operator)


@_of_numbers_too
def _scatter(w: LoopWriter, out: Out, x: BufferView, dim: int, index: BufferView, source: BufferView | float) -> None:
    _scatter_by(w, only(out), x, dim, index, source, "=")


def _scatter_by(
    w: LoopWriter,
    found: BufferView,
    x: BufferView,
    dim: int,
    index: BufferView,
    source: BufferView | float,
    operator: str,
) -> None:
    """`out = x`, and then `out[index] = source` along a dimension, or another operator."""
    copy(w, found, x)
    dim %= len(x.shape)
    base = BufferView(found.memory, found.offset, index.shape, with_zero_stride(found.stride, dim), found.kind)
    if isinstance(source, BufferView):
        source = BufferView(source.memory, source.offset, index.shape, source.stride, source.kind)
    _scatter_to(w, base, [(index, found.shape[dim], found.stride[dim])], source, operator)


@_of_numbers_too
def _scatter_add(w: LoopWriter, out: Out, x: BufferView, dim: int, index: BufferView, source: BufferView) -> None:
    _scatter_by(w, only(out), x, dim, index, source, "+=")


def _index_put(
    w: LoopWriter,
    out: Out,
    x: BufferView,
    indices: Sequence[BufferView | None],
    values: BufferView,
    accumulate: bool = False,
) -> None:
    found = only(out)
    if found != x:
        copy(w, found, x)
    shape = join(*(i.shape for i in indices if i is not None))
    first = next(d for d, i in enumerate(indices) if i is not None)
    count = sum(i is not None for i in indices)
    result = BufferView("", 0, (*x.shape[:first], *shape, *x.shape[first + count :]), (), x.kind)
    base, jumps = _advanced(result, found, indices)
    _scatter_to(w, base, jumps, values.expand(result.shape), "+=" if accumulate else "=", wraps=True)


def _embedding_backward(
    w: LoopWriter, out: Out, grad: BufferView, index: BufferView, count: int, padding: int, scale: bool
) -> None:
    if padding >= 0 or scale:
        raise Unsupported("an embedding with padding")
    found = only(out)
    fill(w, found)
    base = BufferView(found.memory, 0, grad.shape, (*(0 for _ in index.shape), found.stride[1]), found.kind)
    _scatter_to(w, base, [(trailing(index, 1), found.shape[0], found.stride[0])], grad, "+=")


def _scatter_to(
    w: LoopWriter,
    base: BufferView,
    jumps: Sequence[Jump],
    source: BufferView | float,
    operator: str,
    wraps: bool = False,
) -> None:
    """`base[i + jumps] = source[i]`, or another operator; `wraps`: negative indices count from the end."""

    def express(loop: Loop, names: list[str]) -> tuple[str, str, str]:
        found = []
        for name, (_, n, s) in zip(names, jumps, strict=False):
            found.append(f"{w.checked(loop, f'WRAP({name}, {n})' if wraps else name, n)} * {s}")
        value = names[-1] if isinstance(source, BufferView) else literal(source, base.kind)
        return " + ".join(found), operator, value

    operands = [place for place, _, _ in jumps] + ([source] if isinstance(source, BufferView) else [])
    w.scatter(base, operands, express)


def _arange(w: LoopWriter, out: Out, *numbers: float) -> None:
    found = only(out)
    start, _, step = (0, *numbers, 1) if len(numbers) == 1 else (*numbers, 1)[:3]
    w.write(found, [], lambda loop, _: f"{start!r} + {step!r} * {w.position(loop, found.shape, 0)}", fixed_shape=True)


def _eye(w: LoopWriter, out: Out, *sizes: int) -> None:
    found = only(out)
    _triangle(w, found, lambda row, column: f"{row} == {column}")


def _tril(w: LoopWriter, out: Out, x: BufferView, diagonal: int = 0) -> None:
    _triangle(w, only(out), lambda row, column: f"{column} - {row} <= {diagonal}", x)


def _triu(w: LoopWriter, out: Out, x: BufferView, diagonal: int = 0) -> None:
    _triangle(w, only(out), lambda row, column: f"{column} - {row} >= {diagonal}", x)


def _triangle(w: LoopWriter, out: BufferView, inside: Callable[[str, str], str], x: BufferView | None = None) -> None:
    dims = len(out.shape)

    def express(loop: Loop, names: list[str]) -> str:
        row, column = w.position(loop, out.shape, dims - 2), w.position(loop, out.shape, dims - 1)
        return f"({inside(row, column)}) ? {names[0] if names else '1'} : 0"

    w.write(out, [] if x is None else [x], express, fixed_shape=True)


def _log_sigmoid(w: LoopWriter, out: Out, x: BufferView) -> None:
    found, f = only(out), suffix(x)
    w.write(found, [x], lambda _, names: f"-softplus{f}(-{names[0]})")
    if out[1] is not None:
        w.write(out[1], [x], lambda _, names: f"exp{f}(-fabs{f}({names[0]}))")


def _empty(w: LoopWriter, out: Out, *rest: object) -> None:
    """Leave the memory as it is."""


RULES: Mapping[str, Callable[..., None]] = {
    "arange": _arange,
    "cat": _cat,
    "diag_embed": _diag_embed,
    "embedding": _embedding,
    "embedding_dense_backward": _embedding_backward,
    "empty": _empty,
    "empty_like": _empty,
    "eye": _eye,
    "flip": _flip,
    "gather": _gather,
    "index": _index,
    "index_add": _index_add,
    "index_copy": _index_copy,
    "index_put": _index_put,
    "index_select": _index_select,
    "log_sigmoid_forward": _log_sigmoid,
    "new_empty": _empty,
    "scatter": _scatter,
    "scatter_add": _scatter_add,
    "select_backward": _select_backward,
    "select_scatter": _select_scatter,
    "slice_backward": _slice_backward,
    "slice_scatter": _slice_scatter,
    "stack": _stack,
    "tril": _tril,
    "triu": _triu,
}
