"""Graphs in C: every operation that the tables know gives what torch gives."""

import contextlib
import math
import re
import warnings

import pytest
import torch
from benchmarks.layered import MODELS
from c_harness import check, recorded
from graph_harness import (
    InC,
    Uncompiled,
    assert_close,
    both,
    by_graph,
    by_python,
    specializations,
    steps,
    svi_of,
    taken,
)
from registry import UNBIASED
from torch.nn import functional as F

import varigrad as vg
from varigrad import distributions as dist
from varigrad.compile.backends.c import blas, fusion, library, ops_pointwise
from varigrad.compile.backends.c.codegen import RULES, emit
from varigrad.compile.backends.c.fusion import LoopWriter
from varigrad.compile.graph.errors import Unsupported
from varigrad.compile.step.step_compiler import CaptureWarning
from varigrad.compile.trace.traced_function import TracedFunction
from varigrad.testing import PROGRAMS

aten = torch.ops.aten


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VARIGRAD_CACHE", str(tmp_path))


SPECIAL = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    2.5,
    -2.5,
    20.5,
    -20.5,
    1e-6,
    -1e-6,
    88.0,
    -104.0,
    math.inf,
    -math.inf,
    math.nan,
]

REAL = [
    "abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "ceil", "cos", "cosh", "digamma", "elu", "erf", "erfc",
    "exp", "exp2", "expm1", "floor", "hardtanh", "isinf", "isnan", "leaky_relu", "lgamma", "log", "log10",
    "log1p", "log2", "log_sigmoid", "logical_not", "neg", "reciprocal", "relu", "round", "rsqrt", "sigmoid", "sign",
    "sgn", "silu", "sin", "sinh", "sqrt", "tan", "tanh", "trunc",
]  # fmt: skip
PAIRS = [
    "add", "atan2", "div", "eq", "ge", "gt", "le", "logaddexp", "logical_and", "logical_or", "logical_xor", "lt",
    "maximum", "minimum", "mul", "ne", "pow", "sub", "xlogy", "special_xlog1py",
]  # fmt: skip


def functions_of_one_number(kind):
    x = torch.tensor([*SPECIAL, *torch.linspace(-3.1, 3.3, 37).tolist()], dtype=kind)
    return [lambda v, name=name: getattr(aten, name)(v) for name in REAL], [x]


def functions_of_two_numbers(kind):
    x = torch.tensor(SPECIAL, dtype=kind)
    a, b = x.repeat_interleave(len(x)), x.repeat(len(x))
    return [lambda a, b, name=name: getattr(aten, name)(a, b) for name in PAIRS], [a, b]


