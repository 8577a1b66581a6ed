"""Random programs with one link between a site and something later, behind a gate."""

import random
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

import varigrad as vg
from changing.gates import DATA, GATES, MATRIX
from varigrad import distributions as dist
from varigrad.estimators import (
    ARM,
    ARMS,
    Combination,
    DisARM,
    DoubleControlVariate,
    Enumerate,
    LeaveOneOut,
    LocalExpectation,
    MeasureValued,
    MovingAverage,
    MuProp,
    OptimalScore,
    Rodeo,
    Score,
    SelfCritical,
    StochasticAD,
    SumAndSample,
    UnorderedSet,
)

PLACES = {"global": (), "n": ("n",), "nm": ("m", "n")}
DIMS = {"n": -1, "m": -2}
OFFSETS = torch.tensor([[0.3, -0.9, 0.5], [-0.2, 0.8, -0.6]], dtype=torch.float64)
LARGEST = 70
"""Outcomes of a program's draws; larger ones are left out."""

FAMILIES = {
    "score": (Score(), 1),
    "average": (Score(MovingAverage(0.5)), 1),
    "combination": (Score(Combination(MovingAverage(0.7), MovingAverage(0.3), decay=0.8)), 1),
    "optimal": (OptimalScore(MovingAverage(0.5), decay=0.8), 1),
    "leave one out": (LeaveOneOut(2), 1),
    "particles": (LeaveOneOut(), 2),
    "enumerate": (Enumerate(), 1),
    "disarm": (DisARM(), 1),
    "arm": (ARM(), 1),
    "arms": (ARMS(3), 1),
    "local": (LocalExpectation(), 1),
    "unordered": (UnorderedSet(2), 1),
    "sum and sample": (SumAndSample(1), 1),
    "measure valued": (MeasureValued(), 1),
    "stochastic ad": (StochasticAD(), 1),
    "self critical": (SelfCritical(), 1),
    "muprop": (MuProp(), 1),
    "double control": (DoubleControlVariate(2, alpha=0.5, train=False), 1),
    "rodeo": (Rodeo(2, alpha=0.5, beta=-1.0, gamma=0.7, train=False), 1),
    "score of particles": (Score(), 2),
}
COINS = {"disarm", "arm", "arms", "muprop", "double control", "rodeo"}
PER_ELEMENT = {"enumerate", "local", "unordered", "sum and sample", "measure valued", "stochastic ad"}
"""They refuse cross-element dependence in a plate, so most of theirs are outside."""
SMOOTH = {"muprop", "double control", "rodeo"}
"""They ask for the cost's slope, between the values of the support."""


class _Flip(torch.autograd.Function):
    @staticmethod
    def forward(ctx, v):
        return v.flip(-1)

    @staticmethod
    def backward(ctx, g):
        return g.flip(-1)


OPERATIONS = {
    # On a plate's dimension.
    "sum(-1)": lambda v: v.sum(-1, keepdim=True),
    "mean(-1)": lambda v: v.mean(-1, keepdim=True),
    "flip": lambda v: v.flip(-1),
    "roll": lambda v: v.roll(1, -1),
    "softmax": lambda v: v.softmax(-1),
    "cumsum": lambda v: v.cumsum(-1),
    "first": lambda v: v[..., :1],
    "reversed index": lambda v: v[..., torch.arange(v.shape[-1] - 1, -1, -1)],
    "matmul": lambda v: v @ MATRIX[: v.shape[-1], : v.shape[-1]],
    "einsum": lambda v: torch.einsum("...i,ij->...j", v, MATRIX[: v.shape[-1], : v.shape[-1]]),
    "linear": lambda v: F.linear(v, MATRIX[: v.shape[-1], : v.shape[-1]]),
    "prod": lambda v: (v + 0.5).prod(-1, keepdim=True),
    "logsumexp": lambda v: v.logsumexp(-1, keepdim=True),
    "amax": lambda v: v.amax(-1, keepdim=True),
    "sort": lambda v: v.sort(-1).values,
    "norm": lambda v: (v + 0.1).norm(dim=-1, keepdim=True),
    "layer norm": lambda v: F.layer_norm(v + OFFSETS[0, : v.shape[-1]], v.shape[-1:]),
    "function": _Flip.apply,
    "transposed": lambda v: (v.unsqueeze(-1) * v.unsqueeze(-2)).sum(-1),
    "unbound": lambda v: torch.stack(v.unbind(-1)[::-1], -1),
    "rare": lambda v: torch.geqrf(v.unsqueeze(-1) + 0.1).a.squeeze(-1),  # of which nothing is known but its numbers
    "apart": lambda v: 1.5 * v.tanh(),
    # On all dimensions, or on the first, which are alternatives' as soon as there are any.
    "sum()": lambda v: v.sum(),
    "mean()": lambda v: v.mean(),
    "max()": lambda v: v.max(),
    "sum(0)": lambda v: v.sum(0) if v.dim() else v.sum(),
    "flat": lambda v: v.reshape(-1).cumsum(0).reshape(v.shape),
    "flat flip": lambda v: v.reshape(-1).flip(0).reshape(v.shape),
}
ANYWHERE = ("apart", "sum()", "mean()", "max()", "sum(0)", "flat", "flat flip")
ROUGH = ("rare", "amax", "sort", "max()", "norm")


