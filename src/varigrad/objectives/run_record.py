"""Settings of one run of guide and model (`RunSettings`), and its results (`RunRecord`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from torch import Tensor

from varigrad.distributions.rng import Source
from varigrad.estimators.base import Draw, Lanes, State
from varigrad.objectives.checks.density_jumps import Marked
from varigrad.objectives.estimator_selection import Choice, Patterns
from varigrad.objectives.marginal_sites import Marginal, allocate
from varigrad.objectives.parameters import ParameterStore
from varigrad.terms.dependency_tracker import Statement, Tracker
from varigrad.terms.elimination.chains import ChainSites
from varigrad.terms.independence.analysis import Follower
from varigrad.terms.marginal import MarginalSite, Slots
from varigrad.terms.term import Term


class VectorizationChanged(Exception):
    """A run met a site or plate that its vectorization lacks, so the programs have to be analysed again."""


@dataclass(frozen=True)
class Vectorization:
    """The use of leading dimensions: plates rightmost, then particles, then lanes.

    Attributes:
        plates: how many dimensions the program's plates occupy.
        particles: how many particles lie along a separate dimension (1: no such dimension).
        lanes: for each site with alternatives its lanes, in the order of drawing.
        order: all latent sites in the order of drawing.
        mixed: plates along which something reads a site across elements, though the site and its readers are inside.
        guarded: whether the programs swap the memory of tensors (`w.data = z`), which only a closer look sees.
        slots: for each site of the model that is summed out, the dimension of its values, counted from the lanes' to
            the left.
        rounds: of chains whose sites are summed out, how many rounds to run one after the other; 0: all run at once.
    """

    plates: int = 0
    particles: int = 1
    lanes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    order: Sequence[str] = ()
    mixed: Mapping[str, frozenset[str]] = field(default_factory=dict)
    guarded: bool = False
    slots: Mapping[str, int] = field(default_factory=dict)
    rounds: int = 0

    @property
    def plain(self) -> Vectorization:
        """The same plates and sites, without particles and lanes."""
        return Vectorization(self.plates, order=self.order, guarded=self.guarded, slots=self.slots)

    @property
    def dims(self) -> int:
        """Number of plate dimensions, particles included."""
        return self.plates + (self.particles > 1)

    @property
    def count(self) -> int:
        """Number of lanes, lane 0 included."""
        return 1 + sum(len(rows) for rows in self.lanes.values())

    def lanes_of(self, site: str) -> Lanes | None:
        """The lanes as this site sees them; None if the program has no alternatives."""
        if self.count == 1:
            return None
        if site not in self.order:
            raise VectorizationChanged(site)
        own = self.lanes.get(site, ())
        before = set(self.order[: self.order.index(site)])
        mine = {r for s, rows in self.lanes.items() if s in before for r in rows} | set(own)
        return Lanes(self.count, self.dims, own, tuple(r if r in mine else 0 for r in range(self.count)))


@dataclass(slots=True, eq=False)
class RunRecord:
    """The results of one run of guide and model.

    Attributes:
        tracker: follows what depends on which draw.
        guide, model: the statements of both programs, in order.
        draws: what estimators drew, by site.
        alternatives: in a loop, the draws whose alternatives wait for separate runs.
        choices: the estimators, by site.
        values: the values of latent sites, marked for tracking.
        records: values of deterministic sites.
        indices: minibatches, by plate.
        sizes: size and dimension of each plate.
        operations: how many operations autograd has noted, and a number for those on tracked tensors.
        marked: of an exploring run, the samples of both programs with their marks on.
        marginal: the sites of the model that are summed out, by name.
        spread: whether all of their values are there at once.
        chains: the chains among them.
        unguided: sites that were drawn from the model's distribution, because the guide lacks them.
    """

    tracker: Tracker = field(default_factory=Tracker)
    guide: list[Statement] = field(default_factory=list)
    model: list[Statement] = field(default_factory=list)
    draws: dict[str, Draw] = field(default_factory=dict)
    alternatives: dict[str, Draw] = field(default_factory=dict)
    choices: dict[str, Choice] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)
    records: dict[str, Tensor] = field(default_factory=dict)
    indices: dict[str, Tensor] = field(default_factory=dict)
    sizes: dict[str, tuple[int | None, int | None]] = field(default_factory=dict)
    operations: tuple[int, int] = (0, 0)
    marked: list[Marked] = field(default_factory=list)
    marginal: dict[str, MarginalSite] = field(default_factory=dict)
    spread: bool = False
    chains: list[ChainSites] = field(default_factory=list)
    unguided: set[str] = field(default_factory=set)

    def slots(self, vectorization: Vectorization) -> Slots | None:
        """The sites that are summed out and their slots; None if they have one value each in this run."""
        if not self.spread:
            return None
        return Slots(self.marginal, vectorization.slots, vectorization.dims, vectorization.count, tuple(self.chains))


@dataclass(frozen=True, eq=False)
class Ensemble:
    """The terms of one particle (or of all, vectorised): its own run and, in a loop, one run per alternative."""

    base: RunRecord
    terms: list[Term]
    alternatives: Mapping[str, Sequence[Ensemble]]


@dataclass(frozen=True)
class RunSettings:
    """The settings that all runs of a step share.

    Attributes:
        owner: holds the parameters.
        patterns: the estimators that the objective asks for, by glob.
        source: where all draws come from.
        vectorization: how leading dimensions are used.
        track_all: follow the draws of all sites, also where no estimator needs it.
        nondifferentiable: sites through whose values no derivative can be taken.
        explore: draw without lanes, to find out what there is.
        loop: alternatives are run one by one: a site's lanes are its own only.
        strict: model and guide have to have the same latent sites.
        decided: the estimators that measuring has led to, by site.
        states: what the estimators carry, by site.
        lasting: a context around what a program makes once and keeps, while the run leaves nothing else behind.
        follower: follows the dimensions of what is drawn through this run; None: they are not followed.
        marginal: the sites of the model to sum out.
        never_marginal: sites that are not, because they are observed when the programs are fitted.
    """

    owner: ParameterStore
    patterns: Patterns
    source: Source
    vectorization: Vectorization
    track_all: bool = False
    nondifferentiable: frozenset[str] = frozenset()
    explore: bool = False
    loop: bool = False
    strict: bool = True
    decided: Mapping[str, Choice] | None = None
    states: Mapping[str, State] = field(default_factory=dict)
    lasting: Callable[[], AbstractContextManager[None]] = nullcontext
    follower: Follower | None = None
    marginal: Marginal = False
    never_marginal: frozenset[str] = frozenset()


def vectorization_of(run: RunRecord, particles: int) -> Vectorization:
    """The vectorization that an exploring run calls for."""
    statements = [*run.guide, *run.model]
    dims = max((-p.dim for s in statements for p in s.message.plates if p.dim is not None), default=0)
    lanes: dict[str, tuple[int, ...]] = {}
    start = 1
    for name, choice in run.choices.items():
        count = choice.estimator.alternatives(run.draws[name].distribution)
        if count:
            lanes[name] = tuple(range(start, start + count))
            start += count
    slots = allocate(run.model, run.marginal)
    return Vectorization(dims, particles, lanes, tuple(run.draws), guarded=run.tracker.escapes.swapped, slots=slots)
