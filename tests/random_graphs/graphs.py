"""A random graph as data: tensors to begin with, steps that compute others from them, and what is looked at."""

import math
import operator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

WORDS = {"torch": torch, "F": F, "aten": torch.ops.aten, "math": math, "put": operator.setitem}
"""What the text of a step may name, besides its operands."""


@dataclass(frozen=True)
class Input:
    """A tensor of random numbers.

    Attributes:
        layout: "plain"; "turned" (its dimensions lie in memory in the other order); "part" (every second entry of a
            larger tensor); "shifted" (an offset); "spread" (expanded along its first dimension).
        special: whether some of its entries are NaN, infinite, or zeros of either sign.
    """

    shape: tuple[int, ...]
    kind: torch.dtype
    layout: str
    seed: int
    special: bool = False

    def make(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        if self.layout == "turned":
            return self._numbers(self.shape[::-1], generator).permute(tuple(reversed(range(len(self.shape)))))
        if self.layout == "part":
            return self._numbers(tuple(2 * n for n in self.shape), generator)[(slice(None, None, 2),) * len(self.shape)]
        if self.layout == "shifted":
            return self._numbers((3, *self.shape), generator)[1]
        if self.layout == "spread" and self.shape:
            return self._numbers((1, *self.shape[1:]), generator).expand(self.shape)
        return self._numbers(self.shape, generator)

    def _numbers(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        if self.kind == torch.bool:
            return torch.rand(shape, generator=generator) < 0.5
        if not self.kind.is_floating_point:
            low = 0 if self.kind == torch.uint8 else -9
            return torch.randint(low, 10, shape, generator=generator).to(self.kind)
        found = torch.randn(shape, generator=generator, dtype=torch.float64).to(self.kind)
        if self.special:
            which = torch.rand(shape, generator=generator)
            for i, value in enumerate((math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0)):
                found[(which > 0.05 * i) & (which < 0.05 * (i + 1))] = value
        return found


@dataclass(frozen=True)
class Step:
    """An operation.

    Attributes:
        text: an expression of Python, with `{0}`, `{1}`, ... for the operands.
        operands: the numbers of the values that they are: inputs first, then the results of steps.
        rounds: the largest rounding error of an element, in units of the type's last place; 0 for what is exact.
        writes: whether it writes into its first operand.
    """

    text: str
    operands: tuple[int, ...]
    rounds: float
    writes: bool

    def __call__(self, values: list[Tensor | None]) -> Tensor | None:
        names = [f"_{i}" for i in range(len(self.operands))]
        given = {name: values[i] for name, i in zip(names, self.operands, strict=True)}
        found = eval(self.text.format(*names), {**WORDS, **given})
        return found if isinstance(found, Tensor) else None


@dataclass(frozen=True)
class RandomGraph:
    """A program of tensors.

    Attributes:
        outputs: the numbers of the values that are compared.
        slopes: whether the gradient of the outputs is compared as well.
    """

    inputs: tuple[Input, ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    slopes: bool

    def __str__(self) -> str:
        """The graph as code."""
        names = [*(f"x{i}" for i in range(len(self.inputs))), *(f"v{i}" for i in range(len(self.steps)))]
        lines = ["from random_graphs.graphs import *"]
        lines += [f"{name} = {given}.make()" for name, given in zip(names, self.inputs, strict=False)]
        for name, step in zip(names[len(self.inputs) :], self.steps, strict=True):
            lines.append(f"{name} = {step.text.format(*(names[i] for i in step.operands))}  # {step.rounds} rounded")
        slopes = " and their gradients" if self.slopes else ""
        return "\n".join([*lines, f"# compared: {', '.join(names[i] for i in self.outputs)}{slopes}"])


def run(graph: RandomGraph, inputs: list[Tensor], around=lambda step, values: step(values)) -> list[Tensor]:
    """The outputs of a graph, and their gradients by the inputs of real numbers.

    Args:
        around: takes a step, given all values so far.
    """
    leaves = []
    values: list[Tensor | None] = []
    for given in inputs:
        if graph.slopes and given.is_floating_point():
            given = given.detach().requires_grad_()
            leaves.append(given)
        values.append(given)
    with torch.set_grad_enabled(graph.slopes):
        for step in graph.steps:
            values.append(around(step, values))
        outputs = [values[i] for i in graph.outputs]
        assert all(o is not None for o in outputs)
        found = [o.detach().clone() for o in outputs]
        able = [o for o in outputs if o.requires_grad]
        if able:
            total = sum((o * (torch.arange(o.numel()) % 5 - 1.7).reshape(o.shape)).sum() for o in able)
            slopes = torch.autograd.grad(total, leaves, allow_unused=True)
            found += [torch.zeros_like(l) if s is None else s.clone() for s, l in zip(slopes, leaves, strict=True)]
    return found
