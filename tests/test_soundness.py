"""A dependency may be over-reported, never lost: the exact expected gradient of programs whose values leave torch.

Each leak turns a choice into something by a way that no operation on tensors shows. Losing it gives a gradient that
is wrong without a warning; so every leak is enumerated and compared with the exact gradient.
"""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

import varigrad as vg
from varigrad import distributions as dist
from varigrad.estimators import Enumerate, LeaveOneOut, MovingAverage, Score
from varigrad.terms.provenance import Escapes, untracked
from varigrad.testing import exact_gradient, expected_gradient, largest_difference

TABLE = torch.tensor([0.3, 1.4], dtype=torch.float64)


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


class Same(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, grad):
        return grad


class ThroughNumpy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.tensor(float(x.numpy()) * 2.0)

    @staticmethod
    def backward(ctx, grad):
        return grad


@torch.jit.script
def scripted(x):
    return x * 2 + 1


traced = torch.jit.trace(lambda x: x * 2 + 1, torch.ones(()))


def written(write):
    def leak(z):
        buffer = torch.zeros(2)
        write(buffer, z)
        return buffer[0]

    return leak


def by_list(z):
    seen = []
    seen.append(z)
    return seen[0]


def by_validation(z):
    try:
        torch.distributions.Normal(0.0, z, validate_args=True)
    except ValueError:
        return torch.tensor(1.5)
    return torch.tensor(0.2)


def by_loop(z):
    total = 0
    for _ in range(int(z) + 1):
        total += 1
    return torch.tensor(float(total))


def by_view(z):
    base = torch.zeros(2)
    base.view(2, 1)[0] = z
    return base[0]


def by_data(z):
    parameter = torch.nn.Parameter(torch.zeros(()))
    parameter.data.copy_(z)
    return parameter.detach()


