"""Graphs in C compute in the type that torch computes in, and refuse where they would be silently wrong."""

import math

import pytest
import torch
from c_harness import check, recorded
from torch.nn import functional as F

from varigrad.compile.backends.c.codegen import emit
from varigrad.compile.trace.traced_function import TracedFunction

aten = torch.ops.aten


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VARIGRAD_CACHE", str(tmp_path))


REAL = torch.tensor([[0.4, -1.7, 2.6], [1.5, 1.5, -0.3]], dtype=torch.float64)
WHOLE = torch.tensor([[3, -4, 200], [0, 7, -1]])
SMALL = WHOLE.to(torch.int32)
TRUE = torch.tensor([[True, False, True], [True, True, False]])
INDEX = torch.tensor([0, 1, 1])


def test_truth_values_add_up_to_truth_values():
    """And what reads them sees 0 or 1, also where a statement reads the variable of another."""
    check(
        [
            lambda t, n: [(t + t).sum(), (t + t).long(), (t * t) + 0.5, (t + t)[0] == t[0], (t + t).sum(1)],
            lambda t, n: [t.index_add(1, INDEX, t), t.scatter(1, INDEX.expand(2, 3), 0.5).long(), (t + (n > 0)) * 2],
            lambda t, n: [t.index_put((INDEX,), t[INDEX], True), t.scatter_add(1, INDEX[:1].expand(2, 1), t[:, :1])],
            lambda t, n: [n / (n.abs() + 1), n / n.max(), t / 2],
            lambda t, n: [
                n.to(torch.bool) * 3,
                torch.where(t, n, 2),
                t.clone().fill_(2) * 1,
                t.new_full((2,), 0.5) * 5,
            ],
        ],
        [TRUE, WHOLE],
    )


def test_whole_numbers_keep_their_type_where_they_are_added_to_what_is_looked_up():
    check(
        [
            lambda n, s: [
                s.index_put((INDEX,), s[INDEX], True) * 2,
                s.scatter_add(1, INDEX[:1].expand(2, 1), s[:, :1]),
            ],
            lambda n, s: [n.scatter(1, INDEX.expand(2, 3), 2**53 + 1) - 2**53],
        ],
        [WHOLE, SMALL],
    )


def test_numbers_that_are_no_numbers_are_put_where_an_index_says():
    check([lambda x: [x.scatter(1, INDEX.expand(2, 3), v) for v in (math.inf, -math.inf, math.nan, 0.25)]], [REAL])


def test_a_remainder_has_the_sign_of_the_divisor():
    check([lambda n, s: [n % 4, n % -4, n % -1, s % 3, -s % 7, s % -1]], [WHOLE, SMALL])


def test_shifts_by_more_bits_than_there_are():
    check([lambda n, s: [n >> k for k in (0, 3, 63)] + [s >> 31, n >> n.abs()]], [WHOLE, SMALL])
    # As torch's own of all widths: by a negative number, or too far, only the sign is left.
    check([lambda n, k: n.__rshift__(k)], [WHOLE, torch.tensor([[64, 100, 70], [65, 2, 1]])])


def test_numbers_that_wrap_around():
    large = torch.tensor([2**62, -(2**62) - 5, 3])
    check(
        [lambda n, s: [n * 4, n + n, n - 3 * n, s * 65537, s + s.max(), -n * 2]], [large, large.to(torch.int32) + 2**30]
    )


def test_comparisons_with_real_numbers_are_in_the_default_type():
    large = torch.tensor([2**24, 2**24 + 1, 2**24 + 2])
    torch.set_default_dtype(torch.float64)
    try:
        check([lambda n: [n > 2**24 + 0.5, n <= 2**24 + 0.5]], [large])
    finally:
        torch.set_default_dtype(torch.float32)
    check([lambda n: [n > 2**24 + 0.5, n <= 2**24 + 0.5]], [large])
    half = torch.tensor(0.5)  # real numbers count before whole ones, with dimensions or without
    check([lambda n, half: [n >= half, n < half, half <= n, n == half * 2]], [WHOLE, half])


