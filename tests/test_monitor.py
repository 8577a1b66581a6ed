"""Looks at the gradient's noise: what they say is right, they cost little, and the run never notices them."""

import copy
import functools
import io
import json
import math
import random
import types

import numpy as np
import pytest
import torch
from graph_harness import by_graph, quietly, same, svi_of, taken
from programs_for_svi import DATA, MixedGuide, mixed_model, mixed_svi, normal_guide, normal_model
from registry import UNBIASED
from torch.utils.data import DataLoader, TensorDataset

import varigrad as vg
from varigrad import distributions as dist
from varigrad.compile.trace.tracer import trace
from varigrad.errors import NonFiniteError, VarigradError
from varigrad.estimators import LeaveOneOut, MovingAverage, Pathwise, Score, ValueBaseline
from varigrad.inference import gradient_monitor
from varigrad.inference.noise_history import KEPT, NoiseHistory, NoiseSnapshot
from varigrad.objectives.gradient_draws import by_site, leaves_of
from varigrad.testing import PROGRAMS

t = torch.tensor
often = vg.Gradients(every=3)


def parts_and_whole(bound, *args):
    result = bound.estimate(*args)
    leaves = list(leaves_of(bound).values())
    parts = by_site(result.parts(), leaves)
    return parts, torch.autograd.grad(result.surrogate, leaves, materialize_grads=True), leaves


# What a site's part is


def _cases():
    for i, program in enumerate(PROGRAMS):
        for j, (estimator, entry) in enumerate(UNBIASED.items()):
            if program not in entry.serves or (i + j) % 2:
                continue
            coupled = entry.make().drawing.coupling is not None  # particles that run one by one cannot be coupled
            for vectorize in (None,) if coupled else (None, False):
                marks = [] if (i + j) % 4 == 0 else [pytest.mark.slow]
                yield pytest.param(program, estimator, vectorize, marks=marks, id=f"{estimator}-{program}-{vectorize}")


@pytest.mark.parametrize(("program", "estimator", "vectorize"), list(_cases()))
def test_parts_are_the_whole(program, estimator, vectorize):
    case = PROGRAMS[program]
    config = vg.ELBO(2, {"z*": UNBIASED[estimator].make()}, vectorize=vectorize)
    bound = config(case.model, case.guide).init(*case.args)
    bound.estimate(*case.args)
    for _ in range(3):
        parts, whole, leaves = parts_and_whole(bound, *case.args)
        for i, (leaf, grad) in enumerate(zip(leaves, whole, strict=True)):
            total = sum((p[i] for p in parts.values() if p[i] is not None), torch.zeros_like(leaf))
            torch.testing.assert_close(total, grad, rtol=1e-6, atol=1e-8)


def chain():
    a = vg.sample("a", dist.Normal(0.0, 1.0))
    b = vg.sample("b", dist.Normal(a, 1.0))
    vg.sample("x", dist.Normal(b, vg.param("sd", t(1.0, dtype=torch.float64))), obs=t(2.0, dtype=torch.float64))


def chain_guide():
    one = t(1.0, dtype=torch.float64)
    a = vg.sample("a", dist.Normal(vg.param("m", 0.3 * one), one))
    vg.sample("b", dist.Normal(vg.param("w", 0.5 * one) * a, one))


def test_a_pathwise_part_is_what_comes_by_its_own_draw():
    bound = vg.ELBO()(chain, chain_guide)
    parts, whole, _ = parts_and_whole(bound)
    names = list(leaves_of(bound))
    m, w, sd = (names.index(n) for n in ("m", "w", "sd"))
    assert parts["b"][m] is None or parts["b"][m] == 0  # by way of a, which is held
    assert parts["b"][w] != 0 and parts["a"][m] != 0
    assert (parts["a"][w] is None or parts["a"][w] == 0) and parts[""][sd] == whole[sd]


