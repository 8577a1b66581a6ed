"""Law 1: the mean of every estimator's gradient is the exact gradient, on every program of the registry."""

import pytest

import varigrad as vg
from varigrad.errors import SiteError
from varigrad.estimators import (
    ARM,
    ARMS,
    Annealed,
    Antithetic,
    Combination,
    DisARM,
    DoubleControlVariate,
    Enumerate,
    GappedStraightThrough,
    GRep,
    GumbelRao,
    GumbelSoftmax,
    LeaveOneOut,
    LocalExpectation,
    MeasureValued,
    MovingAverage,
    MuProp,
    OptimalScore,
    Pathwise,
    Rebar,
    Rodeo,
    Rsvi,
    Score,
    SelfCritical,
    Sobol,
    StochasticAD,
    StraightThrough,
    StraightThroughGumbel,
    SumAndSample,
    UnorderedSet,
)
from varigrad.gradients.moments import FIRST_ALARM, SECOND_ALARM
from varigrad.testing import PROGRAMS, check_case, exact_gradient
from varigrad.testing.conformance import sampled_error

ESTIMATORS = {
    "score": Score(),
    "moving_average": Score(MovingAverage(0.7)),
    "moving_average_per_element": Score(MovingAverage(0.7, per_element=True)),
    "combination": Score(Combination(MovingAverage(0.7), MovingAverage(0.3, per_element=True), decay=0.8)),
    "optimal_score": OptimalScore(MovingAverage(0.5), decay=0.8),
    "leave_one_out": LeaveOneOut(2),
    "leave_one_out_particles": LeaveOneOut(),
    "enumerate": Enumerate(),
    "disarm": DisARM(),
    "arm": ARM(),
    "arms": ARMS(3),
    "local_expectation": LocalExpectation(),
    "unordered_set": UnorderedSet(2),
    "sum_and_sample": SumAndSample(1),
    "measure_valued": MeasureValued(),
    "stochastic_ad": StochasticAD(),
    "self_critical": SelfCritical(),
    "muprop": MuProp(),
    "muprop_with_average": MuProp(MovingAverage(0.7)),
    "rebar": Rebar(),
    "rebar_fixed": Rebar(eta=0.7, temperature=0.3, train=False, baseline=MovingAverage(0.7)),
    "double_control": DoubleControlVariate(2),
    "double_control_fixed": DoubleControlVariate(2, alpha=0.5, train=False),
    "rodeo": Rodeo(2),
    "rodeo_fixed": Rodeo(2, alpha=0.5, beta=-1.0, gamma=0.7, train=False),
    "pathwise": Pathwise(),
    "sticking_the_landing": Pathwise(sticking_the_landing=True),
    "antithetic": Pathwise(coupling=Antithetic()),
    "sobol": Pathwise(coupling=Sobol()),
    "grep": GRep(),
    "rsvi": Rsvi(baseline=MovingAverage(0.7)),
}
BIASED = {
    "gumbel_softmax": GumbelSoftmax(Annealed(1.0, 0.5, 6)),
    "straight_through": StraightThrough(),
    "straight_through_gumbel": StraightThroughGumbel(),
    "gumbel_rao": GumbelRao(3, Annealed(1.0, 0.5, 4)),
    "gapped_straight_through": GappedStraightThrough(),
}
"""By name only. Their own means are in `laws.py`; the captured steps run over them, too."""

SERVES = {
    "score": 30, "leave_one_out": 30, "enumerate": 16, "disarm": 18, "arm": 14, "arms": 14, "local_expectation": 17,
    "unordered_set": 16, "sum_and_sample": 16, "measure_valued": 22, "stochastic_ad": 19, "self_critical": 25,
    "pathwise": 8, "optimal_score": 29, "double_control": 15, "rodeo": 14, "grep": 3, "rsvi": 3,
}  # fmt: skip
ONE_LANE = {
    "score", "moving_average", "moving_average_per_element", "combination", "optimal_score", "pathwise",
    "sticking_the_landing", "muprop", "muprop_with_average", "antithetic", "sobol", "grep", "rsvi",
}  # fmt: skip
NOISY = {"rebar", "rebar_fixed"}
"""They draw uniform numbers besides: quadrature on a single choice, sampling elsewhere."""
HEAVY = {"nested_plates", "event", "chain", "sequential_plate"}
LONG = {("arm", "plate_under_global"), ("arms", "plate_entered_twice"), ("arm", "plate_entered_twice")}
SAMPLED = {("arms", "chain"), ("arms", "plate_under_global"), ("arm", "sequential_plate"), ("arms", "sequential_plate")}
"""Too many outcomes for these estimators alone; others of the same make are enumerated there."""


def _cases():
    for estimator in ESTIMATORS:
        for program, case in PROGRAMS.items():
            for vectorize in (None, False):
                slow = (estimator not in ONE_LANE and program in HEAVY) or (estimator, program) in LONG
                if estimator in NOISY:
                    slow = vectorize is False or program not in ("bernoulli", "one_hot", "chain")
                elif (slow and case.heavy) or (estimator, program) in SAMPLED:
                    continue  # too many outcomes for any budget: `test_heavy_programs` samples them
                slow = slow or (estimator in ("grep", "rsvi") and vectorize is False)
                marks = [pytest.mark.slow] if slow else []
                yield pytest.param(estimator, program, vectorize, marks=marks, id=f"{estimator}-{program}-{vectorize}")


@pytest.mark.parametrize(("estimator", "program", "vectorize"), list(_cases()))
def test_mean_is_the_exact_gradient(estimator, program, vectorize):
    case = PROGRAMS[program]
    verdict = check_case(ESTIMATORS[estimator], program, case, vectorize)
    assert verdict.passed, verdict
    if vectorize is None and case.broadcasts and verdict.how == "exact":
        assert verdict.side_by_side


@pytest.mark.parametrize("estimator", SERVES)
def test_estimators_serve_what_they_should_and_refuse_the_rest(estimator):
    served = []
    for name, case in PROGRAMS.items():
        try:
            vg.ELBO(estimators={"z*": ESTIMATORS[estimator]})(case.model, case.guide)()
            served.append(name)
        except SiteError as error:
            assert "Try: " in str(error)
    assert len(served) == SERVES[estimator], served


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimator", "program"),
    [
        (e, p)
        for p in ("nested_plates", "event")
        for e in ("leave_one_out", "enumerate", "disarm", "arm", "arms", "local_expectation")
    ]
    + sorted(SAMPLED),
)
def test_heavy_programs(estimator, program):
    """Too many outcomes for the estimator to be enumerated, not too many for the program: so sample the estimator."""
    case = PROGRAMS[program]
    single = vg.ELBO()(case.model, case.guide)
    _, gradient = exact_gradient(single)
    try:
        bound = vg.ELBO(100, {"z*": ESTIMATORS[estimator]})(case.model, case.guide)
    except SiteError as error:
        assert estimator == "enumerate" and program == "event", error
        return
    for batches, alarm in ((200, FIRST_ALARM), (2000, SECOND_ALARM)):
        error, limit = sampled_error(bound, case, gradient, batches, alarm)
        if error <= limit:
            return
    raise AssertionError(f"|z| = {error}, limit {limit}")
