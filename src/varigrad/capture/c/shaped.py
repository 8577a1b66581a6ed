"""Operations that look beyond one element: reductions, products, look-ups, what puts tensors together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from varigrad.capture.c.loops import TYPES, Loop, Place, Unsupported, Writer

FEW = 8
"""So many terms are written out."""

LARGE = 4096
"""Products of more multiplications are left to BLAS."""

Out = Sequence[Place | None]
"""Where results go; None for one that nobody wants."""
Rule = Callable[..., None]


def _sum(w: Writer, out: Out, x: Place, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> None:
    _total(w, _only(out), x, dim, keepdim, 1)


def _mean(w: Writer, out: Out, x: Place, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> None:
    dims = _dims(x, dim)
    _total(w, _only(out), x, dim, keepdim, math.prod(x.shape[d] for d in dims))


def _total(w: Writer, out: Place, x: Place, dim: Any, keepdim: bool, count: int) -> None:
    dims = _dims(x, dim)
    wide = "double" if out.kind.is_floating_point else "int64_t"
    over = f" / {count}" if count != 1 else ""
    terms = _terms(x, dims)
    out = out.without(*dims) if keepdim else out
    if terms is not None:
        cast = f"({TYPES[out.kind]})"
        w.write(out, terms, lambda _, names: "(" + (" + ".join(cast + n for n in names) or "0") + ")" + over)
        return
    inner = ["#pragma omp simd reduction(+:total)", "{all}", "total += {x};"]
    _fold(w, out, x, dims, [f"{wide} total = 0;"], inner, f"total{over}")


def _any(w: Writer, out: Out, x: Place, dim: Any = None, keepdim: bool = False) -> None:
    _truth(w, _only(out), x, dim, keepdim, "||", "0")


def _all(w: Writer, out: Out, x: Place, dim: Any = None, keepdim: bool = False) -> None:
    _truth(w, _only(out), x, dim, keepdim, "&&", "1")


def _truth(w: Writer, out: Place, x: Place, dim: Any, keepdim: bool, operator: str, start: str) -> None:
    dims = _dims(x, dim)
    out = out.without(*dims) if keepdim else out
    _fold(w, out, x, dims, [f"_Bool found = {start};"], ["{all}", f"found = found {operator} {{x}} != 0;"], "found")


def _prod(w: Writer, out: Out, x: Place, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> None:
    dims = _dims(x, dim)
    found = _only(out)
    wide = "double" if found.kind.is_floating_point else "int64_t"
    _fold(w, found.without(*dims) if keepdim else found, x, dims, [f"{wide} p = 1;"], ["{all}", "p *= {x};"], "p")


def _amax(w: Writer, out: Out, x: Place, dim: Any = None, keepdim: bool = False) -> None:
    _extreme(w, [_only(out), None], x, dim, keepdim, ">")


def _amin(w: Writer, out: Out, x: Place, dim: Any = None, keepdim: bool = False) -> None:
    _extreme(w, [_only(out), None], x, dim, keepdim, "<")


def _max(w: Writer, out: Out, x: Place, dim: Any = None, keepdim: bool = False) -> None:
    _extreme(w, [*out, None][:2], x, dim, keepdim, ">")


def _min(w: Writer, out: Out, x: Place, dim: Any = None, keepdim: bool = False) -> None:
    _extreme(w, [*out, None][:2], x, dim, keepdim, "<")


def _argmax(w: Writer, out: Out, x: Place, dim: Any = None, keepdim: bool = False) -> None:
    _extreme(w, [None, _only(out)], x, dim, keepdim, ">")


def _argmin(w: Writer, out: Out, x: Place, dim: Any = None, keepdim: bool = False) -> None:
    _extreme(w, [None, _only(out)], x, dim, keepdim, "<")


def _extreme(w: Writer, out: Out, x: Place, dim: Any, keepdim: bool, sign: str) -> None:
    """The largest or smallest entry, the first NaN if there is one, and where it is."""
    dims = _dims(x, dim)
    if not math.prod(x.shape[d] for d in dims):
        raise Unsupported("the largest of no entries")
    values, places = ((o.without(*dims) if keepdim and o is not None else o) for o in out)
    kind = TYPES[x.kind]
    better = f"if (at < 0 || (best == best && !(best {sign}= v))) {{{{ best = v; at = n; }}}}"
    start = [f"{kind} best = 0;", "int64_t at = -1, n = 0;"]
    inner = ["{all}", f"{{{{ const {kind} v = {{x}}; {better} n++; }}}}"]
    _fold(w, values, x, dims, start, inner, "best", places)


def _logsumexp(w: Writer, out: Out, x: Place, dim: Any, keepdim: bool = False) -> None:
    found, dims = _only(out), _dims(x, dim)
    f = _suffix(x)
    start = [f"{TYPES[x.kind]} top = -INFINITY;", "double total = 0;"]
    inner = [
        "{all}", f"top = larger{f}(top, {{x}});",
        f"const {TYPES[x.kind]} base = isinf(top) ? 0 : top;",
        "{all}", f"total += exp{f}({{x}} - base);",
    ]  # fmt: skip
    _fold(w, found.without(*dims) if keepdim else found, x, dims, start, inner, f"base + log{f}(total)")


def _softmax(w: Writer, out: Out, x: Place, dim: int, half: bool) -> None:
    f = _suffix(x)
    lines = [
        "double total = 0;", "{all}", "{ const {t} e = exp" + f + "({x} - top); total += e; {y} = e; }",
        "const {t} factor = 1 / total;", "{all}", "{y} *= factor;",
    ]  # fmt: skip
    _rows(w, _only(out), [x], dim, [*_top(f), *lines])


def _log_softmax(w: Writer, out: Out, x: Place, dim: int, half: bool) -> None:
    f = _suffix(x)
    lines = ["double total = 0;", "{all}", f"total += exp{f}({{x}} - top);"]
    lines += [f"const {{t}} rest = top + log{f}(total);", "{all}", "{y} = {x} - rest;"]
    _rows(w, _only(out), [x], dim, [*_top(f), *lines])


def _top(suffix: str) -> list[str]:
    return ["{t} top = -INFINITY;", "{all}", f"top = larger{suffix}({{x}}, top);"]


def _softmax_backward(w: Writer, out: Out, grad: Place, result: Place, dim: int, dtype: Any) -> None:
    lines = ["double total = 0;", "{all}", "total += {x} * {z};", "{all}", "{y} = {z} * ({x} - ({t})total);"]
    _rows(w, _only(out), [grad, result], dim, lines)


def _log_softmax_backward(w: Writer, out: Out, grad: Place, result: Place, dim: int, dtype: Any) -> None:
    f = _suffix(grad)
    lines = ["double total = 0;", "{all}", "total += {x};", "{all}", f"{{y}} = {{x}} - exp{f}({{z}}) * ({{t}})total;"]
    _rows(w, _only(out), [grad, result], dim, lines)


def _cumsum(w: Writer, out: Out, x: Place, dim: int, dtype: Any = None) -> None:
    found = _only(out)
    wide = "double" if found.kind.is_floating_point else "int64_t"
    _rows(w, found, [x], dim, [f"{wide} total = 0;", "{all}", "{ total += {x}; {y} = total; }"])


def _cumprod(w: Writer, out: Out, x: Place, dim: int, dtype: Any = None) -> None:
    found = _only(out)
    wide = "double" if found.kind.is_floating_point else "int64_t"
    _rows(w, found, [x], dim, [f"{wide} product = 1;", "{all}", "{ product *= {x}; {y} = product; }"])


def _mm(w: Writer, out: Out, a: Place, b: Place) -> None:
    _product(w, _only(out), a, b)


def _dot(w: Writer, out: Out, a: Place, b: Place) -> None:
    _product(w, _column(_column(_only(out))), _row(a), _column(b))


def _addmm(w: Writer, out: Out, x: Place, a: Place, b: Place, beta: Any = 1, alpha: Any = 1) -> None:
    if beta != 1 or alpha != 1:
        raise Unsupported("a product with factors")
    _product(w, _only(out), a, b, x)


def _bmm(w: Writer, out: Out, a: Place, b: Place) -> None:
    found = _only(out)
    for i in range(len(a.shape) and a.shape[0]):
        _product(w, found.entry(0, i), a.entry(0, i), b.entry(0, i))


def _product(w: Writer, out: Place, a: Place, b: Place, start: Place | None = None) -> None:
    (m, k), n = a.shape, b.shape[1]
    if w.products and m * n * k > LARGE and _by_library(w, out, a, b, start):
        return
    kind = TYPES[out.kind]
    rows, columns, terms = _head("m", m), _head("n", n), _head("k", k)
    first = "0" if start is None else _at(start.to(out.shape), "m", "n")
    c, term = _at(out, "m", "n"), f"{_at(a, 'm', 'k')} * {_at(b, 'k', 'n')}"
    if b.stride[0] == 1 or n < FEW:  # entry by entry
        lines = [rows, columns, "{", f"{kind} total = {first};", "#pragma omp simd reduction(+:total)", terms]
        lines += [f"total += {term};", f"{c} = total;", "}"]
    else:  # row by row
        lines = [rows, "{", "#pragma omp simd", columns, f"{c} = {first};", terms]
        lines += ["#pragma omp simd", columns, f"{c} += {term};", "}"]
    w.lines(lines, [a.memory, b.memory, out.memory, *([] if start is None else [start.memory])])


def _by_library(w: Writer, out: Place, a: Place, b: Place, start: Place | None) -> bool:
    """A large product, by BLAS. It counts columns first: of `a b` it is asked for the transpose, `b' a'`."""
    if _leading(out.shape, out.stride) is None:
        out, a, b = _transposed(out), _transposed(b), _transposed(a)
        start = None if start is None else _transposed(start.to(out.shape[::-1]))
    (m, k), n, words = a.shape, b.shape[1], []
    for place in (b, a):
        plain, turned = _leading(place.shape, place.stride), _leading(place.shape[::-1], place.stride[::-1])
        if plain is None and turned is None:
            return False
        words += ["'N'" if plain is not None else "'T'", str(turned if plain is None else plain)]
    leading = _leading(out.shape, out.stride)
    if leading is None or out.kind not in (torch.float32, torch.float64):
        return False
    if start is not None:
        _copy(w, out, start)
    name = "sgemm" if out.kind == torch.float32 else "dgemm"
    starts = [f"{p.memory} + {p.offset}" for p in (b, a, out)]
    call = f"product({name}, {words[0]}, {words[2]}, {n}, {m}, {k}, {starts[0]}, {words[1]}, {starts[1]}, {words[3]}, "
    w.lines([f"{call}{int(start is not None)}, {starts[2]}, {leading});"], [p.memory for p in (a, b, out)])
    w.multiplies = True
    return True


def _leading(shape: Sequence[int], stride: Sequence[int]) -> int | None:
    """How far rows are apart in memory, if the entries of a row are neighbours and rows do not overlap."""
    (rows, columns), (row, column) = shape, stride
    if (column == 1 or columns == 1) and (rows == 1 or row >= columns):
        return max(row, columns) if rows > 1 else columns
    return None


def _transposed(x: Place) -> Place:
    return Place(x.memory, x.offset, x.shape[::-1], x.stride[::-1], x.kind)


def _cat(w: Writer, out: Out, parts: Sequence[Place], dim: int = 0) -> None:
    found, start = _only(out), 0
    for part in parts:
        if part.shape == (0,) and len(found.shape) > 1:
            continue
        length = part.shape[dim]
        _copy(w, found.part(dim % len(found.shape), start, length), part)
        start += length


def _stack(w: Writer, out: Out, parts: Sequence[Place], dim: int = 0) -> None:
    found = _only(out)
    for i, part in enumerate(parts):
        _copy(w, found.entry(dim % len(found.shape), i), part)


def _flip(w: Writer, out: Out, x: Place, dims: Sequence[int]) -> None:
    for d in dims:
        x = x.part(d % len(x.shape), x.shape[d] - 1, x.shape[d], -1)
    _copy(w, _only(out), x)


def _diag_embed(w: Writer, out: Out, x: Place, offset: int = 0, dim1: int = -2, dim2: int = -1) -> None:
    found = _only(out)
    if offset or (dim1, dim2) != (-2, -1):
        raise Unsupported("a diagonal of this form")
    _fill(w, found)
    stride = (*found.stride[:-2], found.stride[-2] + found.stride[-1])
    _copy(w, Place(found.memory, found.offset, x.shape, stride, found.kind), x)


def _select_backward(w: Writer, out: Out, grad: Place, sizes: Any, dim: int, index: int) -> None:
    found = _only(out)
    _fill(w, found)
    _copy(w, found.entry(dim % len(sizes), index % sizes[dim]), grad)


def _slice_backward(w: Writer, out: Out, grad: Place, sizes: Any, dim: int, start: int, end: int, step: int) -> None:
    found = _only(out)
    _fill(w, found)
    _copy(w, _sliced(found, dim, start, end, step), grad)


def _select_scatter(w: Writer, out: Out, x: Place, part: Place, dim: int, index: int) -> None:
    found = _only(out)
    _copy(w, found, x)
    _copy(w, found.entry(dim % len(x.shape), index % x.shape[dim]), part)


def _slice_scatter(
    w: Writer, out: Out, x: Place, part: Place, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> None:
    found = _only(out)
    _copy(w, found, x)
    _copy(w, _sliced(found, dim, start, end, step), part)


def _sliced(x: Place, dim: int, start: Any, end: Any, step: int) -> Place:
    steps = range(*slice(start, end, step).indices(x.shape[dim]))
    return x.part(dim % len(x.shape), steps.start, len(steps), step)


def _index_select(w: Writer, out: Out, x: Place, dim: int, index: Place) -> None:
    found = _only(out)
    dim %= len(x.shape)
    at = _trailing(index if index.shape else _column(index), len(x.shape) - dim - 1)
    _look_up(w, found, x.part(dim, 0, 1).to(found.shape), [(at, x.shape[dim], x.stride[dim])])


def _gather(w: Writer, out: Out, x: Place, dim: int, index: Place, sparse_grad: bool = False) -> None:
    found = _only(out)
    dim %= len(x.shape)
    base = Place(x.memory, x.offset, found.shape, _but(x.stride, dim), x.kind)
    _look_up(w, found, base, [(index, x.shape[dim], x.stride[dim])])


def _embedding(w: Writer, out: Out, weight: Place, index: Place, *rest: Any) -> None:
    found = _only(out)
    base = weight.part(0, 0, 1).without(0).to(found.shape)
    _look_up(w, found, base, [(_trailing(index, 1), weight.shape[0], weight.stride[0])])


def _index(w: Writer, out: Out, x: Place, indices: Sequence[Place | None]) -> None:
    found = _only(out)
    base, jumps = _advanced(found, x, indices)
    _look_up(w, found, base, jumps, wraps=True)


def _advanced(result: Place, x: Place, indices: Sequence[Place | None]) -> tuple[Place, list[tuple[Place, int, int]]]:
    """`x[indices]`: where it begins, of the result's shape, and the jumps from there."""
    places = [d for d, i in enumerate(indices) if i is not None]
    given = [i for i in indices if i is not None]
    if not places or places != list(range(places[0], places[-1] + 1)) or any(i.kind == torch.bool for i in given):
        raise Unsupported("an index of this form")
    shape = torch.broadcast_shapes(*(i.shape for i in given))
    first, last = places[0], places[-1] + 1
    stride = (*x.stride[:first], *(0 for _ in shape), *x.stride[last:])
    after = len(x.shape) - last
    jumps = [(_trailing(i.to(shape), after), x.shape[d], x.stride[d]) for d, i in zip(places, given, strict=True)]
    return Place(x.memory, x.offset, result.shape, stride, x.kind), jumps


