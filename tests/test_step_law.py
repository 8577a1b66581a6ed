"""The step law: n steps are n steps of torch's plain optimiser along the gradients that `backward()` leaves."""

import pytest
import torch
from step_laws import LAWS
from step_programs import (
    COMPILED,
    DATA,
    LAYOUTS,
    MINUS_DATA,
    OPTIMIZERS,
    STEPS,
    assert_close,
    far,
    followed,
    like,
    one,
    program,
    stepped,
    together,
)
from torch import nn

import varigrad as vg
from varigrad.compile.backends.c import library
from varigrad.errors import ParameterError
from varigrad.inference.eager_step import GradientWarning


@pytest.fixture(autouse=True)
def _nobody_writes_into_the_users_data():
    before = {kind: data.clone() for kind, data in DATA.items()}
    yield
    for kind, data in before.items():
        assert DATA[kind].equal(data) and MINUS_DATA[kind].equal(-data)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("optimizer", ["vg Adam", "vg SGD momentum", "ClippedAdam, all options"])
def test_eager_steps_are_torchs(layout, optimizer):
    case, (ours, plain) = LAYOUTS[layout], OPTIMIZERS[optimizer]
    expected = followed(case.loss, case.make(torch.float32), plain)
    found, _ = stepped(case.loss, case.make(torch.float32), ours)
    assert_close(found, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_clipping_scales_once(layout):
    case = LAYOUTS[layout]
    plain = OPTIMIZERS["vg SGD"][1]
    expected = followed(case.loss, case.make(torch.float32), plain, clip_norm=0.5)
    found, _ = stepped(case.loss, case.make(torch.float32), vg.optim.SGD(lr=0.01, clip_norm=0.5))
    assert_close(found, expected)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_follows_every_layout(optimizer):
    ours, plain = OPTIMIZERS[optimizer]
    for layout, case in LAYOUTS.items():
        parameters = case.make(torch.float32)
        if optimizer == "Muon" and any(p.dim() != 2 for p in parameters):
            continue
        if optimizer == "Adafactor" and any(p.numel() == 0 for p in parameters):
            continue  # torch divides by the number of elements
        if "fused" in optimizer and "strided" in layout:
            with pytest.raises(ParameterError, match="has gaps in memory"):
                stepped(case.loss, parameters, ours)
            continue
        expected = followed(case.loss, case.make(torch.float32), plain)
        found, _ = stepped(case.loss, parameters, ours)
        assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64])
@pytest.mark.parametrize("optimizer", ["vg Adam", "SGD nesterov foreach", "ClippedAdam"])
def test_eager_steps_of_every_type(optimizer, dtype):
    ours, plain = OPTIMIZERS[optimizer]
    for layout, case in LAYOUTS.items():
        if dtype is torch.float16 and layout in ("diagonal", "index"):
            continue  # gradients of zero: torch's plain Adam divides them by an eps that half precision rounds to zero
        if dtype is torch.complex64 and (optimizer == "ClippedAdam" or layout == "the user's data"):
            continue  # torch does not clamp complex numbers, nor differentiate what is complex
        expected = followed(case.loss, case.make(dtype), plain)
        found, _ = stepped(case.loss, case.make(dtype), ours)
        assert_close(found, expected)


# Compiled

WAIT = 12
"""Steps: two by Python, two that Python checks, and the rest by the library alone."""


def _assert_compiled(svi, maker):
    form, *others = svi._step_compiler.specializations.values()
    assert not others and not form.refusal, form.refusal
    assert (form.eager_steps, form.graph_steps) == (2, WAIT - 2) and form.progress.disagreed == 0
    assert form.step.traced.compilation.library.maker == maker


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "optimizer", ["vg Adam", "AdamW", "SGD decay", "SGD nesterov", "RMSprop", "SGD nesterov foreach"]
)
def test_compiled_steps_of_all_layouts_in_one_program(optimizer, dtype):
    ours, plain = OPTIMIZERS[optimizer]
    loss, parameters, names = together(COMPILED, dtype)
    expected = followed(loss, parameters, plain, WAIT)
    loss, parameters, names = together(COMPILED, dtype)
    found, svi = stepped(loss, parameters, ours, WAIT, compile="wait")
    _assert_compiled(svi, "C")
    for name, a, b in zip(names, found, expected, strict=True):
        assert_close([a], [b], WAIT, name=name)


