"""Laws of steps by kernels, by graphs, in loops of one's own, and through Pyro's names."""

import warnings

import torch
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
    one,
    program,
    stepped,
    together,
)
from torch import nn

import varigrad as vg
from step_laws.base import LAWS, WAIT, law, raises
from varigrad.compat.pyro import optim as pyro_optim
from varigrad.errors import ParameterError
from varigrad.testing import assert_step


@law
def eager_steps():
    before = {kind: data.clone() for kind, data in DATA.items()}
    for name in ("vg Adam", "vg SGD momentum", "ClippedAdam, all options", "AdagradRMSProp", "SGD nesterov foreach"):
        ours, plain = OPTIMIZERS[name]
        for layout, case in LAYOUTS.items():
            expected = followed(case.loss, case.make(torch.float64), plain)
            assert_close(stepped(case.loss, case.make(torch.float64), ours)[0], expected, name=(layout, name))
    for kind, data in before.items():
        assert DATA[kind].equal(data) and MINUS_DATA[kind].equal(-data)


@law
def steps_of_fused_kernels():
    ours, plain = OPTIMIZERS["Adam fused"]
    for layout, case in LAYOUTS.items():
        if "strided" not in layout:
            expected = followed(case.loss, case.make(torch.float32), plain)
            assert_close(stepped(case.loss, case.make(torch.float32), ours)[0], expected, name=layout)


@law
def clipping_scales_once():
    plain = OPTIMIZERS["vg SGD"][1]
    for limit in (0.5, 1e6):
        optim = vg.optim.SGD(lr=0.01, clip_norm=limit)
        for layout in ("one gradient for two", "views of one gradient", "sum", "expand"):
            case = LAYOUTS[layout]
            expected = followed(case.loss, case.make(torch.float64), plain, clip_norm=limit)
            assert_close(stepped(case.loss, case.make(torch.float64), optim)[0], expected, name=layout)
        case = LAYOUTS["sum"]
        expected = followed(case.loss, case.make(torch.float64), plain, WAIT, clip_norm=limit)
        assert_close(stepped(case.loss, case.make(torch.float64), optim, WAIT, compile="wait")[0], expected, WAIT)


@law
def a_gradient_that_is_set_by_hand():
    (w,), (v,) = one(5)(torch.float32), one(5)(torch.float32)
    ours, plain = vg.optim.Adam(lr=0.02).build([("w", w)]), torch.optim.Adam([v], lr=0.02, foreach=False)
    for _ in range(STEPS):
        w.grad, v.grad = torch.ones(1).expand(5), torch.ones(5)
        ours.step()
        plain.step()
    assert_close([w.detach()], [v.detach()])


@law
def moments_in_another_order():
    case = LAYOUTS["transposed parameter"]
    for name in ("vg Adam", "Adam fused"):
        for moment in ("exp_avg", "exp_avg_sq"):
            ours, plain = OPTIMIZERS[name]
            expected = followed(case.loss, case.make(torch.float32), plain)
            parameters = case.make(torch.float32)
            svi = vg.SVI(*program(case.loss, parameters), ours, seed=0)
            for _ in range(STEPS):
                svi.step()
                kept = svi.optimizer.state[parameters[0]]
                kept[moment] = kept[moment].contiguous()
            assert_close([p.detach() for p in parameters], expected)


@law
def a_moment_of_another_shape():
    svi = vg.SVI(*program(LAYOUTS["sum"].loss, one(5)(torch.float32)), vg.optim.Adam(lr=0.02), seed=0)
    svi.step()
    (kept,) = svi.optimizer.state.values()
    kept["exp_avg"] = torch.zeros(2)
    raises(RuntimeError, "size", svi.step)


@law
def gaps_and_overlaps_are_refused():
    case, fused = LAYOUTS["strided parameter"], OPTIMIZERS["Adam fused"][0]
    raises(ParameterError, "has gaps", lambda: stepped(case.loss, case.make(torch.float32), fused))
    overlapping = nn.Parameter(torch.ones(1).expand(4))
    raises(ParameterError, "overlaps itself", lambda: stepped(lambda w: far(w.sum()), [overlapping], vg.optim.Adam()))


@law
def complex_parameters():
    case = LAYOUTS["sum"]
    expected = followed(case.loss, case.make(torch.complex64), OPTIMIZERS["vg Adam"][1])
    assert_close(stepped(case.loss, case.make(torch.complex64), vg.optim.Adam(lr=0.02))[0], expected)


@law
def clipped_adam_leaves_gradients():
    (w,) = one(5)(torch.float32)
    optimizer = OPTIMIZERS["ClippedAdam, all options"][0].build([("w", w)])
    grad = w.grad = torch.tensor([3.0, -3.0, 0.1, 0.0, 1.0])
    optimizer.step()
    assert grad.equal(torch.tensor([3.0, -3.0, 0.1, 0.0, 1.0]))


