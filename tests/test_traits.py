"""What an estimator says about itself, and what it may no longer say."""

from dataclasses import dataclass, replace

import pytest
import torch

import varigrad as vg
from varigrad.estimators import (
    Drawing,
    Estimator,
    GumbelSoftmax,
    LeaveOneOut,
    Needs,
    Pathwise,
    Promises,
    Rebar,
    Rodeo,
    Score,
    Slope,
    Sobol,
)
from varigrad.estimators.traits import _FORMER_FLAGS

FORMER = {
    "pathwise": True,
    "partial": True,
    "coupling": Sobol(),
    "needs_cost": False,
    "per_element": True,
    "across_particles": True,
    "relaxes": True,
    "smooth": True,
    "differentiates": True,
    "twice": True,
    "apart": True,
    "sticking_the_landing": True,
    "unbiased": False,
}


def test_all_former_flags_are_listed():
    assert FORMER.keys() == _FORMER_FLAGS.keys()


@pytest.mark.parametrize("name", FORMER)
def test_a_former_flag_is_refused(name):
    with pytest.raises(vg.errors.SiteError, match=rf"'Mine': sets {name}, which is no longer read") as caught:
        type("Mine", (Estimator,), {name: FORMER[name]})
    words = {"Drawing": Drawing, "Needs": Needs, "Promises": Promises, "Slope": Slope, "Sobol": Sobol}
    record, made = caught.value.try_.split(" = ", 1)
    made = eval(made, words)
    assert made != type(made)()
    Mine = type("Mine", (Estimator,), {record: made, "refusal": lambda self, distribution: None})
    assert getattr(Mine(), record) is made


def test_a_former_flag_is_refused_wherever_it_is_set():
    class Mixed:
        per_element = True

    with pytest.raises(vg.errors.SiteError, match="'Both': sets per_element"):
        type("Both", (Mixed, Estimator), {})
    with pytest.raises(vg.errors.SiteError, match="'Less': sets unbiased"):
        type("Less", (Score,), {"unbiased": False})
    with pytest.raises(vg.errors.SiteError, match="'Half': sets per_element"):
        type("Half", (Estimator,), {"per_element": True, "needs": Needs()})
    with pytest.raises(vg.errors.SiteError, match="'Asked': sets unbiased"):

        @dataclass(frozen=True)
        class Asked(Estimator):
            unbiased: bool = False


def test_a_constructor_argument_may_be_called_like_one_if_the_record_follows_it():
    @dataclass(frozen=True)
    class Mine(Estimator):
        per_element: bool = True

        @property
        def needs(self):
            return Needs(per_element=self.per_element)

        def refusal(self, distribution):
            return None

    assert Mine().needs.per_element and not Mine(False).needs.per_element


@pytest.mark.parametrize(
    ("estimator", "drawing", "needs", "promises"),
    [
        (Score(), Drawing(), Needs(), Promises()),
        (Score(normalise=True), Drawing(), Needs(), Promises(unbiased=False)),
        (LeaveOneOut(2), Drawing(), Needs(), Promises()),
        (LeaveOneOut(), Drawing(), Needs(across_particles=True), Promises()),
        (Pathwise(), Drawing(pathwise=True), Needs(cost=False), Promises()),
        (Pathwise(True), Drawing(pathwise=True), Needs(cost=False, constant_density=True), Promises()),
        (Pathwise(coupling=Sobol()), Drawing(pathwise=True, coupling=Sobol()), Needs(cost=False), Promises()),
        (
            GumbelSoftmax(),
            Drawing(pathwise=True),
            Needs(cost=False, between_values=True, differentiable=True),
            Promises(unbiased=False),
        ),
    ],
    ids=repr,
)
def test_what_estimators_say(estimator, drawing, needs, promises):
    assert (estimator.drawing, estimator.needs, estimator.promises) == (drawing, needs, promises)


def test_slopes():
    assert Rebar().needs.slope == Slope(twice=True) and Rebar(train=False).needs.slope == Slope()
    assert Rodeo().needs == Needs(between_values=True, slope=Slope())
    assert replace(Rodeo(), network=torch.nn.Linear(1, 1)).needs.slope == Slope(apart=True)