def test_compiled_steps_are_clippedtogether():
    loss, parameters, _ = together(COMPILED, torch.float32)
    expected = followed(loss, parameters, OPTIMIZERS["vg SGD"][1], WAIT, clip_norm=0.5)
    loss, parameters, names = together(COMPILED, torch.float32)
    found, svi = stepped(loss, parameters, vg.optim.SGD(lr=0.01, clip_norm=0.5), WAIT, compile="wait")
    _assert_compiled(svi, "C")
    for name, a, b in zip(names, found, expected, strict=True):
        assert_close([a], [b], WAIT, name=name)


CELLS = [
    (optimizer, layout)
    for optimizer in ("vg Adam", "SGD decay", "Adam fused", "ClippedAdam, all options")
    for layout in COMPILED
    if not (optimizer == "Adam fused" and "strided" in layout)  # torch's kernel would read the gaps: refused
]


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "layout"), CELLS)
def test_compiled_steps_of_each_layout(layout, optimizer):
    case, (ours, plain) = LAYOUTS[layout], OPTIMIZERS[optimizer]
    expected = followed(case.loss, case.make(torch.float32), plain, WAIT)
    found, svi = stepped(case.loss, case.make(torch.float32), ours, WAIT, compile="wait")
    _assert_compiled(svi, "C")
    assert_close(found, expected, WAIT)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_steps_by_inductor(dtype, monkeypatch):
    if dtype is torch.float32:
        monkeypatch.setattr(library, "ROOM", 0)  # nothing is small enough for C
    chosen = ("sum", "transpose", "channels-last parameter", "strided parameter", "broadcast", "a number", "empty")
    cases = {name: LAYOUTS[name] for name in chosen}
    loss, parameters, names = together(cases, dtype)
    expected = followed(loss, parameters, OPTIMIZERS["vg Adam"][1], WAIT)
    loss, parameters, names = together(cases, dtype)
    found, svi = stepped(loss, parameters, vg.optim.Adam(lr=0.02), WAIT, compile="wait")
    _assert_compiled(svi, "Inductor")
    for name, a, b in zip(names, found, expected, strict=True):
        assert_close([a], [b], WAIT, name=name)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_compiled_steps_of_every_optimizer(optimizer):
    ours, plain = OPTIMIZERS[optimizer]
    cases = {n: c for n, c in COMPILED.items() if not ("fused" in optimizer and "strided" in n)}
    if optimizer == "Muon":
        cases = {n: c for n, c in cases.items() if all(p.dim() == 2 for p in c.make(torch.float32))}
    if optimizer == "Adafactor":
        del cases["empty"]
    loss, parameters, _ = together(cases, torch.float64)
    expected = followed(loss, parameters, plain, WAIT)
    loss, parameters, names = together(cases, torch.float64)
    found, svi = stepped(loss, parameters, ours, WAIT, compile="wait")
    if optimizer != "LBFGS":  # its line search is Python's
        _assert_compiled(svi, "C")
    for name, a, b in zip(names, found, expected, strict=True):
        assert_close([a], [b], WAIT, name=name)


# Loops of one's own


@pytest.mark.parametrize("optimizer", ["Adam", "Adam fused", "SGD nesterov"])
@pytest.mark.parametrize("by_graph", [False, True], ids=["bound", "compiled"])
def test_loops_of_ones_own(by_graph, optimizer):
    ours, plain = OPTIMIZERS[optimizer]
    cases = {n: c for n, c in COMPILED.items() if "strided" not in n}  # which torch's fused kernel misreads
    loss, parameters, names = together(cases, torch.float32)
    expected = followed(loss, parameters, plain, WAIT)
    loss, parameters, names = together(cases, torch.float32)
    bound = vg.ELBO()(*program(loss, parameters))
    objective = vg.compiled(bound, wait=True, seed=0) if by_graph else bound
    own = ours.build((str(i), p) for i, p in enumerate(parameters))
    for _ in range(WAIT):
        own.zero_grad()
        objective().backward()
        own.step()
    if by_graph:
        (form,) = objective._step_compiler.specializations.values()
        assert not form.refusal and form.graph_steps == WAIT - 2
    for name, a, b in zip(names, parameters, expected, strict=True):
        assert_close([a.detach()], [b], WAIT, name=name)


def test_the_gradients_of_a_compiled_bound_are_laid_out():
    case = LAYOUTS["transposed parameter, summed"]
    (parameter,) = case.make(torch.float32)
    objective = vg.compiled(vg.ELBO()(*program(case.loss, [parameter])), seed=0)
    _, grads = objective.gradient()
    assert grads[parameter].stride() == parameter.stride() == (1, 2)


def test_complex_parameters_are_not_compiled():
    case = LAYOUTS["sum"]
    with pytest.warns(UserWarning, match=r"a parameter is complex; because captured steps update real numbers"):
        found, _ = stepped(case.loss, case.make(torch.complex64), vg.optim.Adam(lr=0.02), compile="wait")
    assert_close(found, followed(case.loss, case.make(torch.complex64), OPTIMIZERS["vg Adam"][1]))