def numbers_beside_tensors(kind):
    x, n, flags = (
        torch.linspace(-2.1, 2, 12).reshape(3, 4),
        torch.arange(-6, 6).reshape(3, 4),
        torch.arange(12).reshape(3, 4) % 2 == 0,
    )
    return (
        [
            *(lambda x, n, m, p=p: x.abs() ** p for p in (0.5, 1, 2, 3, 4, -0.5, -1, -2, 1.7, 0)),
            lambda x, n, m: 2.0**x,
            lambda x, n, m: 3 - x,
            lambda x, n, m: torch.sub(x, n, alpha=2),
            lambda x, n, m: torch.add(x, x, alpha=-0.3),
            lambda x, n, m: x + n,
            lambda x, n, m: n / 3,
            lambda x, n, m: n * m,
            lambda x, n, m: n + 2 * n - 1,
            lambda x, n, m: m & ~m | (n > 2),
            lambda x, n, m: n > 0.5,
            lambda x, n, m: x > n,
            lambda x, n, m: x == 0,
            lambda x, n, m: torch.where(m, x, 0.0),
            lambda x, n, m: torch.where(m, n, x),
            lambda x, n, m: x.masked_fill(m, -math.inf),
            lambda x, n, m: x.clamp(-1, 0.5),
            lambda x, n, m: x.clamp(min=0.1),
            lambda x, n, m: n.clamp(-2, 3),
            lambda x, n, m: n.clamp(max=1),
            lambda x, n, m: n.abs().sign(),
            lambda x, n, m: x.to(torch.float64) + 1,
            lambda x, n, m: x.to(torch.int64),
            lambda x, n, m: n.to(torch.float32),
            lambda x, n, m: x.to(torch.bool),
            lambda x, n, m: m.to(torch.uint8),
            lambda x, n, m: F.softplus(5 * x, beta=3.0, threshold=10),
            lambda x, n, m: F.binary_cross_entropy_with_logits(x, m.float(), reduction="none"),
            lambda x, n, m: torch.lerp(x, x + 1, 0.3),
            lambda x, n, m: torch.lerp(x, x + 1, x.abs()),
            lambda x, n, m: torch.addcmul(x, x, x, value=0.1),
            lambda x, n, m: torch.addcdiv(x, x, x.abs() + 1, value=0.1),
            lambda x, n, m: torch.polygamma(1, x),
            lambda x, n, m: torch.polygamma(1, x.abs() + 0.1),
            lambda x, n, m: torch.div(5 * x, 2, rounding_mode="trunc"),
            lambda x, n, m: torch.xlogy(2.0, x.abs()),
            lambda x, n, m: aten.sigmoid_backward(x, x.sigmoid()),
            lambda x, n, m: aten.tanh_backward(x, x.tanh()),
            lambda x, n, m: aten.threshold_backward(x, x, 0),
            lambda x, n, m: aten.softplus_backward(x, 9 * x, 2.0, 10.0),
            lambda x, n, m: [aten.silu_backward(x, 4 * x), F.leaky_relu(x, 0.2), F.hardtanh(x, -1.0, 0.5), F.selu(x)],
            lambda x, n, m: [aten.leaky_relu_backward(x, x - 1, 0.2, False), aten.hardtanh_backward(x, x, -0.5, 0.5)],
            lambda x, n, m: [*aten.log_sigmoid_forward(9 * x), F.gelu(3 * x)],
            lambda x, n, m: [aten.log_sigmoid_backward(x, 9 * x, (-9 * x.abs()).exp()), aten.gelu_backward(x, 2 * x)],
            lambda x, n, m: [aten.elu_backward(x, 1.2, 0.8, 0.7, r, x) for r in (True, False)],
            lambda x, n, m: torch.ones_like(n) + torch.zeros(4) + torch.full((3, 1), 2.5) + x.new_ones(1),
            lambda x, n, m: torch.scalar_tensor(3.0) * x,
            lambda x, n, m: torch.arange(4) + torch.arange(1, 9, 2) + n,
            lambda x, n, m: torch.arange(0.5, 4.4) * x,
            lambda x, n, m: torch.eye(4)[:3] + x,
            lambda x, n, m: [n & 5, n | 8, m ^ (n > 2), n ^ 3],
            lambda x, n, m: [torch.clamp_max(x, 0.3), torch.clamp_min(n, 1)],
            lambda x, n, m: [n % 4, n % -4, x % 0.7, x % -0.7, n >> 1, x % x.flip(0)],
            lambda x, n, m: [torch.empty(3).fill_(2), torch.empty_like(x).zero_(), x.new_empty(2).fill_(x[0, 1])],
            lambda x, n, m: [torch.full_like(x, 2), torch.zeros_like(n), x.new_full((2,), 0.3) + x.new_zeros(2)],
            lambda x, n, m: aten.reshape(x.t() * 2, [12]),
        ],
        [x, n, flags],
    )  # fmt: skip


def shapes(kind):
    """Broadcast, transposed, strided, without elements or dimensions."""
    x, y, row, point = torch.randn(3, 4), torch.randn(5, 8)[::2, ::2].t(), torch.randn(4), torch.randn(())
    return (
        [
            lambda x, y, row, p: x + row + p,
            lambda x, y, row, p: x.t() + y.contiguous()[:, 2:] * 2,
            lambda x, y, row, p: (x.t() * 2).t() + y.t(),
            lambda x, y, row, p: x[:, :, None] * y[None],
            lambda x, y, row, p: (x * 2)[1:, ::2].expand(2, 2, 2).sum(0),
            lambda x, y, row, p: (x.reshape(2, 6) + 1).reshape(4, 3) * p,
            lambda x, y, row, p: torch.cat([x + 1, x[:0], row[None] * 2, x], 0),
            lambda x, y, row, p: torch.cat([x, y.t()[:3]], -1),
            lambda x, y, row, p: torch.stack([p, p * 2, row[1], x.sum()]) * 3,
            lambda x, y, row, p: torch.stack([x, x * 2], 1),
            lambda x, y, row, p: [u * 2 for u in (x + 1).unbind(1)],
            lambda x, y, row, p: [u + 1 for u in torch.split(x * 2, 3, 1)],
            lambda x, y, row, p: x.flip(0, 1) + (x * 2).flip(1),
            lambda x, y, row, p: x.tril() + x.triu(1) + torch.ones(3, 4).tril(-1),
            lambda x, y, row, p: (x[:0] + 1).sum() + p,
            lambda x, y, row, p: (x * 3).permute(1, 0).contiguous() + 1,
            lambda x, y, row, p: aten.select_backward(row, [3, 4], 0, -1),
            lambda x, y, row, p: aten.slice_backward(x[:, :2], [3, 5], 1, 1, 5, 2),
            lambda x, y, row, p: torch.select_scatter(x, row, 0, 1),
            lambda x, y, row, p: torch.slice_scatter(x, x[:, :2] * 2, 1, 1, 3),
            lambda x, y, row, p: [x.diagonal() * 2, torch.diag_embed(x)],
            lambda x, y, row, p: (x + 0.0).fill_(2).mul_(x).add_(p).squeeze().clamp_(-1, 1),
            lambda x, y, row, p: (x * 1).copy_(row),
        ],
        [x, y, row, point],
    )  # fmt: skip