def _compiled(title, name):
    def holds():
        ours, plain = OPTIMIZERS[name]
        loss, parameters, _ = together(COMPILED, torch.float64)
        expected = followed(loss, parameters, plain, WAIT)
        loss, parameters, names = together(COMPILED, torch.float64)
        found, svi = stepped(loss, parameters, ours, WAIT, compile="wait")
        (form,) = svi._step_compiler.specializations.values()
        assert form.graph_steps == WAIT - 2 and not form.refusal
        for layout, a, b in zip(names, found, expected, strict=True):
            assert_close([a], [b], WAIT, name=layout)

    LAWS[f"compiled steps by {title}"] = holds


for _title, _name in {
    "adam": "vg Adam",
    "adamw": "AdamW",
    "adam with decay": "Adam weight decay",
    "sgd": "SGD decay",
    "nesterov": "SGD nesterov",
    "rmsprop": "RMSprop",
}.items():
    _compiled(_title, _name)


@law
def a_graph_that_begins_anew():
    """Back at the first state, the graph takes the first step as well."""
    case, (ours, plain) = LAYOUTS["transpose"], OPTIMIZERS["SGD decay"]
    expected = followed(case.loss, case.make(torch.float64), plain, WAIT)
    parameters = case.make(torch.float64)
    svi = vg.SVI(*program(case.loss, parameters), ours, seed=0, compile="wait").init()
    start = svi.state()
    svi.run(WAIT, progress=False)
    assert_close([p.detach() for p in parameters], expected, WAIT)
    later, by_graph = svi.state(), next(iter(svi._step_compiler.specializations.values())).graph_steps
    svi.load_state({**later, "bound": start["bound"], "optimizer": start["optimizer"]})
    svi.run(WAIT, progress=False)
    assert_close([p.detach() for p in parameters], expected, WAIT)
    (form,) = svi._step_compiler.specializations.values()
    assert form.graph_steps == by_graph + WAIT  # the very first step was the graph's, too


@law
def from_compiled_steps_to_eager_ones():
    case, (ours, plain) = LAYOUTS["transpose"], OPTIMIZERS["vg Adam"]
    expected = followed(case.loss, case.make(torch.float64), plain, WAIT + STEPS)
    parameters = case.make(torch.float64)
    svi = vg.SVI(*program(case.loss, parameters), ours, seed=0, compile="wait")
    svi.run(WAIT, progress=False)
    svi.run(STEPS, progress=False, compile=False)
    assert_close([p.detach() for p in parameters], expected, WAIT + STEPS)


@law
def a_user_may_keep_gradients():
    (w,) = one(5)(torch.float32)
    svi = vg.SVI(*program(LAYOUTS["sum"].loss, [w]), OPTIMIZERS["RMSprop"][0], seed=0, compile="wait")
    kept = []
    for _ in range(WAIT):
        svi.step()
        kept.append(w.grad)
    assert len({float(g[0]) for g in kept}) == WAIT


def loops_of_ones_own():
    ours, plain = OPTIMIZERS["Adam"]
    case = LAYOUTS["transposed parameter, summed"]
    expected = followed(case.loss, case.make(torch.float64), plain, WAIT)
    for by_graph in (False, True):
        parameters = case.make(torch.float64)
        bound = vg.ELBO()(*program(case.loss, parameters))
        objective = vg.compiled(bound, wait=True, seed=0) if by_graph else bound
        own = ours.build([("w", parameters[0])])
        for _ in range(WAIT):
            own.zero_grad()
            objective().backward()
            own.step()
        assert_close([p.detach() for p in parameters], expected, WAIT)


LAWS["loops of one's own"] = loops_of_ones_own


