"""Tensors of no dimensions, of no entries and of one: every operation and its gradient, in C, is torch's.

And what happens where a rule of the translation fails all the same: the step is refused, and the run goes on.
"""

from dataclasses import replace

import pytest
import torch
from graph_harness import InC, assert_close, by_graph, by_python, specializations, svi_of
from programs_for_svi import DATA, normal_guide, normal_model
from test_c_codegen import check
from test_compiled_bad_input import heard
from torch.nn import functional as F

import varigrad as vg
from varigrad import distributions as dist
from varigrad.compile.backends import compilation, inductor
from varigrad.compile.backends.c import codegen, library, ops_pointwise
from varigrad.compile.backends.c.codegen import RULES
from varigrad.compile.backends.worker import CompilerError
from varigrad.compile.step import compiled_step, flat_state, stages
from varigrad.compile.trace import traced_function, tracer

t = torch.tensor
ZERO, ONE, NONE = t(0), t([0]), torch.zeros(0, dtype=torch.int64)


def zero(x):
    return torch.zeros_like(x, dtype=torch.int64)


def first(x):
    return x.narrow(-1, 0, 1) if x.dim() else x


OPERATIONS = {
    "flip": lambda x: x.flip(-1),
    "flip none": lambda x: x.flip(()),
    "roll": lambda x: x.roll(1),
    "sum": lambda x: x.sum(-1),
    "sum keepdim": lambda x: x.sum(-1, keepdim=True),
    "mean": lambda x: x.mean(-1),
    "mean of all": lambda x: x.mean(),
    "prod": lambda x: x.prod(-1),
    "softmax": lambda x: x.softmax(-1),
    "log_softmax": lambda x: x.log_softmax(-1),
    "logsumexp": lambda x: x.logsumexp(-1, keepdim=True),
    "cumsum": lambda x: x.cumsum(-1),
    "cumprod": lambda x: x.cumprod(-1),
    "cummax": lambda x: x.cummax(-1)[0],
    "sort": lambda x: x.sort(-1)[0],
    "topk": lambda x: x.topk(1)[0],
    "median": lambda x: x.median(-1)[0],
    "max": lambda x: x.max(-1)[0],
    "min keepdim": lambda x: x.min(-1, keepdim=True)[0],
    "amax": lambda x: x.amax(-1),
    "argmax": lambda x: x.argmax(-1) * 1.0,
    "any": lambda x: (x > 0).any(-1) * 1.0,
    "std": lambda x: x.std(-1, correction=0),
    "norm": lambda x: (x + 3).norm(),
    "gather": lambda x: x.gather(-1, zero(x)),
    "gather of a row": lambda x: x.gather(0, ONE) if x.dim() < 2 else x * 1,
    "gather of a number": lambda x: x.gather(0, ZERO) if x.dim() < 2 else x * 1,
    "index_select": lambda x: x.index_select(-1, ONE),
    "index_select of a number": lambda x: x.index_select(0, ZERO),
    "index_select of none": lambda x: x.index_select(-1, NONE) if x.dim() else x * 1,
    "scatter": lambda x: torch.zeros_like(x).scatter(-1, zero(x), x),
    "scatter a number": lambda x: torch.zeros(2).to(x).scatter(0, ZERO, x.sum()),
    "scatter into a number": lambda x: torch.zeros(()).to(x).scatter(0, ZERO, x.sum()),
    "scatter a row into a number": lambda x: torch.zeros(()).to(x).scatter(0, ONE, x.sum().reshape(1)),
    "scatter a value": lambda x: x.scatter(-1, zero(x), 2.0),
    "scatter_add": lambda x: x.scatter_add(-1, zero(x), x),
    "index_add": lambda x: x.index_add(-1, ONE, first(x)),
    "index_add with a factor": lambda x: x.index_add(-1, ONE, first(x), alpha=2),
    "index_copy": lambda x: x.index_copy(-1, ONE, 2 * first(x)),
    "index_fill": lambda x: x.index_fill(-1, ONE, 1.0),
    "index_put": lambda x: torch.zeros(3).to(x).index_put((ZERO,), x.sum()),
    "index_put, added": lambda x: torch.zeros(3).to(x).index_put((t([0, 1, 1]),), x.sum(), accumulate=True),
    "index of none": lambda x: x.reshape(-1)[NONE],
    "take_along_dim": lambda x: x.take_along_dim(zero(x), 0),
    "cat": lambda x: torch.cat([torch.zeros(0).to(x), x.reshape(-1), x.reshape(-1)]),
    "stack": lambda x: torch.stack([x, x], -1),
    "slice": lambda x: x.unsqueeze(-1)[..., :0].sum() + x.sum(),
    "slice_scatter": lambda x: torch.slice_scatter(x.unsqueeze(-1), x.unsqueeze(-1), -1),
    "select_scatter": lambda x: torch.select_scatter(x.unsqueeze(-1), x, -1, 0),
    "diag_embed": lambda x: torch.diag_embed(x.unsqueeze(-1)),
    "tril": lambda x: x.reshape(-1, 1).tril(),
    "outer": lambda x: torch.outer(x.reshape(-1), x.reshape(-1)),
    "dot": lambda x: x.reshape(-1).dot(x.reshape(-1)),
    "mm": lambda x: x.reshape(1, -1) @ x.reshape(-1, 1),
    "bmm of none": lambda x: torch.zeros(0, 2, 3).to(x).bmm(torch.zeros(0, 3, 2).to(x)).sum() + x.sum(),
    "embedding": lambda x: F.embedding(ZERO, x.reshape(-1, 1)),
    "logsigmoid": F.logsigmoid,
    "cross entropy": lambda x: F.cross_entropy(x.reshape(1, -1), ONE),
    "expand": lambda x: x.expand(3, *x.shape) * 1,
    "sgn": lambda x: x.sgn() * x,
    "where": lambda x: torch.where(x > 0, x, 0.0),
}
SHAPES = [(), (1,), (0,), (0, 3), (3, 0), (1, 3), (3, 2)]


