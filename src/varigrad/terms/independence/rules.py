"""Rules of the independence analysis: the effect of each torch operation on a dimension of plate elements.

A *rule* is a function of one tensor argument of one call and of the *place* of the followed elements in it. It returns
their place in each result, `MIXES`, `UNKNOWN`, or None: that result does not depend on the argument. A rule reads
shapes and options of the call, never the numbers in a tensor. An operation without a rule is `UNKNOWN`.

A place is a dimension, counted from the right, along which entry `j` belongs to element `(j // inner) % size`. With
`inner = 1` and as many entries as elements that is the dimension itself; other values stand for a dimension that was
merged with its neighbours, as a linear layer does with all leading dimensions before it multiplies two matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from typing import Any, Literal, NamedTuple

from torch import Tensor

Kind = Literal["mixes", "unknown"]
MIXES: Kind = "mixes"
UNKNOWN: Kind = "unknown"


class Place(NamedTuple):
    """The place of the elements: entry `j` along `dim` (negative) belongs to element `(j // inner) % size`."""

    dim: int
    size: int
    inner: int = 1

    def at(self, dim: int) -> Place:
        """The same place along another dimension."""
        return Place(dim, self.size, self.inner)


Answer = Place | Kind | None
Answers = Answer | tuple[Answer, ...]
"""One answer for all results, or one for each."""


class Slot(NamedTuple):
    """A tensor argument: its name in the operator's schema, its number in a list, and the tensor."""

    name: str
    number: int
    tensor: Tensor


class Call(NamedTuple):
    """One call of an operation: its name, its arguments by their names in the schema, and its results."""

    name: str
    given: Mapping[str, Any]
    results: Sequence[Tensor]

    @property
    def out(self) -> Tensor:
        """The first of the call's results."""
        return self.results[0]


Rule = Callable[[Call, Slot, Place], Answers]


def negative(dim: int, of: int) -> int:
    """A dimension counted from the right, of a tensor with so many."""
    return dim - of if dim >= 0 else dim


def several(dims: int | Sequence[int] | None, of: int) -> set[int]:
    """Dimensions counted from the right; None or an empty list means all."""
    if dims is None or (not isinstance(dims, int) and not len(dims)):
        return set(range(-of, 0))
    return {negative(d, of) for d in ([dims] if isinstance(dims, int) else dims)}


def moved(place: Place, gone: Iterable[int]) -> Place:
    """The place once these dimensions, counted from the right, have been taken out."""
    return place.at(place.dim + sum(1 for d in gone if d > place.dim))


def elementwise(call: Call, slot: Slot, place: Place) -> Answers:
    """Rule of elementwise operations: broadcasting is from the right, so the dimension stays where it is."""
    return place


def overwritten(call: Call, slot: Slot, place: Place) -> Answers:
    """`copy_`, `zero_`: what was in `self` does not matter, the rest is elementwise."""
    return None if slot.name == "self" else place


def independent(call: Call, slot: Slot, place: Place) -> Answers:
    """Rule of operations whose results do not depend on the numbers in the argument."""
    return None


def mixing(call: Call, slot: Slot, place: Place) -> Answers:
    """Rule of operations that combine all entries of their arguments."""
    return MIXES


def along(call: Call, slot: Slot, place: Place) -> Answers:
    """`softmax`, `cumsum`, `sort`, `flip`: combine or move entries along `dim` (or `dims`) and keep it."""
    dims = call.given.get("dim", call.given.get("dims"))
    if dims is None and "dim" not in call.given and "dims" not in call.given:
        return MIXES
    return MIXES if place.dim in several(dims, slot.tensor.dim()) else place


def reducing(call: Call, slot: Slot, place: Place) -> Answers:
    """`sum`, `mean`, `amax`, `var`: combine the entries along some dimensions, which then go or have size 1."""
    dims = several(call.given.get("dim"), slot.tensor.dim())
    if place.dim in dims:
        return MIXES
    return place if call.given.get("keepdim", False) else moved(place, dims)


def loss(call: Call, slot: Slot, place: Place) -> Answers:
    """A loss element by element, summed or averaged unless `reduction` says none."""
    return place if call.given.get("reduction") == 0 else MIXES


def batched(core: Mapping[str, int], results: Sequence[int]) -> Rule:
    """An operation on the rightmost `core` dimensions of its arguments that leaves those before them alone.

    Args:
        core: for each argument how many dimensions belong to one problem; others are `UNKNOWN`.
        results: the same for each result.
    """

    def rule(call: Call, slot: Slot, place: Place) -> Answers:
        inside = core.get(slot.name)
        if inside is None:
            return UNKNOWN
        if place.dim >= -inside:
            return MIXES
        return tuple(place.at(place.dim + inside - kept) for kept in results)

    return rule