@dataclass(frozen=True)
class Site:
    """Where a site is, which earlier ones it reads in guide and model, and how its gradient is estimated."""

    place: str
    guide_parent: int | None
    model_parent: int | None
    categorical: bool
    family: str


@dataclass(frozen=True)
class Spec:
    """A program: `operation` on the value of site `source`, behind `gate`, is added in `target`.

    Args:
        sites: in order; all parents are earlier.
        target: an observation (its place), or a later site in the guide or the model: `("guide", 1)`.
        steps: how many are taken before the change.
        size: of the plate `n`.
        vectorize: as in `ELBO`.
    """

    sites: tuple[Site, ...]
    source: int
    operation: str
    gate: str
    target: tuple[str, object]
    steps: int
    size: int
    vectorize: bool | None


def drawn(seed):
    """The program with this number."""
    rng = random.Random(seed)
    while True:
        spec = _drawn(rng)
        if _outcomes(spec) <= LARGEST:
            return spec


def _drawn(rng):
    gate = rng.choice(list(GATES))
    size = rng.choice((2, 2, 3))
    family = rng.choice(list(FAMILIES))
    particles = FAMILIES[family][1]
    families = [f for f, (_, count) in FAMILIES.items() if count == particles]
    sites = []
    for i in range(rng.choice((1, 2, 2, 2, 3, 4))):
        own = family if i == 0 or rng.random() < 0.5 else rng.choice(families)
        place = rng.choice(("global", "n", "n", "n", "nm"))
        place = "global" if own in PER_ELEMENT and rng.random() < 0.6 else place
        parent = [None, *range(i)]
        sites.append(Site(place, rng.choice(parent), rng.choice(parent), rng.random() < 0.3 and own not in COINS, own))
    source = rng.randrange(len(sites))
    later = [(where, j) for j in range(source + 1, len(sites)) for where in ("guide", "model")]
    place = rng.choice((sites[source].place, sites[source].place, "global", "n"))
    target = rng.choice([("observed", place), ("observed", place), *later])
    fits = [o for o in OPERATIONS if sites[source].place != "global" or o in ANYWHERE]
    if any(s.family in SMOOTH for s in sites):
        fits = [o for o in fits if o not in ROUGH]
    if gate == "last layer":
        size = 3
    if gate in ("last layer", "batch norm"):
        fits = ["apart"]
        if sites[source].place == "global":
            sites[source] = replace(sites[source], place="n")
    return Spec(
        tuple(sites),
        source,
        rng.choice(fits),
        gate,
        target,
        rng.choice((1, 1, 2, 3)),
        size,
        rng.choice((None, None, None, False)),
    )


def _outcomes(spec):
    """About how many there are of the draws."""
    total = 1
    for s in spec.sites:
        cells = {"global": 1, "n": spec.size, "nm": 2 * spec.size}[s.place]
        particles = FAMILIES[s.family][1]
        factor = {"leave one out": 2, "double control": 2, "rodeo": 2.4, "arm": 2.4, "arms": 3.2, "disarm": 1.6}
        factor |= {"muprop": 2, "self critical": 1.5, "enumerate": 1.2}
        total *= (3 if s.categorical else 2) ** (cells * particles * factor.get(s.family, 1))
    return total