def with_gradient(operation):
    def both(x):
        with torch.enable_grad():
            y = operation(x)
            if not y.requires_grad:
                return y.detach()
            (gradient,) = torch.autograd.grad((y * y.cos()).sum(), x, allow_unused=True)
        return [y.detach(), *([] if gradient is None else [gradient])]

    return both


@pytest.mark.filterwarnings("ignore:.*degrees of freedom is <= 0")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_small_tensors(shape, tmp_path, monkeypatch):
    """Those that torch itself takes, in one library."""
    monkeypatch.setenv("VARIGRAD_CACHE", str(tmp_path))
    count = max(1, torch.Size(shape).numel())
    x = torch.linspace(-1.3, 0.9, count)[: torch.Size(shape).numel()].reshape(shape) + 0.1
    x.requires_grad_()
    possible = []
    for operation in map(with_gradient, OPERATIONS.values()):
        try:
            operation(x)
        except (RuntimeError, IndexError):  # torch does not take it
            continue
        possible.append(operation)
    assert len(possible) > 35
    check(possible, [x], calls=True)


CHANGES = {
    "flip of a number": lambda m: m.flip(-1),
    "scatter into a number": lambda m: torch.zeros(()).scatter(0, t(0), m),
    "a number at an index": lambda m: torch.zeros(3).index_put((t(0),), m).sum(),
}


@pytest.mark.parametrize("name", CHANGES)
def test_parameters_without_dimensions(name, tmp_path, monkeypatch):
    monkeypatch.setenv("VARIGRAD_CACHE", str(tmp_path))

    def guide(data):
        m = vg.param("m", 0.5)
        vg.sample("z", dist.Normal(m + CHANGES[name](m), 1.0))

    def make():
        return svi_of(normal_model, guide)

    with by_python():
        expected = make().run(30, DATA).losses
    with by_graph(kind=InC), heard() as said:
        svi = make()
        assert_close(svi.run(30, DATA).losses, expected, rtol=1e-4, atol=1e-5)
    assert not said and specializations(svi)[0].graph_steps == 28


# Where a rule fails


