"""Every estimator, entered once: what tests, laws and mutants that run over estimators read.

An entry says how the estimator is made, which programs of `varigrad.testing.PROGRAMS` it serves (by name: it has to
refuse all others), and what enumerating its draws costs. `tests/test_registry.py` holds the entries to the package.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from types import ModuleType

import torch

import varigrad as vg
from varigrad.estimators import (
    ARM,
    ARMS,
    Annealed,
    Antithetic,
    Combination,
    DisARM,
    DoubleControlVariate,
    Enumerate,
    Estimator,
    GappedStraightThrough,
    GRep,
    GumbelRao,
    GumbelSoftmax,
    Lax,
    LeaveOneOut,
    LocalExpectation,
    MeasureValued,
    MovingAverage,
    MuProp,
    OptimalScore,
    Pathwise,
    Rebar,
    Relax,
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

# The programs, by what makes an estimator serve or refuse them. A new program joins one of these sets, or begins one.

COINS = frozenset({
    "bernoulli", "zero_logits", "extreme_probabilities", "chain", "plate_under_global", "nested_plates",
    "subsampled_plate", "sequential_plate", "scaled",
})  # fmt: skip
BRANCHING = frozenset({"control_flow", "sites_that_come_and_go"})
"""They branch in Python on what they drew."""
SHARED_COSTS = frozenset({"plate_entered_twice", "masked"})
"""Elements of a plate have a cost in common."""
EVENT = frozenset({"event"})
INDICES = frozenset({"categorical", "mixture", "categorical_chain"})
ONE_HOT = frozenset({"one_hot"})
BINOMIAL = frozenset({"binomial"})
POISSON = frozenset({"poisson"})
OTHER_COUNTS = frozenset({"geometric", "negative_binomial"})
NORMALS = frozenset({"normal", "event_of_normals", "plate_of_normals_under_a_switch"})
EXPONENTIAL = frozenset({"exponential"})
GAMMA = frozenset({"gamma"})
BETA_AND_DIRICHLET = frozenset({"beta", "dirichlet"})
REJECTION = frozenset({"rejection_gamma"})
SETS = (
    COINS, BRANCHING, SHARED_COSTS, EVENT, INDICES, ONE_HOT, BINOMIAL, POISSON, OTHER_COUNTS, NORMALS, EXPONENTIAL,
    GAMMA, BETA_AND_DIRICHLET, REJECTION,
)  # fmt: skip
EVERY = frozenset().union(*SETS)
DISCRETE_EVERYWHERE = COINS | SHARED_COSTS | EVENT | ONE_HOT
"""Where Bernoulli and one-hot choices may take values in between: no branch of Python asks for them."""
FINITE = COINS | BRANCHING | INDICES | ONE_HOT | BINOMIAL


@dataclass(frozen=True)
class Entry:
    """One estimator, as tests use it.

    Attributes:
        make: makes it, with networks of its own if it has any.
        serves: the programs whose sites `z*` it serves, by name.
        lanes: values at which it looks at a site with two values, the draw included; 1 where there is no such site.
        particles: how many it needs at least.
        unbiased: whether its mean is the exact gradient.
        noisy: whether it draws uniform numbers besides: a single choice is integrated over, the rest is sampled.
        slow: programs that take long to enumerate: `make laws` does.
        slow_in_a_loop: whether all programs are for `make laws` where particles are run one by one.
        sampled: programs with too many outcomes to be enumerated at all: `make laws` samples them.
        mixes: the groups of `tests/test_random_programs.py` in which it is drawn, beside other estimators.
        twin: the same one of `examples/mini.py`, of which it is given the module.
    """

    make: Callable[[], Estimator]
    serves: frozenset[str]
    lanes: int = 1
    particles: int = 1
    unbiased: bool = True
    noisy: bool = False
    slow: frozenset[str] = frozenset()
    slow_in_a_loop: bool = False
    sampled: frozenset[str] = frozenset()
    mixes: tuple[str, ...] = ()
    twin: Callable[[ModuleType], object] | None = field(default=None, repr=False)

    @property
    def alone(self) -> bool:
        """Whether one particle is enough, and it has no alternatives: there is nothing to run side by side."""
        return self.lanes == self.particles == 1

    def elbo(self, **options: object) -> vg.ELBO:
        """An ELBO with a new one of it at the sites under test."""
        return vg.ELBO(self.particles, {"z*": self.make()}, **options)

    @property
    def enumerable(self) -> bool:
        """Whether all that it draws at a coin can be run, outcome by outcome."""
        return self.unbiased and not self.noisy and "bernoulli" in self.serves


def network(*sizes: int) -> torch.nn.Sequential:
    """Layers with the same parameters each time, and tanh in between."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(20261123)
        layers = [torch.nn.Linear(a, b) for a, b in pairwise(sizes)]
    return torch.nn.Sequential(*[m for layer in layers for m in (layer, torch.nn.Tanh())][:-1]).double()


