"""`Plan`: the estimator of each site and the reason for it; `svi.plan(data)` returns it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass

from varigrad.language.messages import Sample
from varigrad.objectives.checks.pole_crossings import assumption_about, name_of, pathwise_sources
from varigrad.objectives.marginal_plan import MarginalPlan, shortened
from varigrad.objectives.run_record import RunRecord, Vectorization
from varigrad.shapes import table
from varigrad.terms.term import Term


@dataclass(frozen=True)
class SitePlan:
    """The estimator of one latent site, and the reason for it.

    Attributes:
        downstream: names of the terms in its cost, `q(...)` for the guide's.
        upstream: the choices its distribution depends on.
        alternatives: lanes besides the run itself.
        leaves: whether its value leaves torch.
        cross_element: plates with cross-element dependence, along which the cost is not taken per element.
    """

    name: str
    distribution: str
    plates: tuple[str, ...]
    estimator: str
    why: str
    upstream: tuple[str, ...]
    downstream: tuple[str, ...]
    alternatives: int
    cross_element: tuple[str, ...]
    unbiased: bool
    suspect: bool
    leaves: bool


@dataclass(frozen=True)
class Plan:
    """The estimators of all sites, and whether particles and alternatives are vectorised; `print` it.

    Attributes:
        sites: the latent sites, in the order of drawing.
        particles, lanes: how many of each.
        side_by_side: whether they run along separate dimensions.
        reason: why in a loop; empty otherwise.
        poles: divisions of what a pathwise gradient goes through, whose denominator is not known to keep its sign.
        crossed_poles: which of them were seen to go through a pole, so that no pathwise gradient is right there.
        marginal: the sums over sites of the model that the guide lacks, in their order.
        scaled_inside: plates whose minibatch is scaled inside a sum over a site outside of them, in sentences.
        unproven: what no operation proves though "unbiased: yes" relies on it, with the numbers that speak for it.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> def model():
        ...     z = vg.sample("z", dist.Normal(0.0, 1.0))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(2.0))
        >>> def guide():
        ...     vg.sample("z", dist.Normal(vg.param("m", 0.0), 0.7))
        >>> plan = vg.ELBO()(model, guide).plan()
        >>> plan["z"].estimator, plan["z"].unbiased
        ('Pathwise()', True)
    """

    sites: tuple[SitePlan, ...]
    particles: int
    lanes: int
    side_by_side: bool
    reason: str
    unproven: tuple[str, ...] = ()
    poles: tuple[str, ...] = ()
    crossed_poles: tuple[str, ...] = ()
    marginal: tuple[MarginalPlan, ...] = ()
    scaled_inside: tuple[str, ...] = ()

    @property
    def relies_on(self) -> tuple[str, ...]:
        """What has to hold for "unbiased: yes" to be true, in sentences."""
        if not any(s.unbiased and not s.suspect for s in self.sites):
            return ()
        return (
            "the operations seen so far (looked at again when statements, modes or shapes change, and at steps "
            "10, 100, ...)",
            *self.unproven,
            *self.poles,
        )

    def _answer(self, site: SitePlan) -> str:
        """Whether a site's estimator is unbiased, in a word or two."""
        if site.suspect:
            return "suspect"
        if not site.unbiased:
            return "no"
        return "by numbers" if self.unproven else "yes"

    def __getitem__(self, name: str) -> SitePlan:
        return next(s for s in self.sites if s.name == name)

    def __str__(self) -> str:
        rows = [
            (
                s.name,
                s.distribution,
                ", ".join(s.plates) or "-",
                s.estimator,
                ", ".join(s.upstream) or "-",
                listed(s.downstream) or "-",
                s.alternatives,
                self._answer(s),
            )
            for s in self.sites
        ]
        header = ("site", "distribution", "plates", "estimator", "upstream", "downstream", "alternatives", "unbiased")
        lines = [table(rows, header), ""]
        lines += [f"{s.name}: {s.why}" for s in self.sites]
        lines += self.crossed_poles
        lines += shortened(self.marginal)
        lines += self.scaled_inside
        for s in self.sites:
            if s.cross_element:
                plates = ", ".join(s.cross_element)
                lines.append(
                    f"{s.name}: its dependency leaves plate {plates}, so the full cost is used there "
                    "(right, and noisier than one per element)"
                )
            if s.leaves:
                lines.append(
                    f"{s.name}: its value leaves torch (a number, a branch, numpy), so everything after that counts as "
                    "downstream (right, and noisier; the validation of raw torch.distributions does this, too: "
                    "varigrad.distributions does not)"
                )
            if not s.unbiased:
                lines.append(f"{s.name}: {s.estimator} has unbiased=False: its mean is not the gradient of the bound")
            if s.suspect:
                lines.append(
                    f"{s.name}: Pathwise was asked for, but a comparison, rounding or conversion of its value, or a "
                    "pole, was seen: what jumps there is missed by the gradient. Try: Score(MovingAverage())"
                )
        count = self.particles * self.lanes
        if count > 1:
            how = "side by side, by broadcasting" if self.side_by_side else "one by one, in a loop"
            lines.append(
                f"{self.particles} particle(s), {self.lanes} lane(s): {how}"
                + (f" ({self.reason})" if self.reason else "")
            )
        lines += [f"unbiased relies on: {what}" for what in self.relies_on]
        return "\n".join(lines)