def reductions(kind):
    x = torch.randn(3, 4, 11, dtype=kind)
    x[0, 1, 2], x[1, 2, 3], x[2, 0] = math.nan, math.inf, -math.inf
    plain, few, flags = torch.randn(3, 4, 11, dtype=kind), torch.randn(5, 2, dtype=kind), torch.randn(3, 4, 11) > 1
    return (
        [
            *(lambda x, y, f, m, d=d: y.sum(d) for d in (0, 1, 2, (0, 2), (0, 1, 2))),
            *(lambda x, y, f, m, d=d: y.mean(d, keepdim=True) for d in (0, (1, 2))),
            lambda x, y, f, m: [y.sum(), x.sum(), f.sum(-1), f.sum(), f.sum(0), y[0, 0, 0].sum(), m.sum(), y.mean()],
            *(lambda x, y, f, m, d=d: [*x.max(d), *x.min(d), x.amax(d), x.amin(d)] for d in (0, 1, 2)),
            *(lambda x, y, f, m, d=d: [x.argmax(d), x.argmin(d)] for d in (0, 1, 2)),
            lambda x, y, f, m: [x.argmax(1, keepdim=True), y.max(), y.min(), y.argmax(), y.amax((0, 1), keepdim=True)],
            lambda x, y, f, m: [m.any(), m.all(), m.any(1), m.all(2, keepdim=True), f.prod(), f.prod(1)],
            *(lambda x, y, f, m, d=d: [x.logsumexp(d), y.logsumexp(d, keepdim=True)] for d in (0, -1, (0, 1))),
            *(lambda x, y, f, m, d=d: [x.softmax(d), y.softmax(d)] for d in (0, 1, 2)),
            *(lambda x, y, f, m, d=d: [x.log_softmax(d), y.log_softmax(d)] for d in (0, 1, 2)),
            *(lambda x, y, f, m, d=d: [y.cumsum(d), m.cumsum(d), y.cumprod(d)] for d in (0, 1, 2)),
            lambda x, y, f, m: aten._softmax_backward_data(y, y.softmax(1), 1, kind),
            lambda x, y, f, m: aten._log_softmax_backward_data(y, y.log_softmax(1), 1, kind),
            lambda x, y, f, m: [p(y[0, 0, 0]) for p in (lambda v: v.softmax(0), lambda v: v.cumsum(0), torch.argmax)],
        ],
        [x, plain, few, flags],
    )  # fmt: skip


def products(kind):
    a, b, big, wide, vector = (
        torch.randn(3, 4),
        torch.randn(4, 9),
        torch.randn(70, 30),
        torch.randn(30, 90),
        torch.randn(30),
    )
    return (
        [
            lambda a, b, c, d, v: [a @ b, b.t() @ a.t(), a @ b[:, :1], a[:1] @ b, (b.t() @ a.t()).t() * 2],
            lambda a, b, c, d, v: [c @ d, d.t() @ c.t(), (c * 2).t() @ c, c @ c.t(), torch.addmm(d[0], c, d)],
            lambda a, b, c, d, v: [c @ v, v @ d, v @ v, torch.addmm(d[:1], c[::2], d), c[:, ::2] @ d[::2]],
            lambda a, b, c, d, v: [torch.bmm(c.reshape(7, 10, 30), d.expand(7, 30, 90)), c[:1] @ d, c @ d[:, :1]],
            lambda a, b, c, d, v: torch.addmm(b[0], a, b),
        ],
        [a, b, big, wide, vector],
    )  # fmt: skip


