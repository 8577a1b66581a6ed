"""Zero crossings: records the roots of denominators, to detect whether one crossed zero between two explored runs.

A denominator that is nowhere negative (`z.abs()`, a norm, a standard deviation) touches zero without changing its sign.
So its *root*, a value that changes its sign where the denominator vanishes, is tracked as well. A sum of squares
vanishes where all its parts do, which happens with probability zero on the way from one point to another, unless the
parts that are not zero have the same size.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from varigrad.terms.escapes import Pole, Roots
from varigrad.terms.poles import DISTANCES, LAYERS, MATRICES, given, place_of, sign_of

_SAME_ROOT = frozenset("abs absolute __abs__ square pow __pow__ mul __mul__ multiply sqrt norm linalg_norm".split())  # noqa: SIM905
_MATRIX_NORMS = frozenset("linalg_matrix_norm matrix_norm".split())  # noqa: SIM905
_REDUCTIONS = _MATRIX_NORMS | frozenset("sum mean norm linalg_norm linalg_vector_norm var std".split())  # noqa: SIM905
_SHAPES = frozenset(
    """clone contiguous reshape view expand expand_as unsqueeze squeeze transpose permute flatten __getitem__ select
    index_select mT T diagonal flip roll repeat broadcast_to""".split()  # noqa: SIM905 - reads better as words
)
_DIMS = {
    **dict.fromkeys(_MATRIX_NORMS, 2),
    "sum": 1,
    "mean": 1,
    "var": 1,
    "std": 1,
    "norm": 2,
    "linalg_norm": 2,
    "linalg_vector_norm": 2,
    "normalize": 2,
}
"""Where a reduction takes its dimensions."""
_GAMMAS = frozenset("digamma psi lgamma gammaln polygamma".split())  # noqa: SIM905
_COSINES = frozenset(("cosine_similarity", "cosine_embedding_loss"))
HOOK = "register_hook"
"""The name under which a hook of the program's, on a tensor that depends on a choice, is noted."""
_EQUAL = 1e-4
"""By how much, relative to the largest, parts of one size may differ."""
_MOST = 8
"""How many roots of one denominator are kept."""


def note_pole(
    poles: list[Pole],
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    below: Any,
    result: object,
    *,
    differentiable: bool,
    reviewed: bool = True,
) -> None:
    """Add a call of a function with a pole to `poles`, unless a family's own code makes it.

    Args:
        below: the tracked tensor that may reach the pole.
        differentiable, reviewed: as in `Pole`.
    """
    line = place_of(sys._getframe())
    if line is None:
        return
    try:
        marks = tuple(_signs(m) for m in _marks(name, args, kwargs, below)) if reviewed else ()
        finite = not isinstance(result, Tensor) or bool(result.isfinite().all())
    except RuntimeError:  # inside vmap and its like a tensor has no numbers
        marks, finite = (), True
    poles.append(Pole(below._provenance, name, line, marks, finite, reviewed, differentiable))


