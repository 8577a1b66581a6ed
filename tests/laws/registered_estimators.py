"""Every estimator of the registry on small programs, side by side and in a loop: all outcomes are run."""

from registry import ENUMERATED, ESTIMATORS, LARGE, SMALL

from laws.base import law
from varigrad.testing import PROGRAMS, check_case

TESTED: set[str] = set()
"""The laws that state what a case of `tests/test_laws.py` states: there is no need to run them a second time."""


def _registered(name, program, title=None):
    entry, case = ESTIMATORS[name], PROGRAMS[program]

    def unbiased():
        for vectorize in (None,) if entry.alone else (None, False):
            verdict = check_case(entry.make(), program, case, vectorize)
            assert verdict.how == ("exact" if program in entry.serves else "refused"), verdict
            assert verdict.passed, verdict
            if vectorize is None and verdict.how == "exact" and case.broadcasts:
                assert verdict.side_by_side, verdict

    title = f"{title or name.replace('_', ' ')} on {program}"
    law(unbiased, title)
    if (name, program) in ENUMERATED:
        TESTED.add(title)


for _program in SMALL + LARGE:
    for _name in ESTIMATORS:
        if (_name, _program) in ENUMERATED:
            _registered(_name, _program)
for _program in ("event", "binomial"):
    _registered("stochastic_ad", _program)
_registered("double_control_with_weight", "one_hot", "double control")