def _look_up(w: Writer, out: Place, base: Place, jumps: Sequence[tuple[Place, int, int]], wraps: bool = False) -> None:
    def express(loop: Loop, names: list[str]) -> str:
        found = [(f"WRAP({i}, {n})" if wraps else i, n, s) for i, (_, n, s) in zip(names, jumps, strict=True)]
        return w.look_up(loop, base, found)

    w.write(out, [place for place, _, _ in jumps], express, whole=[base.memory])


def _index_copy(w: Writer, out: Out, x: Place, dim: int, index: Place, source: Place) -> None:
    found = _only(out)
    if found != x:
        _copy(w, found, x)
    _put(w, found, dim, index, source, "=")


def _index_add(w: Writer, out: Out, x: Place, dim: int, index: Place, source: Place, alpha: Any = 1) -> None:
    if alpha != 1:
        raise Unsupported("index_add with a factor")
    _copy(w, _only(out), x)
    _put(w, _only(out), dim, index, source, "+=")


def _put(w: Writer, out: Place, dim: int, index: Place, source: Place, operator: str) -> None:
    dim %= len(out.shape)
    at = _trailing(index if index.shape else _column(index), len(out.shape) - dim - 1)
    base = Place(out.memory, out.offset, source.shape, _but(out.stride, dim), out.kind)
    _scatter_to(w, base, [(at, out.shape[dim], out.stride[dim])], source, operator)


