"""`Graph`: a traced function as a graph of aten operations; finds dependencies, and packs it for another process."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from varigrad._torch_internals import OpOverload, pytree, schema_of_operator, schema_or_none


@dataclass(frozen=True, eq=False)
class Graph:
    """A traced function, as a graph of aten operations.

    Attributes:
        operations: a graph of `inputs + constants` that gives a list of tensors.
        inputs: how many of its placeholders are the function's inputs.
        constants: tensors that the function read besides.
        random: whether it draws from torch's global generator.
        read: constants whose values Python looked at while it was traced; the graph holds only as long as they stay.
    """

    operations: fx.Graph
    inputs: int
    constants: tuple[Tensor, ...]
    random: bool
    read: tuple[Tensor, ...] = ()

    @functools.cached_property
    def module(self) -> fx.GraphModule:
        """The graph as a module that can be called; made at the first use."""
        return fx.GraphModule(torch.nn.Module(), self.operations)

    @property
    def size(self) -> int:
        """The number of operations in the graph."""
        return sum(node.op == "call_function" for node in self.operations.nodes)


def reached(graph: fx.Graph, sources: Sequence[fx.Node]) -> dict[fx.Node, frozenset[int]]:
    """The `sources` (by position) that every node was computed from.

    A write into memory counts for everything that shares the memory.
    """
    own = {node: i for i, node in enumerate(sources)}
    memory: dict[fx.Node, fx.Node] = {}
    known: dict[fx.Node, frozenset[int]] = {}

    def base(node: fx.Node) -> fx.Node:
        while memory.get(node, node) is not node:
            node = memory[node]
        return node

    for node in graph.nodes:
        found = frozenset([own[node]]) if node in own else frozenset()
        for given in node.all_input_nodes:
            found |= known[base(given)]
        known[node] = found
        if node.op != "call_function" or schema_or_none(node.target) is None:
            continue
        for i, argument in enumerate(schema_of_operator(node.target).arguments):
            alias = argument.alias_info
            given = node.args[i] if i < len(node.args) else node.kwargs.get(argument.name)
            if alias is None or not isinstance(given, fx.Node):
                continue
            root = base(given)
            known[root] |= found if alias.is_write else frozenset()
            known[root] |= found if node in own else frozenset()
            memory[node] = root
    return {node: known[base(node)] for node in graph.nodes}


def operation_name(operation: OpOverload) -> str:
    """An operation's name with its overload, as `aten::add.Tensor`."""
    return str(operation.name())


def packed(graph: fx.Graph) -> list[tuple[Any, ...]]:
    """A graph as plain data: a pickled module would be traced anew, and `rand([3])` drawn once and for all."""
    rows = []
    for node in graph.nodes:
        args, kwargs = pytree.tree_map_only(
            fx.Node, lambda n: _Reference(n.name), (tuple(node.args), dict(node.kwargs))
        )
        target = operation_name(node.target) if isinstance(node.target, OpOverload) else node.target
        rows.append((node.op, node.name, target, args, kwargs))
    return rows


def unpacked(rows: Sequence[tuple[Any, ...]]) -> fx.GraphModule:
    """A graph from plain data, as a module."""
    graph = fx.Graph()
    known: dict[str, fx.Node] = {}
    for op, name, target, args, kwargs in rows:
        if op == "call_function" and isinstance(target, str):
            space, rest = target.split("::")
            operation, _, overload = rest.partition(".")
            target = getattr(getattr(getattr(torch.ops, space), operation), overload or "default")
        args, kwargs = pytree.tree_map_only(_Reference, lambda r: known[r.name], (args, kwargs))
        known[name] = graph.create_node(op, target, tuple(args), dict(kwargs), name)
    return fx.GraphModule(torch.nn.Module(), graph)


@dataclass(frozen=True)
class _Reference:
    """Stands for a node in a packed graph, by the node's name."""

    name: str