LEAKS = {
    "arithmetic": lambda z: z * 2 + 0.5,
    "where": lambda z: torch.where(z > 0, 1.5, 0.2),
    "if": lambda z: torch.tensor(1.5) if z else torch.tensor(0.2),
    "comparison": lambda z: torch.tensor(1.5) if z > 0.5 else torch.tensor(0.2),
    "item": lambda z: torch.tensor(2 * z.item()),
    "float": lambda z: torch.tensor(float(z)),
    "int_index": lambda z: TABLE[int(z)],
    "python_index": lambda z: torch.tensor([0.3, 1.4][z.long()]),
    "tensor_index": lambda z: TABLE[z.long()],
    "tolist": lambda z: torch.tensor(z.reshape(1).tolist())[0],
    "numpy": lambda z: torch.from_numpy(z.reshape(1).numpy().copy())[0],
    "asarray": lambda z: torch.tensor(float(np.asarray(z))),
    "array_ufunc": lambda z: torch.tensor(np.add(z.numpy(), 1.0).item()),
    "dlpack": lambda z: torch.from_dlpack(z.reshape(1))[0],
    "torch_tensor": lambda z: torch.tensor(z) * 2,
    "as_tensor": lambda z: torch.as_tensor(z) * 2,
    "tensor_of_list": lambda z: torch.tensor([z, 1.0])[0],
    "new_tensor": lambda z: torch.ones(()).new_tensor(z),
    "full": lambda z: torch.full((), z.item()),
    "full_tensor": lambda z: torch.full((1,), z)[0],
    "setitem": written(lambda b, z: b.__setitem__(0, z)),
    "add_": written(lambda b, z: b.add_(z)),
    "copy_": written(lambda b, z: b[:1].copy_(z)),
    "fill_": written(lambda b, z: b.fill_(z)),
    "index_add_": written(lambda b, z: b.index_add_(0, torch.tensor([0]), z.reshape(1))),
    "masked_fill_": written(lambda b, z: b.masked_fill_(z.bool(), 1.5)),
    "out": written(lambda b, z: torch.mul(z, torch.ones(2), out=b)),
    "view": by_view,
    "data": by_data,
    "detach": lambda z: z.detach(),
    "numpy_of_detached": lambda z: torch.tensor(z.detach().numpy().item()),
    "deepcopy": copy.deepcopy,
    "list": by_list,
    "loop": by_loop,
    "validation": by_validation,
    "format": lambda z: torch.tensor(float(f"{z:.1f}")),
    "repr": lambda z: torch.tensor(1.5 if "1" in repr(z) else 0.2),
    "contains": lambda z: torch.tensor(1.5 if 1.0 in z.reshape(1) else 0.2),
    "nonzero_shape": lambda z: torch.tensor(float(z.reshape(1).nonzero().shape[0])),
    "where_shape": lambda z: torch.tensor(float(len(torch.where(z.reshape(1))[0]))),
    "mask_shape": lambda z: torch.tensor(float(len(torch.ones(1)[z.reshape(1).bool()]))),
    "masked_select_shape": lambda z: torch.tensor(float(torch.ones(1).masked_select(z.bool()).numel())),
    "unique_shape": lambda z: torch.tensor(float(len(torch.stack([z, torch.ones(())]).unique()))),
    "arange_shape": lambda z: torch.tensor(float(len(torch.arange(int(z) + 1)))),
    "repeat_interleave_shape": lambda z: torch.tensor(float(len(torch.ones(1).repeat_interleave(z.long().reshape(1))))),
    "equal": lambda z: torch.tensor(1.5 if torch.equal(z, torch.ones(())) else 0.2),
    "allclose": lambda z: torch.tensor(1.5 if torch.allclose(z, torch.ones(())) else 0.2),
    "is_nonzero": lambda z: torch.tensor(1.5 if torch.is_nonzero(z) else 0.2),
    "vmap": lambda z: torch.func.vmap(lambda x: x * 2)(z.reshape(1))[0],
    "vmap_closure": lambda z: torch.func.vmap(lambda i: i * z)(torch.ones(2))[0],
    "func_grad": lambda z: torch.func.grad(lambda x: x * x)(z),
    "func_grad_closure": lambda z: torch.func.grad(lambda x: x * z)(torch.ones(())),
    "jvp": lambda z: torch.func.jvp(lambda x: x * x, (z,), (torch.ones(()),))[1],
    "scripted": scripted,
    "traced": traced,
    "autograd_function": Double.apply,
    "identity_function": Same.apply,
    "function_through_numpy": ThroughNumpy.apply,
    "compiled": torch.compile(lambda x: x * 2 + 1, backend="eager"),
    "checkpoint": lambda z: checkpoint(lambda x: x * 2, z, use_reentrant=False),
    "checkpoint_reentrant": lambda z: checkpoint(lambda x: x * 2, z, use_reentrant=True),
    "no_grad": lambda z: torch.no_grad()(lambda x: x + 1)(z),
    "linear_module": lambda z: torch.nn.Linear(1, 1, bias=False).requires_grad_(False)(z.reshape(1))[0] * 0 + z,
    "pickle": lambda z: __import__("pickle").loads(__import__("pickle").dumps(z)),
}
STAYS = {"arithmetic", "where", "tensor_index", "torch_tensor", "as_tensor", "detach", "deepcopy", "list", "vmap"}


def programs(leak, estimator, aside):
    def guide():
        a = vg.sample("a", dist.Bernoulli(logits=vg.param("s", 0.4)), estimator=estimator)
        if aside:
            vg.sample("aside", dist.Bernoulli(logits=vg.param("u", 0.1)), estimator=estimator)
        vg.sample("b", dist.Bernoulli(logits=vg.param("t", -0.6) + leak(a)), estimator=estimator)

    def model():
        a = vg.sample("a", dist.Bernoulli(torch.tensor(0.3)))
        if aside:
            vg.sample("aside", dist.Bernoulli(torch.tensor(0.7)))
        b = vg.sample("b", dist.Bernoulli(torch.tensor(0.6)))
        vg.sample("x", dist.Normal(leak(a) - b, 1.0), obs=torch.tensor(0.9))

    return model, guide


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def hold(model, guide):
    bound = vg.ELBO()(model, guide)
    for _ in range(2):
        bound()
    moments = expected_gradient(bound)
    value, gradient = exact_gradient(bound)
    assert abs(moments.value - value) < 1e-9
    assert largest_difference(moments.mean, gradient) < 1e-9
    return bound


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("estimator", [Score(MovingAverage(0.5)), LeaveOneOut(2)], ids=["score", "leave_one_out"])
@pytest.mark.parametrize("leak", LEAKS)
def test_nothing_that_leaves_torch_is_lost(leak, estimator):
    bound = hold(*programs(LEAKS[leak], estimator, leak in STAYS))
    downstream = bound.plan()["a"].downstream
    assert {"q(b)", "x"} <= set(downstream)
    if leak in STAYS:  # followed precisely: what does not depend on a is not reported
        assert "aside" not in downstream