def _scatter(w: Writer, out: Out, x: Place, dim: int, index: Place, source: Any, operator: str = "=") -> None:
    found = _only(out)
    _copy(w, found, x)
    dim %= len(x.shape)
    base = Place(found.memory, found.offset, index.shape, _but(found.stride, dim), found.kind)
    if isinstance(source, Place):
        source = Place(source.memory, source.offset, index.shape, source.stride, source.kind)
    _scatter_to(w, base, [(index, found.shape[dim], found.stride[dim])], source, operator)


def _scatter_add(w: Writer, out: Out, x: Place, dim: int, index: Place, source: Place) -> None:
    _scatter(w, out, x, dim, index, source, "+=")


def _index_put(w: Writer, out: Out, x: Place, indices: Any, values: Place, accumulate: bool = False) -> None:
    found = _only(out)
    if found != x:
        _copy(w, found, x)
    shape = torch.broadcast_shapes(*(i.shape for i in indices if i is not None))
    first = next(d for d, i in enumerate(indices) if i is not None)
    count = sum(i is not None for i in indices)
    result = Place("", 0, (*x.shape[:first], *shape, *x.shape[first + count :]), (), x.kind)
    base, jumps = _advanced(result, found, indices)
    _scatter_to(w, base, jumps, values.to(result.shape), "+=" if accumulate else "=", wraps=True)