def test_shares_are_those_of_the_exact_covariances():
    """Gradients m + e and c (n + e'), by hand: variances 1 and c^2, means known."""

    def model():
        a, b = (vg.sample(n, dist.Normal(t(0.0, dtype=torch.float64), 1.0)) for n in "ab")
        vg.factor("f", 3 * b)
        vg.factor("g", -2 * b * b)
        assert a is not b

    def guide():
        for n, start in (("a", 0.5), ("b", 0.0)):
            vg.sample(n, dist.Normal(vg.param(n + "_m", t(start, dtype=torch.float64)), t(1.0, dtype=torch.float64)),
                      estimator=Pathwise(sticking_the_landing=True))  # fmt: skip

    svi = vg.SVI(model, guide, vg.optim.SGD(lr=1e-12), seed=0)
    found = svi.run(300, progress=False, monitor=vg.Gradients(every=1, reach=300)).gradients
    a, b = ({s.name: s for s in found.sites}[n] for n in "ab")
    # log p - log q = -a^2/2 + (a - m)^2/2: its slope in a is -m, without noise; in b: 3 - 4 b, as m = 0.
    assert a.share < 1e-6 and a.snr > 1e3
    assert abs(b.share - 1) < 1e-9 and abs(b.snr - 3 / 4) < 0.15
    assert abs(found.snr - math.sqrt(9 + 0.25) / 4) < 0.15
    assert [p.name for p in found.parameters] == ["b_m", "a_m"]


def test_shares_have_errors_and_sum_to_one():
    fit = mixed_svi().run(60, DATA, progress=False, monitor=often)
    shares = {s.name: s for s in fit.gradients.sites}
    assert abs(sum(s.share for s in shares.values()) - 1) < 1e-6
    assert set(shares) == {"", "shift", "group"} and all(0 < s.share_error < 1 for s in shares.values())
    assert all(s.alone > 0 for s in shares.values())
    assert [look.step for look in fit.gradients.looks] == list(range(3, 61, 3))


def test_r_squared():
    """The cost is 2 z1 + noise, the baseline knows z1."""

    def model():
        z = [vg.sample(n, dist.Bernoulli(t(0.5, dtype=torch.float64))) for n in ("z1", "z2")]
        vg.factor("f", 2 * z[0] * (1 + z[1]) + z[1])

    def guide(baseline):
        def program():
            z = vg.sample("z1", dist.Bernoulli(logits=vg.param("l1", t(0.0, dtype=torch.float64))))
            own = Score(ValueBaseline(2 * z * 1.5 + 0.5) if baseline else MovingAverage())
            vg.sample("z2", dist.Bernoulli(logits=vg.param("l2", t(0.0, dtype=torch.float64))), estimator=own)

        return program

    @functools.cache
    def r_squared(baseline):
        svi = vg.SVI(model, guide(baseline), vg.optim.SGD(lr=1e-12), seed=0)
        found = svi.run(400, progress=False, monitor=vg.Gradients(every=1, reach=400)).gradients
        return {s.name: s.r_squared for s in found.sites}

    # Cost of z2: 2 z1 (1 + z2) + z2, with variance 2.25 by z1 and 1.25 given z1.
    assert abs(r_squared(True)["z2"] - 2.25 / 3.5) < 0.07
    assert abs(r_squared(False)["z2"]) < 0.25  # an average explains nothing
    assert r_squared(True)["z1"] is not None
    plain = vg.SVI(model, guide(False), vg.optim.SGD(lr=1e-12), vg.ELBO(estimators={"*": Score()}), seed=0)
    assert {s.r_squared for s in plain.run(9, monitor=often, progress=False).gradients.sites} == {None}


# The run does not notice


def batch_norm_model(x):
    with vg.plate("rows", len(x)):
        z = vg.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        vg.sample("x", dist.Normal(z, 1.0), obs=x + random.random() + float(np.random.rand()))


class Normed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(1, 3), torch.nn.BatchNorm1d(3), torch.nn.Dropout(), torch.nn.Linear(3, 1)
        )

    def forward(self, x):
        with vg.plate("rows", len(x)):
            vg.sample("z", dist.Normal(self.net(x[:, None])[:, 0], 1.0))


