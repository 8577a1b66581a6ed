"""Flat state: concatenates the parameters and moments of a compiled step into a few flat tensors.

The parameters that users hold become views of the flat tensors, so they are always up to date, and one operation
updates them all. A parameter whose memory another tensor holds too (`w = net.weight.detach()`) stays where it is.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from varigrad._torch_internals import holders_of, pytree
from varigrad.compile.graph.errors import CaptureError
from varigrad.compile.trace.traced_function import FlatSlice
from varigrad.optim.fused_adam import FusedAdam
from varigrad.optim.update_rules import Rule, traits_of

_ALIGNED = 16
"""Parameters of at least so many elements begin at a multiple of it."""

TreeForm = tuple[pytree.TreeSpec, list[object]]
"""A tree without its tensors: its structure, and its leaves with `Tensor` in the place of each tensor."""


class _Key(NamedTuple):
    """Properties that parameters of one bucket share; `alone` is the id of a parameter with a separate bucket."""

    group: int
    dtype: torch.dtype
    device: torch.device
    age: float
    alone: int | None


class Bucket:
    """Parameters of one group, dtype and age, with the moments that the optimiser keeps for them.

    Args:
        moments: how many tensors the optimiser keeps for each parameter.
        moves: whether parameters get new memory, side by side; else there is one, whose own memory is the flat tensor.

    Attributes:
        group: the number of the parameter group.
        parameters: in order.
        flat: their values, `[size]`.
        moments: by the rule's order, `[size]` each.
        count: steps taken, `[]`, in double precision.
    """

    def __init__(self, group: int, parameters: Sequence[nn.Parameter], moments: int, count: float, moves: bool) -> None:
        self.group = group
        self.parameters: list[nn.Parameter] = list(parameters)
        self.starts: list[int] = []
        end = 0
        for p in self.parameters:
            end = end if p.numel() < _ALIGNED else -(-end // _ALIGNED) * _ALIGNED
            self.starts.append(end)
            end += p.numel()
        like = self.parameters[0]
        self.flat: Tensor = like.detach().new_zeros(end) if moves else like.detach().view(-1)
        self.moments: list[Tensor] = [like.detach().new_zeros(end) for _ in range(moments)]
        self.count: Tensor = torch.tensor(count, dtype=torch.float64, device=like.device)

    def views(self, flat: Tensor) -> Iterator[Tensor]:
        """The slice of a flat tensor that belongs to each parameter, in the parameter's shape."""
        for p, start in zip(self.parameters, self.starts, strict=True):
            yield flat[start : start + p.numel()].view(p.shape)

    def joined(self, grads: Mapping[int, Tensor]) -> Tensor:
        """The gradients by parameter, `id -> [*shape]`, as one flat tensor."""
        pieces, end = [], 0
        for p, start in zip(self.parameters, self.starts, strict=True):
            if start > end:
                pieces.append(self.flat.new_zeros(start - end))
            pieces.append(grads[id(p)].reshape(-1))
            end = start + p.numel()
        return torch.cat(pieces)