def _embedding_backward(w: Writer, out: Out, grad: Place, index: Place, count: int, padding: int, scale: bool) -> None:
    if padding >= 0 or scale:
        raise Unsupported("an embedding with padding")
    found = _only(out)
    _fill(w, found)
    base = Place(found.memory, 0, grad.shape, (*(0 for _ in index.shape), found.stride[1]), found.kind)
    _scatter_to(w, base, [(_trailing(index, 1), found.shape[0], found.stride[0])], grad, "+=")


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
    found = _only(out)
    start, _, step = (0, *numbers, 1) if len(numbers) == 1 else (*numbers, 1)[:3]
    w.write(found, [], lambda loop, _: f"{start!r} + {step!r} * {w.position(loop, found.shape, 0)}")


def _eye(w: Writer, out: Out, *sizes: int) -> None:
    found = _only(out)
    _triangle(w, found, lambda row, column: f"{row} == {column}")


def _tril(w: Writer, out: Out, x: Place, diagonal: int = 0) -> None:
    _triangle(w, _only(out), lambda row, column: f"{column} - {row} <= {diagonal}", x)


def _triu(w: Writer, out: Out, x: Place, diagonal: int = 0) -> None:
    _triangle(w, _only(out), lambda row, column: f"{column} - {row} >= {diagonal}", x)


