"""Operations that are recorded as others: the same results, and what is meant to go has gone."""

import pytest
import torch
from graph_harness import by_graph, svi_of, taken
from torch.testing import assert_close

import varigrad as vg
from varigrad import distributions as dist
from varigrad.compile.trace.decompositions import SHORT
from varigrad.compile.trace.tracer import trace
from varigrad.errors import SupportError

aten = torch.ops.aten
t = torch.tensor
INDEX = t([2, 0, 1, 1, -1])
LONG = torch.randint(SHORT, (5, 1), generator=torch.Generator().manual_seed(0))


def some(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


# name -> (operation that goes, function, its tensors)
CASES = {
    "matrix times vector": (aten.mv, lambda m, v: m @ v, (some(4, 3), some(3))),
    "a short sum so far": (aten.cumsum, lambda x: x.cumsum(-1), (some(5, 3),)),
    "with an infinite entry": (aten.cumsum, lambda x: x.cumsum(-1), (t([[1.0, torch.inf, 2.0], [-torch.inf, 1, 2]]),)),
    "one of a few": (aten.gather, lambda x, i: x.gather(-1, i), (some(5, 3), INDEX.abs().unsqueeze(-1))),
    "one of a few, in the middle": (
        aten.gather,
        lambda x, i: x.gather(1, i),
        (some(5, 3, 2), LONG.expand(5, 2)[:, None] % 3),
    ),
    "one of infinite ones": (
        aten.gather,
        lambda x, i: x.gather(-1, i),
        (t([[-torch.inf, 1.0], [-torch.inf, 1.0]]), t([[0], [1]])),
    ),
    "added to one of a few": (
        aten.scatter_add,
        lambda x, i, s: x.scatter_add(-1, i, s),
        (some(5, 3), INDEX.abs().unsqueeze(-1), some(5, 1)),
    ),
    "put into one of a few": (
        aten.scatter,
        lambda x, i, s: x.scatter(0, i, s),
        (some(3, 5), INDEX.abs().unsqueeze(0), some(1, 5)),
    ),
    "looked up": (aten.index, lambda x, i: x[i], (some(3), INDEX)),
    "looked up, rows": (aten.index, lambda x, i: x[i], (some(3, 2), INDEX.reshape(5, 1))),
    "added to what is looked up": (
        aten.index_put,
        lambda x, i, v: x.index_put((i,), v, accumulate=True),
        (some(3), INDEX, some(5)),
    ),
    "added to rows": (
        aten.index_put,
        lambda x, i, v: x.index_put((i,), v, accumulate=True),
        (some(3, 2), INDEX.reshape(5, 1), some(5, 1, 2)),
    ),
}  # fmt: skip

# What stays as it is.
KEPT = {
    "many entries": (aten.gather, lambda x, i: x.gather(-1, i), (some(5, SHORT), LONG)),
    "several of a few": (aten.gather, lambda x, i: x.gather(-1, i), (some(5, 3), t([[0, 2]] * 5))),
    "fewer rows": (aten.gather, lambda x, i: x.gather(-1, i), (some(5, 3), t([[0], [1]]))),
    "whole numbers": (aten.gather, lambda x, i: x.gather(-1, i), (t([[1, 2]]), t([[0]]))),
    "a long sum so far": (aten.cumsum, lambda x: x.cumsum(-1), (some(5, SHORT),)),
    "a short sum of rows so far": (aten.cumsum, lambda x: x.cumsum(0), (some(3, 5),)),
    "whole numbers added up": (
        aten.index_put,
        lambda x, i, v: x.index_put((i,), v, accumulate=True),
        (t([1, 2, 3], dtype=torch.int32), INDEX, INDEX.int()),
    ),
    "truth values added up": (
        aten.scatter_add,
        lambda x, i, s: x.scatter_add(-1, i, s),
        (t([[True, False]]), t([[1]]), t([[True]])),
    ),
    "two indices": (aten.index, lambda x, i: x[i, i], (some(3, 3), INDEX)),
    "the second dimension": (aten.index, lambda x, i: x[:, i], (some(3, 3), INDEX)),
    "instead of added": (aten.index_put, lambda x, i, v: x.index_put((i,), v), (some(3), t([0, 2]), some(2))),
}


def operations(graph):
    return {node.target.overloadpacket for node in graph.operations.nodes if hasattr(node.target, "overloadpacket")}


@pytest.mark.parametrize("name", CASES)
def test_results_are_the_same(name):
    gone, function, tensors = CASES[name]
    graph = trace(lambda: [function(*tensors)], tensors)
    assert gone not in operations(graph)
    assert_close(graph.module(*tensors)[0], function(*tensors), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", KEPT)
def test_what_would_not_be_faster_stays(name):
    kept, function, tensors = KEPT[name]
    graph = trace(lambda: [function(*tensors)], tensors)
    assert kept in operations(graph)
    assert_close(graph.module(*tensors)[0], function(*tensors))


@pytest.mark.parametrize("look", [lambda x, i: x.gather(0, i), lambda x, i: x[i]])
def test_what_is_not_there_is_nan(look):
    x, index = some(3), t([1])
    graph = trace(lambda: [look(x, index)], (x, index))
    for wrong in (3, -4):
        assert graph.module(x, t([wrong]))[0].isnan().all()


def test_a_category_that_does_not_exist_is_an_error():
    """The loss is NaN, and then it is looked up why."""

    def model(data):
        with vg.plate("data", len(data)):
            vg.sample("x", dist.Categorical(vg.param("p", torch.full((3,), 1 / 3), dist.constraints.simplex)), obs=data)

    def guide(data):
        pass

    data = t([0, 2, 1])
    with by_graph():
        svi = svi_of(model, guide)
        svi.run(20, data)
        assert taken(svi) == 18
        data[0] = 3
        with pytest.raises(SupportError, match="values outside the support of Categorical"):
            svi.run(5, data)
