"""Rules of the independence analysis for look-ups by index and for the operations of neural-network layers.

`rules.py` defines what a rule is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from varigrad.terms.independence.rules import (
    MIXES,
    UNKNOWN,
    Answer,
    Answers,
    Call,
    Place,
    Rule,
    Slot,
    batched,
    negative,
)

# -- look-ups --

MASKS = (torch.bool, torch.uint8)


def _looked_up(source: Tensor, indices: list[Tensor | None]) -> list[int | None]:
    """The dimensions of `source[indices]`: an axis of the source, or None for one of the (broadcast) indices."""
    axes: list[int] = []
    looked: list[int] = []
    axis = wide = 0
    for index in [*indices, *[None] * source.dim()]:
        if axis >= source.dim():
            break
        if index is None:
            axes.append(axis)
            axis += 1
            continue
        if index.dtype in MASKS and not index.dim():
            raise ValueError("a mask without dimensions adds one")
        takes = index.dim() if index.dtype in MASKS else 1
        looked += range(axis, axis + takes)
        axis += takes
        wide = max(wide, 1 if index.dtype in MASKS else index.dim())
    adjacent = looked == list(range(looked[0], looked[-1] + 1)) if looked else True
    # torch puts the looked-up dimensions first unless the indices are side by side.
    before = [a for a in axes if looked and adjacent and a < looked[0]]
    return [*before, *[None] * wide, *[a for a in axes if a not in before]]


def index(call: Call, slot: Slot, place: Place) -> Answers:
    """`source[indices]`: what is not looked up goes to its place beside the dimensions of the indices."""
    source: Tensor = call.given["self"]
    indices = list(call.given["indices"])
    dims = _looked_up(source, indices)
    if slot.name == "self":
        axis = source.dim() + place.dim
        return place.at(dims.index(axis) - len(dims)) if axis in dims else MIXES
    if slot.tensor.dtype in MASKS:
        return MIXES
    last = max(i for i, axis in enumerate(dims) if axis is None)
    return place.at(place.dim - (len(dims) - 1 - last))


def index_put(call: Call, slot: Slot, place: Place) -> Answers:
    """`self[indices] = values`: dimensions that are not looked up stay."""
    source: Tensor = call.given["self"]
    if slot.name == "self":
        return place
    if slot.name == "indices" and slot.tensor.dtype in MASKS and call.given["values"].numel() == 1:
        # One number goes to wherever the mask says: element by element, if there is no other index.
        alone = sum(1 for i in call.given["indices"] if i is not None) == 1
        axis = slot.number + slot.tensor.dim() + place.dim
        return place.at(axis - source.dim()) if alone else MIXES
    if slot.name != "values":
        return MIXES
    kept = _looked_up(source, list(call.given["indices"]))[place.dim]
    return MIXES if kept is None else place.at(kept - source.dim())


def index_select(call: Call, slot: Slot, place: Place) -> Answers:
    """Entries of `self` along `dim`, at the numbers in `index`."""
    dim = negative(call.given["dim"], call.given["self"].dim())
    if slot.name == "index":
        return place.at(dim)
    return MIXES if place.dim == dim else place


def index_write(call: Call, slot: Slot, place: Place) -> Answers:
    """`index_add`, `index_copy`, `index_fill`: entries of `source` go to other entries along `dim`."""
    if slot.name == "self":
        return place
    if slot.name == "index" or not slot.tensor.dim():
        return MIXES
    return MIXES if place.dim == negative(call.given["dim"], call.given["self"].dim()) else place


def gather(call: Call, slot: Slot, place: Place) -> Answers:
    """Entries of `self` along `dim`, at the numbers in `index`, all other dimensions one to one."""
    source, wanted = call.given["self"], call.given["index"]
    if source.dim() != wanted.dim():
        return UNKNOWN
    if place.dim == negative(call.given["dim"], source.dim()):
        return place if slot.name == "index" else MIXES
    return place if source.shape[place.dim] == wanted.shape[place.dim] else MIXES


def scatter(call: Call, slot: Slot, place: Place) -> Answers:
    """Entries of `src` to the numbers in `index` along `dim`, all other dimensions one to one."""
    target, where = call.given["self"], call.given["index"]
    if slot.name == "self":
        return place
    if target.dim() != where.dim() or not slot.tensor.dim():
        return UNKNOWN
    if place.dim == negative(call.given["dim"], target.dim()):
        return MIXES
    same = target.shape[place.dim] == where.shape[place.dim] == slot.tensor.shape[place.dim]
    return place if same else MIXES


def part_written(call: Call, slot: Slot, place: Place) -> Answers:
    """`select_scatter`, `slice_scatter`: `src` in the place of a part of `self`."""
    if slot.name == "self":
        return place
    of = call.given["self"].dim()
    dim = negative(call.given.get("dim", 0), of)
    if call.name == "select_scatter":
        return place if place.dim > dim else place.at(place.dim - 1)
    return MIXES if place.dim == dim and slot.tensor.shape[dim] != call.given["self"].shape[dim] else place


def take(call: Call, slot: Slot, place: Place) -> Answers:
    """Entries of `self` as if it were flat."""
    return place if slot.name == "index" else MIXES


def embedding(call: Call, slot: Slot, place: Place) -> Answers:
    """Rows of a table: one dimension more on the right."""
    if slot.name == "indices":
        return place.at(place.dim - 1)
    return place if place.dim == -1 else MIXES


def bucketize(call: Call, slot: Slot, place: Place) -> Answers:
    """The number of the interval in which each entry lies; the boundaries belong to all."""
    return place if slot.name == "self" else MIXES


def searchsorted(call: Call, slot: Slot, place: Place) -> Answers:
    """The same with boundaries for each batch, along the last dimension."""
    if call.given["sorted_sequence"].dim() == 1:
        return place if slot.name == "self" else MIXES
    return place if place.dim < -1 or slot.name == "self" else MIXES


def isin(call: Call, slot: Slot, place: Place) -> Answers:
    """Whether each entry is among others."""
    return place if slot.name == "elements" else MIXES


def solving(right: str, otherwise: Rule) -> Rule:
    """A linear equation whose right-hand side is a matrix: each of its columns (rows, from the right) by itself."""

    def rule(call: Call, slot: Slot, place: Place) -> Answers:
        if slot.name == right and place.dim == (-1 if call.given.get("left", True) else -2):
            return (place, *[None] * (len(call.results) - 1))
        return otherwise(call, slot, place)

    return rule


def linear_solve(call: Call, slot: Slot, place: Place) -> Answers:
    """`A X = B`, where `B` is a batch of matrices or of vectors."""
    matrices, right = call.given["A"], call.given["B"]
    vector = right.dim() == 1 or (right.dim() == matrices.dim() - 1 and right.shape == matrices.shape[:-1])
    core = 1 if vector else 2
    rule = batched({"A": 2, "B": core}, (core, 2, 1, 0))
    return (rule if vector else solving("B", rule))(call, slot, place)


# -- layers --


def layer_norm(call: Call, slot: Slot, place: Place) -> Answers:
    """Also RMS norm: combines the rightmost dimensions that `normalized_shape` names."""
    if slot.name != "input":
        return (place, *[None] * (len(call.results) - 1))
    return MIXES if place.dim >= -len(call.given["normalized_shape"]) else place


def group_norm(call: Call, slot: Slot, place: Place) -> Answers:
    """`[n, channels, *space]`: combines all but the first."""
    if slot.name != "input":
        return UNKNOWN
    if place.dim != -slot.tensor.dim():
        return MIXES
    return place, place.at(-2), place.at(-2)


def batch_norm(call: Call, slot: Slot, place: Place) -> Answers:
    """Averages over all dimensions but the channels', the second, while it trains."""
    given = call.given
    trains = given.get("training", given.get("train", call.name.endswith("with_update")))
    channels = 1 - call.given["input"].dim()
    others = len(call.results) - 1
    if slot.name.startswith("running") and trains:
        return None
    if slot.name == "input" and place.dim != channels:
        return MIXES if trains else (place, *[None] * others)
    if slot.name == "input":
        return (place, *[place.at(-1) if r.dim() == 1 else UNKNOWN for r in call.results[1:]])
    return (place.at(channels), *[place] * others)


