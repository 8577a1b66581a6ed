"""Arguments of objectives and optimisers, and states, that are of the wrong kind: an error where they are given."""

import copy
import math

import pytest
import torch

import varigrad as vg
from varigrad import distributions as dist
from varigrad.errors import ParameterError, SiteError, VarigradError
from varigrad.estimators import Estimator, MovingAverage, Score, Surrogate
from varigrad.estimators.traits import Drawing


def model():
    z = vg.sample("z", dist.Normal(0.0, 1.0))
    vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(2.0))


def guide():
    vg.sample("z", dist.Normal(vg.param("m", 0.0), vg.param("s", 1.0, dist.constraints.positive)))


REFUSED = {
    "vectorize": (lambda: vg.ELBO(vectorize="no"), "vectorize must be True or False, got 'no'"),
    "strict": (lambda: vg.Renyi(alpha=0.0, particles=2, strict="no"), "strict must be True or False, got 'no'"),
    "a list of estimators": (lambda: vg.ELBO(estimators=[Score()]), "estimators must be a mapping or 'auto'"),
    "an estimator alone": (lambda: vg.ELBO(estimators=Score()), "estimators must be a mapping or 'auto'"),
    "a number for a site": (lambda: vg.ELBO(estimators={1: Score()}), "estimators must name sites by strings"),
    "a text as a weight": (lambda: vg.ELBO(weights={"x": "a"}), r"weights\['x'\] must be a number, or a function"),
    "a list of weights": (lambda: vg.ELBO(weights=[1.0]), "weights must be a dictionary"),
    "analytic_kl": (lambda: vg.ELBO(analytic_kl=1), "analytic_kl must name sites by strings"),
    "analytic_kl as text": (lambda: vg.ELBO(analytic_kl="z"), "analytic_kl must name sites by strings"),
    "clip_norm": (lambda: vg.optim.Adam(clip_norm="x"), "clip_norm must be positive and finite, got 'x'"),
    "schedule": (lambda: vg.optim.Adam(schedule=0.5), "schedule must be callable, got 0.5"),
    "options": (lambda: vg.optim.Adam(options={"a": 1}), "options must be callable"),
    "decay": (lambda: MovingAverage("a"), r"decay must be in \[0, 1\), got 'a'"),
    "a slip in options": (
        lambda: vg.SVI(model, guide, vg.optim.Adam(options=lambda name: {"weight_decai": 1.0})).step(),
        r"options\('m'\) names 'weight_decai', which is no setting of FusedAdam \(did you mean 'weight_decay'\?\)",
    ),
    "options that are none": (
        lambda: vg.SVI(model, guide, vg.optim.Adam(options=lambda name: None)).step(),
        "must return a dictionary of settings, got None",
    ),
    "a constraint's name": (
        lambda: vg.SVI(model, lambda: vg.param("a", 1.0, constraint="positive"), vg.optim.Adam()).step(),
        "'a': constraint must be a constraint, got 'positive'",
    ),
}


@pytest.mark.parametrize(("call", "text"), REFUSED.values(), ids=REFUSED)
def test_wrong_kinds_are_refused(call, text):
    with pytest.raises(VarigradError, match=text):
        call()


@pytest.mark.parametrize("answer", [None, Surrogate(3.0)])
def test_what_an_estimator_answers_is_looked_at(answer):
    class Wrong(Estimator):
        drawing = Drawing()

        def refusal(self, distribution):
            return None

        def surrogate(self, draw, cost, state):
            return answer

    with pytest.raises(SiteError, match=r"'z': Wrong.surrogate returned .* Try: return Surrogate"):
        vg.ELBO(estimators={"z": Wrong()})(model, guide)()


def changed(path, value):
    def change(state):
        *way, last = path
        for key in way:
            state = state[key]
        state[last] = value

    return change


GROUP = ("optimizer", "param_groups", 0)
DAMAGED = {
    "a negative rate": changed((*GROUP, "lr"), -3.0),
    "a rate that is no number": changed((*GROUP, "lr"), math.nan),
    "a rate that is text": changed((*GROUP, "lr"), "zz"),
    "eps": changed((*GROUP, "eps"), math.nan),
    "betas": changed((*GROUP, "betas"), None),
    "one beta": changed((*GROUP, "betas"), (0.9,)),
    "amsgrad": changed((*GROUP, "amsgrad"), "zz"),
    "a moment that is text": changed(("optimizer", "state", 0, "exp_avg"), "zz"),
    "a moment of another shape": changed(("optimizer", "state", 0, "exp_avg"), torch.zeros(5)),
    "steps that are no number": changed(("bound", "_estimators.steps"), torch.tensor(math.nan)),
    "a negative number of steps": changed(("bound", "_estimators.steps"), torch.tensor(-3)),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_damaged_states_are_refused_and_change_nothing(damage):
    svi, same = (vg.SVI(model, guide, vg.optim.Adam(0.1), seed=0) for _ in range(2))
    svi.run(3, progress=False), same.run(3, progress=False)
    state = copy.deepcopy(svi.state())
    damage(state)
    with pytest.raises(ParameterError):
        svi.load_state(state)
    assert torch.equal(svi.run(4, progress=False).losses, same.run(4, progress=False).losses)


def test_a_state_from_before_the_first_step_forgets_moments():
    fresh, used = (vg.SVI(model, guide, vg.optim.Adam(0.1), seed=0) for _ in range(2))
    fresh.init(), used.init()
    state = used.state()
    used.run(5, progress=False)
    used.load_state(state)
    assert torch.equal(used.run(3, progress=False).losses, fresh.run(3, progress=False).losses)
