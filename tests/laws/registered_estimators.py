"""Every estimator of the registry on small programs, side by side and in a loop: all outcomes are run."""

from registry import ESTIMATORS

from laws.base import law
from varigrad.testing import PROGRAMS, check_case

SMALL = (
    "bernoulli", "categorical", "extreme_probabilities", "mixture", "categorical_chain", "scaled", "masked",
    "control_flow", "sites_that_come_and_go", "subsampled_plate", "plate_under_global", "plate_entered_twice",
)  # fmt: skip
LARGE = ("chain", "nested_plates", "sequential_plate")
"""Too many outcomes with alternatives, or with particles."""
ENUMERABLE = {name: entry for name, entry in ESTIMATORS.items() if entry.enumerable}


def _registered(name, program, title=None):
    entry, case = ESTIMATORS[name], PROGRAMS[program]

    def unbiased():
        for vectorize in (None,) if entry.lanes == entry.particles == 1 else (None, False):
            verdict = check_case(entry.make(), program, case, vectorize)
            assert verdict.how == ("exact" if program in entry.serves else "refused"), verdict
            assert verdict.passed, verdict
            if vectorize is None and verdict.how == "exact" and case.broadcasts:
                assert verdict.side_by_side, verdict

    law(unbiased, f"{title or name.replace('_', ' ')} on {program}")


for _program in SMALL:
    for _name, _entry in ENUMERABLE.items():
        if _program not in _entry.slow | _entry.sampled:  # `tests/test_laws.py` has those
            _registered(_name, _program)
for _program in LARGE:
    for _name, _entry in ENUMERABLE.items():
        if _entry.lanes == _entry.particles == 1:
            _registered(_name, _program)
for _program in ("event", "binomial"):
    _registered("stochastic_ad", _program)
_registered("double_control_with_weight", "one_hot", "double control")
