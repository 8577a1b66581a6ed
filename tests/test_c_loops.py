"""The loops that a graph becomes: what may be fused, where results lie, and in which order memory is written."""

import re

import pytest
import torch
from c_harness import check, recorded
from torch.nn import functional as F

from varigrad.compile.backends.c import blas, fusion
from varigrad.compile.backends.c.codegen import emit
from varigrad.compile.trace.traced_function import TracedFunction


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VARIGRAD_CACHE", str(tmp_path))


def some(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, Y, V = some(6, 5), some(6, 5, seed=1), some(5, seed=2)


def test_hazards_of_writes_in_place():
    """A statement stays behind what it reads, and before what overwrites it."""

    def read_before_it_is_written(x, y, v):
        a = x * 2
        before = a.sum(0)
        shifted = a[1:] + 1
        a.mul_(y)
        return [before, shifted, a, a + 1, a.sum(0)]

    def written_in_parts(x, y, v):
        a = x + 0.0
        a[1:].add_(y[1:])
        b = a * 3
        a[:, 0].mul_(2)
        a.t()[2] += a.t()[3]
        return [a, b, a.flip(0), a + b]

    def read_elsewhere(x, y, v):
        a = x * y
        turned = a.t().contiguous()
        b = (a + turned.t()) * a.flip(1)
        a.copy_(b)
        return [a, b, turned, a.amax(1), a[torch.tensor([1, 0])] + b[:2]]

    def turned_round(x, y, v):
        a = x * 2
        b = a.flip(0)
        c = y + 1
        d = c.t().contiguous() * 2
        e = v.exp()
        return [b + 1, d, c.flip(0, 1), e.flip(0) + e]

    def numbers(x, y, v):
        total = x.sum()
        one = total * 2
        total.add_(one)
        two = total + x[0, 0]
        total.zero_()
        return [one, total, two, x * one, total + v]

    def read_many_times(x, y, v):
        a = v * 2
        found = []
        for i in range(4):
            found.append(a + i)
            a.add_(v)
        return [*found, a]

    check(
        [read_before_it_is_written, written_in_parts, read_elsewhere, turned_round, numbers, read_many_times], [X, Y, V]
    )


def test_hazards_of_sums_and_look_ups():
    index, order = torch.tensor([4, 0, 2, 9, 9, 1, 0, 3, 5, 2]), torch.tensor([3, 1, 4, 0, 5, 9, 2, 6, 8, 7])

    def sums(x, y, v):
        total = (x * y).sum(1)
        scaled = x / total[:, None]
        again = scaled.sum(1)
        whole = (x + y).sum()
        return [total, scaled, again, (scaled + again[:, None]).sum(), whole, x * whole, (x * whole).sum(1)]

    def looked_up(x, y, v):
        table = x.reshape(-1)[:10] * 2
        first = table[index] + 1
        table.add_(1)
        second = table[index] * first
        table[order] = second
        third = table.index_add(0, index, first)
        return [first, second, third, table, table + third, third[index], table.scatter(0, order, first) + table]

    def written_and_looked_up(x, y, v):
        table = y.reshape(-1)[:10] * 2
        other = table + 1
        found = table[index] * other
        other.mul_(found)
        once = (x.reshape(-1)[:10] * 5)[index]
        return [table, other, found, other[index], other[order] + other, once]

    def sums_of_other_parts(x, y, v):
        rows, columns = (x * 2).sum((1,)), (x * 2).sum((0,))
        parts = (x.reshape(2, 3, 5) * 2).sum((1, 2)), (x.reshape(2, 3, 5) * 2).sum(2)
        return [rows, columns, *parts, (x * 2).sum(), x.reshape(-1).sum(), x.reshape(3, 10).sum(1)]

    check([sums, looked_up, written_and_looked_up, sums_of_other_parts], [X, Y, V])


def test_views_are_addresses():
    def views(x, y, v):
        a = (x * 2).reshape(2, 3, 5)
        b = a.permute(2, 0, 1)
        return [
            b[1:, :, ::2] + 1, b.select(2, 1) * v[:, None], a[1:].expand(2, 3, 5) + a, a[:, 1, 3:], b.flip(0, 2),
            a.transpose(0, 1).reshape(-1) * 2, v.expand(3, 5).t() + 1, (a + b.permute(1, 2, 0)).diagonal(0, 1, 2),
            a.unfold(2, 2, 1) * 2, x.as_strided((3, 2), (7, 2), 4) + 1, x[2:, 1:4].t() * 2, x[5:].expand(4, 5) + v,
            (x * 2)[1:, 1:].amax(0), (x * 2)[2:].cumsum(1), (x * 2)[1:, 2:] @ (y * 2)[3:, 1:],
        ]  # fmt: skip

    check([views], [X, Y, V])
    check([views], [some(12, 10)[::2, 1::2], some(5, 6).t(), some(3, 5)[1]])


def test_rows_with_an_end_that_is_no_whole_vector():
    check([lambda x: [x.exp() * 2, (x * 3).sin().sum(1), x.tanh().sum(0)]], [some(3, 61)])
    check([lambda x: [x.exp() * 2, x.cos().sum()]], [some(4, 39).float()])


def test_what_is_shared_among_threads(monkeypatch):
    if blas.team() is None:
        pytest.skip("torch does not show its threads")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(fusion, "SHARED", 1)
    x = some(50, 7)

    def function(x):
        y = x * 2
        return [
            y.exp(),
            y.sum(),
            (y + 1).square().sum() + y.sum(),
            y.sum(0),
            y.sum(1),
            y.amax(1),
            y.softmax(0),
            y.t() + 1,
        ]

    check([function], [x])
    text = emit(recorded([function], [x])[0].graph.operations, threads=3).text
    bodies = [
        body.split("int part)")[1].split("int run(")[0]
        for body in text.split("static __attribute__")
        if "int part)\n{" in body
    ]
    assert len(bodies) > 4
    # A thread's part is all that a shared function does: what needs all parts comes after it.
    assert not any("int64_t part = 0" in body or "bad" in body for body in bodies)


def test_results_that_lie_in_others():
    """Parts of a concatenation are written there, unless somebody writes into one of them or reads it otherwise."""

    def parts(x, y, v):
        a, b, c = x * 2, v.exp(), y.t().contiguous()
        whole = torch.cat([a.reshape(-1), b, c.reshape(-1), b[1:]])
        return [whole, a + 1, whole * 2, b, whole[30:35] + b, c * whole[0]]

    def changed(x, y, v):
        a, b, c = x * 2, v.exp(), y + 1
        whole = torch.cat([a.reshape(-1), b])
        b.add_(1)
        other = torch.cat([c.reshape(-1), v])
        other.mul_(2)
        return [whole, b, other, c, torch.cat([c, a]), torch.cat([c, a], 1), torch.cat([c.t().reshape(-1), v])]

    def twice(x, y, v):
        a = v * 3
        one = torch.cat([a, v, a])
        b = x.t() * 2
        nested = torch.cat([torch.cat([v * 7, v.exp()]), y.t().contiguous().reshape(-1)])
        sideways, turned = torch.cat([x * 3, y * 3], 1), torch.cat([x.t() * 4, y.t() * 4])
        found = [
            one,
            torch.cat([v, a]),
            torch.cat([one, one]),
            torch.cat([b.reshape(-1), v]),
            torch.cat([b.t(), x * 2]),
        ]
        return [*found, nested, sideways, turned]

    def of_other_types(x, y, v):
        a, n = v.float() * 2, (v * 3).long()
        return [torch.cat([a, v]), torch.cat([n, v]), torch.cat([n, n + 1]), torch.cat([(x * 2)[:3], y]), a, n]

    def products(x, y, v):
        p, q = x @ y.t(), x.t() @ y
        r = -(y.t() @ x)
        return [
            torch.cat([-p.reshape(-1), (-q).reshape(-1)]),
            -p,
            q + 1,
            r,
            torch.cat([r.reshape(-1), v]),
            -(x @ y.t()),
        ]

    check([parts, changed, twice, of_other_types, products], [X, Y, V])


def test_numbers_that_are_the_same_everywhere():
    def constants(x, y, v):
        one, half, zeros = torch.ones(6, 5, dtype=torch.float64), torch.full((5,), 0.5), torch.zeros(6, 5)
        a = x * one + half
        zeros[1:3] = x[1:3]
        one.add_(y)
        half.cumsum_(0)
        table = torch.full((5,), 2.0, dtype=torch.float64)
        got = table.index_add(0, torch.tensor([0, 0, 3]), v[:3])
        table.index_add_(0, torch.tensor([1]), v[:1])
        sums = torch.full((6,), 1.0, dtype=torch.float64)
        sums.copy_(x.sum(1))
        places, rows = torch.arange(5) + v, torch.arange(6)
        part = x + 0.0
        part[1:3].fill_(2.0)
        return [
            rows[:, None] * x,
            part + y,
            part,
            a,
            zeros,
            zeros + x,
            one,
            half * v,
            got,
            table * 2,
            sums + 1,
            places,
            torch.arange(5) * places,
        ]

    check([constants], [X, Y, V])


def test_memory_is_used_again_only_after_the_last_reader():
    def chain(x, y, v):
        early = x.cumsum(0)
        for dim in (0, 1, 0, 1):
            x, y = (x + y).softmax(dim), y.cumsum(1 - dim)
        return [x.logsumexp(0), y, early.cumsum(1), (early + x).softmax(0)]

    check([chain], [X, Y, V])
    starts = re.findall(r"\(own \+ (\d+)\)", emit(recorded([chain], [X, Y, V])[0].graph.operations).text)
    assert len(set(starts)) < len(starts)


def test_large_products_of_all_layouts():
    a, b = some(40, 30), some(30, 50)
    check(
        [
            lambda a, b: [
                a @ b,
                b.t() @ a.t(),
                (a @ b).t() + 1,
                a.t() @ (a @ b),
                -(a @ b),
                a[::2] @ b,
                a[:, ::2] @ b[::2],
            ],
            lambda a, b: [torch.addmm(b[0], a, b), torch.bmm(a.expand(3, 40, 30), b.expand(3, 30, 50)), a @ b[:, 0]],
            lambda a, b: [
                a.flip(1) @ b,
                a[:, :1] @ b[:1],
                a.expand(2, 40, 30) @ b,
                a.reshape(-1).unfold(0, 30, 1)[:40] @ b,
                (a * 2)[3:, 5:] @ b[5:, 7:],
            ],
        ],
        [a, b],
    )


def test_an_input_is_overwritten_only_after_every_check():
    """A step with a wrong index changes nothing, wherever in it the index is."""
    table, index, count, target = some(12), torch.tensor([1, 3]), torch.zeros(()), torch.zeros(2, dtype=torch.float64)
    for look in (lambda: table[index], lambda: torch.zeros(12).scatter(0, index, 1.0)[:2].double()):
        index.copy_(torch.tensor([1, 3]))
        step = TracedFunction(lambda look=look: [count + 1, look()], [table, index, count, target], [count, target], {})
        step.compile().ready(wait=True)
        for wrong in (12, -13):
            count.zero_()
            index.copy_(torch.tensor([1, 3]))
            step.run(3)
            assert count == 3
            kept = target.clone()
            index[1] = wrong
            with pytest.raises(IndexError):
                step.run(2)
            assert count == 3 and torch.equal(target, kept)


def test_large_numbers_in_sums_of_exponentials():
    x = some(4, 20) * 3 + torch.tensor([[800.0], [-900.0], [0.0], [5.0]], dtype=torch.float64)
    check([lambda x: [p(d) for p in (x.softmax, x.log_softmax, x.logsumexp) for d in (0, 1)]], [x])


def test_what_torch_writes_is_read_after_it():
    """No pointer promises to be the only way to memory that torch writes when it is called back."""

    def function(x, y, v):
        factor = torch.linalg.cholesky(x.t() @ x + torch.eye(5))
        return [factor * 2, (v * 3).sort()[0] + v, F.mse_loss(x[0], v, reduction="none") * 2]

    inputs = [X, Y, V]
    check([function], inputs, calls=True)
    text = emit(recorded([function], inputs)[0].graph.operations).text
    calling = [body for body in text.split("static __attribute__") if "if (torch(" in body]
    assert calling and not any("restrict" in body.split("int run(")[0] for body in calling)