def look_ups(kind):
    x, table, index, one = torch.randn(4, 9), torch.randn(12, 5), torch.tensor([2, 0, 3]), torch.tensor(1)
    places = torch.tensor([[0, 3, 8], [1, 1, 2], [5, 0, 0], [8, 7, 6]])
    return (
        [
            lambda x, t, i, o, p: [x.index_select(0, i), x.index_select(1, o.reshape(1)), x[0].index_select(0, i)],
            lambda x, t, i, o, p: [x.gather(1, p), x.gather(0, i.expand(2, 3)), t[p], t[i, i - 1], x[:, i - 4]],
            lambda x, t, i, o, p: [F.embedding(p, t), aten.embedding_dense_backward(t[p], p, 12, -1, False)],
            lambda x, t, i, o, p: [x.index_copy(0, i, x[:3] * 2), x.index_add(1, i, x[:, :3])],
            lambda x, t, i, o, p: [x.scatter(1, p, x[:, 1:4]), x.scatter(1, p, 2.5), x.scatter_add(1, p, x[:, 1:4])],
            lambda x, t, i, o, p: [t.index_put((p,), t[p] * 2, True), t.index_put((i, i), t[0, :3])],
            lambda x, t, i, o, p: [t.index_put((i - 12,), t[0]), t[p, 2:]],
            lambda x, t, i, o, p: [x[i], x[:, :4].gather(1, i.clamp(max=3)[[0, 1, 2, 0], None]), (x[:3] * 2)[o]],
            lambda x, t, i, o, p: x.scatter_add(0, i[None].expand(2, 3), x[2:, :3]),
        ],
        [x, table, index, one, places],
    )  # fmt: skip


CASES = [
    functions_of_one_number, functions_of_two_numbers, numbers_beside_tensors, shapes, reductions, products, look_ups,
]  # fmt: skip
KINDS = {
    "single": torch.float32,
    "double": torch.float64,
}


@contextlib.contextmanager
def by_default(kind):
    before = torch.get_default_dtype()
    torch.set_default_dtype(kind)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES, ids=lambda f: f.__name__)
def test_as_torch_has_it(case, kind):
    with by_default(KINDS[kind]):
        check(*case(KINDS[kind]))


@pytest.fixture
def threads(monkeypatch):
    """Three of them, for whom no loop is too short."""
    if blas.team() is None:
        pytest.skip("torch does not show its threads")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(fusion, "SHARED", 1)


@pytest.mark.parametrize("case", CASES, ids=lambda f: f.__name__)
def test_shared_among_threads(case, threads):
    with by_default(torch.float64):
        functions, inputs = case(torch.float64)
        assert shared(recorded(functions, inputs)[0])
        check(functions, inputs)


def test_large_loops_shared_among_threads(threads):
    """Cut between the lines of the cache, or between rows; sums are added up in the same order every time."""
    x, y = torch.randn(70, 10_001, dtype=torch.float64), torch.randn(70, 1, dtype=torch.float64)
    functions = [
        lambda x, y: [x.exp(), x.sum(), (x * y).square().sum(), x.sum(1), x.sum(0), (x * y).mean(1).exp().sum()],
        lambda x, y: [x.softmax(0), x.softmax(1), x.amax(1), x.argmin(0), x.logsumexp(0), (x > y).any(1), x.cumsum(1)],
        lambda x, y: [x.reshape(-1) * 2, x.t() + 1, x[:, ::3] - y, (x @ x.t()).abs().log1p().sum(), x.prod(1)],
    ]
    check(functions, [x, y])
    step, _, found = recorded(functions, [x, y])
    step.compile().ready(wait=True)
    assert shared(step) > 10
    step.run()
    before = [f.clone() for f in found]
    for _ in range(20):
        step.run()
        assert all(torch.equal(f, b) for f, b in zip(found, before, strict=True))


def put_together(kind):
    """Parts of a whole that are written there, with or without their sign; parts that cannot be."""
    a, b, x, y = torch.randn(40, 30), torch.randn(30, 50), torch.randn(40, 50), torch.randn(7)

    def parts(a, b, x, y):
        product = a @ b
        return [-product.t().detach(), -y, y.exp(), (a.t() @ x).neg()]

    def wholes(a, b, x, y):
        first, second, third, fourth = parts(a, b, x, y)
        whole = torch.cat([first.t().reshape(-1), second, third, fourth.reshape(-1)])
        again = torch.cat([second, third[2:], third])
        return [whole, whole.square().sum(), third * 2, whole[:5], again, torch.cat([first.t(), x]), first.sum(), third]

    def changed(a, b, x, y):
        first, second, _, fourth = parts(a, b, x, y)
        second.mul_(3)
        whole = torch.cat([fourth.reshape(-1), second])
        other = fourth + 1
        joined = torch.cat([other, other])
        joined.mul_(2)
        return [whole, fourth, second, joined, other, -first, (-(a @ b)).t().contiguous()]

    def apart(a, b, x, y):
        product = a @ b
        return [-product, product, torch.cat([y.double(), y.to(torch.float64)]), torch.cat([y.reshape(7, 1), x[:7]], 1)]

    return [wholes, changed, apart], [a, b, x, y]


