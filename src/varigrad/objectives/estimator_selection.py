"""Chooses the estimator of a site: the objective's if it names one, else the site's, else the default rule's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from torch import distributions as td

from varigrad.distributions.delta import Delta
from varigrad.distributions.finite_support import inner_of
from varigrad.errors import SiteError
from varigrad.estimators.base import Estimator
from varigrad.estimators.baselines import MovingAverage
from varigrad.estimators.pathwise import Pathwise
from varigrad.estimators.score import Score
from varigrad.language.messages import Sample

Asked = Estimator | Literal["auto"]
"""What an objective asks for at the sites of a glob; "auto" is to be found out by measuring."""

Patterns = tuple[tuple[str, Asked], ...]


@dataclass(frozen=True)
class Choice:
    """An estimator, and the reason for choosing it.

    Attributes:
        own: it is the site's own, whatever the site says in a run (its baseline may look at that run's data).
    """

    estimator: Estimator
    why: str
    own: bool = False

    @property
    def key(self) -> object:
        """A key that is equal for equal estimators."""
        return "own" if self.own else self.estimator


PATHWISE = Choice(Pathwise(), "default: it has rsample, and its costs are differentiable in it")
SCORE = Choice(Score(MovingAverage()), "default: it has no rsample to differentiate through")
NONDIFFERENTIABLE = Choice(
    Score(MovingAverage()),
    "default: it has rsample, but a comparison, rounding or conversion of its value was seen, a density that jumps in "
    "it, a pole that it crosses, or a lost derivative",
)


def patterns_of(estimators: Mapping[str, Asked] | Literal["auto"] | None) -> Patterns:
    """The estimators that an objective asks for, by glob, in order: the first match counts."""
    return (("*", "auto"),) if estimators == "auto" else tuple((estimators or {}).items())


def is_auto(site: str, patterns: Iterable[tuple[str, Asked]]) -> bool:
    """Whether the site's estimator is to be found out by measuring."""
    return next((asked == "auto" for pattern, asked in patterns if fnmatchcase(site, pattern)), False)


def choose(
    message: Sample,
    patterns: Iterable[tuple[str, Asked]],
    nondifferentiable: Iterable[str] = (),
    decided: Mapping[str, Choice] | None = None,
) -> Choice:
    """The estimator of a site, checked against its distribution.

    Args:
        decided: what measuring has led to, by site; where "auto" has no answer yet, the rule has.

    Raises:
        SiteError: what was asked for is no estimator, or cannot serve the site.
    """
    known = (decided or {}).get(message.name)
    if known is not None:
        own = known.own and message.estimator is not None
        return _checked(message, Choice(_estimator_of(message), known.why, own=True) if own else known)
    for pattern, asked in patterns:
        if fnmatchcase(message.name, pattern):
            if asked == "auto":
                return _by_rule(message, nondifferentiable)
            return _checked(message, Choice(asked, f"ELBO(estimators={{{pattern!r}: …}})"))
    if message.estimator is not None:
        return _checked(message, Choice(_estimator_of(message), "estimator= at the site"))
    return _by_rule(message, nondifferentiable)


def _by_rule(message: Sample, nondifferentiable: Iterable[str]) -> Choice:
    if message.distribution.has_rsample and not _straight_through(message.distribution):
        if isinstance(inner_of(message.distribution)[0], Delta):
            return PATHWISE  # nothing is averaged over, so nothing jumps where there is a derivative
        return NONDIFFERENTIABLE if message.name in nondifferentiable else PATHWISE
    return SCORE


def _estimator_of(message: Sample) -> Estimator:
    """The site's own estimator."""
    return _checked_class(message, message.estimator)


def _checked_class(message: Sample, estimator: object) -> Estimator:
    if not isinstance(estimator, Estimator):
        hint = f"{estimator.__name__}()" if isinstance(estimator, type) else "Score(MovingAverage())"
        raise SiteError(
            f"estimator must be an Estimator, got {estimator!r}",
            site=message.name,
            because="configuration is objects",
            try_=hint,
        )
    return estimator


def _checked(message: Sample, choice: Choice) -> Choice:
    estimator = _checked_class(message, choice.estimator)
    refusal = estimator.refusal(message.distribution)
    if (
        refusal is None
        and estimator.drawing.pathwise
        and not estimator.needs.between_values
        and _straight_through(message.distribution)
    ):
        refusal = "the rsample of a straight-through distribution is biased", "LeaveOneOut(4)"
    if refusal is not None:
        because, try_ = refusal
        raise SiteError(
            f"{type(estimator).__name__} cannot serve this site", site=message.name, because=because, try_=try_
        )
    return choice


def _straight_through(distribution: td.Distribution) -> bool:
    if isinstance(distribution, td.Independent):
        return _straight_through(distribution.base_dist)
    if isinstance(distribution, td.TransformedDistribution) and _straight_through(distribution.base_dist):
        return True
    return isinstance(distribution, td.OneHotCategoricalStraightThrough) or getattr(
        distribution, "straight_through", False
    )
