"""Where results may be written at once, so that nobody has to move them: into what they are put together to.

An optimiser's gradient is put together from those of the parameters, and each of these is often a product with its sign
changed: such a product is written where the optimiser reads it, and with the other sign.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from varigrad.compile.graph.geometry import GEOMETRY, Geometry, geometry_of, name_of, operand_of, schema_of, shares


@dataclass(frozen=True)
class Homes:
    """What is written where somebody else wants it.

    Attributes:
        parts: results that lie in that of a `cat`, and how many elements after its first.
        negated: products of which nobody wants more than the negative, and the node that is it.
    """

    parts: Mapping[fx.Node, tuple[fx.Node, int]]
    negated: Mapping[fx.Node, fx.Node]


def homes(graph: fx.Graph) -> Homes:
    """Find them."""
    parts: dict[fx.Node, tuple[fx.Node, int]] = {}
    negated = {}
    for node in graph.nodes:
        if node.target is torch.ops.aten.cat.default and not _changes(node):
            for source, offset in _joined(node):
                root = made(source)
                if root not in parts and _is_whole(source, root) and not _changes(root):
                    parts[root] = (node, offset)
        elif node.target is torch.ops.aten.neg.default:
            root = made(operand_of(node))
            if root.target is torch.ops.aten.mm.default and list(_readers(root)) == [node] and _is_alike(node, root):
                negated[root] = node
    return Homes(parts, negated)


def _joined(cat: fx.Node) -> Iterator[tuple[fx.Node, int]]:
    """What is put together one after the other in memory, and where it begins."""
    whole = geometry_of(cat)
    if (cat.args[1] if len(cat.args) > 1 else cat.kwargs.get("dim", 0)) != 0 or not _is_in_order(whole):
        return
    offset = 0
    operands: Any = cat.args[0]
    for part in operands:
        own = geometry_of(part)
        if own.kind == whole.kind and own.numel:
            yield part, offset
        offset += own.numel


def made(node: fx.Node) -> fx.Node:
    """The node that a view is of."""
    while node.op == "call_function":
        first = next(iter(node.all_input_nodes), None)
        if first is None or GEOMETRY not in first.meta or not shares(node, first):
            break
        node = first
    return node


def _readers(made: fx.Node) -> Iterator[fx.Node]:
    """Who reads a result, through whichever views."""
    for user in made.users:
        if GEOMETRY in user.meta and shares(user, made) and not schema_of(user).is_mutable:
            yield from _readers(user)
        else:
            yield user


def _is_whole(source: fx.Node, made: fx.Node) -> bool:
    """Whether a part is all of a result, in its order, and somebody's own to place."""
    own, all_of_it = geometry_of(source), geometry_of(made)
    return (
        made.op == "call_function"
        and hasattr(made.target, "_schema")
        and name_of(made) != "cat"
        and not schema_of(made).is_mutable
        and own.numel == all_of_it.numel
        and _is_in_order(own)
        and _is_dense(all_of_it)
    )


def _changes(made: fx.Node) -> bool:
    """Whether somebody may write into a result, or ask for what C does not see as a view."""
    return any(user.op != "output" and _is_mutable(user) for user in _readers(made))


def _is_mutable(node: fx.Node) -> bool:
    return not hasattr(node.target, "_schema") or schema_of(node).is_mutable


def _is_alike(node: fx.Node, root: fx.Node) -> bool:
    """Whether a result of one element each lies just as its operand, which is all of `root`, does."""
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