def _triangle(w: Writer, out: Place, inside: Callable[[str, str], str], x: Place | None = None) -> None:
    dims = len(out.shape)

    def express(loop: Loop, names: list[str]) -> str:
        row, column = w.position(loop, out.shape, dims - 2), w.position(loop, out.shape, dims - 1)
        return f"({inside(row, column)}) ? {names[0] if names else '1'} : 0"

    w.write(out, [] if x is None else [x], express)


def _empty(w: Writer, out: Out, *rest: Any) -> None:
    """Memory, with whatever is in it."""


RULES: Mapping[str, Rule] = {
    "_log_softmax": _log_softmax,
    "_log_softmax_backward_data": _log_softmax_backward,
    "_softmax": _softmax,
    "_softmax_backward_data": _softmax_backward,
    "addmm": _addmm,
    "all": _all,
    "amax": _amax,
    "amin": _amin,
    "any": _any,
    "arange": _arange,
    "argmax": _argmax,
    "argmin": _argmin,
    "bmm": _bmm,
    "cat": _cat,
    "cumprod": _cumprod,
    "cumsum": _cumsum,
    "diag_embed": _diag_embed,
    "dot": _dot,
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
    "logsumexp": _logsumexp,
    "max": _max,
    "mean": _mean,
    "min": _min,
    "mm": _mm,
    "new_empty": _empty,
    "prod": _prod,
    "scatter": _scatter,
    "scatter_add": _scatter_add,
    "select_backward": _select_backward,
    "select_scatter": _select_scatter,
    "slice_backward": _slice_backward,
    "slice_scatter": _slice_scatter,
    "stack": _stack,
    "sum": _sum,
    "tril": _tril,
    "triu": _triu,
}


def _only(out: Out) -> Place:
    found = out[0]
    assert found is not None
    return found


