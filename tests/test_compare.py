"""The gradient doctor: what is measured is right, what is advised follows from it, and nothing of the user's moves."""

import json
from dataclasses import dataclass

import pytest
import torch

import varigrad as vg
from varigrad import distributions as dist
from varigrad.diagnostics.advice import advise
from varigrad.diagnostics.measurements import Measured
from varigrad.errors import SiteError, VarigradError
from varigrad.estimators import (
    DisARM,
    Enumerate,
    Estimator,
    LeaveOneOut,
    MovingAverage,
    NeuralBaseline,
    NoBaseline,
    Pathwise,
    Score,
    Surrogate,
)
from varigrad.estimators.base import Draw
from varigrad.gradients.moments import RunningMoments, candidate, exact_bias, measured_bound, reference_of, z_scores
from varigrad.testing import assert_unbiased, exact_gradient, expected_gradient

READINGS = torch.tensor([0.9, 0.2, -0.4], dtype=torch.float64)
START = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)
TOSSES = torch.tensor([1.0] * 6 + [0.0] * 4, dtype=torch.float64)


def model(x):
    with vg.plate("coins", len(x)):
        z = vg.sample("z", dist.Bernoulli(torch.tensor(0.4, dtype=torch.float64)))
        vg.sample("x", dist.Normal(z, 0.5), obs=x)


def guide(x):
    with vg.plate("coins", len(x)):
        vg.sample("z", dist.Bernoulli(logits=vg.param("logits", START[: len(x)])))


def coin_model(tosses):
    fairness = vg.sample("fairness", dist.Beta(*torch.tensor([10.0, 10.0], dtype=torch.float64)))
    with vg.plate("tosses", len(tosses)):
        vg.sample("toss", dist.Bernoulli(fairness), obs=tosses)


def coin_guide(tosses):
    a, b = (vg.param(n, torch.tensor(15.0, dtype=torch.float64), dist.constraints.positive) for n in "ab")
    vg.sample("fairness", dist.Beta(a, b))


@dataclass(frozen=True)
class Wrong(Estimator):
    """Half the gradient, and no word about it."""

    right = LeaveOneOut(4)

    def refusal(self, distribution):
        return None

    def alternatives(self, distribution):
        return 3

    def lane_weights(self, draw):
        return self.right.lane_weights(draw)

    def surrogate(self, draw, cost, state):
        return Surrogate(0.5 * self.right.surrogate(draw, cost, state).value)


def everything_about(bound):
    return (
        {n: p.detach().clone() for n, p in bound.named_parameters()},
        {n: None if p.grad is None else p.grad.clone() for n, p in bound.named_parameters()},
        {n: s.clone() for n, s in bound.estimator_states.items()},
        bound.source.get_state(),
        torch.get_rng_state(),
        bound.steps,
    )


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.fixture
def svi():
    svi = vg.SVI(model, guide, vg.optim.Adam(lr=1e-2), vg.ELBO(estimators={"z": Score(MovingAverage())}), seed=1)
    svi.run(20, READINGS, progress=False)
    return svi


def test_gradients_are_those_of_the_steps_and_repeat(svi):
    before = everything_about(svi.bound)
    draws = svi.bound.gradients(1_000, READINGS, seed=3)["logits"]
    assert draws.shape == (1_000, 3)
    assert torch.equal(draws[:5], svi.bound.gradients(5, READINGS, seed=3)["logits"])
    assert not torch.equal(draws[:5], svi.bound.gradients(5, READINGS, seed=4)["logits"])
    exact = exact_gradient(svi.bound, READINGS)[1]["logits"]
    assert ((draws.mean(0) - exact).abs() < 5 * draws.std(0) / 1_000**0.5).all()
    assert same(before, everything_about(svi.bound))


