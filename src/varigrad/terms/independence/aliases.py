"""Labels of one run's tensors, which follow plate elements through views and shared memory.

Torch makes some tensors without an operation (`.data`, a `Parameter` of a result, the plain tensor behind a tracked
one), and a write into one view changes all others. So labels are kept for each object and for its memory: an unlabelled
view of labelled memory inherits the labels, as far as its strides show where the elements lie in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from varigrad._torch_internals import disable_current_modes, identity_of_storage
from varigrad.terms.independence.rules import Kind, Place


class Origin(NamedTuple):
    """The elements to follow: those of a site's value along a plate."""

    site: str
    plate: str


class Trouble(NamedTuple):
    """A reason why elements are mixed, or not known to be apart: the operation and the user's line."""

    kind: Kind
    operation: str
    where: str


State = Place | Trouble
Label = Mapping[Origin, State]
"""What a tensor depends on, and how; an origin that is not in it does not matter to the tensor."""

NOTHING: Label = {}


class Geometry(NamedTuple):
    """The layout of a strided tensor in its memory."""

    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int


@dataclass(slots=True, eq=False)
class Entry:
    """The labels of a tensor, also after it got other memory.

    The object and its memory are kept alive, so that no other can take their identity.
    """

    tensor: Tensor
    storage: torch.UntypedStorage | None
    geometry: Geometry | None
    label: Label


def joined(a: State, b: State) -> State:
    """The state of elements that come by two ways, if both states hold."""
    if a == b:
        return a
    troubles = [s for s in (a, b) if isinstance(s, Trouble)]
    if troubles:
        return min(troubles, key=lambda t: t.kind)  # "mixes" before "unknown"
    return Trouble("mixes", "elements meet along two dimensions", "")


def merge(into: dict[Origin, State], other: Label) -> None:
    """Add what `other` says."""
    for origin, state in other.items():
        known = into.get(origin)
        into[origin] = state if known is None else joined(known, state)


class Known:
    """The labels of all tensors of one run."""

    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {}
        self._shared: dict[int, list[Entry]] = {}
        self._origins: set[Origin] = set()

    def get(self, tensor: Tensor) -> Label:
        """What is known of a tensor; `NOTHING` for one that is constant as far as the run is concerned."""
        storage, geometry = _whereabouts(tensor)
        entry = self._entries.get(id(tensor))
        if entry is not None and _same(entry, storage, geometry):
            return entry.label
        if storage is None:  # sparse, nested, a wrapper: what it may share cannot be seen
            hidden = Trouble("unknown", f"a tensor of layout {tensor.layout} that may share memory", "")
            return dict.fromkeys(self._origins, hidden)
        others = self._shared.get(identity_of_storage(storage))
        if not others:
            return NOTHING
        label: dict[Origin, State] = {}
        for other in [e for e in others if e.geometry == geometry] or others:
            merge(label, {origin: _seen_in(s, other.geometry, geometry) for origin, s in other.label.items()})
        self._put(tensor, label, storage, geometry)
        return label

    def put(self, tensor: Tensor, label: Label) -> None:
        """Note what a new tensor depends on."""
        self._put(tensor, label, *_whereabouts(tensor))

    def write(self, tensor: Tensor, label: Label) -> None:
        """Note that the numbers in a tensor have been replaced, and so those that other tensors share with it."""
        storage, geometry = _whereabouts(tensor)
        for other in self._shared.get(identity_of_storage(storage), ()) if storage is not None else ():
            if other.geometry == geometry:
                other.label = label
                continue
            found = dict(other.label)
            merge(found, {origin: _seen_in(s, geometry, other.geometry) for origin, s in label.items()})
            other.label = found
        self._put(tensor, label, storage, geometry)

    def _put(
        self, tensor: Tensor, label: Label, storage: torch.UntypedStorage | None, geometry: Geometry | None
    ) -> None:
        self._origins |= label.keys()
        known = self._entries.get(id(tensor))
        if known is not None and _same(known, storage, geometry):
            known.label = label
            return
        entry = self._entries[id(tensor)] = Entry(tensor, storage, geometry, label)
        if storage is not None:
            self._shared.setdefault(identity_of_storage(storage), []).append(entry)


def overlaps(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors, not in the very same place, share addresses; True where that would take long to find out."""
    if one is other:
        return False
    (storage, here), (other_storage, there) = _whereabouts(one), _whereabouts(other)
    if storage is None or other_storage is None or here == there:
        return False
    if identity_of_storage(storage) != identity_of_storage(other_storage):
        return False
    assert here is not None and there is not None
    if here.itemsize != there.itemsize or max(one.numel(), other.numel()) > 1_000_000:
        return True
    with disable_current_modes():
        return bool(torch.isin(_addresses(here), _addresses(there)).any())


def _addresses(geometry: Geometry) -> Tensor:
    found = torch.tensor([geometry.offset])
    for size, stride in zip(geometry.shape, geometry.strides, strict=True):
        found = (found.unsqueeze(-1) + torch.arange(size) * stride).flatten()
    return found


def _whereabouts(tensor: Tensor) -> tuple[torch.UntypedStorage | None, Geometry | None]:
    if tensor.layout is not torch.strided or tensor.is_nested:
        return None, None
    try:
        storage = tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):  # a wrapper, such as those of `torch.func`
        return None, None
    shape, strides = tuple(tensor.shape), tensor.stride()
    return storage, Geometry(int(tensor.storage_offset()), shape, strides, tensor.dtype.itemsize)


def _same(entry: Entry, storage: torch.UntypedStorage | None, geometry: Geometry | None) -> bool:
    """Whether a tensor still lies where it lay."""
    if storage is None or entry.storage is None:
        return storage is entry.storage
    return identity_of_storage(storage) == identity_of_storage(entry.storage) and geometry == entry.geometry


def _seen_in(state: State, own: Geometry | None, geometry: Geometry | None) -> State:
    """The state of elements of one tensor in another that shares its memory."""
    if isinstance(state, Trouble):
        return state
    unknown = Trouble("unknown", "another view of the same memory", "")
    if own is None or geometry is None or own.itemsize != geometry.itemsize:
        return unknown
    if own == geometry:
        return state
    # Elements are told by `(address - start) // stride % size`; the start may lie anywhere before both tensors.
    stride = own.strides[state.dim] * state.inner
    for start in (own.offset, own.offset - (own.offset - geometry.offset) % stride) if stride > 0 else ():
        if _place(own, start, stride, state.size) == state:
            place = _place(geometry, start, stride, state.size)
            if place is not None:
                return place
    return unknown


def _place(geometry: Geometry, start: int, stride: int, size: int) -> Place | None:
    """The dimension along which `(address - start) // stride % size` goes through the elements.

    None if there is none: all other dimensions have to move in steps of whole periods, or stay within one stride.
    """
    found, small = None, (geometry.offset - start) % stride
    for dim in range(-1, -len(geometry.shape) - 1, -1):
        step, count = geometry.strides[dim], geometry.shape[dim]
        inner = stride // step if step else 0
        if found is None and inner and stride % step == 0 and count % (inner * size) == 0:
            found = Place(dim, size, inner)
            small += step * (inner - 1)
        elif count > 1 and step % (stride * size):
            small += step * (count - 1)
    return found if small < stride and (geometry.offset - start) // stride % size == 0 else None
