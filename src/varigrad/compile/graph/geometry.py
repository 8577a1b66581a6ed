"""What a recorded graph says of its nodes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from varigrad.compile.graph.errors import Unsupported

GEOMETRY = "geometry"
"""The key under which a node's `meta` says how its tensor lay in memory when the graph was recorded."""


LINE = "line"
"""And the key for the user's line that it comes from: file and number, or None."""


@dataclass(frozen=True)
class Geometry:
    """How a tensor lies: in which storage, from where, and in which steps (in elements)."""

    storage: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    kind: torch.dtype

    @property
    def numel(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


def schema_of(node: fx.Node) -> Any:
    """Of its operation."""
    found = getattr(node.target, "_schema", None)
    if found is None:
        raise Unsupported(f"{node.target}")
    return found


def name_of(node: fx.Node) -> str:
    """Of its operation, without its overload; empty if it is none of torch's."""
    schema = getattr(node.target, "_schema", None)
    return "" if schema is None else schema.name.removeprefix("aten::")


def operand_of(node: fx.Node) -> fx.Node:
    """The first one."""
    found = node.args[0]
    assert isinstance(found, fx.Node)
    return found


def geometry_of(node: Any) -> Geometry:
    """How its tensor lay in memory."""
    found = node.meta.get(GEOMETRY)
    if found is None:
        raise Unsupported("a result that is no tensor")
    assert isinstance(found, Geometry)
    return found


def shares(node: fx.Node, other: fx.Node) -> bool:
    """Whether the tensors have a storage in common."""
    own, base = geometry_of(node), geometry_of(other)
    return own.storage == base.storage and own.numel > 0


def arguments_of(node: fx.Node) -> dict[str, Any]:
    """By the names in the schema, in its order."""
    found = {}
    for i, argument in enumerate(schema_of(node).arguments):
        if i < len(node.args):
            found[argument.name] = node.args[i]
        else:
            found[argument.name] = node.kwargs.get(argument.name, argument.default_value)
    return found