LEFT_TO_TORCH = {
    "real numbers added up as whole ones": lambda x, n, t: [x.sum(0, dtype=torch.int64), x.sum(dtype=torch.int64)],
    "real numbers multiplied as whole ones": lambda x, n, t: x.prod(1, dtype=torch.int64),
    "real numbers so far, as whole ones": lambda x, n, t: [
        x.cumsum(1, dtype=torch.int64),
        x.cumprod(0, dtype=torch.int64),
    ],
    "sums that are true or false": lambda x, n, t: [n.sum(1, dtype=torch.bool), n.prod(0, dtype=torch.bool)],
    "long numbers added up as short ones": lambda x, n, t: (x * 1e200).sum(1, dtype=torch.float32),
    "logsumexp of whole numbers": lambda x, n, t: [n.clamp(-3, 3).logsumexp(1), n.clamp(-3, 3).logsumexp((0, 1))],
    "remainders by a tensor": lambda x, n, t: n % (n.abs() + 1),
    "a scatter that adds": lambda x, n, t: x.scatter(1, INDEX[:2].expand(2, 2), x[:, 1:], reduce="add"),
    "a scatter that multiplies": lambda x, n, t: x.scatter(1, INDEX.expand(2, 3), x, reduce="multiply"),
    "a wider type added in place": lambda x, n, t: x.float().add_(x + 2e8).sub_(2e8),
    "a wider type divided by in place": lambda x, n, t: n.to(torch.uint8).remainder_(n.abs() + 300),
    "whole numbers of a wider type": lambda x, n, t: n.to(torch.uint8).clamp_(max=n.abs() + 255),
    "an embedding with padding": lambda x, n, t: aten.embedding_dense_backward(x[INDEX], INDEX, 4, 1, False),
    "an embedding by frequency": lambda x, n, t: aten.embedding_dense_backward(x[INDEX], INDEX, 4, -1, True),
    "index_add with a factor": lambda x, n, t: x.index_add(1, INDEX, x, alpha=2),
    "a product with factors": lambda x, n, t: torch.addmm(x[0], x[:, :2], x, beta=0.5, alpha=2),
    "another diagonal": lambda x, n, t: torch.diag_embed(x, 1),
    "an index with a gap": lambda x, n, t: x[None].expand(2, 2, 3)[INDEX[:2], :, INDEX[:2]],
    "weighted cross entropies": lambda x, n, t: F.binary_cross_entropy_with_logits(
        x, t.double(), x.abs(), reduction="none"
    ),
    "a floor of a quotient": lambda x, n, t: torch.div(x, 0.3, rounding_mode="floor"),
    "a quotient of whole numbers": lambda x, n, t: torch.div(n, 3, rounding_mode="trunc"),
    "rounding to decimals": lambda x, n, t: x.round(decimals=1),
    "approximate gelu": lambda x, n, t: F.gelu(x, approximate="tanh"),
    "powers of whole numbers": lambda x, n, t: n.abs().clamp(max=3) ** 5,
    "polygamma of a higher order": lambda x, n, t: torch.polygamma(2, x.abs() + 0.3),
}


@pytest.mark.filterwarnings("ignore:The reduce argument")
@pytest.mark.parametrize("name", LEFT_TO_TORCH)
def test_what_c_would_compute_otherwise_is_left_to_torch(name):
    function, inputs = LEFT_TO_TORCH[name], [REAL, WHOLE, TRUE]
    step, _, _ = recorded([function], inputs)
    assert emit(step.graph.operations).calls
    check([function], inputs, calls=True)


def test_a_remainder_by_nothing_is_an_error():
    """As in torch: C has no exception for it, only a signal."""
    divisor, target = torch.tensor([2, 3]), torch.zeros(2, dtype=torch.int64)
    step = TracedFunction(lambda: [WHOLE[0, :2] % divisor], [divisor, target], [target], {})
    step.compile().ready(wait=True)
    step.run()
    assert target.tolist() == [1, 2]
    divisor[1] = 0
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        step.run()
    assert target.tolist() == [1, 2]


def test_at_the_edge():
    """At a threshold itself, and where all entries are true."""
    check(
        [
            lambda x, n, t: [aten.threshold_backward(x + 1, x, 1.5), F.softplus(x, beta=3.0, threshold=1.0)],
            lambda x, n, t: [(n == n).all(), (t | ~t).all(1), t.all(1), (t & ~t).any(1), t.any()],
        ],
        [REAL, WHOLE, TRUE],
    )


def test_small_differences_of_large_numbers():
    """What cancels in torch's formula cancels in C's: lerp near its end, and log-softmax of large numbers."""
    ends = torch.tensor([1e10, -3e9, 5.0]), torch.tensor([1.0, 2.0, math.inf])
    logits = torch.tensor([[1000.0, 990.0, 980.0], [-3000.0, -3000.5, -2990.0]])
    check(
        [
            lambda a, b, x: [torch.lerp(a, b, w) for w in (0.3, 0.75, 1.0)] + [torch.lerp(b[:2], a[:2], 0.999)],
            lambda a, b, x: [x.log_softmax(1), x.log_softmax(0), x.logsumexp(1)],
        ],
        [*ends, logits],
    )
