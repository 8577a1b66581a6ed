"""How far rounding may move each result: the graph is run again with every result moved by its rounding error.

What only exact steps lead to is to be equal bit for bit. The rest may be off by a multiple of what moves when the
operands and results of each step are multiplied by `1 + rounds * eps`, with either sign, element by element: this is as
small or as large as the sizes, the types and the conditioning of the graph make it.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from random_graphs.graphs import RandomGraph, Step, run

RUNS = 5
"""How often the graph is run with rounding errors."""
FACTOR = 30.0
"""How many times what was seen in these runs is allowed."""
LAST_PLACES = 16.0
"""How many units in the last place are allowed in any case where something is rounded."""


@dataclass(frozen=True)
class Expectation:
    """What a graph has to give.

    Attributes:
        values: what torch gives.
        tolerances: how far each element may be off; 0 is bit for bit, infinity means that no law holds.
    """

    values: list[Tensor]
    tolerances: list[Tensor]


def expected(graph: RandomGraph, inputs: list[Tensor]) -> Expectation:
    """What torch gives, and how far rounding may move it."""
    values = run(graph, inputs)
    exact = _exact_outputs(graph, inputs)
    generator = torch.Generator().manual_seed(1)
    moved = [run(graph, inputs, _Rounded(generator)) for _ in range(RUNS)]
    tolerances = []
    for i, value in enumerate(values):
        tolerance = torch.zeros(value.shape, dtype=torch.float64)
        if i >= len(exact) or not exact[i]:
            tolerance = _spread(value, [m[i] for m in moved])
        tolerances.append(tolerance)
    return Expectation(values, tolerances)


def _spread(value: Tensor, moved: list[Tensor]) -> Tensor:
    base = value.double()
    largest = torch.zeros_like(base)
    for other in moved:
        gap = torch.where((other == value) | (other.isnan() & value.isnan()), 0.0, (other.double() - base).abs())
        largest = torch.maximum(largest, gap.nan_to_num(nan=torch.inf))
    if not value.is_floating_point():
        return torch.where(largest > 0, torch.inf, 0.0)
    limits = torch.finfo(value.dtype)
    size = base.abs().nan_to_num(nan=0.0, posinf=0.0)
    return FACTOR * largest + LAST_PLACES * limits.eps * size + 100 * limits.tiny


class _Rounded:
    """Takes steps with rounding errors."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def __call__(self, step: Step, values: list[Tensor | None]) -> Tensor | None:
        if not step.rounds:
            return self._with_rounded_slope(step(values), step)
        given = list(values)
        for i in set(step.operands[step.writes :]):
            own = values[i]
            if own is not None and own.is_floating_point():
                given[i] = own + (own.detach() * self._errors(own, step.rounds)).nan_to_num(0.0, 0.0, 0.0)
        written = values[step.operands[0]] if step.writes else None
        if written is not None and written.is_floating_point():
            written.data.mul_(1 + self._errors(written, step.rounds))
        found = step(given)
        changed = written if step.writes else found
        if changed is not None and changed.is_floating_point():
            changed.data.mul_(1 + self._errors(changed, step.rounds))
        return self._with_rounded_slope(found, step)

    def _with_rounded_slope(self, found: Tensor | None, step: Step) -> Tensor | None:
        if found is not None and found.requires_grad and found.grad_fn is not None and not step.writes:
            found.register_hook(
                lambda g: g * (1 + self._errors(g, max(step.rounds, math.sqrt(found.numel()) / 4, 1.0)))
            )
        return found

    def _errors(self, like: Tensor, rounds: float) -> Tensor:
        signs = torch.randint(0, 2, like.shape, generator=self._generator) * 2 - 1
        return (signs * (rounds * torch.finfo(like.dtype).eps)).to(like.dtype)


def _exact_outputs(graph: RandomGraph, inputs: list[Tensor]) -> list[bool]:
    """For each output whether only exact steps lead to it; a write counts for everything in its memory."""
    rounded: set[int] = set()
    kept = []

    def around(step: Step, values: list[Tensor | None]) -> Tensor | None:
        operands = [values[i] for i in step.operands]
        found = step(values)
        kept.append(found)
        if step.rounds or any(o is not None and _memory(o) in rounded for o in operands):
            rounded.update(_memory(t) for t in (found, operands[0] if step.writes else None) if t is not None)
        return found

    run(graph, inputs, around)
    values = [*inputs, *kept]
    return [_memory(values[i]) not in rounded for i in graph.outputs]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.numel() else -id(tensor)


def wrong(expectation: Expectation, found: list[Tensor]) -> str:
    """The first result that is off, and by how much; empty if there is none."""
    for number, (value, tolerance, own) in enumerate(
        zip(expectation.values, expectation.tolerances, found, strict=True)
    ):
        same = (own == value) | (own.isnan() & value.isnan())
        near = (own.double() - value.double()).abs() <= tolerance
        bad = ~(same | near | (tolerance == torch.inf))
        if bad.any():
            at = tuple(bad.nonzero()[0].tolist())
            return (
                f"result {number} at {at}: {own[at].item()!r} in C, {value[at].item()!r} by torch, "
                f"tolerance {tolerance[at].item():.3g}, {int(bad.sum())} of {bad.numel()} elements ({value.dtype})"
            )
    return ""