def test_nothing_of_the_users_moves(svi):
    svi.bound(READINGS).backward()
    before = everything_about(svi.bound)
    some = [Score(MovingAverage()), LeaveOneOut(2), DisARM(), Wrong()]
    with torch.no_grad():
        found = vg.compare(model, guide, READINGS, {"z": some}, budget=40, at=svi.bound)
    assert_unbiased(model, guide, READINGS, {"z": LeaveOneOut(2)}, draws=50, at=svi.bound)
    assert same(before, everything_about(svi.bound))
    twin = vg.compare(model, guide, READINGS, {"z": some}, budget=40, at=svi.bound)
    assert [m.variance for m in found.measured] == [m.variance for m in twin.measured]


def test_buffers_and_networks_of_baselines_and_automatic_guides_are_left_alone():
    norm, net = torch.nn.BatchNorm1d(1).double(), torch.nn.Linear(1, 1).double()

    def normed(x):
        vg.module("norm", norm)
        with vg.plate("coins", len(x)):
            vg.sample("z", dist.Bernoulli(logits=vg.param("logits", START) + norm(x[:, None])[:, 0]))

    bound = vg.ELBO()(model, normed).init(READINGS)
    before = {k: v.clone() for k, v in (*norm.state_dict().items(), *net.state_dict().items())}
    neural = Score(NeuralBaseline(net, READINGS[:, None]))
    found = vg.compare(model, normed, READINGS, {"z": [neural, Score()]}, budget=200, at=bound)
    assert found.measured[0].verdict == "unbiased"
    assert found.measured[0].variance < found.measured[1].variance  # its copy has learned something
    bound.gradients(3, READINGS)
    assert same(before, dict((*norm.state_dict().items(), *net.state_dict().items())))
    assert list(dict(bound.named_parameters())) == ["logits", "norm.weight", "norm.bias"]

    def with_network(x):
        with vg.plate("coins", len(x)):
            vg.sample("z", dist.Bernoulli(logits=vg.param("logits", START)), estimator=neural)

    vg.compare(model, with_network, READINGS, {"*": [Score()], "z": [neural]}, budget=10)
    assert_unbiased(model, with_network, READINGS, draws=10)
    assert same(before, dict((*norm.state_dict().items(), *net.state_dict().items())))
    assert all(p.grad is None for p in net.parameters())

    def smooth(x):
        vg.sample("x", dist.Normal(vg.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    auto = vg.guides.AutoNormal(smooth)
    vg.compare(smooth, auto, torch.tensor(2.0), {"z": [Pathwise(), LeaveOneOut(2)]}, budget=10)
    assert not list(auto.parameters())


def test_an_exact_reference_equals_a_long_run():
    with measured_bound(model, guide, (READINGS,), None, 0) as at:
        exact = reference_of(at, at.config, ("z",), (READINGS,), 100, 10, 0)
        long = reference_of(at, at.config, ("z",), (READINGS,), 2, 3_000, 0)
    assert exact.how.startswith("exact") and long.how == "mean of 3000 draws with LeaveOneOut(k=4)"
    assert not exact.error.any()
    assert ((exact.mean - long.mean).abs() < 4.5 * long.error).all() and (long.error < 0.02).all()


def test_running_moments_are_those_of_all_draws():
    draws = torch.randn(37, 4, dtype=torch.float64)
    running = RunningMoments()
    for block in draws.split(10):
        running.add(block)
    assert torch.allclose(running.mean, draws.mean(0)) and torch.allclose(running.variance, draws.var(0))


def test_measured_variance_is_the_exact_one():
    found = vg.compare(model, guide, READINGS, {"z": [LeaveOneOut(2), Enumerate()]}, budget=500)
    exact = expected_gradient(vg.ELBO(estimators={"z": LeaveOneOut(2)})(model, guide).init(READINGS), READINGS)
    two = found["LeaveOneOut(k=2)"]
    assert abs(two.variance - exact.variance["logits"].sum()) < 5 * two.variance_error
    assert two.evaluations == 2 and two.rows[0].site == "z" and two.microseconds > 0
    assert found["Enumerate()"].variance < 1e-20 and found.recommended == "Enumerate()"


def test_an_estimator_broken_on_purpose_is_found():
    found = vg.compare(model, guide, READINGS, {"z*": [Wrong(), LeaveOneOut(4), DisARM()]}, budget=200)
    assert [m.verdict for m in found.measured] == ["biased", "unbiased", "unbiased"]
    assert max(abs(r.z) for r in found["Wrong()"].rows) > 6
    assert found.recommended != "Wrong()"
    with pytest.raises(
        AssertionError, match=r"gradient of 'logits'\[\d\] is biased by .*, standard error .*, z = "
    ) as e:
        assert_unbiased(model, guide, READINGS, {"z": Wrong()}, draws=200)
    assert "limit of z: " in str(e.value) and "800 draws; reference: exact, by enumeration" in str(e.value)
    with pytest.raises(AssertionError, match=r"(?s)z = -?inf.*without sampling: every outcome"):
        assert_unbiased(model, guide, READINGS[:1], {"z": Wrong()}, draws=200)
    assert_unbiased(model, guide, READINGS, {"z": DisARM()}, draws=200)
    assert_unbiased(coin_model, coin_guide, TOSSES, draws=100)
    with pytest.raises(AssertionError, match="biased"):
        assert_unbiased(coin_model, coin_guide, TOSSES, {"fairness": Wrong()}, draws=100)


def test_the_coins_advice():
    some = [Score(NoBaseline()), LeaveOneOut(4), DisARM()]
    found = vg.compare(coin_model, coin_guide, TOSSES, {"fair*": some}, budget=200)
    assert found.recommended == "LeaveOneOut(k=4)"
    assert "less than Score() (variance" in found.advice[0].text
    assert found["DisARM()"].verdict == "refused" and "Bernoulli" in found["DisARM()"].because
    landing = Pathwise(sticking_the_landing=True)
    found = vg.compare(coin_model, coin_guide, TOSSES, {"fair*": [Score(), LeaveOneOut(4), landing]}, budget=200)
    assert found.recommended == "Pathwise(sticking_the_landing=True)"


def test_a_budget_too_small_says_so():
    found = vg.compare(model, guide, READINGS, {"z": [LeaveOneOut(3), LeaveOneOut(4)]}, budget=8)
    assert found.recommended is None
    assert "cannot tell LeaveOneOut(k=" in str(found) and "variances x time within a factor" in str(found)


def measured(name, variance, error, verdict="unbiased", us=100.0):
    return Measured("z", name, verdict, "", 1, us, 1.0, variance, error)


def test_advice_follows_from_the_measurements():
    a, b, c = measured("A", 1.0, 0.05), measured("B", 2.0, 0.1), measured("C", 0.1, 0.001, "biased by name")
    assert advise("z", [a, b, c], 20).estimator == "A"
    assert "2 times less than B" in advise("z", [a, b, c], 20).text
    slow = measured("slow", 0.9, 0.01, us=300.0)
    assert advise("z", [a, b, slow], 20).estimator == "A"
    vague = measured("vague", 1.5, 0.7)
    assert advise("z", [a, vague], 20).text.startswith("cannot tell A from vague: variances x time within a factor 1.5")
    assert advise("z", [a, b], 2).estimator is None  # two blocks say little about errors
    assert advise("z", [c], 20).estimator is None and "only unbiased" in advise("z", [a, c], 20).text
    assert advise("z", [measured("O", 0.0, 0.0), measured("P", 0.0, 0.0)], 20).estimator is None


def test_advice_has_a_word_about_the_sites_own_parameters():
    def both(name, variance, own):
        return Measured("z", name, "unbiased", "", 1, 100.0, 1.0, variance, 0.05 * variance, (), own, 0.05 * own)

    a, b, c = both("A", 100.0, 1.0), both("B", 101.0, 3.0), both("C", 500.0, 0.1)
    undecided = advise("z", [a, b], 20)
    assert undecided.estimator is None and undecided.least == "A"
    assert "At the sites' own parameters alone, A needs 3 times less variance x time than B" in undecided.text
    decided = advise("z", [a, c], 20)
    assert decided.estimator == "A" and "alone, C needs 10 times less variance x time than A" in decided.text
    assert "alone" not in advise("z", [a, both("D", 300.0, 3.0)], 20).text  # both ways A
    assert "alone" not in advise("z", [both("A", 1.0, 1.0), both("B", 1.01, 1.01)], 20).text


def test_what_belongs_to_the_sites_is_summed_by_itself():
    def two(x):
        shift = vg.sample("shift", dist.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0))
        with vg.plate("coins", len(x)):
            z = vg.sample("z", dist.Bernoulli(torch.tensor(0.4, dtype=torch.float64)))
            vg.sample("x", dist.Normal(shift + z, 0.5), obs=x)

    def two_guide(x):
        vg.sample("shift", dist.Normal(vg.param("loc", torch.tensor(0.0, dtype=torch.float64)), 1.0))
        guide(x)

    found = vg.compare(two, two_guide, READINGS, {"z": [Score(), LeaveOneOut(2)]}, budget=40)
    for m in found.measured:
        rows = {r.parameter: r for r in m.rows}
        assert m.own_variance == rows["logits"].variance < m.variance and m.own_error == rows["logits"].variance_error


def test_reports_in_every_form():
    found = vg.compare(model, guide, READINGS, {"z": [LeaveOneOut(2), LeaveOneOut(2), DisARM()]}, budget=20)
    text, html, whole = str(found), found._repr_html_(), found.to_dict()
    assert "LeaveOneOut(k=2) #2" in text and "signal/noise" in text and "exact, by enumeration" in text
    assert html.count("<tr>") == 2 + 2 * 3 and "variance x s" in html
    assert json.loads(json.dumps(whole))["measured"][0]["rows"][0]["parameter"] == "logits"
    assert len(found.plot().axes) == 2
    json.dumps(whole, allow_nan=False)
    assert whole["recommended"] is None and whole["measured"][0]["work"] > 0
    refused = vg.compare(model, guide, READINGS, {"z": [Pathwise(), DisARM()]}, budget=8).to_dict()
    assert refused["measured"][0]["variance"] is None and "null" in json.dumps(refused, allow_nan=False)
    assert refused["recommended"] == "DisARM()"
    with pytest.raises(VarigradError, match="no estimator is called 'DisARM'"):
        found["DisARM"]


def test_several_globs_are_varied_one_at_a_time():
    def both():
        z = vg.sample("z", dist.Bernoulli(0.3))
        w = vg.sample("w", dist.Normal(z, 1.0))
        vg.sample("x", dist.Normal(w, 1.0), obs=torch.tensor(1.0))

    def guide():
        vg.sample("z", dist.Bernoulli(logits=vg.param("t", 0.4)))
        vg.sample("w", dist.Normal(vg.param("m", 0.5), 1.0))

    found = vg.compare(both, guide, (), {"z": [LeaveOneOut(2), Pathwise()], "w": [Pathwise()]}, budget=20)
    assert [(m.sites, m.verdict) for m in found.measured] == [("z", "unbiased"), ("z", "refused"), ("w", "unbiased")]
    assert [a.sites for a in found.advice] == ["z", "w"]
    assert [r.site for r in found.measured[0].rows] == ["z", "w"]
    with measured_bound(both, guide, (), None, 0) as at:
        bound = candidate(at, vg.ELBO(estimators={"z": Score()}), {"z": LeaveOneOut(2)}, (), 0)
    assert bound.plan()["z"].estimator == "LeaveOneOut(k=2)"


def test_a_pathwise_estimator_over_a_jump_is_marked():
    def jump():
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        vg.sample("x", dist.Normal((z > 0).float(), 1.0), obs=torch.tensor(1.0))

    def guide():
        vg.sample("z", dist.Normal(vg.param("m", 0.5), 1.0))

    found = vg.compare(jump, guide, (), {"z": [Pathwise(), LeaveOneOut(2)]}, budget=20)
    assert [m.verdict for m in found.measured] == ["biased by name", "unbiased"]
    assert "jump" in found.measured[0].because


def test_renyi_is_compared_with_a_long_run():
    found = vg.compare(
        model, guide, READINGS, {"z": [Score(), DisARM()]}, budget=20, objective=vg.Renyi(0.5, particles=2)
    )
    assert [m.verdict for m in found.measured] == ["unbiased", "refused"]
    assert "Score(baseline=MovingAverage())" in found.reference


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"estimators": {"y*": [Score()]}}, "'y.*matches no site of the guide.*the sites are 'z'"),
        ({"estimators": {}}, "no estimators to compare.*Try: estimators="),
        ({"estimators": None}, "no estimators to compare"),
        ({"estimators": {"z": []}}, "no estimators to compare"),
        ({"estimators": {"z": [Score]}}, "must be a list of estimators"),
        ({"budget": 0}, "budget must be a whole number of at least 4, got 0"),
        ({"budget": 2.5}, "budget must be a whole number"),
        ({"at": 3}, "at must be a bound, got int.*svi.bound"),
    ],
)
def test_bad_input(options, text):
    options = {"estimators": {"z": [Score()]}, **options}
    with pytest.raises(VarigradError, match=text):
        vg.compare(model, guide, READINGS, **options)


