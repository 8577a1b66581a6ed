"""Properties of the nodes of a traced graph: operation, arguments, and the memory layout of the result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from varigrad._torch_internals import FunctionSchema, schema_or_none
from varigrad.compile.graph.errors import Unsupported

GEOMETRY = "geometry"
"""The key under which a node's `meta` says how its tensor lay in memory when the graph was traced."""


LINE = "line"
"""The key under which a node's `meta` names the user's line that it comes from: file and number, or None."""


@dataclass(frozen=True)
class Geometry:
    """The memory layout of a tensor: its storage, and offset, shape and strides in elements."""

    storage: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    kind: torch.dtype

    @property
    def numel(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


def schema_of(node: fx.Node) -> FunctionSchema:
    """The schema of a node's operation.

    Raises:
        Unsupported: the node calls something else than an operation of torch's.
    """
    found = schema_or_none(node.target)
    if found is None:
        raise Unsupported(f"{node.target}")
    assert isinstance(found, FunctionSchema)
    return found


def name_of(node: fx.Node) -> str:
    """The name of a node's operation, without its overload; empty if it is none of torch's."""
    schema = schema_or_none(node.target)
    return "" if schema is None else schema.name.removeprefix("aten::")


def operand_of(node: fx.Node) -> fx.Node:
    """The node of an operation's first operand."""
    found = node.args[0]
    assert isinstance(found, fx.Node)
    return found


def geometry_of(node: fx.Node) -> Geometry:
    """The memory layout of a node's tensor when the graph was traced.

    Raises:
        Unsupported: the node's result is no tensor.
    """
    found = node.meta.get(GEOMETRY)
    if found is None:
        raise Unsupported("a result that is no tensor")
    assert isinstance(found, Geometry)
    return found


def shares(node: fx.Node, other: fx.Node) -> bool:
    """Whether the tensors of two nodes lie in the same storage."""
    own, base = geometry_of(node), geometry_of(other)
    return own.storage == base.storage and own.numel > 0


def arguments_of(node: fx.Node) -> dict[str, Any]:
    """A node's arguments by the names in its schema, in the schema's order, defaults included."""
    found = {}
    for i, argument in enumerate(schema_of(node).arguments):
        if i < len(node.args):
            found[argument.name] = node.args[i]
        else:
            found[argument.name] = node.kwargs.get(argument.name, argument.default_value)
    return found