def broken(*given, **options):
    raise ZeroDivisionError("integer modulo by zero")


def in_a_rule(patch):
    patch.setitem(RULES, "exp", broken)
    patch.setattr(inductor, "cxx_compiler", no_compiler)


def no_compiler():
    raise CompilerError("there is no C++ compiler (install g++)")


def in_c(patch):
    patch.setattr(codegen._Translation, "program", broken)
    patch.setattr(inductor, "cxx_compiler", no_compiler)


PLACES = {
    "recording": (
        lambda patch: patch.setattr(tracer, "decomposed", broken),
        "because ZeroDivisionError: integer modulo by zero",
    ),
    "memory": (
        lambda patch: patch.setattr(flat_state.Bucket, "joined", broken),
        "because ZeroDivisionError: integer modulo by zero",
    ),
    "taking over": (
        lambda patch: patch.setattr(flat_state.FlatState, "take", broken),
        "because ZeroDivisionError: integer modulo by zero",
    ),
    "watching": (
        lambda patch: patch.setattr(compiled_step, "Guards", broken),
        "because ZeroDivisionError: integer modulo by zero",
    ),
    "writing over": (
        lambda patch: patch.setattr(traced_function, "_overwrite", broken),
        "because ZeroDivisionError: integer modulo by zero",
    ),
    "a rule": (in_a_rule, "C cannot be written: RuntimeError: aten.exp.default ("),
    "writing C": (in_c, "C cannot be written: ZeroDivisionError: integer modulo by zero"),
    "compiling": (
        lambda patch: patch.setattr(compilation, "CompilerProcess", broken),
        "the graph cannot be handed to the compiler: ZeroDivisionError: integer modulo by zero",
    ),
    "loading": (
        lambda patch: patch.setattr(library, "CLibrary", broken),
        "because ZeroDivisionError: integer modulo by zero",
    ),
    "the first call": (
        lambda patch: patch.setattr(library.CLibrary, "run", broken),
        "the graph fails where the program does not: ZeroDivisionError: integer modulo by zero",
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_mistake_refuses_the_step(place, tmp_path, monkeypatch):
    """One warning, with the reason; Python's numbers, as if nothing had been tried."""
    monkeypatch.setenv("VARIGRAD_CACHE", str(tmp_path))
    make = lambda compile: vg.SVI(normal_model, normal_guide, vg.optim.Adam(lr=0.05), seed=0, compile=compile)  # noqa: E731
    with by_python():
        svi = make(True)
        expected = [svi.run(12, DATA).losses, svi.state()["bound"]]
    breaks, text = PLACES[place]
    breaks(monkeypatch)
    with heard() as said:
        svi = make("wait")
        found = [svi.run(12, DATA).losses, svi.state()["bound"]]
    assert len(said) == 1 and said[0].startswith("steps run eagerly. ") and text in said[0], said
    assert_close(found, expected, rtol=0, atol=0)
    assert text in svi.explain()


def test_a_mistake_names_the_users_line(tmp_path, monkeypatch):
    monkeypatch.setenv("VARIGRAD_CACHE", str(tmp_path))

    def model(data):
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        scale = torch.sinh(z.cosh())  # this line
        vg.sample("x", dist.Normal(z, 1.0 + scale), obs=data[0])

    def failing(name, *given):
        if name == "sinh":
            raise IndexError("list index out of range")
        return real(name, *given)

    real = ops_pointwise.special
    monkeypatch.setattr(ops_pointwise, "special", failing)
    monkeypatch.setattr(inductor, "cxx_compiler", no_compiler)
    with heard() as said:
        vg.SVI(model, normal_guide, vg.optim.Adam(lr=0.05), seed=0, compile="wait").run(6, DATA)
    line = "scale = torch.sinh(z.cosh())  # this line"
    assert len(said) == 1 and f"aten.sinh.default ({__file__}:" in said[0] and f"{line}): IndexError: list" in said[0]


# Which quantity differs


def drifting():
    """A program that reads what cannot be watched."""
    holder = iter(range(10**6))

    def model(data):
        number = float(next(holder))
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        vg.sample("x", dist.Normal(z, 1.0), obs=data[0] + number)

    return model


def test_the_quantity_that_differs_is_named():
    with by_graph(), heard() as said:
        svi = svi_of(drifting(), normal_guide)
        svi.run(10, DATA)
    assert len(said) == 1
    text = said[0]
    assert "the recorded step and the program do not agree: " in text
    assert "clock" not in text and "file" not in text
    assert " by graph and " in text and " by Python, and another number when Python runs the step again" in text
    assert "with arguments (float32[6])" in text and "Of all that is watched nothing has changed" in text


@pytest.mark.parametrize(
    ("target", "entry", "text"),
    [
        (0, 0, "parameter 'loc' is"),
        (0, 1, "parameter 'scale' is"),
        (1, 1, "'exp_avg' of the gradient of 'scale' is"),
        (2, 0, "'exp_avg_sq' of the gradient of 'loc' is"),
        (3, 0, "how many steps the optimiser has taken is"),
        (4, 0, "the state of the estimator at 'z' is"),
        (5, 0, "whether steps are still taken is"),
        (6, 0, "the loss is"),
        (6, 1, "the norm of the gradient is"),
        (7, 0, "the number of the step is"),
    ],
)
def test_every_quantity_has_a_name(target, entry, text):
    """A graph that is wrong in one number."""
    config = vg.ELBO(estimators={"z": vg.estimators.Score(vg.estimators.MovingAverage(0.9))})
    with by_graph(), heard() as said:
        svi = svi_of(normal_model, normal_guide, config)
        svi.run(4, DATA)
        recorded_step = specializations(svi)[0].step.traced
        real = recorded_step.run

        def wrong(count=1):
            real(count)
            tensor = recorded_step.targets[target].view(-1)
            tensor[entry] = not tensor[entry] if tensor.dtype == torch.bool else tensor[entry] + 7

        recorded_step.run, recorded_step._loose = wrong, {}
        (own,) = specializations(svi)
        own.progress = replace(own.progress, stage=stages.Stage.CHECKING, next_check=own.graph_steps)
        svi.run(2, DATA)
    assert len(said) == 1 and f"do not agree: {text}" in said[0], said
    assert "another number" not in said[0]


def test_gradients_and_buffers_have_names_too():
    net = torch.nn.BatchNorm1d(1)

    def model(data):
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        vg.sample("x", dist.Normal(z + net(data[:, None]).sum(), 1.0), obs=data[0])

    def guide(data):
        vg.module("net", net)
        normal_guide()

    optim = vg.optim.Optimizer(torch.optim.RMSprop, {"lr": 0.01})
    with by_graph():
        svi = svi_of(model, guide, optim=optim).init(DATA)
        svi.run(4, DATA)
        told = specializations(svi)[0].step._output_names.in_words
        count = len(specializations(svi)[0].step.traced.targets)
    difference = traced_function.Difference(0, 0, 1.0, 2.0, True)
    assert told(difference) == "the gradient of 'net.weight' is 1 by graph and 2 by Python" or "loc" in told(difference)
    assert "the buffer 'net.running_" in told(difference._replace(target=count))


def test_a_wrong_graph_costs_no_number():
    """Python's step is taken where a check disagrees, and all steps after it."""

    def make():
        return svi_of(normal_model, normal_guide)

    with by_python():
        svi = make()
        expected = [svi.run(12, DATA).losses, svi.state()["bound"]]
    with by_graph(), heard() as said, pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            traced_function.TracedFunction, "agrees", lambda self: (_ for _ in ()).throw(RuntimeError("boom"))
        )
        svi = make()
        found = [svi.run(12, DATA).losses, svi.state()["bound"]]
    assert_close(found, expected, rtol=0, atol=0)
    assert len(said) == 1 and "the graph fails where the program does not: RuntimeError: boom" in said[0]


def test_warnings_are_given_once():
    with by_graph(), heard() as said:
        svi = svi_of(drifting(), normal_guide)
        svi.run(10, DATA)
        svi.run(10, DATA)
    assert len(said) == 1