class FlatState:
    """The state of a compiled step.

    Args:
        optimizer: the user's; its `state` and the parameters' `data` become views of the flat tensors. None: there is
            none, gradients are all that is wanted.
        rule: its step; None: the optimiser runs as it is, and gradients are all there is to keep.
        parameters: those that a gradient reaches.
        states: the estimators' state, a tree of tensors.

    Raises:
        CaptureError: a parameter is complex, parameters overlap in memory, or one that has to stay where it is has
            gaps there.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer | None,
        rule: Rule | None,
        parameters: Sequence[nn.Parameter],
        states: object,
    ) -> None:
        self.rule = rule
        self.optimizer = optimizer
        self.traits: tuple[object, ...] | None = None if optimizer is None else traits_of(optimizer)
        self.parameters: list[nn.Parameter] = list(parameters)
        if any(p.is_complex() for p in self.parameters):
            raise CaptureError(
                "a parameter is complex",
                because="captured steps update real numbers",
                try_="a real parameter, [..., 2], and torch.view_as_complex in the program",
            )
        tensors, self._tree_form = flattened(states)
        self.states: list[Tensor] = [tensor.detach().clone() for tensor in tensors]
        self.buckets: list[Bucket] = []
        self.grads: list[Tensor] = []
        self._layouts: list[list[tuple[int, torch.Size, tuple[int, ...]]]] = []
        """Address, shape and strides of each parameter, by bucket."""
        if rule is None or optimizer is None:
            self.grads = [torch.zeros_like(p) for p in self.parameters]
            return
        found: dict[_Key, list[nn.Parameter]] = {}
        reached = {id(p) for p in self.parameters}
        owned = [p for group in optimizer.param_groups for p in group["params"]]
        _refuse_overlap(owned)
        held = set(map(id, owned))
        loose = [p for p in self.parameters if id(p) not in held]  # the optimiser leaves these alone
        shared = _shared([*owned, *loose])
        if shared:  # perhaps by garbage only: steps that were given up, another run
            gc.collect()
            shared = _shared([*owned, *loose])
        _give_own_memory([p for p in loose if id(p) not in shared])
        if any(id(p) in shared and not p.is_contiguous() for p in self.parameters):
            raise CaptureError(
                "a parameter is not contiguous, and another tensor looks at its memory",
                try_="nn.Parameter(value.contiguous())",
            )
        for number, group in enumerate(optimizer.param_groups):
            for p in group["params"]:
                if id(p) in reached:
                    stays = id(p) if id(p) in shared else None
                    key = _Key(number, p.dtype, p.device, _age(optimizer.state.get(p, {})), stays)
                    found.setdefault(key, []).append(p)
        if not found:
            raise CaptureError("the optimiser holds none of the parameters that the gradient reaches")
        self.buckets = [Bucket(k.group, ps, len(rule.moments), k.age, k.alone is None) for k, ps in found.items()]
        self._layouts = [[(v.data_ptr(), v.shape, v.stride()) for v in b.views(b.flat)] for b in self.buckets]

    @property
    def slices(self) -> dict[int, FlatSlice]:
        """The slice of a flat tensor that each parameter is, by the parameter's id."""
        return {id(p): (b.flat, s) for b in self.buckets for p, s in zip(b.parameters, b.starts, strict=True)}

    def tree(self) -> Any:
        """The estimators' state, a tree like the one that was given, with the tensors of this flat state."""
        tree, rest = self._tree_form
        left = iter(self.states)
        return pytree.tree_unflatten([next(left) if r is Tensor else r for r in rest], tree)

    def fits(self, states: object) -> bool:
        """Whether `keeps(states)`, and parameters that lie side by side have taken equally many steps."""
        for bucket in self.buckets:
            assert self.optimizer is not None
            if len({_age(self.optimizer.state.get(p, {})) for p in bucket.parameters}) > 1:
                return False
        return self.keeps(states)

    def keeps(self, states: object) -> bool:
        """Whether a state of the estimators has the same tensors as this one, by number, shape and dtype."""
        tensors, form = flattened(states)
        return form == self._tree_form and all(
            a.shape == b.shape and a.dtype == b.dtype for a, b in zip(tensors, self.states, strict=True)
        )

    def take(self, states: object) -> None:
        """Copy values from wherever they are now: parameters, moments, counts, estimators' state."""
        with torch.no_grad():
            for old, new in zip(self.states, flattened(states)[0], strict=True):
                if old is not new:
                    old.copy_(new)
            self.take_parameters(self.displaced())
            for bucket in self.buckets:
                self._take_moments(bucket)

    def displaced(self) -> list[tuple[nn.Parameter, Tensor]]:
        """Parameters whose data has moved, or changed its strides or shape, and their slices of the flat tensors."""
        found = []
        for bucket, slices in zip(self.buckets, self._layouts, strict=True):
            for p, (pointer, shape, stride), start in zip(bucket.parameters, slices, bucket.starts, strict=True):
                if p.data_ptr() != pointer or p.stride() != stride or p.shape != shape:
                    found.append((p, bucket.flat[start : start + shape.numel()].view(shape)))
        return found

    def take_parameters(self, displaced: Sequence[tuple[nn.Parameter, Tensor]]) -> None:
        """Bring displaced parameters back into the flat tensors, with their values.

        Raises:
            CaptureError: a parameter has another shape, or type, since.
        """
        with torch.no_grad():
            for p, place in displaced:
                if p.shape != place.shape or p.dtype != place.dtype:
                    raise CaptureError(
                        f"a parameter of shape {tuple(place.shape)} has become one of shape {tuple(p.shape)}, {p.dtype}"
                    )
                # A copy first: it may be these very numbers in another order.
                place.copy_(p.detach().clone())
                p.data = place

    def give(self) -> None:
        """Write back what is not a view of the flat tensors: the number of steps in the optimiser's state."""
        for bucket in self.buckets:
            assert self.optimizer is not None
            for p in bucket.parameters:
                if "step" in self.optimizer.state[p]:
                    self.optimizer.state[p]["step"].fill_(bucket.count.item())

    def _take_moments(self, bucket: Bucket) -> None:
        """Copy the optimiser's state into the bucket, and make it views of the bucket."""
        assert self.rule is not None and self.optimizer is not None
        views = [list(bucket.views(m)) for m in bucket.moments]
        for i, p in enumerate(bucket.parameters):
            state = self.optimizer.state[p]
            age = _age(state)
            for name, kept in zip(self.rule.moments, views, strict=True):
                old = state.get(name)
                if old is None:
                    kept[i].zero_()
                elif old.data_ptr() != kept[i].data_ptr():
                    kept[i].copy_(old)
                state[name] = kept[i]
            bucket.count.fill_(age)
            if type(self.optimizer) is not torch.optim.SGD:
                fused = type(self.optimizer) is FusedAdam or self.optimizer.param_groups[bucket.group].get("fused")
                place = p.device if fused else "cpu"  # where its kernel wants it
                state.setdefault("step", torch.zeros((), dtype=torch.float32, device=place))