@pytest.mark.parametrize("kind", KINDS)
def test_put_together(kind):
    with by_default(KINDS[kind]):
        functions, inputs = put_together(kind)
        check(functions, inputs)
        text = emit(recorded(functions[:1], inputs)[0].graph.operations).text
        assert len(re.findall(r"#define b\d+ \(b\d+ \+ \d+\)", text)) == 4
        assert len(re.findall(r"product\(.*, -1, 0, ", text)) == 2


def constants(kind):
    x = torch.randn(5, 3)

    def numbers(x):
        one, none, half = torch.ones_like(x), torch.zeros(3), torch.full((), 0.5)
        whole = torch.full((4,), 3, dtype=torch.int64)
        kept = none.clone()
        none += x[0]
        return [-one * x, none, kept + x, half / 3 * x, whole / 2 + 0 * x[0, 0], whole * 2, (one * 2).sum() * x, -half]

    def written_over(x):
        some = torch.zeros(5, 3)
        before = some + x
        some[1] = x[0]
        flags = torch.ones(3, dtype=torch.bool)
        return [before, some, some * 2, flags & (x[0] > 0), ~flags, flags * 0.5, torch.zeros(0).sum() - x]

    def looked_up(x):
        table, at = torch.full((6,), 2.5), torch.tensor(1) * 2
        return [table[at.reshape(1)] * x, table.scatter(0, at.reshape(1), 7.0), table @ table, torch.zeros(9) - x[0, 0]]

    return [numbers, written_over, looked_up], [x]


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_that_never_change(kind):
    with by_default(KINDS[kind]):
        check(*constants(kind))


def shared(step):
    """How many functions of its program are."""
    return emit(step.graph.operations, threads=3).text.count("int part)\n{")


def test_what_does_not_show_its_threads_gets_one(monkeypatch):
    """A large graph is then left to Inductor, which brings its own."""
    monkeypatch.setattr(blas, "team", lambda: None)
    x, target = torch.randn(300, 300), torch.zeros(300, 300)
    product = TracedFunction(lambda: [x @ x], [x, target], [target], {}).graph
    total = TracedFunction(lambda: [x + x], [x, target], [target], {}).graph
    assert library.translate(product) is not None
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert library.translate(product) is None
    assert library.translate(total) is not None and "PARTS 1" in library.translate(total).text


@pytest.mark.parametrize("case", CASES, ids=lambda f: f.__name__)
def test_every_statement_says_what_it_names(case, monkeypatch):
    """Or what it names might be used again too early."""
    before = LoopWriter.layout

    def layout(self):
        for piece in self._pieces:
            text = "\n".join(line for body in piece.emit(self, self.loaded) for line in body.lines)
            assert set(re.findall(r"\bb\d+\b", text)) <= self.with_aliases(piece.reads | piece.writes), text
        return before(self)

    monkeypatch.setattr(LoopWriter, "layout", layout)
    functions, inputs = case(torch.float32)
    emit(recorded(functions, inputs)[0].graph.operations)


def test_memory_is_used_again():
    """By tensors of the same size and type, after the last statement that names it."""

    def chain(x, y):
        for dim in (0, 1, 0, 1, 0, 1):
            x, y = (x + y).softmax(dim), y.cumsum(1 - dim)
        return [x, y, torch.cat([x, y]).softmax(0)]

    x, y = torch.randn(2, 6, 5)
    check([chain], [x, y])
    text = emit(recorded([chain], [x, y])[0].graph.operations).text
    starts = re.findall(r"\(own \+ (\d+)\)", text)
    assert 0 < len(set(starts)) < len(starts) / 2


