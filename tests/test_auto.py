"""`estimators="auto"`: what is chosen is right, chosen again, and said; and the run is that of who had known it."""

import copy
import random
from dataclasses import dataclass

import pytest
import torch
from graph_harness import by_graph, quietly, same, taken
from programs_for_svi import DATA, MixedGuide, mixed_model, normal_guide, normal_model

import varigrad as vg
from varigrad import distributions as dist
from varigrad.diagnostics import auto_select, cost_model
from varigrad.errors import VarigradError
from varigrad.estimators import (
    Enumerate,
    Estimator,
    LeaveOneOut,
    MovingAverage,
    NeuralBaseline,
    NoBaseline,
    Pathwise,
    Score,
)
from varigrad.objectives.estimator_selection import Choice
from varigrad.testing import exact_gradient

READINGS = torch.tensor([0.9, 0.2, -0.4], dtype=torch.float64)
START = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)


FEW = (Pathwise(), Score(MovingAverage()), LeaveOneOut(2), Enumerate())


@pytest.fixture
def few(monkeypatch):
    """A shorter list, for tests that care for something else."""
    monkeypatch.setattr(auto_select, "candidates", lambda: FEW)
    monkeypatch.setattr(auto_select, "ROUNDS", (4, 4))
    monkeypatch.setattr(auto_select, "STEPS_FOR_STATE", 4)


def model(x):
    with vg.plate("coins", len(x)):
        z = vg.sample("z", dist.Bernoulli(torch.tensor(0.4, dtype=torch.float64)))
        vg.sample("x", dist.Normal(z, 0.5), obs=x)


def guide(x):
    with vg.plate("coins", len(x)):
        vg.sample("z", dist.Bernoulli(logits=vg.param("logits", START)))


def joint_model(x):
    with vg.plate("coins", len(x)):
        z = vg.sample("z", dist.Bernoulli(torch.tensor(0.4, dtype=torch.float64)))
    vg.sample("x", dist.Normal(z.sum(), 0.5), obs=x.sum())


def svi_of(model, guide, asked="auto", seed=0, **options):
    return vg.SVI(model, guide, vg.optim.Adam(lr=0.01), vg.ELBO(estimators=asked), seed=seed, **options)


def chosen(svi):
    return {site: choice.estimator for site, choice in svi.bound.decided.items()}


def test_the_cheapest_exact_one_is_chosen_and_said():
    svi = svi_of(model, guide)
    plan = svi.plan(READINGS)
    assert chosen(svi) == {"z": Enumerate()}
    assert plan["z"].estimator == "Enumerate()" and plan["z"].unbiased
    assert "z: auto: the least variance x cost of " in str(plan)
    assert [str(svi.plan(READINGS)) for _ in range(2)] == [str(plan)] * 2


def test_what_does_not_serve_is_left_out(few):
    svi = svi_of(joint_model, guide).init(READINGS)
    (estimator,) = chosen(svi).values()
    assert not estimator.needs.per_element  # its costs are joint
    gradient = exact_gradient(svi.bound, READINGS)[1]["logits"]
    draws = svi.bound.gradients(2_000, READINGS)["logits"]
    assert ((draws.mean(0) - gradient).abs() < 5 * draws.std(0) / 2_000**0.5 + 1e-9).all()

    def jump():
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        vg.sample("x", dist.Normal((z > 0).float(), 1.0), obs=torch.tensor(1.0))

    def jump_guide():
        vg.sample("z", dist.Normal(vg.param("m", 0.5), 1.0))

    (estimator,) = chosen(svi_of(jump, jump_guide).init()).values()
    assert not estimator.drawing.pathwise


def test_the_same_again_and_the_run_of_who_had_known(few):
    one, two = (svi_of(mixed_model, MixedGuide(), {"*": "auto"}).init(DATA) for _ in range(2))
    assert str(one.bound.latest_plan) == str(two.bound.latest_plan) and same(one.state(), two.state())
    known = svi_of(mixed_model, MixedGuide(), {s: c.estimator for s, c in one.bound.decided.items() if not c.own})
    known.init(DATA)
    for svi in (one, known):
        svi.run(20, DATA, progress=False)
    one, known = (dict(svi.bound.constrained_values()) for svi in (one, known))
    assert one.keys() == known.keys() and all(torch.equal(one[name], known[name]) for name in one)


def test_costs_are_counted_and_not_timed(monkeypatch):
    bound = vg.ELBO(estimators={"z": LeaveOneOut(4)})(model, guide).init(READINGS)
    draw = lambda: bound.gradients(1, READINGS)  # noqa: E731
    assert (
        cost_model.microseconds(draw)
        == cost_model.microseconds(draw)
        > cost_model.microseconds(draw, compiled=True)
        > 2
    )
    with cost_model.Counted() as counted:
        torch.zeros(3, 4).view(4, 3) @ torch.zeros(3, 5)
    assert (counted.operations, counted.elements, counted.flops) == (4, 12 + 15 + 20, 2 * 4 * 3 * 5)


