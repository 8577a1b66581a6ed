"""Reductions in C: sums, extremes, softmax, cumulative sums and other operations that read whole rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch

from varigrad.compile.backends.c.buffers import TYPES, BufferView, column, element, head, suffix
from varigrad.compile.backends.c.fusion import LoopWriter, Out, only
from varigrad.compile.graph.errors import Unsupported

Dims = int | Sequence[int] | None
"""The dimensions to reduce, as torch takes them; None: all."""

FEW = 8
"""Sums of at most so many terms are written out, term by term."""
_SIMD = "#pragma omp simd reduction(+:total)"
LONG = 4096
"""Sums of at least so many terms are taken in double precision."""


def _sum(w: LoopWriter, out: Out, x: BufferView, dim: Dims = None, keepdim: bool = False, dtype: object = None) -> None:
    _total(w, only(out), x, dim, keepdim, 1)


def _mean(
    w: LoopWriter, out: Out, x: BufferView, dim: Dims = None, keepdim: bool = False, dtype: object = None
) -> None:
    dims = _dims(x, dim)
    _total(w, only(out), x, dim, keepdim, math.prod(x.shape[d] for d in dims))


def _total(w: LoopWriter, out: BufferView, x: BufferView, dim: Dims, keepdim: bool, count: int) -> None:
    """The sum over dimensions, divided by `count`."""
    _check_types(out, x)
    dims = _dims(x, dim)
    wide = "double" if out.kind.is_floating_point else "int64_t"
    over = f" / {count}" if count != 1 else ""
    terms = _terms(x, dims)
    out = out.without(*dims) if keepdim else out
    if terms is not None:
        cast = f"({TYPES[out.kind]})"
        w.write(out, terms, lambda _, names: "(" + " + ".join(cast + n for n in names or ["0"]) + ")" + over)
        return
    if dims and x.stride[dims[-1]] != 1 and math.prod(x.shape[d] for d in dims) < LONG and out.numel >= FEW:
        _added_up(w, out, x, dims, over)
        return
    kept = len(x.shape) - len(dims)
    if out.kind.is_floating_point and dims == list(range(kept, len(x.shape))):
        w.total(out, x, kept, over)
        return
    inner = [_SIMD, "{all}", "total += {x};"]
    _fold(w, out, x, dims, [f"{wide} total = 0;"], inner, f"total{over}")


def _added_up(w: LoopWriter, out: BufferView, x: BufferView, dims: Sequence[int], over: str) -> None:
    """Add row after row to the result, where the entries of a sum are far apart in memory."""
    names = [f"i{d}" for d in range(len(x.shape))]
    kept = [d for d in range(len(x.shape)) if d not in dims]
    shared = w.dimension_to_share(x.numel, [x.shape[d] for d in kept])
    inside = [head(names[d], x.shape[d], i == shared) for i, d in enumerate(kept)]
    inside.insert(-1, "#pragma omp simd")
    total = element(out, *(names[d] for d in kept))
    lines = [*inside, f"{total} = 0;", *(head(names[d], x.shape[d]) for d in dims), *inside]
    lines.append(f"{total} += {element(x, *names)};")
    if over:
        lines += [*inside, f"{total} = {total}{over};"]
    w.lines(lines, [x.memory], [out.memory], shared is not None)


def _any(w: LoopWriter, out: Out, x: BufferView, dim: Dims = None, keepdim: bool = False) -> None:
    _truth(w, only(out), x, dim, keepdim, "||", "0")


def _all(w: LoopWriter, out: Out, x: BufferView, dim: Dims = None, keepdim: bool = False) -> None:
    _truth(w, only(out), x, dim, keepdim, "&&", "1")


def _truth(w: LoopWriter, out: BufferView, x: BufferView, dim: Dims, keepdim: bool, operator: str, start: str) -> None:
    dims = _dims(x, dim)
    out = out.without(*dims) if keepdim else out
    _fold(w, out, x, dims, [f"_Bool found = {start};"], ["{all}", f"found = found {operator} {{x}} != 0;"], "found")


def _prod(
    w: LoopWriter, out: Out, x: BufferView, dim: Dims = None, keepdim: bool = False, dtype: object = None
) -> None:
    dims = _dims(x, dim)
    found = only(out)
    _check_types(found, x)
    wide = "double" if found.kind.is_floating_point else "int64_t"
    _fold(w, found.without(*dims) if keepdim else found, x, dims, [f"{wide} p = 1;"], ["{all}", "p *= {x};"], "p")


def _amax(w: LoopWriter, out: Out, x: BufferView, dim: Dims = None, keepdim: bool = False) -> None:
    _extreme(w, [only(out), None], x, dim, keepdim, ">")


def _amin(w: LoopWriter, out: Out, x: BufferView, dim: Dims = None, keepdim: bool = False) -> None:
    _extreme(w, [only(out), None], x, dim, keepdim, "<")


def _max(w: LoopWriter, out: Out, x: BufferView, dim: Dims = None, keepdim: bool = False) -> None:
    _extreme(w, [*out, None][:2], x, dim, keepdim, ">")


def _min(w: LoopWriter, out: Out, x: BufferView, dim: Dims = None, keepdim: bool = False) -> None:
    _extreme(w, [*out, None][:2], x, dim, keepdim, "<")


def _argmax(w: LoopWriter, out: Out, x: BufferView, dim: Dims = None, keepdim: bool = False) -> None:
    _extreme(w, [None, only(out)], x, dim, keepdim, ">")


def _argmin(w: LoopWriter, out: Out, x: BufferView, dim: Dims = None, keepdim: bool = False) -> None:
    _extreme(w, [None, only(out)], x, dim, keepdim, "<")


def _extreme(w: LoopWriter, out: Out, x: BufferView, dim: Dims, keepdim: bool, sign: str) -> None:
    """The largest or smallest entry, the first NaN if there is one, and its position."""
    dims = _dims(x, dim)
    if not math.prod(x.shape[d] for d in dims):
        raise Unsupported("the largest of no entries")
    values, positions = ((o.without(*dims) if keepdim and o is not None else o) for o in out)
    kind = TYPES[x.kind]
    better = f"if (at < 0 || (best == best && !(best {sign}= v))) {{{{ best = v; at = n; }}}}"
    start = [f"{kind} best = 0;", "int64_t at = -1, n = 0;"]
    inner = ["{all}", f"{{{{ const {kind} v = {{x}}; {better} n++; }}}}"]
    _fold(w, values, x, dims, start, inner, "best", positions)


def _logsumexp(w: LoopWriter, out: Out, x: BufferView, dim: Dims, keepdim: bool = False) -> None:
    found, dims = only(out), _dims(x, dim)
    if x.kind != found.kind:
        raise Unsupported("the logarithm of a sum of whole numbers")
    f = suffix(x)
    start = [f"{TYPES[x.kind]} top = -INFINITY;", "double total = 0;"]
    inner = [
        "{all}", f"top = larger{f}(top, {{x}});",
        f"const {TYPES[x.kind]} base = isinf(top) ? 0 : top;",
        "{all}", f"total += exp{f}({{x}} - base);",
    ]  # fmt: skip
    _fold(w, found.without(*dims) if keepdim else found, x, dims, start, inner, f"base + log{f}(total)")


def _softmax(w: LoopWriter, out: Out, x: BufferView, dim: int, half: bool) -> None:
    f = suffix(x)
    lines = [
        "double total = 0;", *_vectors(x, dim), "{all}",
        "{ const {t} e = exp" + f + "({x} - top); total += e; {y} = e; }",
        "const {t} factor = 1 / total;", "{all}", "{y} *= factor;",
    ]  # fmt: skip
    _rows(w, only(out), [x], dim, [*_top(f), *lines])


def _log_softmax(w: LoopWriter, out: Out, x: BufferView, dim: int, half: bool) -> None:
    f = suffix(x)
    lines = ["double total = 0;", *_vectors(x, dim), "{all}", f"total += exp{f}({{x}} - top);"]
    lines += [f"const {{t}} rest = log{f}(total);", "{all}", "{y} = ({x} - top) - rest;"]
    _rows(w, only(out), [x], dim, [*_top(f), *lines])


def _vectors(x: BufferView, dim: int) -> list[str]:
    """The pragma before a sum over enough terms; for a few, compilers do better without."""
    return [_SIMD] if x.shape and x.shape[dim] >= 2 * FEW else []


def _top(suffix: str) -> list[str]:
    return ["{t} top = -INFINITY;", "{all}", f"top = larger{suffix}({{x}}, top);"]


def _softmax_backward(w: LoopWriter, out: Out, grad: BufferView, result: BufferView, dim: int, dtype: object) -> None:
    lines = [
        "double total = 0;",
        *_vectors(grad, dim),
        "{all}",
        "total += {x} * {z};",
        "{all}",
        "{y} = {z} * ({x} - ({t})total);",
    ]
    _rows(w, only(out), [grad, result], dim, lines)


def _log_softmax_backward(
    w: LoopWriter, out: Out, grad: BufferView, result: BufferView, dim: int, dtype: object
) -> None:
    f = suffix(grad)
    lines = ["double total = 0;", *_vectors(grad, dim), "{all}", "total += {x};"]
    lines += ["{all}", f"{{y}} = {{x}} - exp{f}({{z}}) * ({{t}})total;"]
    _rows(w, only(out), [grad, result], dim, lines)


def _cumsum(w: LoopWriter, out: Out, x: BufferView, dim: int, dtype: object = None) -> None:
    found = only(out)
    _check_types(found, x)
    wide = "double" if found.kind.is_floating_point else "int64_t"
    _rows(w, found, [x], dim, [f"{wide} total = 0;", "{all}", "{ total += {x}; {y} = total; }"])


def _cumprod(w: LoopWriter, out: Out, x: BufferView, dim: int, dtype: object = None) -> None:
    found = only(out)
    _check_types(found, x)
    wide = "double" if found.kind.is_floating_point else "int64_t"
    _rows(w, found, [x], dim, [f"{wide} product = 1;", "{all}", "{ product *= {x}; {y} = product; }"])


def _check_types(out: BufferView, x: BufferView) -> None:
    """Refuse a result of a type that does not hold the entries: torch converts each before they are combined."""
    if out.kind == torch.bool or torch.promote_types(out.kind, x.kind) != out.kind:
        raise Unsupported(f"numbers of {x.kind} combined as {out.kind}")


def _dims(x: BufferView, dim: Dims) -> list[int]:
    """The dimensions that an argument names, counted from the first and in order; all of them for none."""
    count = len(x.shape)
    if dim is None or dim == []:
        return list(range(count))
    return sorted(d % count for d in ([dim] if isinstance(dim, int) else dim)) if count else []


def _terms(x: BufferView, dims: Sequence[int]) -> list[BufferView] | None:
    """The entries along some dimensions one by one, if they are few; else None."""
    if math.prod(x.shape[d] for d in dims) > FEW:
        return None
    found = [x]
    for d in reversed(dims):
        found = [view.select(d, i) for view in found for i in range(view.shape[d])]
    return found


def _fold(
    w: LoopWriter,
    out: BufferView | None,
    x: BufferView,
    dims: Sequence[int],
    start: Sequence[str],
    inner: Sequence[str],
    value: str,
    second: BufferView | None = None,
) -> None:
    """Write loops that reduce some dimensions to one number for each entry of the others.

    Args:
        inner: lines for each entry along `dims`: `{all}` opens the loops over them, `{x}` is the entry.
        second: where `at`, counted over the entries, goes.
    """
    kept = [d for d in range(len(x.shape)) if d not in dims]
    names = [f"i{d}" for d in range(len(x.shape))]
    shared = w.dimension_to_share(x.numel * len(inner), [x.shape[d] for d in kept])
    lines = [head(names[d], x.shape[d], i == shared) for i, d in enumerate(kept)]
    lines += ["{", *start]
    heads = [head(names[d], x.shape[d]) for d in dims]
    for line in inner:
        if line == "{all}":
            lines += heads
        elif line.startswith("#pragma"):  # it is about the innermost loop
            lines += heads[:-1]
            lines.append(line)
            heads = heads[-1:]
        else:
            lines.append(line.format(x=element(x, *names)))
    at = [names[d] for d in kept]
    if out is not None:
        lines.append(f"{element(out, *at)} = {value};")
    if second is not None:
        lines.append(f"{element(second, *at)} = at;")
    written = [o.memory for o in (out, second) if o is not None]
    w.lines([*lines, "}"], [x.memory], written, shared is not None)


def _rows(w: LoopWriter, out: BufferView, given: Sequence[BufferView], dim: int, body: Sequence[str]) -> None:
    """Write lines for each row along a dimension.

    Args:
        body: `{all}` is a loop over the row, `{x}`, `{z}` are operands' elements, `{y}` the result's, `{t}` its type.
    """
    if not out.shape:
        out, given, dim = column(out), [column(g) for g in given], 0
    dim %= len(out.shape)
    names = [f"i{d}" for d in range(len(out.shape))]
    x, z = given[0], given[-1]
    words = {
        "{all}": head(names[dim], out.shape[dim]),
        "{x}": element(x, *names),
        "{z}": element(z, *names),
        "{y}": element(out, *names),
        "{t}": TYPES[out.kind],
    }
    kept = [d for d in range(len(out.shape)) if d != dim]
    shared = w.dimension_to_share(out.numel * len(body), [out.shape[d] for d in kept])
    lines = [head(names[d], out.shape[d], i == shared) for i, d in enumerate(kept)] + ["{"]
    for line in body:
        for word, meaning in words.items():
            line = line.replace(word, meaning)
        lines.append(line)
    w.lines([*lines, "}"], [g.memory for g in given], [out.memory], shared is not None)


RULES: Mapping[str, Callable[..., None]] = {
    "_log_softmax": _log_softmax,
    "_log_softmax_backward_data": _log_softmax_backward,
    "_softmax": _softmax,
    "_softmax_backward_data": _softmax_backward,
    "all": _all,
    "amax": _amax,
    "amin": _amin,
    "any": _any,
    "argmax": _argmax,
    "argmin": _argmin,
    "cumprod": _cumprod,
    "cumsum": _cumsum,
    "logsumexp": _logsumexp,
    "max": _max,
    "mean": _mean,
    "min": _min,
    "prod": _prod,
    "sum": _sum,
}
