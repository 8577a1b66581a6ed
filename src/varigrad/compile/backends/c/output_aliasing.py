"""Output aliasing: results that can be written directly into the tensor that concatenates them.

An optimiser's gradient is the concatenation of the gradients of the parameters, and each of these is often the negative
of a matrix product: such a product is written where the optimiser reads it, with the other sign.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import fx

from varigrad._torch_internals import schema_or_none
from varigrad.compile.graph.memory_layout import GEOMETRY, Geometry, geometry_of, name_of, operand_of, schema_of, shares


@dataclass(frozen=True)
class OutputAliases:
    """Results that are written directly into the memory of other results.

    Attributes:
        slices: results that are slices of the result of a `cat`, and how many elements after its first they begin.
        negated: matrix products whose only reader is their negative, and the node of the negative.
    """

    slices: Mapping[fx.Node, tuple[fx.Node, int]]
    negated: Mapping[fx.Node, fx.Node]


def find_output_aliases(graph: fx.Graph) -> OutputAliases:
    """Find the results of a graph that need no separate memory."""
    slices: dict[fx.Node, tuple[fx.Node, int]] = {}
    negated = {}
    for node in graph.nodes:
        if node.target is torch.ops.aten.cat.default and not _changes(node):
            for source, offset in _joined(node):
                root = result_behind(source)
                if root not in slices and _is_whole(source, root) and not _changes(root):
                    slices[root] = (node, offset)
        elif node.target is torch.ops.aten.neg.default:
            root = result_behind(operand_of(node))
            if root.target is torch.ops.aten.mm.default and list(_readers(root)) == [node] and _is_alike(node, root):
                negated[root] = node
    return OutputAliases(slices, negated)


def _joined(cat: fx.Node) -> Iterator[tuple[fx.Node, int]]:
    """The operands of a `cat` whose elements lie one after the other in its result, and where each begins."""
    whole = geometry_of(cat)
    if (cat.args[1] if len(cat.args) > 1 else cat.kwargs.get("dim", 0)) != 0 or not _is_in_order(whole):
        return
    offset = 0
    operands = cat.args[0]
    assert isinstance(operands, (list, tuple))
    for part in operands:
        assert isinstance(part, fx.Node)
        own = geometry_of(part)
        if own.kind == whole.kind and own.numel:
            yield part, offset
        offset += own.numel


def result_behind(node: fx.Node) -> fx.Node:
    """The node whose result a view is a view of."""
    while node.op == "call_function":
        first = next(iter(node.all_input_nodes), None)
        if first is None or GEOMETRY not in first.meta or not shares(node, first):
            break
        node = first
    return node


def _readers(result: fx.Node) -> Iterator[fx.Node]:
    """The nodes that read a result, directly or through views."""
    for user in result.users:
        if GEOMETRY in user.meta and shares(user, result) and not schema_of(user).is_mutable:
            yield from _readers(user)
        else:
            yield user


def _is_whole(source: fx.Node, result: fx.Node) -> bool:
    """Whether an operand is all of a result, in its order, and of a result that may be written anywhere."""
    own, all_of_it = geometry_of(source), geometry_of(result)
    return (
        result.op == "call_function"
        and schema_or_none(result.target) is not None
        and name_of(result) != "cat"
        and not schema_of(result).is_mutable
        and own.numel == all_of_it.numel
        and _is_in_order(own)
        and _is_dense(all_of_it)
    )


def _changes(result: fx.Node) -> bool:
    """Whether a reader of a result may write into it, or take a view of it that C does not know."""
    return any(user.op != "output" and _is_mutable(user) for user in _readers(result))


def _is_mutable(node: fx.Node) -> bool:
    return schema_or_none(node.target) is None or schema_of(node).is_mutable


def _is_alike(node: fx.Node, root: fx.Node) -> bool:
    """Whether an elementwise result has the memory layout of its operand, which is all of `root`."""
    own, source, whole = geometry_of(node), geometry_of(operand_of(node)), geometry_of(root)
    same = (own.shape, own.stride, own.kind) == (source.shape, source.stride, whole.kind)
    return same and own.numel == whole.numel and _is_dense(own) and _is_dense(whole)


def _is_in_order(g: Geometry) -> bool:
    steps = [math.prod(g.shape[d + 1 :]) for d in range(len(g.shape))]
    return all(n == 1 or s == step for n, s, step in zip(g.shape, g.stride, steps, strict=True))


def _is_dense(g: Geometry) -> bool:
    steps = sorted((s, n) for n, s in zip(g.shape, g.stride, strict=True) if n != 1)
    expected = 1
    for step, count in steps:
        if step != expected:
            return False
        expected *= count
    return True