@pytest.mark.parametrize("where", ["mask", "scale", "obs", "plate_size", "subsample"])
def test_what_depends_on_a_choice_by_other_ways(where):
    def model():
        a = vg.sample("a", dist.Bernoulli(torch.tensor(0.3)))
        x = torch.tensor([0.9, -0.4])
        if where == "mask":
            with vg.plate("n", 2), vg.handlers.mask(mask=torch.stack([a > 0, a < 2])):
                vg.sample("x", dist.Normal(0.0, 1.0), obs=x)
        elif where == "scale":
            with vg.plate("n", 2), vg.handlers.scale(scale=1 + 2 * a):
                vg.sample("x", dist.Normal(0.0, 1.0), obs=x)
        elif where == "obs":
            with vg.plate("n", 2):
                vg.sample("x", dist.Normal(0.0, 1.0), obs=x + a)
        elif where == "plate_size":
            with vg.plate("n", 1 + int(a)):
                vg.sample("x", dist.Normal(0.0, 1.0), obs=x[: 1 + int(a)])
        else:
            with vg.plate("n", 2, subsample=a.long().reshape(1)):
                vg.sample("x", dist.Normal(0.0, 1.0), obs=vg.subsample(x))

    def guide():
        vg.sample("a", dist.Bernoulli(logits=vg.param("s", 0.4)), estimator=Score())

    bound = hold(model, guide)
    assert "x" in bound.plan()["a"].downstream


def test_a_distribution_that_hides_its_tensors_is_tracked_by_its_density():
    class Hidden(torch.distributions.Distribution):
        arg_constraints = {}
        has_rsample = False

        def __init__(self, logits):
            super().__init__(logits.shape, validate_args=False)
            self.box = {"logits": [logits]}

        def expand(self, batch_shape, _instance=None):
            return Hidden(self.box["logits"][0].expand(batch_shape))

        @property
        def inner(self):
            return torch.distributions.Bernoulli(logits=self.box["logits"][0])

        has_enumerate_support = True
        support = torch.distributions.constraints.boolean

        def sample(self, sample_shape=()):
            return self.inner.sample(sample_shape)

        def enumerate_support(self, expand=True):
            return self.inner.enumerate_support(expand)

        def log_prob(self, value):
            return self.inner.log_prob(value)

    def guide():
        a = vg.sample("a", dist.Bernoulli(logits=vg.param("s", 0.4)))
        vg.sample("b", Hidden(vg.param("t", -0.6) + a))

    def model():
        a = vg.sample("a", dist.Bernoulli(torch.tensor(0.3)))
        b = vg.sample("b", Hidden(torch.tensor(0.2) * a))
        vg.sample("x", dist.Normal(b, 1.0), obs=torch.tensor(0.9))

    bound = hold(model, guide)
    assert set(bound.plan()["a"].downstream) == {"q(a)", "q(b)", "a", "b", "x"}


