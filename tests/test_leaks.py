"""Nothing that a random choice tells is lost, by whichever way it leaves torch: held to an enumeration in plain torch.

Each way in `leaks` is a function of a choice. Its exact gradient is the sum over the two values of the choice, with
no tracking anywhere; the estimators' mean gradient, over all that they can draw, has to be the same.
"""

import ctypes

import pytest
import torch
import torch.nn.functional as F
from leaks import KINDS

import varigrad as vg
from varigrad import distributions as dist
from varigrad.errors import SiteError, VarigradError
from varigrad.estimators import LeaveOneOut, Score
from varigrad.language.runtime import run
from varigrad.terms.caught_errors import would_be_caught
from varigrad.testing import expected_gradient

START, PRIOR, SEEN = 0.4, 0.3, 0.9
WAYS = {f"{kind}: {name}": leak for kind, ways in KINDS.items() for name, leak in ways.items()}
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::torch.jit.TracerWarning", "ignore::FutureWarning"
)


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def by_enumeration(leak):
    """Minus the gradient of the expected cost by the logit, in plain torch."""
    logit = torch.tensor(START, requires_grad=True)
    total = torch.zeros(())
    for value in (0.0, 1.0):
        log_q = F.logsigmoid(logit if value else -logit)
        log_p = torch.tensor(PRIOR if value else 1 - PRIOR).log()
        likelihood = torch.distributions.Normal(leak(torch.tensor(value)), 1.0).log_prob(torch.tensor(SEEN))
        total = total + log_q.exp() * (log_p + likelihood - log_q).detach()
    return torch.autograd.grad(total, logit)[0]


def bound_of(leak, estimator, aside=False):
    def guide():
        vg.sample("z", dist.Bernoulli(logits=vg.param("s", START)), estimator=estimator)
        if aside:
            vg.sample("aside", dist.Bernoulli(logits=vg.param("u", 0.1)), estimator=estimator)

    def model():
        z = vg.sample("z", dist.Bernoulli(PRIOR))
        vg.sample("x", dist.Normal(leak(z), 1.0), obs=torch.tensor(SEEN))
        if aside:
            vg.sample("aside", dist.Bernoulli(0.7))

    bound = vg.ELBO()(model, guide)
    bound()
    return bound


@pytest.mark.parametrize("estimator", [Score(), LeaveOneOut(2)], ids=["score", "leave_one_out"])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_out_of_torch_is_noticed(way, estimator):
    leak = WAYS[way]
    assert abs(float(leak(torch.tensor(0.0))) - float(leak(torch.tensor(1.0)))) > 1e-3, "it tells nothing"
    mean = expected_gradient(bound_of(leak, estimator)).mean["s"]
    assert abs(mean - by_enumeration(leak)) < 1e-9


@pytest.mark.parametrize("name", KINDS["carried"])
def test_what_torch_carries_does_not_leave(name):
    bound = bound_of(KINDS["carried"][name], Score(), aside=True)
    plan = bound.plan()
    assert not plan["z"].leaves
    assert "aside" not in plan["z"].downstream


@pytest.mark.parametrize("estimator", [Score(), LeaveOneOut(2)], ids=["score", "leave_one_out"])
def test_a_draw_that_fails_inside_a_try_block_tells(estimator):
    """Whether `y` can be drawn depends on `z`, and the guide goes on either way."""

    class Fails(torch.distributions.Bernoulli):
        def sample(self, sample_shape=()):
            if (self.probs > 0.7).any():
                raise ValueError("no draw for such a probability")
            return torch.ones(torch.Size(sample_shape) + self.probs.shape)

    told = []

    def guide():
        z = vg.sample("z", dist.Bernoulli(logits=vg.param("s", START)), estimator=estimator)
        told.clear()
        try:
            vg.sample("y", Fails(0.5 + 0.4 * z), estimator=Score(), auxiliary=True)
            told.append(1.0)
        except ValueError:
            told.append(0.0)

    def model():
        vg.sample("z", dist.Bernoulli(PRIOR))
        vg.sample("x", dist.Normal(torch.tensor(told[0]), 1.0), obs=torch.tensor(SEEN))

    bound = vg.ELBO()(model, guide)
    assert "x" in bound.plan()["z"].downstream