def test_globs_say_where(few):
    def both():
        z = vg.sample("z", dist.Bernoulli(0.3))
        w = vg.sample("w", dist.Normal(z, 1.0))
        vg.sample("x", dist.Normal(w, 1.0), obs=torch.tensor(1.0))

    def both_guide():
        vg.sample("z", dist.Bernoulli(logits=vg.param("t", 0.4)), estimator=Score())
        vg.sample("w", dist.Normal(vg.param("m", 0.5), 1.0))

    svi = svi_of(both, both_guide, {"z": "auto"})
    plan = svi.plan()
    assert set(chosen(svi)) == {"z"} and plan["w"].why.startswith("default")
    plan = svi_of(both, both_guide, {"w": LeaveOneOut(2), "*": "auto"}).plan()
    assert plan["w"].estimator == "LeaveOneOut(k=2)" and plan["z"].why.startswith("auto")
    with pytest.raises(VarigradError, match="estimators names it, and there is no such site"):
        svi_of(both, both_guide, {"y": "auto"}).init()


def test_sites_of_one_name_are_taken_together(few, monkeypatch):
    def many():
        for i in range(3):
            vg.sample(f"z{i}", dist.Bernoulli(0.3))

    def many_guide():
        for i in range(3):
            vg.sample(f"z{i}", dist.Bernoulli(logits=vg.param(f"t{i}", 0.4)))

    contests = []
    winner = auto_select._Pilot._winner
    monkeypatch.setattr(auto_select._Pilot, "_winner", lambda *a: contests.append(len(a[1])) or winner(*a))
    svi = svi_of(many, many_guide).init()
    assert contests == [3] and set(chosen(svi)) == {"z0", "z1", "z2"}


def test_nothing_of_the_users_moves(few):
    net, guide_of = torch.nn.Linear(1, 1).double(), {}

    def own(x):
        with vg.plate("coins", len(x)):
            estimator = Score(NeuralBaseline(net, x[:, None]))
            vg.sample("z", dist.Bernoulli(logits=vg.param("logits", START)), estimator=estimator)
            guide_of[0] = estimator

    svi = svi_of(joint_model, own, seed=5).init(READINGS)
    svi.run(3, READINGS, progress=False)
    before = copy.deepcopy([svi.state(), [p.grad for p in svi.bound.parameters()], list(net.state_dict().values())])
    generators = torch.get_rng_state(), random.getstate()
    svi.recheck(READINGS)
    now = [svi.state(), [p.grad for p in svi.bound.parameters()], list(net.state_dict().values())]
    assert same(before, now) and torch.equal(generators[0], torch.get_rng_state())
    assert generators[1] == random.getstate()


def test_an_estimator_of_the_sites_own_is_tried(few):
    @dataclass(frozen=True)
    class Best(Enumerate):
        """Exact, and for nothing."""

        def surrogate(self, draw, cost, state):
            return super().surrogate(draw, cost, state)

    def own(x):
        with vg.plate("coins", len(x)):
            vg.sample("z", dist.Bernoulli(logits=vg.param("logits", START)), estimator=Best())

    svi = svi_of(model, own).init(READINGS)
    assert chosen(svi) == {"z": Best()}


# Loops of one's own


def test_an_objective_by_itself_asks_for_a_decision(few):
    bound = vg.ELBO(estimators="auto")(model, guide)
    with pytest.raises(VarigradError, match=r"auto.*not been decided.*vg\.SVI.*vg\.decide\(bound, data\)"):
        bound(READINGS)
    assert bound.is_empty
    plan = vg.decide(bound, READINGS)
    assert plan["z"].estimator == "Enumerate()"
    bound(READINGS).backward()
    twin = copy.deepcopy(bound)
    assert {s: c.estimator for s, c in twin.decided.items()} == {"z": Enumerate()}

    def alone():
        vg.sample("z", dist.Normal(0.0, 1.0))

    def alone_guide():
        vg.sample("z", dist.Normal(vg.param("m", 0.5), 1.0))

    bound = vg.ELBO(estimators="auto")(alone, alone_guide)  # not run at construction
    assert bound.undecided and vg.decide(bound).sites and not bound.undecided


def test_a_pilot_that_fails_decides_nothing(few):
    def broken(x):
        model(x)
        raise KeyError("broken")

    bound = vg.ELBO(estimators="auto")(broken, guide)
    with pytest.raises(KeyError):
        vg.decide(bound, READINGS)
    assert bound.undecided


