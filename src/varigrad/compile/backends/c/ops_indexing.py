"""What is put together, taken apart, looked up and put somewhere."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from varigrad.compile.backends.c.buffers import Place, but, column, suffix, trailing
from varigrad.compile.backends.c.fusion import Out, Writer, copy, fill, only
from varigrad.compile.backends.c.loop_nests import Loop
from varigrad.compile.graph.errors import Unsupported
from varigrad.shapes import join


def _of_numbers_too(rule: Callable[..., None]) -> Callable[..., None]:
    """A rule along a dimension that takes a tensor without dimensions for a row of one entry, as torch does."""

    @functools.wraps(rule)
    def widened(w: Writer, out: Out, *given: Any) -> None:
        rule(w, [_widened(o) for o in out], *map(_widened, given))

    return widened


def _widened(given: Any) -> Any:
    return column(given) if isinstance(given, Place) and not given.shape else given


def _cat(w: Writer, out: Out, parts: Sequence[Place], dim: int = 0) -> None:
    found, start = only(out), 0
    for part in parts:
        if part.shape == (0,) and len(found.shape) > 1:
            continue
        length = part.shape[dim]
        target = found.part(dim % len(found.shape), start, length)
        if not w.lies(part, target):
            copy(w, target, part)
        start += length


def _stack(w: Writer, out: Out, parts: Sequence[Place], dim: int = 0) -> None:
    found = only(out)
    for i, part in enumerate(parts):
        copy(w, found.entry(dim % len(found.shape), i), part)


@_of_numbers_too
def _flip(w: Writer, out: Out, x: Place, dims: Sequence[int]) -> None:
    for d in dims:
        x = x.part(d % len(x.shape), x.shape[d] - 1, x.shape[d], -1)
    copy(w, only(out), x)


def _diag_embed(w: Writer, out: Out, x: Place, offset: int = 0, dim1: int = -2, dim2: int = -1) -> None:
    found = only(out)
    if offset or (dim1, dim2) != (-2, -1):
        raise Unsupported("a diagonal of this form")
    fill(w, found)
    stride = (*found.stride[:-2], found.stride[-2] + found.stride[-1])
    copy(w, Place(found.memory, found.offset, x.shape, stride, found.kind), x)


def _select_backward(w: Writer, out: Out, grad: Place, sizes: Any, dim: int, index: int) -> None:
    found = only(out)
    fill(w, found)
    copy(w, found.entry(dim % len(sizes), index % sizes[dim]), grad)


def _slice_backward(w: Writer, out: Out, grad: Place, sizes: Any, dim: int, start: int, end: int, step: int) -> None:
    found = only(out)
    fill(w, found)
    copy(w, _sliced(found, dim, start, end, step), grad)


def _select_scatter(w: Writer, out: Out, x: Place, part: Place, dim: int, index: int) -> None:
    found = only(out)
    copy(w, found, x)
    copy(w, found.entry(dim % len(x.shape), index % x.shape[dim]), part)


def _slice_scatter(
    w: Writer, out: Out, x: Place, part: Place, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> None:
    found = only(out)
    copy(w, found, x)
    copy(w, _sliced(found, dim, start, end, step), part)


def _sliced(x: Place, dim: int, start: Any, end: Any, step: int) -> Place:
    steps = range(*slice(start, end, step).indices(x.shape[dim]))
    return x.part(dim % len(x.shape), steps.start, len(steps), step)


@_of_numbers_too
def _index_select(w: Writer, out: Out, x: Place, dim: int, index: Place) -> None:
    found = only(out)
    dim %= len(x.shape)
    at = trailing(index, len(x.shape) - dim - 1)
    _look_up(w, found, x.part(dim, 0, 1).to(found.shape), [(at, x.shape[dim], x.stride[dim])])


@_of_numbers_too
def _gather(w: Writer, out: Out, x: Place, dim: int, index: Place, sparse_grad: bool = False) -> None:
    found = only(out)
    dim %= len(x.shape)
    base = Place(x.memory, x.offset, found.shape, but(x.stride, dim), x.kind)
    _look_up(w, found, base, [(index, x.shape[dim], x.stride[dim])])


def _embedding(w: Writer, out: Out, weight: Place, index: Place, *rest: Any) -> None:
    found = only(out)
    base = weight.part(0, 0, 1).without(0).to(found.shape)
    _look_up(w, found, base, [(trailing(index, 1), weight.shape[0], weight.stride[0])])


def _index(w: Writer, out: Out, x: Place, indices: Sequence[Place | None]) -> None:
    found = only(out)
    base, jumps = _advanced(found, x, indices)
    _look_up(w, found, base, jumps, wraps=True)


def _advanced(result: Place, x: Place, indices: Sequence[Place | None]) -> tuple[Place, list[tuple[Place, int, int]]]:
    """`x[indices]`: where it begins, of the result's shape, and the jumps from there."""
    places = [d for d, i in enumerate(indices) if i is not None]
    given = [i for i in indices if i is not None]
    if not places or places != list(range(places[0], places[-1] + 1)) or any(i.kind == torch.bool for i in given):
        raise Unsupported("an index of this form")
    shape = join(*(i.shape for i in given))
    first, last = places[0], places[-1] + 1
    stride = (*x.stride[:first], *(0 for _ in shape), *x.stride[last:])
    after = len(x.shape) - last
    jumps = [(trailing(i.to(shape), after), x.shape[d], x.stride[d]) for d, i in zip(places, given, strict=True)]
    return Place(x.memory, x.offset, result.shape, stride, x.kind), jumps


