"""Perturbation: moves parameters, buffers and arguments away from zeros, ties and other coincidences.

The result of a check at one point may be a coincidence: a gate at zero, a last layer of zeros, a covariate that is zero
in the first minibatch. At a random point nearby, such coincidences do not happen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from varigrad._torch_internals import pytree
from varigrad.objectives.without_side_effects import PreservedState


@contextmanager
def moved(kept: PreservedState, generator: torch.Generator, buffers: bool) -> Iterator[None]:
    """Inside, all parameters known so far are moved by noise, and buffers, too, if asked for."""
    shown = [(p, p.data) for p in kept.parameters] + ([(b, b.data) for b in kept.buffers] if buffers else [])
    others = {id(b) for b in kept.buffers}
    try:
        for tensor, numbers in shown:
            if numbers.is_floating_point() and numbers.numel() and numbers.layout is torch.strided:
                move = _around if id(tensor) in others else _nearby
                kept.show(tensor, move(numbers, generator))
        yield
    finally:
        for tensor, numbers in shown:
            kept.show(tensor, numbers)


def moved_arguments(
    args: tuple[object, ...], kwargs: dict[str, object], generator: torch.Generator
) -> tuple[tuple[object, ...], dict[str, object]]:
    """The same arguments with all their floating-point numbers moved; a program may refuse them (data in a support)."""

    def move(leaf: object) -> object:
        if isinstance(leaf, Tensor):
            return _around(leaf.detach(), generator) if leaf.is_floating_point() and leaf.numel() else leaf
        if type(leaf) is float:
            return float(_around(torch.tensor(leaf, dtype=torch.float64), generator))
        return leaf

    leaves, tree = pytree.tree_flatten((args, kwargs))
    found: tuple[tuple[object, ...], dict[str, object]] = pytree.tree_unflatten([move(leaf) for leaf in leaves], tree)
    return found


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64, device="cpu").to(like)


def _nearby(numbers: Tensor, generator: torch.Generator) -> Tensor:
    """Move a parameter: weights by as much as keeps a layer's output of the order of one."""
    scale = 0.5
    if numbers.dim() > 1:
        scale = max(0.02, scale / max(1, numbers[0].numel()) ** 0.5)
    return numbers + (scale + 0.1 * numbers.abs()) * _normal(numbers, generator)


def _around(numbers: Tensor, generator: torch.Generator) -> Tensor:
    """Move data or buffers by their spread, or by their size where all are equal; what is nowhere negative stays so."""
    finite = numbers[numbers.isfinite()]
    if not finite.numel():
        return numbers
    spread = float(finite.std()) if finite.numel() > 1 else 0.0
    size = float(finite.abs().mean())
    scale = 0.3 * (spread or size or 1.0)
    other = numbers + scale * _normal(numbers, generator)
    return other.abs() if bool((finite >= 0).all()) else other