def convolution(call: Call, slot: Slot, place: Place) -> Answers:
    """`[n, channels, *space]`: combines all but the first; output channels are those of weight and bias."""
    channels = 1 - call.out.dim()
    if slot.name in ("input", "self"):
        batch = slot.tensor.dim() == call.given["weight"].dim() and place.dim == -slot.tensor.dim()
        return (place, *[UNKNOWN] * (len(call.results) - 1)) if batch else MIXES
    if slot.name == "bias":
        return place.at(channels)
    normal = not call.given.get("transposed", False)
    return place.at(channels) if normal and place.dim == -slot.tensor.dim() else MIXES


def grid_sampler(call: Call, slot: Slot, place: Place) -> Answers:
    """`[n, channels, *space]` looked up at `[n, *places, coordinates]`."""
    spatial = call.out.dim() - 2
    if place.dim == -slot.tensor.dim():
        return place
    if slot.name == "input":
        return place if place.dim == -spatial - 1 else MIXES
    return MIXES if place.dim == -1 else place.at(place.dim + 1)


def leading(call: Call, slot: Slot, place: Place) -> Answers:
    """The first dimension is a batch, in the argument and in every result; all others are combined."""
    if place.dim != -slot.tensor.dim():
        return MIXES
    return tuple(place.at(-result.dim()) for result in call.results)