def _look_up(w: Writer, out: Place, base: Place, jumps: Sequence[tuple[Place, int, int]], wraps: bool = False) -> None:
    def express(loop: Loop, names: list[str]) -> str:
        found = [(f"WRAP({i}, {n})" if wraps else i, n, s) for i, (_, n, s) in zip(names, jumps, strict=True)]
        return w.look_up(loop, base, found)

    w.write(out, [place for place, _, _ in jumps], express, whole=[base.memory], here=True)


@_of_numbers_too
def _index_copy(w: Writer, out: Out, x: Place, dim: int, index: Place, source: Place) -> None:
    found = only(out)
    if found != x:
        copy(w, found, x)
    _put(w, found, dim, index, source, "=")


@_of_numbers_too
def _index_add(w: Writer, out: Out, x: Place, dim: int, index: Place, source: Place, alpha: Any = 1) -> None:
    if alpha != 1:
        raise Unsupported("index_add with a factor")
    copy(w, only(out), x)
    _put(w, only(out), dim, index, source, "+=")


def _put(w: Writer, out: Place, dim: int, index: Place, source: Place, operator: str) -> None:
    dim %= len(out.shape)
    at = trailing(index, len(out.shape) - dim - 1)
    base = Place(out.memory, out.offset, source.shape, but(out.stride, dim), out.kind)
    _scatter_to(w, base, [(at, out.shape[dim], out.stride[dim])], source, operator)


@_of_numbers_too
def _scatter(w: Writer, out: Out, x: Place, dim: int, index: Place, source: Any, operator: str = "=") -> None:
    found = only(out)
    copy(w, found, x)
    dim %= len(x.shape)
    base = Place(found.memory, found.offset, index.shape, but(found.stride, dim), found.kind)
    if isinstance(source, Place):
        source = Place(source.memory, source.offset, index.shape, source.stride, source.kind)
    _scatter_to(w, base, [(index, found.shape[dim], found.stride[dim])], source, operator)


@_of_numbers_too
def _scatter_add(w: Writer, out: Out, x: Place, dim: int, index: Place, source: Place) -> None:
    _scatter(w, out, x, dim, index, source, "+=")


def _index_put(w: Writer, out: Out, x: Place, indices: Any, values: Place, accumulate: bool = False) -> None:
    found = only(out)
    if found != x:
        copy(w, found, x)
    shape = join(*(i.shape for i in indices if i is not None))
    first = next(d for d, i in enumerate(indices) if i is not None)
    count = sum(i is not None for i in indices)
    result = Place("", 0, (*x.shape[:first], *shape, *x.shape[first + count :]), (), x.kind)
    base, jumps = _advanced(result, found, indices)
    _scatter_to(w, base, jumps, values.to(result.shape), "+=" if accumulate else "=", wraps=True)


def _embedding_backward(w: Writer, out: Out, grad: Place, index: Place, count: int, padding: int, scale: bool) -> None:
    if padding >= 0 or scale:
        raise Unsupported("an embedding with padding")
    found = only(out)
    fill(w, found)
    base = Place(found.memory, 0, grad.shape, (*(0 for _ in index.shape), found.stride[1]), found.kind)
    _scatter_to(w, base, [(trailing(index, 1), found.shape[0], found.stride[0])], grad, "+=")


def _scatter_to(
    w: Writer, base: Place, jumps: Sequence[tuple[Place, int, int]], source: Any, operator: str, wraps: bool = False
) -> None:
    def express(loop: Loop, names: list[str]) -> tuple[str, str, str]:
        found = []
        for name, (_, n, s) in zip(names, jumps, strict=False):
            found.append(f"{w.checked(loop, f'WRAP({name}, {n})' if wraps else name, n)} * {s}")
        value = names[-1] if isinstance(source, Place) else repr(float(source))
        return " + ".join(found), operator, value

    operands = [place for place, _, _ in jumps] + ([source] if isinstance(source, Place) else [])
    w.scatter(base, operands, express)


def _arange(w: Writer, out: Out, *numbers: Any) -> None:
    found = only(out)
    start, _, step = (0, *numbers, 1) if len(numbers) == 1 else (*numbers, 1)[:3]
    w.write(found, [], lambda loop, _: f"{start!r} + {step!r} * {w.position(loop, found.shape, 0)}", here=True)


def _eye(w: Writer, out: Out, *sizes: int) -> None:
    found = only(out)
    _triangle(w, found, lambda row, column: f"{row} == {column}")


def _tril(w: Writer, out: Out, x: Place, diagonal: int = 0) -> None:
    _triangle(w, only(out), lambda row, column: f"{column} - {row} <= {diagonal}", x)


def _triu(w: Writer, out: Out, x: Place, diagonal: int = 0) -> None:
    _triangle(w, only(out), lambda row, column: f"{column} - {row} >= {diagonal}", x)


def _triangle(w: Writer, out: Place, inside: Callable[[str, str], str], x: Place | None = None) -> None:
    dims = len(out.shape)

    def express(loop: Loop, names: list[str]) -> str:
        row, column = w.position(loop, out.shape, dims - 2), w.position(loop, out.shape, dims - 1)
        return f"({inside(row, column)}) ? {names[0] if names else '1'} : 0"

    w.write(out, [] if x is None else [x], express, here=True)


def _log_sigmoid(w: Writer, out: Out, x: Place) -> None:
    found, f = only(out), suffix(x)
    w.write(found, [x], lambda _, names: f"-softplus{f}(-{names[0]})")
    if out[1] is not None:
        w.write(out[1], [x], lambda _, names: f"exp{f}(-fabs{f}({names[0]}))")


def _empty(w: Writer, out: Out, *rest: Any) -> None:
    """Memory, with whatever is in it."""


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
