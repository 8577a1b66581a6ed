"""One predictive run of guide and model: given values, draws, and the sites that depend on given values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from varigrad.distributions.rng import Source
from varigrad.errors import ParameterError, PlateError, ShapeError, SupportError
from varigrad.language.messages import Forward, Indices, Param, Sample, evolve
from varigrad.language.plates import same_minibatch
from varigrad.language.runtime import expanded
from varigrad.objectives.checks.sites import check_parameters, example_of, outside
from varigrad.objectives.parameters import ParameterStore
from varigrad.terms.dependency_tracker import Tracker
from varigrad.terms.provenance import untracked


@dataclass(eq=False)
class PredictiveRun:
    """The messages and values of one run of guide and model, and the sites that depend on nothing learnt."""

    guide: Mapping[str, Any]
    model: Mapping[str, Any]
    values: dict[str, Tensor]
    untouched: list[str] = field(default_factory=list)


@dataclass(eq=False)
class PredictiveHandler:
    """The handler of both programs: it provides parameters, minibatches, and a value for every site.

    Attributes:
        owner: of the parameters; None: a program that has some is refused.
        source: of what is drawn.
        indices: the minibatches of a call, by plate; filled by the first run.
        cache: of the run's parameters.
        values: what sites take instead of a draw.
        stored: sites whose posterior draws were handed over, of all elements of subsampled plates perhaps.
        found: where it is noted what nothing given has touched.
        given: sites that take posterior draws.
        tracker: follows what depends on these; None: dependence is not followed.
    """

    owner: ParameterStore | None
    source: Source
    indices: dict[str, Tensor]
    cache: dict[str, Tensor]
    values: Mapping[str, Tensor]
    stored: frozenset[str]
    found: PredictiveRun
    given: frozenset[str] = frozenset()
    tracker: Tracker | None = None

    def __call__(self, message: Any, forward: Forward) -> Any:
        kind = type(message)
        if kind is Sample:
            return forward(self._sample(message))
        if kind is Param and message.value is None:
            if self.owner is not None:
                message = evolve(message, value=self.owner.constrained(message, self.cache))
            elif message.fallback is None:
                raise ParameterError(
                    "is a parameter, and there is no value for it",
                    site=message.name,
                    try_="Predictive(..., owner=fit.bound)",
                )
        elif kind is Indices:
            if message.name not in self.indices:
                self.indices[message.name] = self.source.subset(message.size, message.batch)
            message = evolve(message, value=same_minibatch(message, self.indices[message.name]))
        return forward(message)

    def _sample(self, message: Sample) -> Sample:
        name, tracker = message.name, self.tracker
        if tracker is None:
            check_parameters(message)
        if message.observed:
            return message
        if tracker is None:
            value = self.values.get(name)
            if value is not None and name in self.given:
                refuse_impossible(message, value)
            return evolve(message, value=self._draw(message) if value is None else value)
        if name in self.given:
            event = len(message.distribution.event_shape)
            value = self.values[name]
            if name in self.stored:
                value = minibatch(name, value, message, self.indices, 0)
            refuse_shape(name, value, message, event)
            statement = tracker.examine(message)
            assert isinstance(statement.message, Sample)
            check_parameters(statement.message)
            refuse_impossible(statement.message, value)
            return evolve(message, value=tracker.mark(value, statement, True))
        statement = tracker.examine(message)
        plain = statement.message
        assert isinstance(plain, Sample)
        check_parameters(plain)
        if not statement.upstream and not statement.opaque:
            self.found.untouched.append(name)
        return evolve(message, value=tracker.mark(untracked(self._draw(plain)), statement, False))

    def _draw(self, message: Sample) -> Tensor:
        return self.source.draw(expanded(message)) if message.value is None else message.value


def minibatch(name: str, value: Tensor, message: Sample, indices: Mapping[str, Tensor], lead: int) -> Tensor:
    """A posterior sample, cut down to the minibatches of the plates around its site."""
    event = len(message.distribution.event_shape)
    for plate in message.plates:
        if plate.dim is None or plate.subsample is None or plate.size is None:
            continue
        axis = plate.dim - event
        if value.dim() - lead < -axis:
            continue
        if value.shape[axis] == plate.size:
            value = value.index_select(axis, plate.subsample.to(value.device))
        elif plate.name in indices and value.shape[axis] == plate.batch:
            raise PlateError(
                f"posterior samples of {name!r} are of {plate.batch} of its {plate.size} elements, and not known of "
                "which",
                site=plate.name,
                because="this call draws a minibatch of its own",
                try_="samples for all elements, a guide=, or subsample= in the model",
            )
    return value


def refuse_shape(name: str, value: Tensor, message: Sample, event: int) -> None:
    """Raise unless a posterior sample has the shape of its site, or can be expanded to it."""
    wanted = tuple(expanded(message).batch_shape) + tuple(message.distribution.event_shape)
    if value.dim() > len(wanted) or value.dim() < event or tuple(value.shape) != wanted[len(wanted) - value.dim() :]:
        raise ShapeError(
            f"posterior samples have shape {tuple(value.shape)} each, the site has {wanted}",
            site=name,
            try_="samples of shape [num_samples, *site]",
        )


def refuse_impossible(message: Sample, value: Tensor) -> None:
    """Raise unless the site's distribution can have these values; masked elements are exempt."""
    bad = outside(message, value)
    if bad is not None:
        raise SupportError(
            f"its posterior samples have values outside the support of {type(message.distribution).__name__}: "
            f"{example_of(value, bad)}",
            site=message.name,
            because="NaN, infinite and impossible values have no density",
            try_="samples of this site in the model's own space, such as fit.sample(...)",
        )


def drawn(messages: Mapping[str, Any]) -> dict[str, Tensor]:
    """Values of the sites that are not observed."""
    samples = {n: m for n, m in messages.items() if isinstance(m, Sample) and not m.observed}
    return {n: untracked(m.value) for n, m in samples.items() if m.value is not None}