def image_columns(call: Call, slot: Slot, place: Place) -> Answers:
    """`im2col` and `col2im`, with a batch dimension or without."""
    batch = 4 if call.name == "im2col" else 3
    return leading(call, slot, place) if slot.tensor.dim() == batch else MIXES


def nll_loss(call: Call, slot: Slot, place: Place) -> Answers:
    """`[n, classes, *space]` and `[n, *space]` to `[n, *space]`."""
    if call.given["reduction"] != 0 or slot.name == "weight":
        return MIXES
    scores: Tensor = call.given["self"]
    if slot.name == "target":
        return (place, MIXES) if scores.dim() > 1 else MIXES
    channel = 1 - scores.dim()
    if scores.dim() == 1 or place.dim == channel:
        return MIXES
    return (place.at(place.dim + (place.dim < channel)), MIXES)


def attention(call: Call, slot: Slot, place: Place) -> Answers:
    """Scaled dot products: `[*batch, heads, length, features]`; queries stay apart, keys and values are combined."""
    others: tuple[Answer, ...] = (UNKNOWN,) * (len(call.results) - 1)
    heads = call.given["query"].shape[-3] == call.given["key"].shape[-3] if call.given["query"].dim() > 2 else True
    if place.dim < -3 or (place.dim == -3 and heads):
        return (place, *others)
    apart = {"query": -2, "attn_mask": -2, "attn_bias": -2, "value": -1}
    return (place, *others) if place.dim == apart.get(slot.name) else MIXES


def encoder_layer(call: Call, slot: Slot, place: Place) -> Answers:
    """Whole transformer layers, as torch runs them without gradients: `[batch, length, features]`."""
    if slot.name not in ("src", "query", "key", "value"):
        return UNKNOWN
    return leading(call, slot, place)


def recurrent_layer(call: Call, slot: Slot, place: Place) -> Answers:
    """`[time, batch, features]`, state `[*, batch, features]`."""
    if slot.name not in ("input", "hx_", "cx_") or call.given["batch_sizes"]:
        return UNKNOWN
    if place.dim != -2:
        return MIXES
    return (*[place] * min(3, len(call.results)), *[UNKNOWN] * max(0, len(call.results) - 3))