def listed(names: tuple[str, ...], most: int = 8) -> str:
    """The names, separated by commas; of many, the first ones, and how many more there are."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[: most - 2])} and {len(names) - most + 2} more"


def shown(part: object) -> str:
    """`Score(MovingAverage())`: a configuration without the fields left at their defaults."""
    if isinstance(part, tuple):
        return f"({', '.join(map(shown, part))})"
    if not is_dataclass(part):
        return repr(part) if isinstance(part, (int, float, bool)) else type(part).__name__
    fresh = {f.name: f.default_factory() if f.default_factory is not MISSING else f.default for f in fields(part)}
    changed = [f.name for f in fields(part) if getattr(part, f.name) != fresh[f.name]]
    return f"{type(part).__name__}({', '.join(f'{n}={shown(getattr(part, n))}' for n in changed)})"


def plan_of(
    run: RunRecord,
    terms: list[Term],
    vectorization: Vectorization,
    particles: int,
    reason: str,
    side_by_side: bool,
    nondifferentiable: frozenset[str],
    unproven: tuple[str, ...] = (),
    through_poles: Mapping[str, str] | None = None,
) -> Plan:
    """The plan that an exploring run, with every site tracked, amounts to.

    Args:
        through_poles: sentences about poles that pathwise gradients were seen to go through, by site.
    """
    sites = []
    own = {t.name: t for t in terms if t.sign < 0}
    for name, choice in run.choices.items():
        message = next(s.message for s in run.guide if s.message.name == name)
        assert isinstance(message, Sample)
        below = [t for t in terms if t.name == name or name in t.upstream]
        cross_element = {p for t in below for p in t.upstream.get(name, ()) if p in {q.name for q in t.plates}}
        estimator = choice.estimator
        sites.append(
            SitePlan(
                name,
                type(message.distribution).__name__,
                tuple(p.name for p in message.plates),
                shown(estimator),
                choice.why,
                tuple(own[name].upstream),
                tuple(n for t in below for n in (t.parts or (t.name if t.sign > 0 else f"q({t.name})",))),
                len(vectorization.lanes.get(name, ())),
                tuple(sorted(cross_element)),
                estimator.promises.unbiased,
                (estimator.drawing.pathwise or estimator.needs.differentiable) and name in nondifferentiable,
                any(t.site == name for t in run.tracker.escapes.provenance) and estimator.needs.cost,
            )
        )
    poles = _poles_of(run, nondifferentiable)
    through = tuple(f"{site}: {sentence}" for site, sentence in sorted((through_poles or {}).items()))
    return Plan(tuple(sites), particles, vectorization.count, side_by_side, reason, unproven, poles, through)


def _poles_of(run: RunRecord, nondifferentiable: frozenset[str]) -> tuple[str, ...]:
    """What has to stay away from poles for pathwise gradients to be right, in sentences."""
    found = {
        f"{site!r}: {name_of(pole)} {assumption_about(pole)}"
        for pole in run.tracker.escapes.poles
        for site in pathwise_sources(run, pole, nondifferentiable)
    }
    return tuple(sorted(found))