def test_other_bad_input(svi):
    with pytest.raises(VarigradError, match="n must be a whole number of at least 1"):
        svi.bound.gradients(0, READINGS)
    with pytest.raises(VarigradError, match="draws must be a whole number of at least 2"):
        assert_unbiased(model, guide, READINGS, draws=1)
    with pytest.raises(SiteError, match="cannot serve this site"):
        assert_unbiased(model, guide, READINGS, {"z": Pathwise()}, draws=10)

    def fixed(x):
        with vg.plate("coins", len(x)):
            vg.sample("z", dist.Bernoulli(logits=START))

    with pytest.raises(VarigradError, match="no gradient to look at"):
        vg.compare(model, fixed, READINGS, {"z": [Score()]}, budget=10)
    with pytest.raises(AttributeError, match="no attribute 'comparison'"):
        vg.comparison


def test_z_scores_forgive_rounding():
    found = RunningMoments(10, torch.ones(1, dtype=torch.float64) + 1e-12, torch.zeros(1, dtype=torch.float64))
    with measured_bound(model, guide, (READINGS,), None, 0) as at:
        exact = reference_of(at, at.config, ("z",), (READINGS,), 100, 10, 0)
    exact.mean[:], one = 1.0, exact
    assert (z_scores(found, one, torch.float64).abs() < 1).all()


@dataclass(frozen=True)
class Thresholds(Estimator):
    """The score function, with draws made from a uniform number: right, and not to be enumerated."""

    def refusal(self, distribution):
        return None

    def draw(self, distribution, lanes, source, state):
        p = distribution.probs.detach()
        return Draw(distribution, (source.uniform(p.shape, p) < p).to(p.dtype), lanes)

    def surrogate(self, draw, cost, state):
        return Surrogate(cost * draw.log_q)


def test_what_thresholds_uniform_numbers_is_not_enumerated():
    with measured_bound(model, guide, (READINGS[:1],), None, 0) as at:
        args = (READINGS[:1],)
        exact = reference_of(at, at.config, ("z",), args, 100, 10, 0)
        for estimator, enumerable in ((Thresholds(), False), (Score(), True), (Enumerate(), True)):
            bias = exact_bias(candidate(at, at.config, {"z": estimator}, args, 0), exact, args, 100)
            assert (bias is not None) == enumerable
            assert bias is None or bias.abs().max() < 1e-12
        assert exact_bias(candidate(at, at.config, {"z": LeaveOneOut(9)}, args, 0), exact, args, 100) is None