def test_every_operation_is_tested():
    """An entry of the tables that nobody has compared with torch's is a guess."""
    known = {*ops_pointwise.SAME, *ops_pointwise.COMPARED, *ops_pointwise.BITS, *ops_pointwise._SPECIAL, *RULES}
    for case in CASES:
        nodes = recorded(*case(torch.float32))[0].graph.operations.nodes
        names = {n.target._schema.name.removeprefix("aten::") for n in nodes if hasattr(n.target, "_schema")}
        known -= names | {name.removesuffix("_") for name in names}
    assert not known


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_programs(program):
    """Steps of a score function estimator, and of another one, in C and in Python."""
    case = PROGRAMS[program]
    serving = [entry for entry in UNBIASED.values() if program in entry.serves]
    for entry in (UNBIASED["score"], serving[list(PROGRAMS).index(program) % len(serving)]):

        def make(entry=entry):
            return svi_of(case.model, case.guide, vg.ELBO(2, {"z*": entry.make()}))

        with warnings.catch_warnings(action="ignore", category=CaptureWarning):
            expected, found, _ = both(make, steps(9, *case.args), kind=InC)
        assert_close(found, expected)


def test_an_entry_that_is_not_there():
    """Fails before anything is overwritten."""
    table, index = torch.randn(20), torch.tensor([3, 19])
    target = torch.zeros(2)
    step = TracedFunction(lambda: [table.index_select(0, index) * 2], [table, index, target], [target], {})
    step.compile().ready(wait=True)
    step.run()
    before = target.clone()
    index[1] = 20
    with pytest.raises(IndexError):
        step.run()
    assert torch.equal(target, before)
    index[1] = 0
    step.run()
    assert torch.equal(target, table[index] * 2)


# What is left to torch


def slope(function, *at):
    """Its value and its gradients."""
    at = [a.detach().clone().requires_grad_() for a in at]
    value = function(*at)
    weights = torch.arange(value.numel()).cos().reshape(value.shape)
    return [value.detach(), *torch.autograd.grad((value * weights).sum(), at)]


def decompositions(kind):
    x, b = torch.randn(6, 6, dtype=kind), torch.randn(6, 2, dtype=kind)
    return [
        lambda x, b: slope(lambda x: torch.linalg.cholesky(x @ x.t() + torch.eye(6)), x),
        lambda x, b: slope(lambda x, b: torch.linalg.solve(x @ x.t() + torch.eye(6), b), x, b),
        lambda x, b: slope(lambda x, b: torch.linalg.solve_triangular(x.tril() + torch.eye(6), b, upper=False), x, b),
        lambda x, b: slope(lambda x: torch.linalg.inv(x + 9 * torch.eye(6)), x),
        lambda x, b: slope(lambda x: torch.linalg.slogdet(x)[1], x),
        lambda x, b: slope(lambda x: torch.logdet(x @ x.t() + torch.eye(6)), x),
        lambda x, b: slope(lambda x: torch.linalg.eigvalsh(x @ x.t()), x),
        lambda x, b: slope(lambda b: torch.linalg.svdvals(b), b),
        lambda x, b: slope(lambda x: torch.linalg.cholesky((x @ x.t() + torch.eye(6)).expand(2, 3, 6, 6))[:, 1], x),
        lambda x, b: slope(lambda x: torch.matrix_exp(0.1 * x), x),
    ], [x, b]  # fmt: skip


def averaged(x, mean, variance, weight):
    """With the averages that it leaves behind."""
    return [*slope(lambda x, w: F.batch_norm(x, mean, variance, w, training=True), x, weight), mean, variance]


def layers(kind):
    x, image = torch.randn(8, 12, dtype=kind), torch.randn(2, 3, 8, 8, dtype=kind)
    mean, variance, weight = torch.zeros(12, dtype=kind), torch.ones(12, dtype=kind), torch.randn(12, dtype=kind)
    kernel, rows = torch.randn(4, 3, 3, 3, dtype=kind), torch.randn(12, 12, dtype=kind)
    modules = [torch.nn.GRUCell(12, 5), torch.nn.LSTM(12, 5, batch_first=True), torch.nn.GroupNorm(3, 12)]
    modules += [torch.nn.MultiheadAttention(12, 2, batch_first=True), torch.nn.Mish(), torch.nn.GELU("tanh")]
    gru, lstm, groups, attention, *others = (m.to(kind) for m in modules)
    return [
        lambda x, i, m, v, w, k, r: slope(lambda x, w: F.layer_norm(x, (12,), w), x, w),
        lambda x, i, m, v, w, k, r: averaged(x, m.clone(), v.clone(), w),
        lambda x, i, m, v, w, k, r: slope(lambda x, w: F.batch_norm(x, m, v, w), x, w),
        lambda x, i, m, v, w, k, r: slope(lambda i, k: F.conv2d(i, k, padding=1, stride=2), i, k),
        lambda x, i, m, v, w, k, r: slope(lambda i, k: F.conv_transpose2d(i, k.transpose(0, 1), stride=2), i, k),
        lambda x, i, m, v, w, k, r: slope(lambda i: F.max_pool2d(i, 2) + F.avg_pool2d(i, 2), i),
        lambda x, i, m, v, w, k, r: slope(lambda x: gru(x), x),
        lambda x, i, m, v, w, k, r: slope(lambda x: lstm(x[None])[0], x),
        lambda x, i, m, v, w, k, r: slope(lambda x: groups(x @ r), x),
        lambda x, i, m, v, w, k, r: slope(lambda x: attention(x[None], x[None], x[None], need_weights=False)[0], x),
        *(lambda x, i, m, v, w, k, r, f=f: slope(lambda x: f(x[::2, 1:]) * w[1:], x) for f in others),
    ], [x, image, mean, variance, weight, kernel, rows]  # fmt: skip