class Program:
    """A model and a guide whose link can be opened."""

    def __init__(self, spec):
        self.spec = spec
        self.gate = GATES[spec.gate]()

    @property
    def told(self):
        """Whether the very next gradient after the opening has to be right."""
        known = self.spec.operation != "rare" or self.gate.movable
        return self.gate.announced or (self.gate.told and known)

    def read(self, values, j, place):
        """A parent's value in a child's place: summed over plates that the child is not in."""
        lost = [DIMS[p] for p in PLACES[self.spec.sites[j].place] if p not in PLACES[place]]
        return values[j].sum(lost, keepdim=True) if lost else values[j]

    def link(self, values, place, args):
        """What comes through the gate."""
        found = self.gate(OPERATIONS[self.spec.operation], values[self.spec.source], *args)
        own = PLACES[self.spec.sites[self.spec.source].place]
        lost = [DIMS[p] for p in own if p not in PLACES[place] and found.dim() >= -DIMS[p]]
        return found.sum(lost, keepdim=True) if lost else found

    def within(self, place, action, args):
        with ExitStack() as stack:
            for name in PLACES[place]:
                size = 2 if name == "m" else self.gate.size(self.spec.size, *args)
                stack.enter_context(vg.plate(name, size, dim=DIMS[name]))
            return action()

    def cut(self, grid, place, args):
        size = self.gate.size(self.spec.size, *args)
        return grid[:, :size] if place == "nm" else grid[0, :size] if place == "n" else grid[0, 0]

    def distribution(self, site, logits):
        if site.categorical:
            return dist.Categorical(logits=torch.stack([torch.zeros_like(logits), logits, 0.5 - logits], -1))
        return dist.Bernoulli(logits=logits)

    def site(self, i, logits, args, **options):
        site = self.spec.sites[i]
        logits = logits + self.cut(OFFSETS, site.place, args)
        make = lambda: vg.sample(f"z{i}", self.distribution(site, logits), **options)  # noqa: E731
        return self.within(site.place, make, args).to(torch.float64)

    def guide(self, *args):
        values = []
        for i, site in enumerate(self.spec.sites):
            logits = vg.param(f"t{i}", lambda i=i: torch.tensor(0.4 - 0.3 * i, dtype=torch.float64))
            if site.guide_parent is not None:
                logits = logits + 0.8 * self.read(values, site.guide_parent, site.place)
            if self.spec.target == ("guide", i):
                logits = logits + 2 * self.link(values, site.place, args)
            values.append(self.site(i, logits, args, estimator=FAMILIES[site.family][0]))

    def model(self, *args):
        values = []
        for i, site in enumerate(self.spec.sites):
            logits = torch.tensor(-0.3, dtype=torch.float64)
            if site.model_parent is not None:
                logits = logits - 0.6 * self.read(values, site.model_parent, site.place)
            if self.spec.target == ("model", i):
                logits = logits + 2 * self.link(values, site.place, args)
            values.append(self.site(i, logits, args))
        for i, site in enumerate(self.spec.sites):
            self.observe(f"x{i}", site.place, 0.9 * values[i], args)
        if self.spec.target[0] == "observed":
            place = self.spec.target[1]
            loc = self.read(values, self.spec.source, place) + 2 * self.link(values, place, args)
            self.observe("y", place, loc, args)

    def observe(self, name, place, loc, args):
        data = self.cut(DATA, place, args)
        while loc.dim() > data.dim() and loc.shape[0] == 1:
            loc = loc[0]
        self.within(place, lambda: vg.sample(name, dist.Normal(loc, 1.0), obs=data), args)

    def bound(self):
        """The objective, with the gate shut."""
        particles = FAMILIES[self.spec.sites[0].family][1]
        bound = vg.ELBO(particles, vectorize=self.spec.vectorize)(self.model, self.guide)
        self.gate.shut(bound)
        return bound
