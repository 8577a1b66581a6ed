"""`vindex` against its definition, entry by entry, and `index` against torch's rules."""

import itertools

import pytest
import torch

from varigrad.compat.pyro.ops.indexing import Index, Vindex, index, vindex

TABLE = torch.arange(2 * 2 * 4.0).reshape(2, 2, 4)
I, J, K = torch.tensor([0, 1]), torch.tensor([[0], [1]]), torch.tensor([[[3]], [[1]]])
ALL = slice(None)


def by_definition(tensor, args):
    """Loop over the entries of the result: broadcast indices and batch on the left, kept dimensions on the right."""
    batch = tensor.dim() - len(args)
    own = [torch.arange(n).reshape(-1, *(1,) * (batch - 1 - d)) for d, n in enumerate(tensor.shape[:batch])]
    whole = [torch.as_tensor(a) for a in args if not isinstance(a, slice)]
    left = torch.broadcast_shapes(*(i.shape for i in (*own, *whole)))
    kept = [range(tensor.shape[batch + d])[a] for d, a in enumerate(args) if isinstance(a, slice)]
    found = torch.empty((*left, *map(len, kept)))
    for place in itertools.product(*map(range, left)):
        chosen = iter(int(i.expand(left)[place]) for i in whole)
        around = [int(i.expand(left)[place]) for i in own]
        picked = [next(chosen) if not isinstance(a, slice) else None for a in args]
        for rest in itertools.product(*(range(len(k)) for k in kept)):
            free = iter(kept[d][r] for d, r in enumerate(rest))
            found[(*place, *rest)] = tensor[(*around, *(next(free) if p is None else p for p in picked))]
    return found


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_kind_of_index_at_every_place(count):
    for args in itertools.product([I, J, 1, ALL, slice(1, None), slice(None, None, 2)], repeat=count):
        full = (*args, *(ALL,) * (3 - count))
        assert torch.equal(Vindex(TABLE)[args], by_definition(TABLE, full)), args
        assert torch.equal(Vindex(TABLE)[(..., *args)], by_definition(TABLE, args)), args


def test_none_and_a_later_ellipsis():
    assert torch.equal(Vindex(TABLE)[I, ..., K], Vindex(TABLE)[I, :, K])
    assert torch.equal(Vindex(TABLE)[I, ...], Vindex(TABLE)[I])
    assert torch.equal(Vindex(TABLE)[I, None, 1:, K], Vindex(TABLE)[I, 1:, K].unsqueeze(-2))
    assert torch.equal(Vindex(TABLE)[..., None, J], Vindex(TABLE)[..., J].unsqueeze(-1))
    assert Vindex(TABLE)[()] is TABLE and vindex(TABLE, (...,)).shape == TABLE.shape
    assert torch.equal(Vindex(TABLE)[I], TABLE[I])


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((0, 0, 0, 0), "too many indices for 3 dimensions"),
        ((..., 0, ...), "more than one"),
        ((0, ..., ...), "more than one"),
        ((TABLE[0, 0] > 1, 0), "not masks"),
    ],
)
def test_what_is_no_index(args, text):
    with pytest.raises(IndexError, match=text):
        Vindex(TABLE)[args]


def test_indices_that_are_tuples():
    for t in (1, ALL, (..., None), (..., None, None)):
        assert torch.equal(index(TABLE, (..., t)), TABLE[(..., *t[1:])] if isinstance(t, tuple) else TABLE[..., t])
    assert torch.equal(Index(TABLE)[0], TABLE[0]) and torch.equal(Index(TABLE)[0, (1, 2)], TABLE[0, 1, 2])