def orders(kind):
    x, index = torch.randn(4, 7, dtype=kind), torch.tensor([1, 0, 1, 2])
    return [
        lambda x, i: slope(lambda x: x.sort(-1)[0] * x.topk(3)[0].sum(), x),
        lambda x, i: [*x.sort(0), *x.median(1), x.cummax(1)[0], x.unsafe_chunk(3, 1)[2] * 2, x.roll(1, 0).contiguous()],
        lambda x, i: slope(lambda x: F.cross_entropy(x, i) + F.nll_loss(x, i), x),
        lambda x, i: slope(lambda x: torch.linalg.vector_norm(x, dim=1) + F.logsigmoid(x).std(1), x),
        lambda x, i: torch.cat([x, F.pad(x, (1, 2)), x.repeat(2, 1).erfinv()[:4]], 1),
        lambda x, i: torch._dirichlet_grad(x.sigmoid(), x.exp(), x.exp().sum(-1, keepdim=True).expand(4, 7)),
        lambda x, i: (x * 2).index_fill_(1, i[:2], 3.0),
    ], [x, index]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", [decompositions, layers, orders], ids=lambda f: f.__name__)
def test_left_to_torch(case, kind):
    with by_default(KINDS[kind]):
        torch.manual_seed(0)
        functions, inputs = case(KINDS[kind])
        for function in functions:
            check([function], inputs, calls=True)
        check(functions, inputs, calls=True)


@pytest.mark.parametrize("name", MODELS)
def test_models_with_layers(name):
    """Convolutions, a GRU, batch norm, dropout, Dirichlets, Cholesky: in C and in Python."""

    def go(kind):
        torch.manual_seed(0)
        model, guide, args = MODELS[name]()
        with by_graph(kind=kind) if kind else by_python():
            svi = svi_of(model, guide, optim=vg.optim.SGD(lr=1e-6))
            svi.init(*args)
            before = {k: v.detach().clone() for k, v in svi.bound.named_parameters()}
            losses = [svi.step(*args) for _ in range(6)]
            moved = torch.cat([(v.detach() - before[k]).reshape(-1) for k, v in svi.bound.named_parameters()])
            return svi, losses, moved, {k: v.clone() for k, v in svi.bound.named_buffers()}

    svi, losses, moved, buffers = go(InC)
    library = specializations(svi)[0].step.traced.compilation.library
    assert taken(svi) == 4 and library.maker == "C"
    assert bool(library.calls) == (name not in ("recurrent", "attention")) == ("left to torch: aten::" in svi.explain())
    _, expected, by_steps, averages = go(None)
    # A loss is a sum whose terms do not shrink where they cancel: the largest of the run stands for their size.
    assert_close(losses, expected, rtol=1e-5, atol=1e-5 * max(map(abs, expected)))
    assert_close(moved, by_steps, rtol=1e-3, atol=1e-3 * float(by_steps.abs().max()))
    assert_close(buffers, averages, rtol=1e-5, atol=1e-6)


def test_inputs_of_what_is_left_to_torch():
    """Found anew where others come; parts of them too."""
    x, kernel, target = torch.randn(4, 3, 9), torch.randn(2, 3, 3), torch.zeros(3, 2, 7)
    step = TracedFunction(lambda: [F.conv1d(x[1:], kernel) + 1], [x, kernel, target], [target], {})
    step.compile().ready(wait=True)
    library, place = step.compilation.library, step.position(x)
    assert library.calls == ("aten::convolution",)
    for other in (x, x, torch.randn(4, 3, 9), torch.randn(5, 3, 9)[1:], x):
        step.inputs[place] = other
        step.run()
        assert_close(target, F.conv1d(other[1:], kernel) + 1, rtol=1e-5, atol=1e-6)
    kernel.mul_(2)
    step.run()
    assert_close(target, F.conv1d(x[1:], kernel) + 1, rtol=1e-5, atol=1e-6)


