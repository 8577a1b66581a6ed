"""Finds leaf tensors that a loss reaches and no optimiser trains, and names them as the programs do.

A network that a guide uses from its enclosing scope, without `vg.module`, belongs to no optimiser. But the autograd
graph of the loss contains it. So this check searches the graph: at the first two steps, at steps 10, 100, 1000, ...,
whenever the graph has another number of operations than in all steps before, and whenever `requires_grad` has changed
for a tensor that the programs see and do not declare.
"""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from varigrad._torch_internals import sequence_number_of
from varigrad.errors import ParameterError
from varigrad.language.messages import Program
from varigrad.language.runtime import signature_of
from varigrad.language.visible_tensors import VisibleTensor, visible_tensors
from varigrad.objectives.bound import Bound

Owned = Callable[[], Collection[int]]
"""Returns the ids of the parameters that are trained."""

SIZES = 16
"""After so many different sizes of the graph, it is looked at by the number of the step only."""


def leaves_of(graph: Tensor) -> dict[int, Tensor]:
    """The leaves that a tensor's gradient flows to, `id -> leaf`, the nearest to it first."""
    if graph.grad_fn is None:
        return {id(graph): graph} if graph.requires_grad else {}
    found: dict[int, Tensor] = {}
    stack: list[Any] = [graph.grad_fn]
    known = set(stack)
    while stack:
        node = stack.pop()
        if type(node).__name__ == "AccumulateGrad":
            found[id(node.variable)] = node.variable
        for following, _ in node.next_functions:
            if following is not None and following not in known:
                known.add(following)
                stack.append(following)
    return found


@dataclass(frozen=True, eq=False)
class UntrainedLeaf:
    """A leaf that the gradient reaches and no optimiser trains.

    Attributes:
        leaf: the tensor.
        reader: `"guide"` or `"model"`, whichever sees it; `"argument"` if they are called with it.
        sight: where it is seen; None if it is not: it was made while the program ran, or lies in a place that cannot be
            looked into.
        computed: the tensor that is seen is not the leaf, but was computed from it.
    """

    leaf: Tensor
    reader: str = ""
    sight: VisibleTensor | None = None
    computed: bool = False


