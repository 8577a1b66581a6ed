"""Random specifications of programs: where sites are, what they read, what is masked and drawn in minibatches."""

import random
from dataclasses import dataclass
from itertools import chain
from math import prod

PLACES = {"global": (), "a": ("a",), "b": ("b",), "ab": ("b", "a")}
"""The plates of each place, outermost first; plate "a" is the rightmost dimension."""
DIMS = {"a": -1, "b": -2}
INSIDE = {place: tuple(p for p in PLACES if set(PLACES[p]) <= set(plates)) for place, plates in PLACES.items()}
"""The places whose elements each element of a place belongs to."""
VALUES = {"bernoulli": 2, "categorical": 3, "one_hot": 2, "binomial": 3, "two": 2, "normal": 0}
ESTIMATORS = ("Score", "LeaveOneOut", "Enumerate", "DisARM")


@dataclass(frozen=True)
class Site:
    """One statement of the model.

    Attributes:
        name: the first letter is its kind: "k" summed out, "g" and "d" drawn by the guide (normal, discrete), "x"
            observed, "f" a factor.
        place: one of `PLACES`.
        family: one of `VALUES`.
        reads: earlier sites whose values it depends on.
        joint: whether the values that it reads are multiplied, so that no sum of functions of each would do.
        summed: of `reads`, those that it sums over the plates that it is not in.
        masked: whether a mask leaves some of its elements out.
        missing: whether some of its observations are missing, so that a latent site stands for them.
        guide_reads: of a site of the guide, what it reads there.
        estimator: of a discrete site of the guide.
    """

    name: str
    place: str
    family: str
    reads: tuple[str, ...]
    joint: bool
    summed: tuple[str, ...] = ()
    masked: bool = False
    missing: bool = False
    guide_reads: tuple[str, ...] = ()
    estimator: str = ""


@dataclass(frozen=True)
class Spec:
    """A program.

    Attributes:
        seed: of the specification; its numbers follow from it, too.
        sites: the statements of the model in order.
        sizes: number of elements in use of each plate.
        scale: of `handlers.scale` around both programs.
        copies: how many elements of each plate one element in use stands for.
        particles: of the bound.
    """

    seed: int
    sites: tuple[Site, ...]
    sizes: dict[str, int]
    scale: float
    copies: dict[str, int]
    particles: int

    @property
    def by_name(self):
        return {site.name: site for site in self.sites}

    def shape(self, place):
        """The batch shape of a place."""
        plates = PLACES[place]
        if not plates:
            return ()
        return tuple(self.sizes[p] if p in plates else 1 for p in ("b", "a") if "b" in plates or p == "a")

    def elements(self, place, copied=False):
        """How many elements a place has."""
        return prod(self.sizes[p] * (self.copies[p] if copied else 1) for p in PLACES[place])


def assignments(spec):
    """How many joint values the sites that are summed out have, with copies for what minibatches stand for."""
    found = 1
    for site in spec.sites:
        if site.name.startswith("k"):
            found *= VALUES[site.family] ** spec.elements(site.place, copied=True)
        if site.missing:
            found *= 2 ** spec.elements(site.place, copied=True)
    return found


def outcomes(spec):
    """How many joint values the discrete sites of the guide have."""
    return prod(VALUES[s.family] ** spec.elements(s.place) for s in spec.sites if s.name.startswith("d"))


def random_spec(seed, most_assignments, most_outcomes, most_sites):
    """A specification with sites to sum out, and at most so many joint values of these, and of the guide's."""
    for attempt in range(10_000):
        spec = _random_spec(seed, random.Random(f"{seed}/{attempt}"), most_sites)
        read = set(chain.from_iterable(site.reads for site in spec.sites))
        summed = [site.name for site in spec.sites if site.name.startswith("k")]
        if summed and read & set(summed) and assignments(spec) <= most_assignments and outcomes(spec) <= most_outcomes:
            return spec
    raise AssertionError(seed)


def _random_spec(seed, draw, most_sites):
    sizes = {"a": draw.choice([1, 2, 2, 3]), "b": draw.choice([1, 2, 2])}
    copies = {"a": draw.choice([1, 1, 1, 2]), "b": draw.choice([1, 1, 1, 1, 2])}
    kinds = draw.choices("kkkkkggd", k=draw.randint(2, most_sites)) + draw.choices(
        "xxxf", k=draw.randint(1, most_sites - 2)
    )
    if draw.random() < 0.3:
        draw.shuffle(kinds)
    sites = []
    for i, kind in enumerate(kinds):
        sites.append(_random_site(f"{kind}{i}", draw, sites, copies))
    scale = draw.choice([1.0, 1.0, 1.0, 0.5, 3.0])
    return Spec(seed, tuple(sites), sizes, scale, copies, draw.choice([1, 1, 1, 2]))


def _random_site(name, draw, before, copies):
    kind = name[0]
    place = draw.choice(["global", "a", "a", "ab"] if kind in "gd" else ["global", "a", "a", "b", "ab"])
    families = {
        "k": ["bernoulli", "categorical", "categorical", "one_hot", "binomial", "two"],
        "d": ["bernoulli", "bernoulli", "two"],
        "g": ["normal"],
        "x": ["normal", "normal", "bernoulli", "categorical"],
        "f": ["normal"],
    }[kind]
    family = draw.choice(families)
    readable = [site for site in before if site.name[0] in "kgd"]
    inside = [site.name for site in readable if site.place in INSIDE[place]]
    reads = draw.sample(inside, min(len(inside), draw.choice([0, 1, 1, 2]) if kind in "kgd" else draw.randint(1, 3)))
    across = [
        site.name
        for site in readable
        if site.name[0] in "gd"
        and site.place not in INSIDE[place]
        and all(copies[p] == 1 for p in set(PLACES[site.place]) - set(PLACES[place]))
    ]
    summed = draw.sample(across, 1) if across and draw.random() < 0.3 else []
    guide_reads = [n for n in inside if n[0] in "gd"]
    guide_reads = draw.sample(guide_reads, min(len(guide_reads), draw.choice([0, 1, 1])))
    return Site(
        name,
        place,
        family,
        tuple(reads + summed),
        draw.random() < 0.6,
        tuple(summed),
        masked=place != "global" and draw.random() < (0.2 if kind in "kx" else 0.1),
        missing=kind == "x" and family == "bernoulli" and place != "global" and draw.random() < 0.4,
        guide_reads=tuple(guide_reads),
        estimator=draw.choice([e for e in ESTIMATORS if e != "DisARM" or family == "bernoulli"]),
    )
