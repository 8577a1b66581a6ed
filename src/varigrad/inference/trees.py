"""Trees of tensors, such as the state of an optimiser."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def copied(tree: Any) -> Any:
    """The same tree with copies of its tensors."""
    if isinstance(tree, Tensor):
        return tree.clone()
    if isinstance(tree, dict):
        return {k: copied(v) for k, v in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*map(copied, tree))
    if isinstance(tree, (list, tuple)):
        return type(tree)(copied(v) for v in tree)
    return tree