def broken_promise(read_through):
    """Discrete sites in a plate, something outside that reads their sum, the same plate for the likelihood."""

    def guide():
        with vg.plate("n", 2):
            z = vg.sample("z", dist.Bernoulli(logits=vg.param("t", torch.tensor([0.7, -0.3]))))
        if read_through == "site":
            vg.sample("g", dist.Bernoulli(logits=vg.param("u", 0.2) + z.sum()))

    def model():
        n = vg.plate("n", 2)
        with n:
            z = vg.sample("z", dist.Bernoulli(torch.tensor([0.3, 0.6])))
        if read_through == "site":
            g = vg.sample("g", dist.Bernoulli(0.2 + 0.3 * z.sum()))
        elif read_through == "sum":
            g = z.sum()
        else:
            g = torch.tensor(float(z.sum().item()))
        with n:
            if read_through == "flip":
                g = z.flip(0)
            vg.sample("x", dist.Normal(g * torch.tensor([1.0, -2.0]), 1.0), obs=torch.tensor([0.8, -1.2]))

    return model, guide


@pytest.mark.parametrize("read_through", ["site", "sum", "item", "flip"])
def test_the_broken_promise_of_plates(read_through):
    bound = hold(*broken_promise(read_through))
    assert bound.plan()["z"].cross_element == ("n",)
    assert "leaves plate n" in str(bound.plan())


def test_elements_of_a_kept_promise_are_taken_one_by_one():
    def model():
        with vg.plate("n", 2):
            z = vg.sample("z", dist.Bernoulli(torch.tensor([0.3, 0.6])))
            vg.sample("x", dist.Normal(torch.exp(z) * 2, 1.0), obs=torch.tensor([0.8, -1.2]))

    def guide():
        with vg.plate("n", 2):
            vg.sample("z", dist.Bernoulli(logits=vg.param("t", torch.tensor([0.7, -0.3]))))

    assert hold(model, guide).plan()["z"].cross_element == ()


def test_provenance_is_a_public_tool():
    a = vg.track_provenance(torch.randn(3), frozenset({"a"}))
    b = vg.track_provenance(torch.randn(3), frozenset({"b"}))
    c = torch.randn(3)
    assert vg.get_provenance(a.exp()) == {"a"}
    assert vg.get_provenance(a * (b + c)) == {"a", "b"}
    assert vg.get_provenance(c) == frozenset()
    assert vg.get_provenance(*torch.split(a, 1)) == {"a"}
    assert vg.get_provenance(torch.cat([c, b])) == {"b"}
    assert vg.get_provenance(a.max(0).values) == {"a"}
    assert vg.get_provenance(torch.einsum("i,j->ij", a, b)) == {"a", "b"}
    assert vg.get_provenance(vg.track_provenance(a, frozenset({"z"}))) == {"a", "z"}
    assert type(untracked(a)) is torch.Tensor
    assert isinstance(a, torch.Tensor)
    with pytest.raises(TypeError, match="frozenset"):
        vg.track_provenance(c, {"a"})


def test_gradients_flow_through_tracked_tensors():
    w = torch.randn(3, requires_grad=True)
    a = vg.track_provenance(w * 2, frozenset({"a"}))
    (grad,) = torch.autograd.grad((a * a).sum(), w)
    assert torch.allclose(untracked(grad), 8 * w)


def test_what_leaves_is_recorded_and_metadata_is_not():
    escapes = Escapes()
    a = vg.track_provenance(torch.ones(3), frozenset({"a"}), escapes)
    _ = a.shape, a.dtype, len(a), a.dim(), a.numel(), a.requires_grad, a.size(0), a.device
    assert not escapes.provenance
    (a * 2)[0].item()
    assert escapes.provenance == {"a"}


def test_the_chain_of_categoricals_carries_its_sources():
    def program():
        a = vg.sample("a", dist.Categorical(torch.tensor([0.3, 0.7])))
        b = vg.sample("b", dist.Categorical(torch.tensor([[0.1, 0.9], [0.8, 0.2]])[a]))
        vg.sample("c", dist.Categorical(torch.tensor([[0.5, 0.5], [0.6, 0.4]])[b]), obs=torch.tensor(0))

    with vg.track_sites():
        trace = vg.handlers.trace(program)()
    densities = {n: vg.get_provenance(m.distribution.log_prob(m.value)) for n, m in trace.samples.items()}
    assert densities == {"a": {"a"}, "b": {"a", "b"}, "c": {"a", "b"}}