def _dims(x: Place, dim: Any) -> list[int]:
    """Those that are meant, from the first one on."""
    count = len(x.shape)
    if dim is None or dim == []:
        return list(range(count))
    return sorted(d % count for d in ([dim] if isinstance(dim, int) else dim)) if count else []


def _terms(x: Place, dims: Sequence[int]) -> list[Place] | None:
    """The entries along some dimensions one by one, if they are few."""
    if math.prod(x.shape[d] for d in dims) > FEW:
        return None
    found = [x]
    for d in reversed(dims):
        found = [place.entry(d, i) for place in found for i in range(place.shape[d])]
    return found


def _fold(
    w: Writer,
    out: Place | None,
    x: Place,
    dims: Sequence[int],
    start: Sequence[str],
    inner: Sequence[str],
    value: str,
    second: Place | None = None,
) -> None:
    """A number for each entry of the dimensions that are left.

    Args:
        inner: lines for each entry along `dims`: `{all}` opens the loops over them, `{x}` is the entry.
        second: where `at`, counted over the entries, goes.
    """
    kept = [d for d in range(len(x.shape)) if d not in dims]
    names = [f"i{d}" for d in range(len(x.shape))]
    lines = [_head(names[d], x.shape[d]) for d in kept]
    lines += ["{", *start]
    heads = [_head(names[d], x.shape[d]) for d in dims]
    for line in inner:
        if line == "{all}":
            lines += heads
        elif line.startswith("#pragma"):  # it is about the innermost loop
            lines += heads[:-1]
            lines.append(line)
            heads = heads[-1:]
        else:
            lines.append(line.format(x=_at(x, *names)))
    at = [names[d] for d in kept]
    if out is not None:
        lines.append(f"{_at(out, *at)} = {value};")
    if second is not None:
        lines.append(f"{_at(second, *at)} = at;")
    w.lines([*lines, "}"], [x.memory, *(o.memory for o in (out, second) if o is not None)])


def _rows(w: Writer, out: Place, given: Sequence[Place], dim: int, body: Sequence[str]) -> None:
    """Lines for each row along a dimension: `{all}` is a loop over it, `{x}`, `{z}` are operands, `{y}` the result."""
    if not out.shape:
        out, given, dim = _column(out), [_column(g) for g in given], 0
    dim %= len(out.shape)
    names = [f"i{d}" for d in range(len(out.shape))]
    x, z = given[0], given[-1]
    words = {
        "{all}": _head(names[dim], out.shape[dim]),
        "{x}": _at(x, *names),
        "{z}": _at(z, *names),
        "{y}": _at(out, *names),
        "{t}": TYPES[out.kind],
    }
    lines = [_head(names[d], n) for d, n in enumerate(out.shape) if d != dim] + ["{"]
    for line in body:
        for word, meaning in words.items():
            line = line.replace(word, meaning)
        lines.append(line)
    w.lines([*lines, "}"], [g.memory for g in given] + [out.memory])


def _head(name: str, count: int) -> str:
    return f"for (int64_t {name} = 0; {name} < {count}; {name}++)"


def _at(place: Place, *names: str) -> str:
    terms = [f"{n} * {s}" if s != 1 else n for n, s in zip(names, place.stride, strict=True) if s]
    return f"{place.memory}[{' + '.join([str(place.offset), *terms] if place.offset or not terms else terms)}]"


def _copy(w: Writer, out: Place, x: Place) -> None:
    w.write(out, [x], lambda _, names: names[0])


def _fill(w: Writer, out: Place) -> None:
    w.write(out, [], lambda *_: "0")


def _column(x: Place) -> Place:
    """With a dimension of one more at the end."""
    return Place(x.memory, x.offset, (*x.shape, 1), (*x.stride, 1), x.kind)


def _row(x: Place) -> Place:
    return Place(x.memory, x.offset, (1, *x.shape), (1, *x.stride), x.kind)


def _trailing(x: Place, dims: int) -> Place:
    """With so many dimensions of one more at the end."""
    ones = (1,) * dims
    return Place(x.memory, x.offset, (*x.shape, *ones), (*x.stride, *ones), x.kind)


def _but(stride: Sequence[int], dim: int) -> tuple[int, ...]:
    return tuple(0 if d == dim else s for d, s in enumerate(stride))


def _suffix(x: Place) -> str:
    return "f" if x.kind == torch.float32 else ""