# What optimisers keep


@pytest.mark.parametrize("optimizer", ["vg Adam", "Adam fused", "Adam amsgrad fused", "AdamW fused", "SGD fused"])
def test_moments_in_another_layout(optimizer):
    """Loaded, or made by hand: in the order of rows where the parameter has that of columns."""
    case, (ours, plain) = LAYOUTS["transposed parameter"], OPTIMIZERS[optimizer]
    expected = followed(case.loss, case.make(torch.float32), plain)
    parameters = case.make(torch.float32)
    svi = vg.SVI(*program(case.loss, parameters), ours, seed=0)
    for _ in range(STEPS):
        svi.step()
        kept = svi.optimizer.state[parameters[0]]
        for name, value in kept.items():
            if value.shape == parameters[0].shape:
                kept[name] = value.contiguous()
    assert_close([p.detach() for p in parameters], expected)


def test_a_moment_of_another_shape_is_not_read():
    case = LAYOUTS["sum"]
    svi = vg.SVI(*program(case.loss, case.make(torch.float32)), vg.optim.Adam(lr=0.02), seed=0)
    svi.step()
    (kept,) = svi.optimizer.state.values()
    kept["exp_avg"] = torch.zeros(2)
    with pytest.raises(RuntimeError, match="size"):
        svi.step()


def test_a_gradient_set_by_hand_is_not_misread():
    parameters, twins = one(5)(torch.float32), one(5)(torch.float32)
    ours = vg.optim.Adam(lr=0.02).build([("w", parameters[0])])
    plain = torch.optim.Adam(twins, lr=0.02, foreach=False)
    for _ in range(STEPS):
        parameters[0].grad, twins[0].grad = torch.ones(1).expand(5), torch.ones(5)
        ours.step()
        plain.step()
    assert_close([parameters[0].detach()], [twins[0].detach()])


def test_gradients_that_a_user_keeps_stay():
    """Also those of a compiled step, whose own memory is overwritten."""
    case = LAYOUTS["sum"]
    (parameter,) = case.make(torch.float32)
    svi = vg.SVI(*program(case.loss, [parameter]), OPTIMIZERS["RMSprop"][0], seed=0, compile="wait")
    kept = []
    for _ in range(WAIT):
        svi.step()
        kept.append(parameter.grad)
    assert len({float(g[0]) for g in kept}) == WAIT


# Parameters that nothing can update, come, go, or are frozen


@pytest.mark.parametrize("compile", [False, "wait"])
def test_a_parameter_that_overlaps_itself_is_refused(compile):
    parameter = nn.Parameter(torch.ones(1).expand(4))
    with pytest.raises(ParameterError, match=r"'net.all.0' overlaps itself.*strides are \(0,\).*value.clone"):
        stepped(lambda w: far(w.sum()), [parameter], vg.optim.Adam(), compile=compile)


@pytest.mark.parametrize("compile", [False, "wait"])
@pytest.mark.parametrize("optimizer", ["vg Adam", "RMSprop", "SGD decay"])
def test_freezing_and_unfreezing_in_the_middle_of_a_run(optimizer, compile):
    ours, plain = OPTIMIZERS[optimizer]
    case = LAYOUTS["broadcast"]

    def changed(parameters, run):
        seen = []
        for frozen in (False, True, False, True):
            parameters[0].requires_grad_(not frozen)
            run()
            seen += [p.detach().clone() for p in parameters]
        return seen

    parameters = case.make(torch.float64)
    own = plain(parameters)

    def by_torch():
        for _ in range(WAIT):
            own.zero_grad()
            case.loss(*parameters).backward()
            own.step()

    expected = changed(parameters, by_torch)
    twins = case.make(torch.float64)
    svi = vg.SVI(*program(case.loss, twins), ours, seed=0, compile=compile)
    found = changed(twins, lambda: svi.run(WAIT, progress=False))
    assert found[2].equal(found[0]) and not found[4].equal(found[2]) and found[6].equal(found[4])
    assert_close(found, expected, 4 * WAIT)
    if compile:
        (form,) = svi._step_compiler.specializations.values()
        assert not form.refusal and form.graph_steps > 0


@pytest.mark.parametrize("compile", [False, "wait"])
def test_a_parameter_that_is_frozen_at_first(compile):
    case = LAYOUTS["broadcast"]
    parameters = case.make(torch.float64)
    parameters[0].requires_grad_(False)
    before = parameters[0].detach().clone()
    svi = vg.SVI(*program(case.loss, parameters), vg.optim.Adam(lr=0.02), seed=0, compile=compile)
    svi.run(WAIT, progress=False)
    assert parameters[0].equal(before)
    parameters[0].requires_grad_(True)
    svi.run(WAIT, progress=False)
    assert (parameters[0] - before).abs().min() > 0.1  # twelve steps of 0.02


