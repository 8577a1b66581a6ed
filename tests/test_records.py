"""Records of a run, and the settings that its steps share: cheap to make, and never out of date."""

from __future__ import annotations

from dataclasses import MISSING, fields
from inspect import Parameter, signature
from itertools import product

import numpy as np
import pytest
import torch

import varigrad as vg
from varigrad import distributions as dist
from varigrad.estimators import Draw, Estimator, Pathwise, Score
from varigrad.language.messages import Param, Plate, Sample
from varigrad.objectives.surrogate import Estimate
from varigrad.shapes import join
from varigrad.terms.dependency_tracker import Statement
from varigrad.terms.term import Term

RECORDS = (Plate, Sample, Param, Statement, Term, Draw, Estimate)


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_a_record_takes_its_fields_in_their_order(kind):
    parameters = signature(kind).parameters
    assert list(parameters) == [field.name for field in fields(kind)]
    given = {name: object() for name in parameters}
    assert vars(kind(**given)) == given
    for field in fields(kind):
        if field.default is not MISSING:
            assert parameters[field.name].default == field.default
        elif field.default_factory is MISSING:
            assert parameters[field.name].default is Parameter.empty


def test_notes_of_two_samples_are_two_dictionaries():
    first, second = (Sample("z", dist.Normal(0.0, 1.0), None, False) for _ in range(2))
    assert first.notes == {} and first.notes is not second.notes


def test_shapes_broadcast_as_those_of_arrays():
    shapes = [shape for length in range(4) for shape in product((0, 1, 2, 3), repeat=length)]
    for a, b in product(shapes, shapes):
        try:
            expected = np.broadcast_shapes(a, b)
        except ValueError:
            with pytest.raises(RuntimeError, match="do not broadcast"):
                join(a, b)
        else:
            assert join(torch.Size(a), b) == torch.Size(expected)


def test_a_step_sees_that_the_estimators_asked_for_have_changed():
    def model():
        vg.sample("x", dist.Normal(vg.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=torch.tensor(2.0))

    def guide():
        vg.sample("z", dist.Normal(vg.param("m", torch.tensor(0.0)), 1.0))

    asked: dict[str, Estimator] = {"z": Score()}
    bound = vg.ELBO(estimators=asked)(model, guide)
    differentiated = [[site for site, _ in bound.estimate().parts().values] for _ in range(2)]
    asked["z"] = Pathwise()
    assert [*differentiated, [site for site, _ in bound.estimate().parts().values]] == [[], [], ["z"]]