class Wrapper(torch.Tensor):
    """A tensor that is made of another one, as DTensor and MaskedTensor are."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        plain = [a.inner if isinstance(a, Wrapper) else a for a in args]
        return Wrapper(func(*plain, **(kwargs or {})))


class Named(torch.Tensor):
    """A subclass without hooks of its own."""


REFUSED = {
    "masked_by_data": (
        lambda z: torch.masked.masked_tensor(z.reshape(1), torch.tensor([True])).to_tensor(0.0)[0],
        "MaskedTensor.* wants tensors of one class, and what is computed from 'z' has another one",
    ),
    "mask_of_data": (
        lambda z: torch.masked.as_masked_tensor(torch.ones(1), z.reshape(1) < 2).to_tensor(0.0)[0],
        "MaskedTensor.* wants tensors of one class, and what is computed from 'z' has another one",
    ),
    "sparse": (lambda z: z.reshape(1).to_sparse().sum(), "layout sparse_coo"),
    "sparse_values": (lambda z: torch.sparse_coo_tensor([[0]], z.reshape(1), (1,)).to_dense()[0], "layout sparse_coo"),
    "sparse_indices": (
        lambda z: torch.sparse_coo_tensor(z.long().reshape(1, 1), torch.ones(1), (2,)).to_dense()[0],
        "layout sparse_coo",
    ),
    "sparse_product": (lambda z: (torch.eye(2).to_sparse() * z).to_dense()[0, 0], "layout sparse_coo"),
    "compressed": (lambda z: z.reshape(1, 1).to_sparse_csr().to_dense()[0, 0], "layout sparse_csr"),
    "mkldnn": (lambda z: z.float().reshape(1).to_mkldnn().to_dense()[0], "layout _mkldnn"),
    "jagged": (
        lambda z: torch.nested.as_nested_tensor([z.reshape(1), torch.ones(2)], layout=torch.jagged).values()[0],
        r"torch\.nested\._internal\.nested_tensor\.NestedTensor",
    ),
    "subclass": (lambda z: torch.ones(()).as_subclass(Named) * z, r"test_leaks\.Named"),
    "subclass_second": (lambda z: z + torch.ones(()).as_subclass(Named), r"test_leaks\.Named"),
    "made_a_subclass": (lambda z: z.as_subclass(Named) * 1.0, r"test_leaks\.Named"),
    "wrapper": (lambda z: Wrapper(z * 1.0), r"test_leaks\.Wrapper stands where choices have been made"),
    "wrapper_computed_with": (lambda z: Wrapper(z * 1.0) * 2, r"test_leaks\.Wrapper"),
    "traced_input": (
        lambda z: torch.func.linearize(lambda x: x * x, z)[1](torch.ones(())),
        "a function that torch traces",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused_by_name(name):
    leak, what = REFUSED[name]
    with pytest.raises(VarigradError, match=what):
        bound_of(leak, Score())


FOLLOWED = {
    "nested": lambda z: torch.nested.nested_tensor([z.reshape(1), torch.ones(2)]).to_padded_tensor(0.0)[0, 0],
    "nested_parts": lambda z: (torch.nested.as_nested_tensor([z.reshape(1), torch.ones(2)]) * 2).unbind()[0][0],
    "masked_function": lambda z: torch.masked.sum(z.reshape(1), mask=torch.tensor([True])),
    "masked_tensor": lambda z: torch.masked.masked_tensor(z.reshape(1), z.reshape(1) < 2).to_tensor(0.0)[0],
    "quantized": lambda z: torch.quantize_per_tensor(z.float(), 0.1, 0, torch.qint8).dequantize().double(),
    "imaginary": lambda z: torch.complex(z, z).conj().imag.neg(),
    "parameter": lambda z: torch.nn.Parameter(z, requires_grad=False) * 1.0,
    "buffer": lambda z: torch.nn.Buffer(z) * 1.0,
    "wrapper_opened": lambda z: (Wrapper(z * 1.0) * 2).inner,
    "times_sparse": lambda z: torch.sparse.mm(torch.eye(2).to_sparse(), torch.stack([z, z]).reshape(2, 1))[0, 0],
    "old_constructor": lambda z: torch.DoubleTensor([1.0]).new(z),
    "as_a_tensor": lambda z: z.as_subclass(torch.Tensor) * 1.0,
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_other_classes_are_followed_or_leave(name):
    leak = FOLLOWED[name]
    mean = expected_gradient(bound_of(leak, LeaveOneOut(2))).mean["s"]
    assert abs(mean - by_enumeration(leak)) < 1e-9


@pytest.mark.parametrize("write", [lambda z: z.mul_(2.0), lambda z: z.__iadd__(1.0), lambda z: z.view(1).zero_()[0]])
@pytest.mark.parametrize("family", [dist.Bernoulli, lambda p: dist.Normal(p, 1.0)], ids=["discrete", "continuous"])
def test_writing_into_a_value_is_refused(write, family):
    def guide():
        vg.sample("z", family(vg.param("s", 0.4)))

    def model():
        z = vg.sample("z", family(0.3))
        vg.sample("x", dist.Normal(write(z), 1.0), obs=torch.tensor(0.9))

    with pytest.raises(
        SiteError, match=r"'z': the program writes into its value.*evaluated at the value that was drawn"
    ):
        vg.ELBO()(model, guide)()


def test_reading_an_address_says_so():
    bound = bound_of(lambda z: ctypes.c_double.from_address(z.data_ptr()).value * torch.ones(()), Score())
    assert bound.plan()["z"].leaves


def caught_in(program):
    """What a call made inside the program is told about the handlers around it."""
    seen = []

    def ask():
        seen.append((lambda: would_be_caught())())  # two frames, as from inside a hook

    run(lambda: program(ask), (), (), {})
    return seen.pop()


class Plain:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None


class Swallows(Plain):
    def __exit__(self, *error):
        return bool(error[0])


def in_try(ask):
    try:
        ask()
    except ValueError:
        return


def in_handler(ask):
    try:
        raise ValueError
    except ValueError:
        ask()


def after_try(ask):
    try:
        pass
    except ValueError:
        return
    ask()


def in_finally(ask):
    try:
        ask()
    finally:
        ask = None


def in_plate(ask):
    with vg.plate("n", 2):
        ask()


def in_manager(ask):
    with Plain(), torch.no_grad():
        ask()


def in_swallower(ask):
    with torch.no_grad(), Swallows():
        ask()


def in_manager_in_try(ask):
    try:
        with torch.no_grad():
            ask()
    except ValueError:
        return


def in_local_manager(ask):
    manager = Plain()
    with manager:
        ask()


def in_unknown_manager(ask):
    with [Plain()][0]:
        ask()


class Asynchronous:
    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        return bool(error[0])


def in_asynchronous_swallower(ask):
    async def inside():
        with torch.no_grad():
            async with Asynchronous():
                ask()

    list(inside().__await__())


@pytest.mark.parametrize(
    ("program", "caught"),
    [
        (lambda ask: ask(), False),
        (in_try, True),
        (in_handler, False),
        (after_try, False),
        (in_finally, False),
        (in_plate, False),
        (in_manager, False),
        (in_swallower, True),
        (in_manager_in_try, True),
        (in_local_manager, False),
        (in_unknown_manager, True),
        (in_asynchronous_swallower, True),
    ],
)
def test_where_an_error_would_be_caught(program, caught):
    assert caught_in(program) is caught