def comes_and_goes():
    if vg.sample("first", dist.Bernoulli(0.5)) > 0:
        vg.sample("second", dist.Normal(0.0, 1.0))


def comes_and_goes_guide():
    if vg.sample("first", dist.Bernoulli(logits=vg.param("l", 0.0)), estimator=LeaveOneOut(2)) > 0:
        vg.sample("second", dist.Normal(vg.param("late", lambda: torch.randn(())), 1.0))


RUNS = {
    "mixed": lambda **o: vg.SVI(mixed_model, MixedGuide(), vg.optim.Adam(lr=0.02), seed=0, **o),
    "particles": lambda **o: vg.SVI(mixed_model, MixedGuide(), vg.optim.Adam(lr=0.02), vg.ELBO(3), seed=0, **o),
    "weights": lambda **o: vg.SVI(
        mixed_model, MixedGuide(), vg.optim.Adam(lr=0.02), vg.ELBO(weights={"shift": lambda n: 0.1 * n}), seed=0, **o
    ),
    "loader": lambda **o: vg.SVI(normal_model, normal_guide, vg.optim.Adam(lr=0.02), seed=0, **o),
    "renyi": lambda **o: vg.SVI(normal_model, normal_guide, vg.optim.Adam(lr=0.02), vg.Renyi(particles=3), seed=0, **o),
    "lbfgs": lambda **o: vg.SVI(normal_model, normal_guide, lambda p: torch.optim.LBFGS(p, max_iter=2), seed=0, **o),
    "buffers and generators": lambda **o: vg.SVI(batch_norm_model, Normed(), vg.optim.Adam(lr=0.02), seed=0, **o),
}


def arguments(name):
    if name == "loader":
        return (
            DataLoader(TensorDataset(DATA), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(0)),
        )
    return (DATA,)


def after(name, watched, graph=False):
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    with by_graph(), quietly():
        svi = RUNS[name](compile=graph)
        fit = svi.run(20, *arguments(name), progress=False, monitor=often if watched else None)
        more = [svi.step(DATA) for _ in range(3)]
    state = svi.state()
    looks = state.pop("looks")
    assert (looks is None) != watched
    return fit, (fit.losses, more, state, torch.get_rng_state(), list(random.getstate()[1]), svi.metrics.loss), svi


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("name", RUNS)
def test_losses_and_parameters_are_those_of_an_unwatched_run(name, graph):
    _, alone, _ = after(name, False, graph)
    fit, watched, svi = after(name, True, graph)
    assert same(alone, watched)
    assert len(fit.gradients.looks) == 6 and not fit.gradients.failed
    if graph and name in ("mixed", "particles", "weights", "renyi"):
        assert taken(svi) == 21


def test_looks_beside_steps_in_a_row():
    """Steps that a graph takes many at a time stop for a look, and only then."""
    with by_graph():
        alone, watched = (svi_of(normal_model, normal_guide) for _ in range(2))
        losses = alone.run(300, DATA, progress=False).losses
        seen = []
        advance = watched._step_compiler.advance
        watched._step_compiler.advance = lambda limit, *rest: seen.append(limit) or advance(limit, *rest)
        fit = watched.run(300, DATA, progress=False, monitor=vg.Gradients(every=100))
        assert torch.equal(fit.losses, losses) and [look.step for look in fit.gradients.looks] == [100, 200, 300]
        assert max(seen) == 100


def test_parameters_that_come_late_are_not_made_by_a_look():
    def run(config):
        torch.manual_seed(0)
        svi = vg.SVI(comes_and_goes, comes_and_goes_guide, vg.optim.Adam(lr=0.01), seed=3)
        fit = svi.run(12, progress=False, monitor=config)
        return fit.losses, fit.parameters

    assert same(run(None), run(vg.Gradients(every=1)))


def test_networks_of_baselines_and_grads_are_left_alone():
    svi = mixed_svi()
    svi.run(2, DATA, progress=False)
    grads = [p.grad.clone() for p in svi.bound.parameters()]
    looks = NoiseHistory()
    state = svi.state()
    gradient_monitor.Monitor(vg.Gradients(), svi.bound, looks).look((DATA,), {})
    assert same(grads, [p.grad for p in svi.bound.parameters()]) and same(state, svi.state())
    assert not any("baselines" in n for n in looks.looks[0].parameters)


