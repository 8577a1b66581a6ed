"""Law 1: the mean of every estimator's gradient is the exact gradient, on every program that it serves."""

import pytest
from registry import ENUMERATED, UNBIASED

import varigrad as vg
from varigrad.gradients.moments import FIRST_ALARM, SECOND_ALARM
from varigrad.testing import PROGRAMS, check_case, exact_gradient
from varigrad.testing.conformance import sampled_error

ONE_CHOICE = ("bernoulli", "one_hot", "chain")
"""Where uniform numbers are integrated over."""


def _cases():
    for name, entry in UNBIASED.items():
        for program in PROGRAMS:
            if program in entry.sampled:
                continue  # `test_heavy_programs` has it
            once = entry.alone and (name, program) in ENUMERATED  # neither way has anything to run side by side
            for vectorize in (None,) if once else (None, False):
                in_a_loop = vectorize is False
                slow = program in entry.slow or (in_a_loop and entry.slow_in_a_loop)
                slow = slow or (entry.noisy and (in_a_loop or program not in ONE_CHOICE))
                marks = [pytest.mark.slow] if slow else []
                yield pytest.param(name, program, vectorize, marks=marks, id=f"{name}-{program}-{vectorize}")


@pytest.mark.parametrize(("name", "program", "vectorize"), list(_cases()))
def test_mean_is_the_exact_gradient(name, program, vectorize):
    entry = UNBIASED[name]
    case = PROGRAMS[program]
    estimator = entry.make()
    verdict = check_case(estimator, program, case, vectorize)
    assert verdict.passed, verdict
    apart = vectorize is False and estimator.drawing.coupling is not None  # particles one by one cannot be coupled
    assert (verdict.how == "refused") == (apart or program not in entry.serves)
    if (name, program) in ENUMERATED:
        assert verdict.how in ("exact", "refused"), verdict
    if vectorize is None and case.broadcasts and verdict.how == "exact":
        assert verdict.side_by_side


def test_all_that_is_enumerated_is_among_them():
    """`test_fast_laws.py` leaves these cases to this file."""
    cases = list(_cases())
    assert {(p.values[0], p.values[1]) for p in cases if not p.marks} >= ENUMERATED
    assert not any(p.marks for p in cases if p.values[:2] in ENUMERATED)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry", "program"),
    [
        pytest.param(entry, program, id=f"{name}-{program}")
        for name, entry in UNBIASED.items()
        for program in sorted(entry.sampled & entry.serves)
    ],
)
def test_heavy_programs(entry, program):
    """Too many outcomes for the estimator to be enumerated, not too many for the program: so sample the estimator."""
    case = PROGRAMS[program]
    single = vg.ELBO()(case.model, case.guide)
    _, gradient = exact_gradient(single)
    bound = vg.ELBO(100, {"z*": entry.make()})(case.model, case.guide)
    for batches, alarm in ((200, FIRST_ALARM), (2000, SECOND_ALARM)):
        error, limit = sampled_error(bound, case, gradient, batches, alarm)
        if error <= limit:
            return
    raise AssertionError(f"|z| = {error}, limit {limit}")
