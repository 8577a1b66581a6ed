"""Cost model: estimates a gradient's time from counts of operations, so that the estimate is reproducible."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from varigrad._torch_internals import OpOverload, TorchDispatchMode, schema_of_operator

PER_STEP, PER_OPERATION = 250.0, 4.0
"""Microseconds of Python for a step and for an operation of torch, on an ordinary processor;"""
PER_STEP_COMPILED, PER_OPERATION_COMPILED = 2.0, 0.05
"""the same in a compiled step;"""
PER_ELEMENT, PER_FLOP = 3e-4, 2e-5
"""and for an element that an operation makes, and for an operation on numbers in products and convolutions."""


class Counted(TorchDispatchMode):
    """A mode that counts the operations inside it.

    Attributes:
        operations, elements, flops: of torch; made by them (views are free); in products and convolutions.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch says nothing of its type
        self.operations: int = 0
        self.elements: int = 0
        self.flops: int = 0

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        if all(returned.alias_info is None for returned in schema_of_operator(func).returns):
            made = out if isinstance(out, (tuple, list)) else (out,)
            self.elements += sum(tensor.numel() for tensor in made if isinstance(tensor, Tensor))
        known = flop_registry.get(func.overloadpacket)
        if known is not None:
            self.flops += int(known(*args, **(kwargs or {}), out_val=out))
        return out


def microseconds(work: Callable[[], object], compiled: bool = False) -> float:
    """About how long a step takes on one idle core, from its counts."""
    counted = Counted()
    with counted, torch.enable_grad():
        work()
    step, operation = (PER_STEP_COMPILED, PER_OPERATION_COMPILED) if compiled else (PER_STEP, PER_OPERATION)
    arithmetic = PER_ELEMENT * counted.elements + PER_FLOP * counted.flops
    return step + operation * counted.operations + arithmetic