def test_all_parameters_frozen_is_an_error():
    case = LAYOUTS["sum"]
    parameters = case.make(torch.float32)
    svi = vg.SVI(*program(case.loss, parameters), vg.optim.Adam(), seed=0)
    svi.step()
    parameters[0].requires_grad_(False)
    before = parameters[0].clone()
    for _ in range(2):
        with pytest.raises(ParameterError, match="there is nothing to optimise"):
            svi.step()
    assert parameters[0].equal(before)


@pytest.mark.parametrize("compile", [False, "wait"])
def test_an_optimizer_of_other_parameters_is_an_error_at_every_step(compile):
    stranger = nn.Parameter(torch.zeros(2))
    case = LAYOUTS["sum"]
    svi = vg.SVI(*program(case.loss, case.make(torch.float32)), lambda ps: torch.optim.SGD([stranger], lr=0.1), seed=0)
    for _ in range(3):
        with pytest.raises(ParameterError, match="holds parameters that are not the objective's"):
            svi.step()


def test_a_parameter_that_the_optimizer_was_not_given_is_named():
    case = LAYOUTS["broadcast"]
    svi = vg.SVI(*program(case.loss, case.make(torch.float32)), lambda ps: torch.optim.SGD(ps[:1], lr=0.1), seed=0)
    with pytest.warns(GradientWarning, match=r"'net.all.1' is not in the optimiser: it will not be learnt"):
        svi.step()


def test_a_parameter_that_is_replaced_is_an_error():
    net = nn.Linear(2, 1)

    def model():
        vg.module("net", net)
        vg.factor("f", -far(net(torch.ones(2))))

    svi = vg.SVI(model, lambda: None, vg.optim.Adam(), seed=0)
    svi.step()
    net.weight = nn.Parameter(torch.ones(1, 2))
    with pytest.raises(ParameterError, match=r"shape \(1, 2\) that the optimiser holds is the objective's no more"):
        svi.step()


@pytest.mark.parametrize("compile", [False, "wait"])
def test_a_parameter_whose_memory_is_read_in_another_order(compile):
    """`w.data = w.data.T` begins at the same place, and no version counter tells."""
    case = LAYOUTS["diagonal"]
    loss = lambda w: far(w.flip(1).diagonal().sum()) + far((w * like(w, 3, 3)).sum())  # noqa: E731

    def turned(run, w):
        run()
        w.data = w.data.T
        run()
        return w.detach().clone()

    (w,) = case.make(torch.float64)
    own = torch.optim.SGD([w], lr=0.01)

    def by_torch():
        for _ in range(WAIT):
            own.zero_grad()
            loss(w).backward()
            own.step()

    expected = turned(by_torch, w)
    (v,) = case.make(torch.float64)
    svi = vg.SVI(*program(loss, [v]), vg.optim.SGD(lr=0.01), seed=0, compile=compile)
    assert_close([turned(lambda: svi.run(WAIT, progress=False), v)], [expected], 2 * WAIT)
    if compile:
        (form,) = svi._step_compiler.specializations.values()
        assert not form.refusal and form.graph_steps >= WAIT - 2


@pytest.mark.filterwarnings("ignore:steps run eagerly. a parameter of shape ..,. has become one of shape ..,.")
def test_a_parameter_that_is_cut_short():
    (w,) = one(5)(torch.float64)
    svi = vg.SVI(*program(lambda w: far(w.sum()), [w]), vg.optim.SGD(lr=0.01), seed=0, compile="wait")
    svi.run(WAIT, progress=False)
    rest = w.detach().clone()[:3]
    w.data = w.data[:3]
    svi.run(1, progress=False)
    assert w.shape == (3,)
    twin = rest.clone().requires_grad_()
    far(twin.sum()).backward()
    assert_close([w.detach()], [rest - 0.01 * twin.grad])


@pytest.mark.parametrize(
    "name",
    [
        "autocast around a loop",
        "a graph that begins anew",
        "from compiled steps to eager ones",
        "clipped adam leaves gradients",
        "groups that change, adam",
        "groups that change, sgd",
        "groups that change, rmsprop",
        "hooks of parameters in loops of ones own",
        "a compiled gradient is what hooks leave of it",
    ],
)
def test_laws_of_the_step(name):
    """Those of `tests/step_laws.py` that no test above contains."""
    LAWS[name]()