def test_compiled_code_is_compiled_again_after_runs_in_many_threads():
    from torch._dynamo import eval_frame

    compiled = torch.compile(lambda x: x * 2, backend="eager")
    compiled(torch.ones(()))
    before = eval_frame._stance
    bounds = [vg.ELBO()(*programs(compiled, Score(), False)) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda bound: [bound.estimate().value for _ in range(5)], bounds))
    assert eval_frame._stance == before


@pytest.mark.parametrize("write", [False, True])
def test_programs_are_tracked_in_inference_mode(write):
    """Tensors there do not count how often they are written to: a write is known by the name of the function."""

    def model():
        z = vg.sample("z", dist.Bernoulli(torch.tensor(0.3)))
        x = torch.zeros(2)
        if write:
            x[0] = z
        return vg.sample("x", dist.Normal(x.sum() + z.exp(), 1.0), obs=torch.tensor(1.0))

    with torch.inference_mode():
        bound = vg.ELBO()(model, lambda: vg.sample("z", dist.Bernoulli(torch.tensor(0.4))))
        assert bound.evaluate(particles=3) < 0
        assert bound.plan()["z"].leaves == write


@pytest.mark.parametrize("direct", [False, True])
def test_a_kink_behind_a_choice_is_no_kink_of_what_is_above(direct):
    """A discrete choice is drawn, not computed: that `b > 0` jumps is nothing to the `a` that its probability has."""

    def model():
        a = vg.sample("a", dist.Normal(0.0, 1.0))
        b = vg.sample("b", dist.Bernoulli(logits=a))
        if direct:
            b = b + a
        vg.sample("x", dist.Normal(torch.where(b > 0, 1.0, -1.0) + a, 1.0), obs=torch.tensor(1.0))

    def guide():
        a = vg.sample("a", dist.Normal(vg.param("m", 0.2), 1.0))
        vg.sample("b", dist.Bernoulli(logits=vg.param("l", 0.3) + a))

    plan = vg.ELBO()(model, guide).plan()
    assert plan["a"].estimator.startswith("Score" if direct else "Pathwise")


@pytest.mark.parametrize("estimator", [LeaveOneOut(), Score(MovingAverage(0.5))], ids=["leave_one_out", "score"])
def test_a_value_that_leaves_torch_stays_in_its_particle(estimator):
    """The cost of a particle is its own: over all of them, no particle would be left to be a baseline."""

    def model():
        z = vg.sample("z", dist.Bernoulli(torch.tensor(0.4, dtype=torch.float64)))
        loc = torch.as_tensor(np.sin(2 * np.asarray(z.detach()) + 0.3))
        vg.sample("x", dist.Normal(loc, 1.0), obs=torch.tensor(0.9, dtype=torch.float64))

    def guide():
        logits = vg.param("t", torch.tensor(0.7, dtype=torch.float64))
        vg.sample("z", dist.Bernoulli(logits=logits), estimator=estimator)

    bound = vg.ELBO(particles=2)(model, guide)
    assert bound.side_by_side and bound.plan()["z"].leaves
    assert largest_difference(expected_gradient(bound).mean, exact_gradient(bound)[1]) < 1e-9


def test_a_plate_that_a_function_returns_swallows_no_errors():
    """Its `with` statement is one of a manager of unknown class, unless the plate says by which it was entered."""

    def each(n):
        return vg.plate("n", n)

    def model(x):
        with each(len(x)):
            z = vg.sample("z", dist.Categorical(torch.full((3,), 1 / 3)))
            vg.sample("x", dist.Normal(torch.tensor([-1.0, 0.0, 1.0])[z], 1.0), obs=x)

    def guide(x):
        logits = vg.param("logits", torch.zeros(len(x), 3))
        with each(len(x)):
            vg.sample("z", dist.Categorical(logits=logits))

    x = torch.tensor([0.3, -1.2])
    bound = vg.ELBO(estimators={"z": Enumerate()})(model, guide).init(x)
    for _ in range(3):
        bound(x).backward()
    assert not bound.plan(x)["z"].cross_element