def roots_after(
    function: Callable[..., Any], name: str, args: Sequence[Any], plain_args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Roots:
    """The roots of a result that is nowhere negative."""
    if not args or not isinstance(args[0], Tensor) or args[0].is_complex():
        return ()
    try:
        if name in _REDUCTIONS:
            deviates = name in ("var", "std")
            default = (-2, -1) if name in _MATRIX_NORMS else None
            return _of_reduction(args[0], given("dim", _DIMS[name], args, kwargs, default), deviates)
        if name == "hypot" or name in DISTANCES:
            return _of_distance(name, args, kwargs)
        if name in _SAME_ROOT or name in _SHAPES:
            found = _roots_of(args[0])
            if len(args) > 1 and isinstance(args[1], Tensor) and args[1] is not args[0] and name not in _SHAPES:
                found += _roots_of(args[1])
            if name in _SHAPES:
                found = tuple(function(r, *plain_args[1:], **kwargs) for r in found)
            return found[:_MOST]
    except (RuntimeError, TypeError, IndexError, AttributeError):  # of a shape that the root does not have
        pass
    return ()


def _roots_of(value: Any) -> Roots:
    """What a tensor vanishes with: its own numbers, if they may be negative."""
    if getattr(value, "_provenance", None) is None:
        return ()
    if sign_of(value):
        roots: Roots = value._roots
        return roots
    return (value._plain.detach(),)


def _of_reduction(value: Any, dims: object, deviates: bool) -> Roots:
    """The roots of a sum of what is nowhere negative: its first part, if all are of one size."""
    roots = _roots_of(value)
    if len(roots) != 1:
        return ()
    root = roots[0]
    axes = tuple(dims) if isinstance(dims, (tuple, list)) else (dims,) if isinstance(dims, int) else ()
    axes = axes or tuple(range(root.dim()))
    return _of_one_size(root - root.mean(axes, keepdim=True) if deviates and root.dim() else root, axes)


def _of_distance(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Roots:
    """The root of a distance: the difference, or for `hypot` the two sides, if all parts are of one size."""
    second = next((kwargs[key] for key in ("target", "other", "x2") if key in kwargs), None)
    sides: tuple[Any, Any] = args[0], args[1] if len(args) > 1 else second
    a, b = (getattr(x, "_plain", x).detach() for x in sides)
    if name == "hypot":
        return _of_one_size(torch.stack(torch.broadcast_tensors(a, b), -1), (-1,))
    if name == "cdist":
        return _of_one_size(a.unsqueeze(-2) - b.unsqueeze(-3), (-1,))
    difference = a - b
    if name == "pairwise_distance":
        return _of_one_size(difference + given("eps", 3, args, kwargs, 1e-6), (-1,))
    whole = name == "dist" or kwargs.get("reduction") != "none"
    return _of_one_size(difference, tuple(range(difference.dim()))) if whole else (difference,)


def _of_one_size(root: Tensor, axes: tuple[int, ...]) -> Roots:
    if not root.dim() or not root.numel():
        return (root,)
    axes = tuple(a % root.dim() for a in axes)
    parts = root.movedim(axes, tuple(range(-len(axes), 0))).flatten(-len(axes))
    size = parts.abs()
    high = size.amax(-1, keepdim=True)
    alike = size >= (1 - _EQUAL) * high
    if not bool((alike | (size <= _EQUAL * high)).all()):
        return ()
    return (parts.gather(-1, alike.to(torch.int8).argmax(-1, keepdim=True)),)


def _marks(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], below: Any) -> Roots:
    plain = below._plain.detach()
    if name == "tan":
        return (plain.cos(),)
    if name.removeprefix("special_") in _GAMMAS:
        return (torch.where(plain > 0, torch.ones_like(plain), torch.sin(torch.pi * plain)),)
    if name in MATRICES or name.endswith("matrix_power"):
        square = plain.dim() > 1 and plain.shape[-1] == plain.shape[-2]
        return (torch.linalg.slogdet(plain)[0],) if square else ()
    if name in LAYERS:
        axes = _axes_of_layer(name, args, kwargs, plain)
        if name == "rms_norm":
            return _of_one_size(plain, axes)
        if name.endswith("group_norm"):
            plain = plain.reshape(plain.shape[0], int(args[1]), -1)
        return _of_one_size(plain - plain.mean(axes, keepdim=True), axes)
    if name == "normalize":
        return _of_reduction(below, given("dim", 2, args, kwargs, 1), False)
    if name in _COSINES:
        dim = given("dim", 2, args, kwargs, 1) if name == "cosine_similarity" else -1
        both = [a for a in args[:2] if getattr(a, "_provenance", None) is not None]
        return tuple(r for a in both for r in _of_reduction(a, dim, False))
    if name == "_weight_norm":
        return ()
    return _roots_of(below)


def _axes_of_layer(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], plain: Tensor) -> tuple[int, ...]:
    """The dimensions along which a layer normalises."""
    if name.endswith(("layer_norm", "rms_norm")):
        shape = given("normalized_shape", 1, args, kwargs)
        return tuple(range(-(1 if isinstance(shape, int) else len(shape)), 0))
    if name.endswith("group_norm"):
        return (-1,)
    first = (0,) if name.endswith("batch_norm") else ()
    return (*first, *range(2, plain.dim()))


def _signs(root: Tensor) -> Tensor:
    return root.sign().to(torch.int8)
