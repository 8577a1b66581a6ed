"""Which estimator serves a site: what the site says, else what the objective says, else a rule."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import distributions as td

from varigrad.errors import SiteError
from varigrad.estimators.base import Estimator
from varigrad.estimators.baselines import MovingAverage
from varigrad.estimators.pathwise import Pathwise
from varigrad.estimators.score import Score
from varigrad.language.messages import Sample


@dataclass(frozen=True)
class Choice:
    """An estimator and why it was chosen."""

    estimator: Estimator
    why: str


PATHWISE = Choice(Pathwise(), "default: it has rsample, and its costs are differentiable in it")
SCORE = Choice(Score(MovingAverage()), "default: it has no rsample to differentiate through")
KINKED = Choice(
    Score(MovingAverage()), "default: it has rsample, but a comparison, rounding or conversion of its value was seen"
)


def choose(message: Sample, patterns: Iterable[tuple[str, Estimator]], kinked: Iterable[str] = ()) -> Choice:
    """The estimator of a site, checked against its distribution.

    Raises:
        SiteError: what was asked for is no estimator, or cannot serve the site.
    """
    for pattern, estimator in patterns:
        if fnmatchcase(message.name, pattern):
            return _checked(message, Choice(estimator, f"ELBO(estimators={{{pattern!r}: …}})"))
    if message.estimator is not None:
        return _checked(message, Choice(message.estimator, "estimator= at the site"))
    if message.distribution.has_rsample and not _straight_through(message.distribution):
        return KINKED if message.name in kinked else PATHWISE
    return SCORE


def _checked(message: Sample, choice: Choice) -> Choice:
    estimator = choice.estimator
    if not isinstance(estimator, Estimator):
        hint = f"{estimator.__name__}()" if isinstance(estimator, type) else "Score(MovingAverage())"
        raise SiteError(
            f"estimator must be an Estimator, got {estimator!r}",
            site=message.name,
            because="configuration is objects",
            try_=hint,
        )
    refusal = estimator.refusal(message.distribution)
    if refusal is None and estimator.pathwise and _straight_through(message.distribution):
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