def has_other_holders(displaced: Sequence[tuple[nn.Parameter, Tensor]]) -> bool:
    """Whether other tensors hold the memory where a displaced parameter lies now: it has to stay there."""
    return bool(displaced) and bool(_shared([p for p, _ in displaced]))


def flattened(states: object) -> tuple[list[Tensor], TreeForm]:
    """The tensors of a tree, in order, and the tree without them."""
    leaves, tree = pytree.tree_flatten(states)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    return tensors, (tree, [Tensor if isinstance(leaf, Tensor) else leaf for leaf in leaves])


def _give_own_memory(parameters: Sequence[nn.Parameter]) -> None:
    """To parameters that are still views of a flat tensor: they were in the optimiser before."""
    for p in parameters:
        if p.untyped_storage().nbytes() > p.nbytes:
            p.data = p.detach().clone()


def _age(state: Mapping[str, Any]) -> float:
    """The number of steps that a parameter has taken; torch's SGD tells only whether there were any."""
    return float(state["step"]) if "step" in state else float(state.get("momentum_buffer") is not None)


def _shared(parameters: Sequence[nn.Parameter]) -> set[int]:
    """Ids of the parameters whose memory is held by other tensors too."""
    storages = {id(p): p.untyped_storage() for p in parameters if p.numel()}
    own = Counter(s.data_ptr() for s in storages.values())
    return {name for name, s in storages.items() if holders_of(s) > 1 + own[s.data_ptr()]}  # 1: Python's handle


def _refuse_overlap(parameters: Sequence[nn.Parameter]) -> None:
    """Refuse parameters that overlap in memory: a step of one would undo the step of the other.

    Raises:
        CaptureError: two of them overlap.
    """
    spans = []
    for p in parameters:
        if p.numel():
            length = 1 + sum((n - 1) * s for n, s in zip(p.shape, p.stride(), strict=True))
            spans.append((p.data_ptr(), p.data_ptr() + length * p.element_size()))
    if any(end > begin for (_, end), (begin, _) in pairwise(sorted(spans))):
        raise CaptureError("two parameters overlap in memory", try_="one parameter that is used twice")