@law
def hooks_of_parameters_in_loops_of_ones_own():
    """Each is run once by `backward()`, and not by what finds the gradient before it, in Python or by graph."""

    def ran(kind, begin, end, by_graph):
        case = LAYOUTS["transposed parameter"]
        (w,) = case.make(torch.float64)
        bound = vg.ELBO()(*program(case.loss, [w]))
        objective = vg.compiled(bound, wait=True, seed=0) if by_graph else bound
        calls, handle, found = [], None, []
        hooks = {
            "changes": lambda g: calls.append(g.clone()) or g * 5,
            "looks": lambda g: calls.append(g.clone()),
            "after accumulation": lambda p: calls.append(p.grad.clone()) or setattr(p, "grad", p.grad * 5),
        }
        for i in range(WAIT):
            if i == begin:
                by = w.register_post_accumulate_grad_hook if kind == "after accumulation" else w.register_hook
                handle = by(hooks[kind])
            if i == end:
                handle.remove()
            w.grad = None
            objective().backward()
            found.append(w.grad)
            with torch.no_grad():
                w -= 0.01 * w.grad
        if by_graph:
            (form,) = objective._step_compiler.specializations.values()
            assert form.graph_steps == WAIT - 2 and not form.refusal
        return [*found, torch.tensor(len(calls)), *calls]

    for kind in ("changes", "looks", "after accumulation"):
        for begin, end in ((0, WAIT), (0, 7), (7, WAIT), (6, 9)):
            expected = ran(kind, begin, end, False)
            assert int(expected[WAIT]) == end - begin
            for a, b in zip(ran(kind, begin, end, True), expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@law
def a_compiled_gradient_is_what_hooks_leave_of_it():
    case = LAYOUTS["sum"]
    (w,) = case.make(torch.float64)
    objective = vg.compiled(vg.ELBO()(*program(case.loss, [w])), wait=True, seed=0)
    for _ in range(4):
        _, before = objective.gradient()
    plain = before[w].clone()
    w.register_hook(lambda g: g * 5)
    w.register_hook(lambda g: g + 1)
    torch.testing.assert_close(objective.gradient()[1][w], plain * 5 + 1)


def _frozen(title, compile):
    def holds():
        case = LAYOUTS["broadcast"]
        parameters, twins = case.make(torch.float64), case.make(torch.float64)
        own = OPTIMIZERS["vg SGD momentum"][1](twins)
        svi = vg.SVI(*program(case.loss, parameters), OPTIMIZERS["vg SGD momentum"][0], seed=0, compile=compile)
        for frozen in (False, True, False, True):
            before = parameters[0].detach().clone()
            for ps in (parameters, twins):
                ps[0].requires_grad_(not frozen)
            svi.run(WAIT, progress=False)
            for _ in range(WAIT):
                own.zero_grad()
                case.loss(*twins).backward()
                own.step()
            assert before.equal(parameters[0]) == frozen
            assert_close([p.detach() for p in parameters], [p.detach() for p in twins], 4 * WAIT)

    LAWS[f"frozen parameters{title}"] = holds


_frozen("", False)
_frozen(", compiled", "wait")


@law
def an_optimiser_of_others():
    stranger = nn.Parameter(torch.zeros(2))
    (w,) = one(5)(torch.float32)
    svi = vg.SVI(*program(LAYOUTS["sum"].loss, [w]), lambda ps: torch.optim.SGD([stranger], lr=0.1), seed=0)
    for _ in range(2):
        raises(ParameterError, "holds parameters that are not the objective's", svi.step)


@law
def autocast_around_a_loop():
    found = []
    for cached in (False, True):
        net = nn.Linear(2, 6)
        with torch.no_grad():
            net.weight.fill_(0.3)
            net.bias.fill_(-0.2)

        def model(net=net):
            vg.module("net", net)
            vg.factor("f", -far(net(torch.ones(4, 2)).float()))

        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cached):
            bound = vg.ELBO()(model, lambda: None)
            own = torch.optim.SGD(net.parameters(), lr=0.01)
            losses = []
            for _ in range(STEPS):
                own.zero_grad()
                loss = bound()
                loss.backward()
                own.step()
                losses.append(loss.item())
        found.append(losses)
    assert found[0] == found[1] and found[0][-1] < 0.9 * found[0][0]


@law
def compat_follows_gradients_of_its_own():
    settings = {"lr": 0.01, "momentum": 0.8, "nesterov": True, "foreach": True}  # which adds to gradients in place
    case, plain = LAYOUTS["views of one gradient"], OPTIMIZERS["SGD nesterov"][1]
    expected = followed(case.loss, case.make(torch.float64), plain)
    optimizer, parameters = pyro_optim.SGD(settings), case.make(torch.float64)
    for _ in range(STEPS):
        for p in parameters:
            p.grad = None
        case.loss(*parameters).backward()
        optimizer(parameters)
    assert_close([p.detach() for p in parameters], expected)


class _ByMemory(torch.optim.SGD):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p -= group["lr"] * p.grad.as_strided((p.numel(),), (1,)).view(p.shape)


class _OwnByMemory(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    step = _ByMemory.step


@law
def assert_step_finds_what_reads_by_memory():
    case = LAYOUTS["transposed parameter"]
    for kind, settings in ((_ByMemory, {"lr": 0.1}), (_OwnByMemory, {})):
        optim = vg.optim.Optimizer(kind, settings)
        svi = vg.SVI(*program(case.loss, case.make(torch.float32)), optim, seed=0)
        raises(AssertionError, "is off by", lambda svi=svi: assert_step(svi))
    with warnings.catch_warnings(action="ignore"):
        assert_step(vg.SVI(*program(case.loss, case.make(torch.float32)), vg.optim.Adam(lr=0.1), seed=0))
