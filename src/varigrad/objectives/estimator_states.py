"""`EstimatorStates`: the state that estimators carry from step to step, as buffers of a module.

An estimator's state is a tree (nested tuples) of tensors, which each step replaces by the next one. Its tensors are the
buffers of `EstimatorStates`, so that `.to()` moves them, `DistributedDataParallel` broadcasts them, and any code that
saves tensors saves them. A buffer's name encodes its place in the tree:

    `z_state`         the state of site `z` is this tensor
    `z_state_0_1`     it is a tuple, whose first part is a tuple, whose second part is this tensor
    `z_state_1_none`  its second part is None (in `state_dict()` only; `_empty` likewise)
    `steps`           how many steps have been taken

A dot in a site's name is written `%2E`, because torch allows none in the name of a buffer.

Random generators are not among the buffers: a broadcast would give every process the same draws. They are in
`SVI.state()`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from varigrad._torch_internals import version_of
from varigrad.errors import VarigradError
from varigrad.estimators.base import State

_NAME = re.compile(r"(?P<site>.*)_state(?P<path>(_\d+)*)(_(?P<kind>none|empty))?", re.DOTALL)


class EstimatorStates(nn.Module):
    """The states of a bound's estimators, by site, and the number of steps taken; it owns these tensors."""

    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        with torch.inference_mode(False):  # a tensor of inference mode cannot be written to later
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64, device="cpu"))
        self._trees: dict[str, State] = {}
        self._leaves: dict[str, Tensor] = {}
        self._count, self._counted, self._version = 0, self.steps, 0

    @property
    def trees(self) -> Mapping[str, State]:
        """The states by site; the same mapping until one of them is replaced."""
        buffers = self._buffers
        for name, tensor in self._leaves.items():
            if buffers[name] is not tensor:  # moved by `.to()`, say
                self._hold({site: self._rebuilt(_name(site), tree) for site, tree in self._trees.items()})
                break
        return self._trees

    @property
    def count(self) -> int:
        """The number of steps taken, read from the buffer only where something else has written to it."""
        steps = self._buffers["steps"]
        assert steps is not None
        if steps is not self._counted or version_of(steps) != self._version:
            self.__dict__.update(_count=int(steps), _counted=steps, _version=version_of(steps))
        return self._count

    def advance(self, trees: Mapping[str, State], steps: int) -> None:
        """Carry these states from now on, and count the steps that have led to them."""
        if trees is not self._trees and (trees or self._trees):
            self._hold(trees)
        if steps:
            count = self.count + steps
            self._counted.fill_(count)
            # Not by assignment: torch's modules look at everything that is assigned to them.
            self.__dict__.update(_count=count, _version=version_of(self._counted))

    @contextmanager
    def preserved(self) -> Iterator[None]:
        """Inside, the states may advance; afterwards they are what they were: the very mapping, the very tensors."""
        trees, leaves, count, buffers = self.trees, self._leaves, self.count, dict(self._buffers)
        try:
            yield
        finally:
            self._buffers.clear()
            self._buffers.update(buffers)
            self.__dict__.update(_trees=trees, _leaves=leaves)
            self.advance(trees, count - self.count)

    def _hold(self, trees: Mapping[str, State]) -> None:
        leaves: dict[str, Tensor] = {}
        memory: set[int] = set()
        held = {site: _owned(_name(site), tree, leaves, memory) for site, tree in trees.items()}
        buffers = self._buffers
        for name in self._leaves.keys() - leaves.keys():
            del buffers[name]
        buffers.update(leaves)
        self.__dict__.update(_trees=held, _leaves=leaves)

    def _rebuilt(self, name: str, tree: State) -> State:
        if isinstance(tree, Tensor):
            return self._buffers[name]
        if isinstance(tree, tuple):
            return _like(tree, [self._rebuilt(f"{name}_{i}", part) for i, part in enumerate(tree)])
        return tree

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        _ = self.trees
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for site, tree in self._trees.items():
            destination.update(_marks(prefix + _name(site), tree))

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Take over the states in `state_dict`, whatever is carried now: the first steps of a run make its buffers."""
        entries = {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
        count = entries.pop("steps", None)
        parsed = {key: _NAME.fullmatch(key) for key in entries}
        unexpected_keys += [prefix + key for key, match in parsed.items() if match is None and strict]
        found = {key: match for key, match in parsed.items() if match is not None}
        if count is None:
            missing_keys += [f"{prefix}steps"] if strict else []
            if not found:
                return
        try:
            trees = _trees_of({key: (match, entries[key]) for key, match in found.items()}, self.steps.device)
            if count is not None:
                number = torch.as_tensor(count)
                if number.is_floating_point() or number.numel() != 1 or int(number) < 0:
                    raise ValueError(f"the number of steps is {count!r}")
                self.steps.copy_(number)
        except (TypeError, ValueError, RuntimeError) as error:
            error_msgs.append(f"the estimators' state cannot be read: {error}")
            return
        self._hold(trees)


def entries_of(trees: Mapping[str, State], steps: int) -> dict[str, Tensor]:
    """The entries that an `EstimatorStates` with these states has in its `state_dict()`."""
    made = EstimatorStates()
    made.advance(trees, steps)
    return dict(made.state_dict())


def _name(site: str) -> str:
    return site.replace("%", "%25").replace(".", "%2E") + "_state"


def _site(name: str) -> str:
    return name.replace("%2E", ".").replace("%25", "%")


def _owned(name: str, tree: State, leaves: dict[str, Tensor], memory: set[int]) -> State:
    """A state whose tensors are contiguous and share no memory.

    Args:
        leaves: gets the tensors by name.
        memory: gets where they lie.
    """
    if isinstance(tree, Tensor):
        storage = tree.untyped_storage()
        whole = storage.nbytes() == tree.nbytes and tree.is_contiguous() and storage.data_ptr() not in memory
        if not whole or tree.is_inference():
            with torch.inference_mode(False):
                tree = tree.detach().clone(memory_format=torch.contiguous_format)
            storage = tree.untyped_storage()
        if tree.numel():
            memory.add(storage.data_ptr())
        leaves[name] = tree
        return tree
    if isinstance(tree, tuple):
        return _like(tree, [_owned(f"{name}_{i}", part, leaves, memory) for i, part in enumerate(tree)])
    if tree is None:
        return None
    raise VarigradError(
        f"an estimator carries {type(tree).__name__} from step to step ({name})",
        because="a state is saved, moved and broadcast as tensors",
        try_="nested tuples of tensors and None: torch.tensor(x) for a number",
    )


def _like(tree: tuple[State, ...], parts: Iterable[State]) -> State:
    """A tuple of these parts; a named one, where the tree is one."""
    made: State = getattr(tree, "_make", tuple)(parts)
    return made


def _marks(name: str, tree: State) -> Iterator[tuple[str, Tensor]]:
    """Tensors without elements that stand for None and for empty tuples in a tree."""
    if tree is None:
        yield f"{name}_none", torch.empty(0, dtype=torch.uint8)
    elif isinstance(tree, tuple):
        if not tree:
            yield f"{name}_empty", torch.empty(0, dtype=torch.uint8)
        for i, part in enumerate(tree):
            yield from _marks(f"{name}_{i}", part)


def _trees_of(entries: Mapping[str, tuple[re.Match[str], Tensor]], device: torch.device) -> dict[str, State]:
    """The trees that these entries of a `state_dict()` describe.

    Raises:
        TypeError: an entry is no tensor.
        ValueError: the entries do not make up trees.
    """
    sites: dict[str, dict[tuple[int, ...], State]] = {}
    for name, (match, value) in entries.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} is no tensor")
        kind = match["kind"]
        here = value.device if device.type == "cpu" else device  # where `.to()` has brought the module
        leaf: State = value.detach().to(here, copy=True)
        if kind is not None:
            leaf = None if kind == "none" else ()
        path = tuple(int(i) for i in match["path"].split("_")[1:])
        sites.setdefault(_site(match["site"]), {})[path] = leaf
    return {site: _tree_of(leaves, site) for site, leaves in sites.items()}


def _tree_of(leaves: Mapping[tuple[int, ...], State], site: str) -> State:
    if () in leaves and len(leaves) == 1:
        return leaves[()]
    parts: dict[int, dict[tuple[int, ...], State]] = {}
    for path, leaf in leaves.items():
        if not path:
            raise ValueError(f"the state of {site!r} is a tensor and a tuple at once")
        parts.setdefault(path[0], {})[path[1:]] = leaf
    if sorted(parts) != list(range(len(parts))):
        raise ValueError(f"the state of {site!r} lacks a part")
    return tuple(_tree_of(parts[i], site) for i in range(len(parts)))
