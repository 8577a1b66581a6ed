"""Draws a bound's gradient many times for measurements, and carries the estimators' state from draw to draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from varigrad.errors import VarigradError
from varigrad.estimators.base import State
from varigrad.objectives.parameters import ParameterStore
from varigrad.objectives.surrogate import Estimate, SurrogateParts

DIRECT = ""
"""The part of a gradient that does not come by a draw."""


class Estimating(Protocol):
    """Interface of bounds whose gradient can be drawn."""

    @property
    def owner(self) -> ParameterStore: ...

    def estimate(self, *args: object, **kwargs: object) -> Estimate:
        """Value, surrogate and the estimators' next states."""

    def advance(self, states: Mapping[str, State] | None = None, steps: int = 1) -> None:
        """Take over the estimators' next states."""


def leaves_of(bound: Estimating) -> dict[str, Tensor]:
    """The unconstrained parameters that the bound's gradient is taken for: all but those of baselines.

    Raises:
        VarigradError: there are none.
    """
    named = bound.owner.named_parameters()
    found = {n: p for n, p in named if p.requires_grad and not n.startswith("baselines.")}
    if not found:
        raise VarigradError("there is no gradient to look at", because="model and guide have no parameters")
    return found


def samples(bound: Estimating, n: int, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Tensor:
    """`n` estimates of the bound's gradient in a row, `[n, elements of all leaves]`; advances the estimators' state."""
    leaves = list(leaves_of(bound).values())
    rows = []
    for _ in range(n):
        result = bound.estimate(*args, **kwargs)
        grads = torch.autograd.grad(result.surrogate, leaves, materialize_grads=True)
        rows.append(torch.cat([g.reshape(-1) for g in grads]))
        bound.advance(result.state, steps=0)
    return torch.stack(rows)


def by_name(bound: Estimating, flat: Tensor) -> dict[str, Tensor]:
    """`[..., elements of all leaves]` as `name -> [..., *shape]`."""
    leaves = leaves_of(bound)
    parts = flat.split([p.numel() for p in leaves.values()], -1)
    return {n: part.reshape((*flat.shape[:-1], *p.shape)) for (n, p), part in zip(leaves.items(), parts, strict=True)}


def by_site(parts: SurrogateParts, leaves: Sequence[Tensor]) -> dict[str, list[Tensor | None]]:
    """The gradient of a surrogate by where it comes from, `site -> a gradient for each leaf`, which sum to the whole.

    A site's part is the gradient of its own surrogate, and what flows through its draw into its distribution's
    parameters, with earlier draws held. `DIRECT` is what the terms have at fixed draws.
    """
    found: dict[str, list[Tensor | None]] = {}

    def add(site: str, grads: Sequence[Tensor | None], sign: int = 1) -> None:
        mine = found.setdefault(site, [None] * len(leaves))
        for i, grad in enumerate(grads):
            if grad is not None:
                old = mine[i]
                mine[i] = sign * grad if old is None else old + sign * grad

    def slopes(of: Tensor, to: Sequence[Tensor], scale: Tensor) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(of, to, scale, retain_graph=True, allow_unused=True)

    def even(total: Tensor) -> Tensor:
        return torch.full_like(total, 1 / parts.count)

    for share in parts.shares:
        if share.surrogate.requires_grad:
            add(share.site, slopes(share.surrogate, leaves, even(share.surrogate)))
    if parts.path is None or not parts.path.requires_grad:
        return found
    drawn = [(site, value) for site, value in parts.values if value.requires_grad]
    grads = slopes(parts.path, [*leaves, *(value for _, value in drawn)], even(parts.path))
    add(DIRECT, grads[: len(leaves)])
    held = []
    try:
        for (site, value), adjoint in zip(drawn, grads[len(leaves) :], strict=True):
            if adjoint is not None:
                through = slopes(value, leaves, adjoint)
                add(site, through)
                add(DIRECT, through, -1)
            held.append(value.register_hook(torch.zeros_like))  # what later draws owe to this one, it owes already
    finally:
        for hook in held:
            hook.remove()
    return found


@contextmanager
def reseeded(seed: int) -> Iterator[None]:
    """Inside, torch's global generators start from a seed; afterwards they are where they were."""
    gpus = torch.cuda.device_count() if torch.cuda.is_initialized() else 0
    with torch.random.fork_rng(list(range(gpus))):
        torch.default_generator.manual_seed(seed)
        if gpus:
            torch.cuda.manual_seed_all(seed)
        yield