def _named(
    leaves: Mapping[int, Tensor], model: Program, guide: Program, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> list[UntrainedLeaf]:
    """Where the programs see these leaves; those that are not seen come last."""
    places: tuple[tuple[str, Sequence[tuple[object, str]]], ...] = (
        ("argument", _arguments(model, args, kwargs)),
        ("guide", [(guide, _called(guide, "guide"))]),
        ("model", [(model, _called(model, "model"))]),
    )
    found: dict[int, UntrainedLeaf] = {}
    for reader, roots in places:
        for tensor, sight in visible_tensors(roots):
            if id(tensor) in leaves and id(tensor) not in found:
                found[id(tensor)] = UntrainedLeaf(tensor, reader, sight)
            elif tensor.grad_fn is not None:
                for key in leaves_of(tensor).keys() & leaves.keys() - found.keys():
                    found[key] = UntrainedLeaf(leaves[key], reader, sight, computed=True)
    return [*found.values(), *(UntrainedLeaf(leaf) for key, leaf in leaves.items() if key not in found)]


def error_about(strangers: Sequence[UntrainedLeaf]) -> ParameterError:
    """The error about the first of some untrained leaves; it names the others."""
    first, *others = strangers
    sight = first.sight
    mine = None if sight is None else sight.name
    rest = list(dict.fromkeys(s.sight.name for s in others if s.sight is not None and s.sight.name != mine))
    also = f" (nor does {', nor does '.join(map(repr, rest[:3]))})" if rest else ""
    untrained = f"requires a gradient and gets none{also}"
    if sight is None:
        return ParameterError(
            f"a tensor of shape {tuple(first.leaf.shape)} requires a gradient, influences the objective, and is not "
            "trained",
            because="it is no param, and in no module that the programs declare",
            try_="vg.param(name, init) for a tensor that is to be learnt, vg.module(name, net) for a network, or "
            ".detach() for what is to stay as it is",
        )
    if first.reader == "argument":
        return ParameterError(
            f"{'was computed from a tensor that ' if first.computed else ''}{untrained}",
            site=sight.name,
            because="it is an argument of the programs, and what is learnt is what they declare",
            try_=f"{sight.name}.detach() as the argument, or vg.param({sight.name!r}, ...) if it is to be learnt",
        )
    if first.computed:
        return ParameterError(
            f"was computed from a tensor that {untrained}",
            site=sight.name,
            because=f"the {first.reader} uses it, and its computation lies outside",
            try_="that computation inside the program, from vg.param(...) or vg.module(...); or .detach()",
        )
    if sight.inside is not None:
        kind = type(sight.inside).__name__
        advice = "nn.ModuleList, or nn.ModuleDict" if sight.module is not None else "nn.Parameter"
        return ParameterError(
            untrained,
            site=sight.name,
            because=f"the {first.reader} uses it, and it is no registered part of the module {kind}",
            try_=f"{advice} in {kind}, or requires_grad_(False) if it is to stay as it is",
        )
    if sight.module is not None:
        known = sight.module_name
        name = re.sub(r"\W+", "_", known.removeprefix("self.")).strip("_")
        return ParameterError(
            untrained,
            site=sight.name,
            because=f"the {first.reader} uses the module {known!r} without declaring it",
            try_=f"vg.module({name!r}, {known}) in the {first.reader} to train it, or {known}.requires_grad_(False) "
            "if it is to stay as it is",
        )
    return ParameterError(
        untrained,
        site=sight.name,
        because=f"the {first.reader} uses it without declaring it",
        try_=f"vg.param({sight.name!r}, lambda: ...) in its place to train it, or {sight.name}.detach() if it is to "
        "stay as it is",
    )


class LookSchedule:
    """Decides when to search a graph, by the number of the step and the number of operations in the graph."""

    def __init__(self) -> None:
        self.steps: int = 0
        self._last = -1
        self._next = 10
        self._sizes: set[int] = set()

    def due(self, graph: Tensor) -> bool:
        """Whether to look at this step's graph; called once a step. Costs less than a microsecond."""
        node = graph.grad_fn
        if node is None:
            return False
        # autograd numbers operations as they come, so the difference to the last step is the size of this one.
        now = sequence_number_of(node)
        size, self._last = now - self._last, now
        self.steps += 1
        if self.steps > self._next:
            self._next *= 10
        if size in self._sizes:
            return self.steps == self._next
        if len(self._sizes) < SIZES:
            self._sizes.add(size)
            return True
        return self.steps == self._next


def untrained_leaves(
    bound: Bound, surrogate: Tensor, owned: Owned, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> list[UntrainedLeaf]:
    """The leaves that a bound's surrogate reaches and that are not `owned`, by where the programs see them.

    Tensors that the program itself differentiates by are left out, if they are no `nn.Parameter`: coordinates of a
    differential equation, say, have to require gradients and are nothing to be learnt.
    """
    foreign = _foreign(surrogate, owned)
    if not foreign:
        return []
    if not all(isinstance(leaf, nn.Parameter) for leaf in foreign.values()):
        with bound.preserved(0), torch.enable_grad(), _Inputs() as inputs:
            again = _foreign(bound.estimate(*args, **kwargs).surrogate, owned)
        used = inputs.leaves.keys()
        # A leaf that the program makes while it runs is another one in each run.
        fresh = any(key not in foreign and key not in used for key in again)
        foreign = {
            key: leaf
            for key, leaf in foreign.items()
            if isinstance(leaf, nn.Parameter) or (key not in used if key in again else fresh)
        }
    return _named(foreign, bound.model_program, bound.guide_program, args, kwargs)


def _foreign(surrogate: Tensor, owned: Owned) -> dict[int, Tensor]:
    mine = owned()
    return {key: leaf for key, leaf in leaves_of(surrogate).items() if key not in mine}


def undeclared(bound: Bound) -> ParameterError | None:
    """What is wrong with the first leaf that the programs see, that requires a gradient and that the bound lacks."""
    mine = {id(p) for p in bound.parameters()}
    programs = {"guide": bound.guide_program, "model": bound.model_program}
    for reader, program in programs.items():
        for tensor, sight in visible_tensors([(program, _called(program, reader))]):
            if tensor.requires_grad and tensor.is_leaf and id(tensor) not in mine:
                return error_about([UntrainedLeaf(tensor, reader, sight)])
    return None


class UntrainedLeafCheck:
    """Refuses leaves that a bound's gradient reaches and the bound does not own.

    Where another owner has the parameters, that owner's rules count, and nothing is looked at.
    """

    def __init__(self, bound: Bound) -> None:
        self.bound = bound
        self._when = LookSchedule()
        self._flags: object = ()
        """`requires_grad` of undeclared tensors at the last look; None: something was found, so look again."""

    def look(self, surrogate: Tensor, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        """Check a step's graph where that is due; to be called once a step.

        Raises:
            ParameterError: a leaf is reached and not owned.
        """
        bound = self.bound
        due, flags = self._when.due(surrogate), bound.undeclared_flags
        if bound.owner is bound and (due or flags != self._flags):
            self._flags = None
            found = untrained_leaves(bound, surrogate, lambda: {id(p) for p in bound.parameters()}, args, kwargs)
            if found:
                raise error_about(found)
            self._flags = flags


class _Inputs(TorchFunctionMode):
    """A mode that records the leaves behind every tensor by which the program itself differentiates."""

    def __init__(self) -> None:
        super().__init__()
        self.leaves: dict[int, Tensor] = {}

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Collection[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if func is torch.autograd.grad:
            inputs = kwargs["inputs"] if "inputs" in kwargs else args[1]
            for tensor in _tensors(inputs):
                self.leaves.update(leaves_of(tensor))
        return func(*args, **kwargs)


def _called(program: Program, name: str) -> str:
    """The name by which a program refers to itself: "self" in a method or module."""
    return name if isinstance(program, (types.FunctionType, functools.partial)) else "self"


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from _tensors(v)


def _arguments(model: Program, args: tuple[object, ...], kwargs: Mapping[str, object]) -> list[tuple[object, str]]:
    """The programs' arguments, with their names where the model's signature tells them."""
    signature = signature_of(model)
    try:
        bound = None if signature is None else signature.bind(*args, **kwargs)
    except TypeError:
        bound = None
    if bound is None:
        return [*((v, f"argument {i}") for i, v in enumerate(args)), *((v, k) for k, v in kwargs.items())]
    return [(v, k) for k, v in bound.arguments.items()]