def test_renyi(few):
    svi = vg.SVI(normal_model, normal_guide, vg.optim.Adam(lr=0.01), vg.Renyi(particles=3, estimators="auto"), seed=0)
    svi.run(3, DATA, progress=False)
    (estimator,) = chosen(svi).values()
    assert isinstance(estimator, (Pathwise, Score))


def test_compare_and_monitor_go_with_it(few):
    svi = svi_of(mixed_model, MixedGuide(), "auto")
    fit = svi.run(6, DATA, progress=False, monitor=vg.Gradients(every=3))
    assert len(fit.gradients.looks) == 2 and not fit.gradients.failed
    found = vg.compare(mixed_model, svi.bound.guide_program, DATA, {"group": [Score()]}, budget=8, at=svi.bound)
    assert found.measured[0].verdict == "unbiased"


# Again, during a run


def test_a_recheck_that_changes_nothing_is_not_noticed(few):
    one, two = (svi_of(mixed_model, MixedGuide()) for _ in range(2))
    for svi, every in ((one, None), (two, 4)):
        svi.run(10, DATA, progress=False, recheck=every)
    if {s: c.key for s, c in one.bound.decided.items()} == {s: c.key for s, c in two.bound.decided.items()}:
        assert torch.equal(one.bound.source.get_state(), two.bound.source.get_state())
        assert same(list(one.bound.parameters()), list(two.bound.parameters()))
    assert any("at step 8" in choice.why for choice in two.bound.decided.values())


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_a_recheck_changes_what_is_much_worse(few, graph):
    with by_graph(), quietly():
        svi = svi_of(model, guide, compile=graph).init(READINGS)
        svi.bound.decide({"z": Choice(Score(NoBaseline()), "by hand")})
        svi.bound.init(READINGS)
        fit = svi.run(12, READINGS, progress=False, recheck=6)
        assert chosen(svi) == {"z": Enumerate()} and len(fit.losses) == 12
        assert "at step 6" in svi.plan(READINGS)["z"].why
        if graph:
            assert taken(svi) == 4


def test_a_sites_own_estimator_looks_at_the_data_of_each_step(few):
    """Not at those that the pilot has seen."""
    seen = []

    class Watched(NoBaseline):
        def __init__(self, x):
            object.__setattr__(self, "x", x)

        def guess(self, cost, draw, state):
            seen.append(self.x)
            return super().guess(cost, draw, state)

    def own(x):
        with vg.plate("coins", len(x)):
            vg.sample("z", dist.Bernoulli(logits=vg.param("logits", START)), estimator=Score(Watched(x)))

    svi = svi_of(joint_model, own).init(READINGS)
    svi.bound.decide({"z": Choice(Score(), "by hand", own=True)})
    svi.bound.init(READINGS)
    other = READINGS + 1
    svi.step(other)
    assert seen[-1] is other and chosen(svi)


def test_states_remember_what_was_decided(few, tmp_path):
    one = svi_of(mixed_model, MixedGuide()).init(DATA)
    one.run(5, DATA, progress=False)
    torch.save(one.state(), tmp_path / "state.pt")
    two = svi_of(mixed_model, MixedGuide(), seed=3).init(DATA)
    two.bound.decide({site: Choice(Score(), "by hand") for site in two.bound.decided})
    two.load_state(torch.load(tmp_path / "state.pt"))
    keys = [{site: choice.key for site, choice in svi.bound.decided.items()} for svi in (one, two)]
    assert keys[0] == keys[1]
    assert torch.equal(one.run(5, DATA, progress=False).losses, two.run(5, DATA, progress=False).losses)


# The list


def test_candidates_are_unbiased_and_told_apart():
    found = auto_select.candidates()
    assert all(isinstance(e, Estimator) and e.promises.unbiased for e in found)
    assert len({auto_select.shown(e) for e in found}) == len(found) > 12
    assert auto_select.from_names(auto_select.named({"z": Choice(LeaveOneOut(4), "why")})) == {
        "z": Choice(LeaveOneOut(4), "why")
    }


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda: vg.ELBO(estimators="automatic"), "must be a mapping or 'auto', got 'automatic'"),
        (lambda: vg.ELBO(estimators={"z": "best"}), "must be an Estimator, got 'best'"),
        (lambda: svi_of(model, guide, None).init(READINGS).recheck(READINGS), 'nothing to decide; because no.*"auto"'),
        (
            lambda: svi_of(model, guide).run(1, READINGS, recheck=0),
            "recheck must be a whole number of at least 1",
        ),
        (lambda: vg.decide(vg.ELBO()(model, guide), READINGS), "nothing to decide"),
    ],
)
def test_bad_input(act, text):
    with pytest.raises(VarigradError, match=text):
        act()
