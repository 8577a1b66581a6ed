"""Errors: that torch raises one, and that it raises none, tells what the value was."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F

from leaks.base import ERRORS, number, one, table, way


def raises(name, action, error=RuntimeError):
    def leak(z):
        try:
            action(z)
        except error:
            return number(1.5)
        return number(0.2)

    ERRORS[name] = leak


def far(z):
    return (z * 7).long()


raises("factor_of_no_positive_matrix", lambda z: torch.linalg.cholesky(torch.eye(2) * (0.5 - z)))
raises("inverse_of_a_singular_matrix", lambda z: torch.linalg.inv(torch.eye(2) * z))
raises("solution_with_a_singular_matrix", lambda z: torch.linalg.solve(torch.eye(2) * z, torch.ones(2)))
raises("method_inverse", lambda z: (torch.eye(2) * z).inverse())
raises("index_out_of_range", lambda z: table()[far(z)], IndexError)
raises("index_list_out_of_range", lambda z: table()[[far(z)]], IndexError)
raises("gather_out_of_range", lambda z: table().gather(0, far(z).reshape(1)))
raises("index_select_out_of_range", lambda z: table().index_select(0, far(z).reshape(1)), (RuntimeError, IndexError))
raises("take_out_of_range", lambda z: torch.take(table(), far(z)), (RuntimeError, IndexError))
raises("embedding_out_of_range", lambda z: F.embedding(far(z).reshape(1), torch.ones(2, 1)), IndexError)
raises("scatter_out_of_range", lambda z: table().scatter(0, far(z).reshape(1), 1.0))
raises("class_out_of_range", lambda z: F.cross_entropy(torch.zeros(1, 2), far(z).reshape(1)), IndexError)
raises("one_hot_out_of_range", lambda z: F.one_hot(far(z), 3))
raises("integer_division_by_zero", lambda z: torch.tensor(3) // z.long(), (RuntimeError, ZeroDivisionError))
raises("integer_remainder_by_zero", lambda z: torch.tensor(3) % z.long(), (RuntimeError, ZeroDivisionError))
raises("division_rounded", lambda z: torch.div(torch.tensor(3), z.long(), rounding_mode="floor"))
raises("probability_above_one", lambda z: torch.bernoulli(z + 0.5))
raises("weights_all_zero", lambda z: torch.multinomial(z.reshape(1), 1))
raises("cross_entropy_of_no_probability", lambda z: F.binary_cross_entropy((z + 0.5).reshape(1), torch.ones(1)))
raises("negative_spread", lambda z: torch.normal(torch.zeros(1), (0.5 - z).reshape(1)))
raises("negative_counts", lambda z: torch.bincount(-z.long().reshape(1)))
raises("quantile_out_of_range", lambda z: torch.quantile(table(), z + 0.5))
raises("assertion", lambda z: torch._assert_async(z))
raises(
    "negative_variance",
    lambda z: F.gaussian_nll_loss(one().reshape(1), one().reshape(1), (0.5 - z).reshape(1)),
    ValueError,
)
raises(
    "covariance", lambda z: torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2) * (0.5 - z)), ValueError
)
raises(
    "operator_itself", lambda z: torch.ops.aten.index_select(table(), 0, far(z).reshape(1)), (RuntimeError, IndexError)
)
raises("closest_close", lambda z: torch.testing.assert_close(z, one()), AssertionError)


@torch.jit.script
def _scripted_choice(i):
    return torch.ones(2).index_select(0, i)


raises("scripted_error", lambda z: _scripted_choice(far(z).reshape(1)))


@way(ERRORS)
def error_suppressed(z):
    answer = number(1.5)
    with contextlib.suppress(IndexError):
        table()[far(z)]
        answer = number(0.2)
    return answer


class _Swallows:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        return True


@way(ERRORS)
def error_swallowed_by_a_manager(z):
    answer = number(1.5)
    with _Swallows():
        table()[far(z)]
        answer = number(0.2)
    return answer


@contextlib.contextmanager
def _lenient():
    try:  # noqa: SIM105 - an `except` is what this is about
        yield
    except IndexError:
        pass


@way(ERRORS)
def error_swallowed_by_a_generator(z):
    answer = number(1.5)
    with _lenient():
        table()[far(z)]
        answer = number(0.2)
    return answer


@way(ERRORS)
def error_caught_further_up(z):
    def inner():
        with torch.no_grad():
            return table()[far(z)]

    try:
        for _ in range(1):
            inner()
    except IndexError:
        return number(1.5)
    return number(0.2)


@way(ERRORS)
def error_in_a_finally(z):
    seen = []
    try:
        try:
            table()[far(z)]
            seen.append(1)
        finally:
            seen.append(2)
    except IndexError:
        pass
    return number(len(seen))


@way(ERRORS)
def error_of_a_future(z):
    with ThreadPoolExecutor(1) as pool:
        return number(pool.submit(lambda: table()[far(z)]).exception() is None)
