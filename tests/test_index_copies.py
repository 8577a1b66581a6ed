"""`x[i]` with an index tensor without dimensions: a view in torch, a copy in a graph; what would tell is refused."""

import pytest
import torch

from varigrad.compile.graph.errors import CaptureError
from varigrad.compile.trace.tracer import trace


def add(x, i):
    x = x.clone()
    x[i].add_(1.0)
    return x


def write_below(x, i):
    x = x.clone()
    x[0, i][:2].mul_(2.0)
    return x


def write_beside(x, i):
    x = x.clone()
    row = x[i]
    x.add_(1.0)
    return row * 2


def return_beside(x, i):
    x = x.clone()
    row = x[i]
    x[0].zero_()
    return row


def put_elsewhere(x, i):
    x = x.clone()
    row = x[i]
    row += 1.0
    x[i + 1] = row
    return x


def read_too_early(x, i):
    x = x.clone()
    row = x[i]
    row += 1.0
    total = x.sum()
    x[i] = row
    return total


def fill(x, i):
    x = x.clone()
    torch.nn.init.ones_(x[..., i])
    return x


@pytest.mark.parametrize(
    "function", [add, write_below, write_beside, return_beside, put_elsewhere, read_too_early, fill]
)
def test_what_tells_a_view_from_a_copy_is_refused(function):
    x, i = torch.arange(27.0).reshape(3, 3, 3), torch.tensor(1)
    with pytest.raises(CaptureError, match="a view in torch and a copy in a graph"):
        trace(lambda: [function(x, i)], [x, i])


def add_and_put_back(x, i):
    x = x.clone()
    x[i] += 1.0
    x[i, i] *= 3.0
    return x


def assign(x, i):
    x = x.clone()
    x[i] = x[i - 1] * 2
    return x


def write_then_read(x, i):
    x = x.clone()
    x.add_(1.0)
    return x[i] * 2


def write_into_a_clone(x, i):
    row = x[i].clone()
    row.add_(1.0)
    return row + x[i]


def read_a_row_that_was_put_back(x, i):
    x = x.clone()
    row = x[i]
    row += 1.0
    x[i] = row
    return row.sum() + x.sum()


@pytest.mark.parametrize(
    "function", [add_and_put_back, assign, write_then_read, write_into_a_clone, read_a_row_that_was_put_back]
)
def test_what_does_not_tell_is_traced(function):
    x, i = torch.arange(27.0).reshape(3, 3, 3), torch.tensor(1)
    graph = trace(lambda: [function(x, i)], [x, i])
    for number in (0, 1, 2):
        i.fill_(number)
        (found,) = graph.module(x, i, *graph.constants)
        assert torch.equal(found, function(x, i))