# -- views --


def regrouped(before: Sequence[int], after: Sequence[int], place: Place) -> Answer:
    """The place after `reshape`: the order of all entries stays, and with it an element's stride in that order.

    Args:
        before: the shape that is reshaped.
        after: the new shape.
        place: where the elements lie before.
    """
    stride = place.inner * prod(before[len(before) + place.dim + 1 :])
    right = 1
    for dim in range(-1, -len(after) - 1, -1):
        size = after[dim]
        if right <= stride < right * size:
            inner = stride // right
            # The whole run of elements has to lie inside this dimension, and start where one entry of it does.
            if stride % right or size % (inner * place.size):
                return MIXES
            return Place(dim, place.size, inner)
        right *= size
    return MIXES


def reshape(call: Call, slot: Slot, place: Place) -> Answers:
    """Any change of shape that keeps the order of the entries."""
    return regrouped(slot.tensor.shape, call.out.shape, place)


def view(call: Call, slot: Slot, place: Place) -> Answers:
    """Rule of `view`: a change of shape, or of type."""
    if "dtype" in call.given:
        same = call.out.dtype.itemsize == slot.tensor.dtype.itemsize
        return place if same or place.dim < -1 else UNKNOWN
    return reshape(call, slot, place)


def unsqueeze(call: Call, slot: Slot, place: Place) -> Answers:
    """Also `stack`: a new dimension, counted in the result."""
    new = negative(call.given["dim"], call.out.dim())
    return place if place.dim > new else place.at(place.dim - 1)


def squeeze(call: Call, slot: Slot, place: Place) -> Answers:
    """Dimensions of size 1 go: all, or those that are named."""
    tensor = slot.tensor
    asked = several(call.given["dim"], tensor.dim()) if "dim" in call.given else range(-tensor.dim(), 0)
    if "dim" in call.given and not isinstance(call.given["dim"], int) and not len(call.given["dim"]):
        return place
    return moved(place, [d for d in asked if tensor.shape[d] == 1])


def permute(call: Call, slot: Slot, place: Place) -> Answers:
    """The dimensions in another order."""
    of = slot.tensor.dim()
    order = [negative(d, of) for d in call.given["dims"]]
    return place.at(order.index(place.dim) - of)


def transpose(call: Call, slot: Slot, place: Place) -> Answers:
    """Two dimensions change places."""
    of = slot.tensor.dim()
    first = negative(call.given.get("dim0", call.given.get("axis0", 0)), of)
    second = negative(call.given.get("dim1", call.given.get("axis1", 1)), of)
    return place.at({first: second, second: first}.get(place.dim, place.dim))


def matrix_transpose(call: Call, slot: Slot, place: Place) -> Answers:
    """The two dimensions of a matrix change places."""
    if slot.tensor.dim() < 2:
        return place
    return place.at({-1: -2, -2: -1}[place.dim])


def select(call: Call, slot: Slot, place: Place) -> Answers:
    """Rule of `select` and `unbind`: one entry along a dimension, which goes."""
    dim = negative(call.given.get("dim", 0), slot.tensor.dim())
    return MIXES if dim == place.dim else moved(place, [dim])


def slice_(call: Call, slot: Slot, place: Place) -> Answers:
    """A part along a dimension; the whole of it leaves everything where it is."""
    dim = negative(call.given.get("dim", 0), slot.tensor.dim())
    whole = call.out.shape[dim] == slot.tensor.shape[dim]
    return MIXES if dim == place.dim and not whole else place


def split(call: Call, slot: Slot, place: Place) -> Answers:
    """Parts along a dimension; one part leaves everything where it is."""
    dim = negative(call.given.get("dim", 0), slot.tensor.dim())
    return MIXES if dim == place.dim and len(call.results) > 1 else place


def diagonal(call: Call, slot: Slot, place: Place) -> Answers:
    """Two dimensions become one, on the right."""
    of = slot.tensor.dim()
    gone = [negative(call.given.get("dim1", 0), of), negative(call.given.get("dim2", 1), of)]
    if place.dim in gone:
        return MIXES
    rest = moved(place, gone)
    return rest.at(rest.dim - 1)