# How often


def test_the_budget_is_kept(monkeypatch):
    """By a clock that says a step takes 1 and a look 5, and 40 the first time."""
    now, at = [0.0], []

    def look(self, twin, args, kwargs):
        now[0] += 5.0 if at else 40.0
        at.append(self.bound.steps)
        return NoiseSnapshot(self.bound.steps, {"z": (1.0, 1.0, 1.0)}, {"p": (1.0, 1.0)}, {})

    monkeypatch.setattr(gradient_monitor, "time", types.SimpleNamespace(process_time=lambda: now[0]))
    monkeypatch.setattr(gradient_monitor.Monitor, "_snapshot", look)
    svi = mixed_svi()
    advance = svi._advance

    def slow(*args):
        now[0] += 1.0
        return advance(*args)

    monkeypatch.setattr(svi, "_advance", slow)
    fit = svi.run(1_200, DATA, progress=False, monitor=vg.Gradients(budget=0.05))
    assert at[0] == 1 and 750 < at[1] < 850 and 90 < at[-1] - at[-2] < 110
    assert 0.045 < fit.gradients.cost <= 0.055


@pytest.mark.slow
def test_looks_take_less_than_five_percent():
    fit = vg.SVI(normal_model, normal_guide, vg.optim.Adam(lr=0.01), seed=0).run(
        4_000, DATA, progress=False, monitor=vg.Gradients()
    )
    assert len(fit.gradients.looks) > 5 and fit.gradients.cost < 0.05


# NaN, errors, going on


def test_what_is_not_finite_is_left_out():
    def model(x):
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        vg.factor("f", z * torch.where(z.detach() > 1.0, math.nan, 1.0))

    def guide(x):
        vg.sample("z", dist.Normal(vg.param("m", 0.0), 1.0), estimator=Pathwise())

    with pytest.warns(vg.objectives.BiasWarning):
        svi = vg.SVI(model, guide, vg.optim.Adam(lr=1e-3), seed=0, skip_nonfinite=True).init(DATA)
    found = svi.run(60, DATA, progress=False, monitor=vg.Gradients(every=1)).gradients
    assert 5 < found.failed < 40 and len(found.looks) + found.failed == 60
    assert math.isfinite(found.snr) and "looks were of no use, the last because a gradient" in str(found)


def test_errors_in_a_look_are_none_of_the_runs():
    calls = []

    def model(x):
        calls.append(None)
        if len(calls) > 30 and len(calls) % 2:
            raise ValueError("odd")
        normal_model(x)

    svi = vg.SVI(normal_model, normal_guide, vg.optim.Adam(lr=1e-3), seed=0)
    svi.run(1, DATA)
    looks = NoiseHistory()
    watch = gradient_monitor.Monitor(vg.Gradients(), svi.bound, looks)
    watch.look((DATA,), {})
    svi.bound.runs.model = model
    watch._twin.runs.model = model
    for _ in range(20):
        watch.look((DATA,), {})
    assert looks.failed and looks.reason == "odd" and len(looks.looks) + looks.failed == 21


def test_a_run_that_stops_for_a_nan_says_so_as_before():
    svi = vg.SVI(normal_model, normal_guide, vg.optim.Adam(lr=1e-3), seed=0)
    svi.run(3, DATA, progress=False, monitor=often)
    with pytest.raises(NonFiniteError):
        svi.run(3, DATA * 1e30, progress=False, monitor=vg.Gradients(every=1))
    assert len(svi.state()["looks"]["looks"]) == 1