def test_draws_of_torchs_own():
    """In their order, and from the global generator."""
    x = torch.rand(50) + 1
    targets = [torch.zeros(50) for _ in range(4)]

    def draw():
        first = F.dropout(x, 0.3)
        second = torch.poisson(x * 3) + torch.randn(50)
        return [second, first * 2, torch.bernoulli(x / 2), torch.empty(50).exponential_()]

    step = TracedFunction(draw, [x, *targets], targets, {})
    step.compile().ready(wait=True)
    assert step.compilation.library.maker == "C" and step.graph.random
    for seed in range(3):
        torch.manual_seed(seed)
        expected = draw()
        torch.manual_seed(seed)
        step.run()
        assert_close(targets, expected, rtol=1e-6)


def test_what_torch_raises():
    """Reaches whoever runs the step, before anything is overwritten; the next step is as good as ever."""
    x, index, count, target = torch.zeros(2, 4), torch.tensor([0, 3]), torch.zeros(()), torch.zeros(())
    results = lambda: [count + 1, F.cross_entropy(x, index)]  # noqa: E731
    step = TracedFunction(results, [x, index, count, target], [count, target], {})
    step.compile().ready(wait=True)
    step.run(3)
    assert count == 3 and target > 1.3
    index[1] = 4
    x[0, 0] = 5.0
    before = target.clone()
    with pytest.raises(IndexError, match="Target 4 is out of bounds"):
        step.run(2)
    assert count == 3 and target == before
    index[1] = 2
    step.run()
    assert count == 4 and target < before


@pytest.mark.parametrize("kind", [InC, Uncompiled])
def test_decompositions_that_fail(kind):
    """Where Python raises an error, a graph's numbers are NaN, and the step fails for the reason that Python has."""

    def model(scale):
        z = vg.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        factor = torch.linalg.cholesky(scale * torch.eye(3) + 0.1)
        vg.sample("x", dist.MultivariateNormal(z, scale_tril=factor), obs=torch.ones(3))

    def guide(scale):
        vg.sample("z", dist.Normal(vg.param("m", torch.zeros(3)), 1.0).to_event(1))

    with by_graph(kind=kind):
        svi = svi_of(model, guide)
        for _ in range(8):
            svi.step(torch.tensor(1.0))
        assert taken(svi) == 6
        before = svi.bound.m.clone()
        with pytest.raises(torch.linalg.LinAlgError):
            svi.step(torch.tensor(-1.0))
        assert torch.equal(svi.bound.m, before)
        svi.step(torch.tensor(1.0))
        with by_python(), pytest.raises(torch.linalg.LinAlgError):
            svi_of(model, guide).step(torch.tensor(-1.0))


def test_an_interruption_while_torch_is_called():
    """The steps before it are on record; the one that it meets has not been."""

    def model():
        scale = torch.linalg.cholesky(torch.eye(2) * 2.0)
        vg.sample(
            "z", dist.MultivariateNormal(torch.zeros(2), scale_tril=scale * vg.param("s", torch.tensor(1.0)).exp())
        )

    def guide():
        vg.sample("z", dist.Normal(vg.param("m", torch.ones(2)), 1.0).to_event(1))

    def svi():
        found = svi_of(model, guide)
        found.run(20)
        return found

    with by_graph(kind=InC):
        whole, cut = svi(), svi()
        call = specializations(cut)[0].step.traced.compilation.library._caller._calls[0]
        operation, made = call._operation, []

        def interrupted(*args, **kwargs):
            made.append(1)
            if len(made) == 8:
                raise KeyboardInterrupt
            return operation(*args, **kwargs)

        call._operation = interrupted
        with pytest.warns(UserWarning, match="interrupted after 7 of 50 steps"):
            fit = cut.run(50)
        expected = whole.run(7)
        assert_close(fit.losses, expected.losses)
        assert_close(cut.run(5).losses, whole.run(5).losses)


def test_what_c_cannot_hold_is_left_to_inductor():
    """Complex numbers; a program that is too large."""
    x, target = torch.randn(8), torch.zeros(5)
    step = TracedFunction(lambda: [torch.fft.rfft(x).abs()], [x, target], [target], {})
    with pytest.raises(Unsupported, match="complex"):
        emit(step.graph.operations)
    assert library.translate(step.graph) is None