def diag_embed(call: Call, slot: Slot, place: Place) -> Answers:
    """The last dimension becomes two; another pair of places is refused."""
    of = call.out.dim()
    new = {negative(call.given.get("dim1", -2), of), negative(call.given.get("dim2", -1), of)}
    if place.dim == -1 or new != {-2, -1}:
        return MIXES
    return place.at(place.dim - 1)


def unfold(call: Call, slot: Slot, place: Place) -> Answers:
    """Windows along a dimension, which become the last one."""
    dim = negative(call.given["dimension"], slot.tensor.dim())
    return MIXES if dim == place.dim else place.at(place.dim - 1)


def cat(call: Call, slot: Slot, place: Place) -> Answers:
    """Tensors one after another along a dimension; empty ones do not count."""
    dim = negative(call.given.get("dim", 0), call.out.dim())
    alone = sum(1 for t in call.given["tensors"] if t.numel()) == 1
    return MIXES if dim == place.dim and not alone else place


def roll(call: Call, slot: Slot, place: Place) -> Answers:
    """Shifts along some dimensions; without any, of the flat tensor."""
    dims = call.given.get("dims")
    return MIXES if not dims or place.dim in several(dims, slot.tensor.dim()) else place


def constant_pad(call: Call, slot: Slot, place: Place) -> Answers:
    """Padding moves the entries along a dimension that is padded."""
    pair = call.given["pad"][2 * (-place.dim - 1) :][:2]
    return MIXES if any(pair) else place


def rightmost(count: int) -> Rule:
    """An operation that combines the `count` rightmost dimensions and keeps them: pooling, interpolation, padding."""

    def rule(call: Call, slot: Slot, place: Place) -> Answers:
        return MIXES if place.dim >= -count else place

    return rule


def view_as_real(call: Call, slot: Slot, place: Place) -> Answers:
    """Complex numbers as pairs, along a new last dimension."""
    return place.at(place.dim - 1)


def view_as_complex(call: Call, slot: Slot, place: Place) -> Answers:
    """Pairs along the last dimension as complex numbers."""
    return MIXES if place.dim == -1 else place.at(place.dim + 1)


def renorm(call: Call, slot: Slot, place: Place) -> Answers:
    """Rescales the slices along `dim`, each by its own norm."""
    return place if place.dim == negative(call.given["dim"], slot.tensor.dim()) else MIXES


# -- products --


def product(left: str, right: str, added: str | None = None, contracted: Sequence[int] = (-1, -2)) -> Rule:
    """Make the rule of a matrix product, `[*batch, n, k] @ [*batch, k, m]`, and what is added to it.

    Args:
        left, right: names of the two factors in the operator's schema.
        added: the name of what is added.
        contracted: the dimensions that are summed over, of the left and the right factor.
    """

    def rule(call: Call, slot: Slot, place: Place) -> Answers:
        if slot.name == left and left != right:
            return MIXES if place.dim == contracted[0] else place
        if slot.name == right:
            return MIXES if place.dim == contracted[1] else place
        return place if slot.name == added else UNKNOWN

    return rule


def summed_product(call: Call, slot: Slot, place: Place) -> Answers:
    """`addbmm`: batches are added up."""
    if slot.name == "self":
        return place
    return place if place.dim == {"batch1": -2, "batch2": -1}[slot.name] else MIXES


def matrix_vector(call: Call, slot: Slot, place: Place) -> Answers:
    """`[n, k] @ [k]`."""
    matrix = "mat" if "mat" in call.given else "self"
    if slot.name == matrix:
        return place.at(-1) if place.dim == -2 else MIXES
    return MIXES if slot.name == "vec" else place


def outer(call: Call, slot: Slot, place: Place) -> Answers:
    """Rule of `addr`: the outer product of two vectors, added to a matrix."""
    return place.at(-2) if slot.name == "vec1" else place


def trilinear(call: Call, slot: Slot, place: Place) -> Answers:
    """`bilinear` layers: three factors with new dimensions, multiplied, some dimensions summed."""
    given = call.given
    number = slot.name[1:]
    added = list(given[f"expand{number}"])
    of = slot.tensor.dim() + len(added)
    kept = [a for a in range(of) if a not in {d % of for d in added}]
    axis = kept[slot.tensor.dim() + place.dim] - of
    gone = several(given["sumdim"], of) if given["sumdim"] else set()
    return MIXES if axis in gone else moved(place.at(axis), gone)


def distances(call: Call, slot: Slot, place: Place) -> Answers:
    """`cdist`: `[*batch, p, m]` and `[*batch, r, m]` to `[*batch, p, r]`."""
    if place.dim == -1:
        return MIXES
    return place.at(-1) if place.dim == -2 and slot.name == "x2" else place