class OfAnySize(torch.nn.Module):
    """The mean of one small network over however many numbers there are: `[..., n]` to `[..., 1]`."""

    def __init__(self) -> None:
        super().__init__()
        self.of_one = network(1, 5, 1)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        return self.of_one(numbers.unsqueeze(-1)).mean(-2)


SLOW = frozenset({"chain", "sequential_plate"})
SAMPLED = frozenset({"nested_plates", "event"})
"""What is slow, and what has too many outcomes, for an estimator that looks at two values or three."""

ESTIMATORS = {
    "score": Entry(
        Score,
        EVERY,
        mixes=("score_functions", "all_estimators", "coupled", "by_element"),
        twin=lambda mini: mini.Score(),
    ),
    "moving_average": Entry(
        lambda: Score(MovingAverage(0.7)),
        EVERY,
        mixes=("score_functions", "all_estimators"),
        twin=lambda mini: mini.Score(decay=0.7),
    ),
    "moving_average_per_element": Entry(lambda: Score(MovingAverage(0.7, per_element=True)), EVERY),
    "combination": Entry(
        lambda: Score(Combination(MovingAverage(0.7), MovingAverage(0.3, per_element=True), decay=0.5)), EVERY
    ),
    "optimal_score": Entry(lambda: OptimalScore(MovingAverage(0.5), decay=0.5), EVERY - REJECTION),
    "leave_one_out": Entry(
        lambda: LeaveOneOut(2),
        EVERY,
        lanes=2,
        slow=SLOW,
        sampled=SAMPLED,
        mixes=("all_estimators", "by_element"),
        twin=lambda mini: mini.LeaveOneOut(2),
    ),
    "leave_one_out_of_particles": Entry(LeaveOneOut, EVERY, particles=2, slow=SLOW, sampled=SAMPLED),
    "enumerate": Entry(
        Enumerate,
        FINITE,
        lanes=3,
        slow=SLOW,
        sampled=SAMPLED,
        mixes=("all_estimators",),
        twin=lambda mini: mini.Enumerate(),
    ),
    "disarm": Entry(
        DisARM,
        DISCRETE_EVERYWHERE | BRANCHING | INDICES,
        lanes=2,
        slow=SLOW,
        sampled=SAMPLED,
        mixes=("all_estimators", "coupled"),
    ),
    "arm": Entry(
        ARM,
        COINS | BRANCHING | SHARED_COSTS | EVENT,
        lanes=2,
        slow=frozenset({"chain", "plate_under_global"}),
        sampled=SAMPLED | {"sequential_plate"},
        mixes=("coupled",),
    ),
    "arms": Entry(
        lambda: ARMS(3),
        COINS | BRANCHING | SHARED_COSTS | EVENT,
        lanes=3,
        slow=frozenset({"plate_entered_twice"}),
        sampled=SAMPLED | {"chain", "plate_under_global", "sequential_plate"},
        mixes=("coupled",),
    ),
    "local_expectation": Entry(
        LocalExpectation, FINITE | EVENT, lanes=2, slow=SLOW, sampled=SAMPLED, mixes=("by_element",)
    ),
    "unordered_set": Entry(lambda: UnorderedSet(2), FINITE, lanes=2, slow=SLOW, sampled=SAMPLED, mixes=("by_element",)),
    "sum_and_sample": Entry(
        lambda: SumAndSample(1), FINITE, lanes=2, slow=SLOW, sampled=SAMPLED, mixes=("by_element",)
    ),
    "measure_valued": Entry(
        MeasureValued,
        COINS | BRANCHING | EVENT | INDICES | ONE_HOT | POISSON | NORMALS | EXPONENTIAL | GAMMA,
        lanes=2,
        slow=SLOW,
        sampled=SAMPLED,
        mixes=("by_element",),
    ),
    "stochastic_ad": Entry(
        StochasticAD,
        COINS | BRANCHING | EVENT | INDICES | BINOMIAL | POISSON | OTHER_COUNTS,
        lanes=2,
        slow=SLOW,
        sampled=SAMPLED,
        mixes=("by_element",),
    ),
    "self_critical": Entry(
        SelfCritical,
        FINITE | SHARED_COSTS | EVENT | POISSON | OTHER_COUNTS | NORMALS,
        lanes=2,
        slow=SLOW,
        sampled=SAMPLED,
    ),
    "muprop": Entry(lambda: MuProp(MovingAverage(0.7)), DISCRETE_EVERYWHERE | BRANCHING, lanes=2),
    "muprop_without_baseline": Entry(MuProp, DISCRETE_EVERYWHERE | BRANCHING, lanes=2),
    "rebar": Entry(Rebar, DISCRETE_EVERYWHERE, lanes=3, noisy=True),
    "rebar_with_weight": Entry(
        lambda: Rebar(eta=0.7, temperature=0.3, train=False, baseline=MovingAverage(0.7)),
        DISCRETE_EVERYWHERE,
        lanes=3,
        noisy=True,
    ),
    "relax": Entry(lambda: Relax(OfAnySize()), DISCRETE_EVERYWHERE | BRANCHING, noisy=True),
    "lax": Entry(lambda: Lax(OfAnySize()), NORMALS),
    "double_control": Entry(
        lambda: DoubleControlVariate(2), DISCRETE_EVERYWHERE | BRANCHING, lanes=2, slow=SLOW, sampled=SAMPLED
    ),
    "double_control_with_weight": Entry(
        lambda: DoubleControlVariate(2, -1.0, train=False),
        DISCRETE_EVERYWHERE | BRANCHING,
        lanes=2,
        slow=SLOW,
        sampled=SAMPLED,
    ),
    "rodeo": Entry(lambda: Rodeo(2), COINS | BRANCHING | SHARED_COSTS | EVENT, lanes=2, slow=SLOW, sampled=SAMPLED),
    "rodeo_with_weights": Entry(
        lambda: Rodeo(2, 0.5, -1.0, 0.7, train=False),
        COINS | BRANCHING | SHARED_COSTS | EVENT,
        lanes=2,
        slow=SLOW,
        sampled=SAMPLED,
    ),
    "rodeo_with_a_network": Entry(
        lambda: Rodeo(2, 0.5, network=network(2, 5, 2), train=False),
        COINS | BRANCHING | SHARED_COSTS | EVENT,
        lanes=2,
        slow=SLOW,
        sampled=SAMPLED,
    ),
    "pathwise": Entry(Pathwise, NORMALS | EXPONENTIAL | GAMMA | BETA_AND_DIRICHLET | REJECTION),
    "sticking_the_landing": Entry(
        lambda: Pathwise(sticking_the_landing=True), NORMALS | EXPONENTIAL | GAMMA | BETA_AND_DIRICHLET | REJECTION
    ),
    "antithetic": Entry(
        lambda: Pathwise(coupling=Antithetic()), NORMALS | EXPONENTIAL | GAMMA | BETA_AND_DIRICHLET, particles=2
    ),
    "sobol": Entry(lambda: Pathwise(coupling=Sobol()), NORMALS | EXPONENTIAL | GAMMA | BETA_AND_DIRICHLET, particles=2),
    "grep": Entry(GRep, GAMMA | BETA_AND_DIRICHLET, slow_in_a_loop=True),
    "rsvi": Entry(lambda: Rsvi(baseline=MovingAverage(0.7)), GAMMA | BETA_AND_DIRICHLET, slow_in_a_loop=True),
    # Biased: `laws/relaxations.py` holds them to the means of their formulas.
    "gumbel_softmax": Entry(
        lambda: GumbelSoftmax(Annealed(1.0, 0.5, 6)), DISCRETE_EVERYWHERE, unbiased=False, noisy=True
    ),
    "straight_through": Entry(StraightThrough, DISCRETE_EVERYWHERE, unbiased=False),
    "straight_through_gumbel": Entry(StraightThroughGumbel, DISCRETE_EVERYWHERE, unbiased=False, noisy=True),
    "gumbel_rao": Entry(lambda: GumbelRao(3, Annealed(1.0, 0.5, 4)), DISCRETE_EVERYWHERE, unbiased=False, noisy=True),
    "gapped_straight_through": Entry(GappedStraightThrough, DISCRETE_EVERYWHERE, unbiased=False),
}
UNBIASED = {name: entry for name, entry in ESTIMATORS.items() if entry.unbiased}

SMALL = (
    "bernoulli", "categorical", "extreme_probabilities", "mixture", "categorical_chain", "scaled", "masked",
    "control_flow", "sites_that_come_and_go", "subsampled_plate", "plate_under_global", "plate_entered_twice",
)  # fmt: skip
LARGE = ("chain", "nested_plates", "sequential_plate")
"""Too many outcomes with alternatives, or with particles."""
ENUMERATED = frozenset(
    (name, program)
    for name, entry in ESTIMATORS.items()
    if entry.enumerable
    for program in (SMALL + LARGE if entry.alone else SMALL)
    if program not in entry.slow | entry.sampled
)
"""Estimators and programs of which all outcomes are run, in tests and laws, where the one serves the other."""