def test_runs_go_on_with_what_was_seen(tmp_path):
    whole = mixed_svi()
    fit = whole.run(24, DATA, progress=False, monitor=often)
    first = mixed_svi()
    half = first.run(12, DATA, progress=False, monitor=often)
    torch.save(first.state(), tmp_path / "state.pt")
    second = mixed_svi(seed=9).init(DATA)
    second.load_state(torch.load(tmp_path / "state.pt"))
    rest = second.run(12, DATA, progress=False, monitor=often)
    assert torch.equal(torch.cat([half.losses, rest.losses]), fit.losses)
    assert rest.gradients.looks == fit.gradients.looks and len(half.gradients.looks) == 4
    assert [look.step for look in rest.gradients.looks] == list(range(3, 25, 3))
    without = first.state()
    without.pop("looks")
    second.load_state(without)  # one of before there were looks
    assert len(second.run(3, DATA, monitor=often, progress=False).gradients.looks) == 1
    assert len(copy.deepcopy(fit).gradients.looks) == 8


def test_many_looks_are_thinned():
    looks = NoiseHistory()
    for step in range(3 * KEPT):
        looks.add(NoiseSnapshot(step, {"z": (1.0, 2.0, 2.0)}, {"p": (1.0, 2.0)}, {}))
    steps = [look.step for look in looks.looks]
    assert len(steps) <= KEPT and steps[0] == 0 and steps[-400:] == list(range(3 * KEPT - 400, 3 * KEPT))
    assert abs(looks.snr - 0.5**0.5) < 1e-9


# How it is told


def test_reports(monkeypatch):
    fit = mixed_svi().run(30, DATA, progress=False, monitor=often)
    found = fit.gradients
    text, page, whole = str(found), found._repr_html_(), json.loads(json.dumps(found.to_dict()))
    assert "share of the noise" in text and "baseline R2" in text and "10 looks between steps 3 and 30" in text
    assert "(terms at fixed draws)" in text and page.count("<table>") == 2 and "processor time" in page
    assert {s["name"] for s in whole["sites"]} == {"", "shift", "group"} and len(whole["looks"]) == 10
    assert found.note in str(fit) and " % of the noise from " in found.note
    left, right = fit.plot("gradients").axes
    assert len(left.lines) == 3 and len(right.lines) == 4
    assert len(fit.plot().axes) == 1
    out = io.StringIO()
    monkeypatch.setattr("sys.stderr", out)
    mixed_svi().run(3, DATA, progress=True, monitor=vg.Gradients(every=1))
    assert "of the noise from" in out.getvalue()


def test_a_monitor_in_a_captured_step_is_refused():
    svi = vg.SVI(normal_model, normal_guide, vg.optim.Adam(lr=1e-3), seed=0).init(DATA)
    watch = gradient_monitor.Monitor(vg.Gradients(), svi.bound, NoiseHistory())

    def step():
        watch.look((DATA,), {})
        return [DATA + 1]

    with pytest.raises(VarigradError, match="cannot look at a gradient inside a step that is being captured"):
        trace(step, [DATA])
    watch.look((DATA,), {})
    assert len(watch.looks.looks) == 1


def test_nothing_seen_yet():
    looks = NoiseHistory()
    assert "no look" in str(looks) and math.isnan(looks.snr) and looks.sites == () and len(looks.plot().axes) == 2
    looks.add(NoiseSnapshot(1, {"z": (1.0, 2.0, 2.0)}, {"p": (1.0, 2.0)}, {}))
    assert math.isnan(looks.sites[0].share_error) and "100 % ± -" in str(looks)


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda: vg.Gradients(every=0), "every must be a whole number of at least 1, got 0"),
        (lambda: vg.Gradients(reach=1.5), "reach must be a whole number of at least 1, got 1.5"),
        (lambda: vg.Gradients(budget=1.0), "budget must be a number between 0 and 1, got 1.0"),
        (lambda: mixed_svi().run(1, DATA, monitor=vg.Gradients), r"monitor must be a Gradients.*Try: monitor=vg\.Gr"),
        (lambda: mixed_svi().run(1, DATA, progress=False).plot("gradients"), r"was not monitored.*monitor=vg\.Gradi"),
        (lambda: mixed_svi().run(1, DATA, progress=False).plot("loss"), "no picture of 'loss'"),
    ],
)
def test_bad_input(act, text):
    with pytest.raises(VarigradError, match=text):
        act()
