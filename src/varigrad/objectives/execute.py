"""Runs guide and model once with given parameters, and records statements and draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from torch import Tensor
from torch import distributions as td

from varigrad._torch_internals import next_sequence_number
from varigrad.distributions.couplings import Coupled
from varigrad.distributions.fresh_copies import fresh
from varigrad.distributions.rng import Source
from varigrad.errors import PlateError, SiteError, SiteNameError
from varigrad.estimators.base import Draw, Estimator, Lanes
from varigrad.estimators.pathwise import is_partial
from varigrad.language.messages import (
    Chain,
    Extension,
    Factor,
    Forward,
    Indices,
    InUse,
    Message,
    Module,
    Param,
    Plate,
    Program,
    Record,
    Sample,
    Subsample,
    evolve,
)
from varigrad.language.plates import InPlate, same_minibatch
from varigrad.language.runtime import expanded, run
from varigrad.objectives.checks.density_jumps import Marked, note_jumps
from varigrad.objectives.checks.missing_sites import refuse_foreign, refuse_missing
from varigrad.objectives.estimator_selection import choose
from varigrad.objectives.marginal_sites import (
    check_values_stay,
)
from varigrad.objectives.marginal_values import MarginalValues
from varigrad.objectives.run_record import RunRecord, RunSettings, VectorizationChanged
from varigrad.terms.class_checks import refusal_of_class
from varigrad.terms.dependency_tracker import PARTICLES, Statement, Tracker
from varigrad.terms.provenance import get_provenance, untracked


def perform(
    settings: RunSettings,
    model: Program,
    guide: Program,
    args: tuple[object, ...],
    kwargs: dict[str, object],
    cache: dict[str, Tensor],
    forced: Mapping[str, Tensor] | None = None,
    indices: Mapping[str, Tensor] | None = None,
) -> RunRecord:
    """Run the guide, then the model on the guide's values.

    Args:
        cache: constrained parameters of this step.
        forced: values that the named latent sites take instead of being drawn (alternatives, in a loop).
        indices: minibatches that subsampled plates take instead of drawing their own.

    Raises:
        GuideMismatchError: the two programs do not have the same latent sites.
    """
    vectorization = settings.vectorization
    compare = settings.follower is None  # a follower would take it for the program's own
    record = RunRecord(Tracker(settings.explore, vectorization.mixed, vectorization.guarded, compare))
    record.indices.update(indices or {})
    outer: tuple[InPlate, ...] = ()
    if vectorization.particles > 1:
        outer = (InPlate(Plate(PARTICLES, vectorization.particles, -vectorization.dims)),)
    drawing = _Guide(settings, record, cache, forced or {})
    scoring = _Model(settings, record, cache, drawing)
    try:
        with record.tracker.guard():
            noted = next_sequence_number()
            run(guide, (drawing, *outer), args, kwargs)
            run(model, (scoring, *outer), args, kwargs)
            record.operations = next_sequence_number() - noted, record.tracker.escapes.way
            if settings.explore:
                note_jumps(record.marked, record.tracker.escapes)
    except TypeError as error:
        refusal = refusal_of_class(error)
        if refusal is not None:
            raise refusal from error
        raise
    finally:
        record.tracker.finish()
    record.tracker.check()
    if record.marginal:
        check_values_stay(record.marginal, record.tracker.escapes.provenance)
    if settings.strict and scoring.latent != record.draws.keys():
        refuse_foreign(record.guide, scoring.latent)
    return record


class _Program:
    """Base of the handlers of guide and model."""

    takes_modules = True
    """One `Module` message is enough; its parameters need no separate messages."""

    def __init__(self, settings: RunSettings, record: RunRecord, cache: dict[str, Tensor]) -> None:
        self.settings, self.record, self.cache = settings, record, cache
        self.names: set[str] = set()
        self.lasting = settings.lasting

    def __call__(self, message: Message, forward: Forward) -> Message:
        match message:
            case Sample():
                self._once(message.name)
                return self.sample(message, forward)
            case Param():
                if message.value is None:
                    value = self.settings.owner.constrained(message, self.cache)
                    message = evolve(message, value=value)
            case Module():
                self.settings.owner.adopt(message)
            case Indices():
                known = self.record.indices
                if message.name not in known:
                    known[message.name] = self.settings.source.subset(message.size, message.batch)
                message = evolve(message, value=same_minibatch(message, known[message.name]))
            case InUse():
                message = evolve(message, value=self.record.indices.get(message.name))
            case Factor():
                self._once(message.name)
                self._plates(message)
                statement = self.record.tracker.examine(message)
                self.statements.append(statement)
                self.factor(statement)
            case Record():
                self._once(message.name)
                self.record.records[message.name] = message.value
            case Chain():
                message = self.chain(message)
            case Subsample() | Extension():
                pass  # plates answer the former, other libraries the latter
            case _:
                assert_never(message)
        return forward(message)

    statements: list[Statement]

    def sample(self, message: Sample, forward: Forward) -> Message:
        raise NotImplementedError

    def factor(self, statement: Statement) -> None:
        """Look at a factor."""

    def chain(self, message: Chain) -> Chain:
        """Say how the rounds of a chain are run."""
        return message

    def _once(self, name: str) -> None:
        if name in self.names:
            raise SiteNameError(
                "is used twice in one run",
                site=name,
                because="sites are told apart by name",
                try_=f'names that differ, such as f"{name}_{{i}}" in a loop',
            )
        self.names.add(name)

    def _plates(self, message: Sample | Factor) -> None:
        vectorization = self.settings.vectorization
        for plate in message.plates:
            known = self.record.sizes.get(plate.name)
            now = (plate.batch, plate.dim)
            if known is None:
                self.record.sizes[plate.name] = now
            elif known != now and plate.index is None:
                raise PlateError(
                    f"has (size, dim) {now} at site {message.name!r} and {known} before",
                    site=plate.name,
                    because="a plate means the same elements wherever it is entered",
                    try_="one size and dim for each plate name, in model and guide",
                )
            if plate.dim is not None and -plate.dim > vectorization.dims and not self.settings.explore:
                raise VectorizationChanged(plate.name)


class _Guide(_Program):
    """The guide's handler: draws every latent site with its estimator."""

    def __init__(
        self, settings: RunSettings, record: RunRecord, cache: dict[str, Tensor], forced: Mapping[str, Tensor]
    ) -> None:
        super().__init__(settings, record, cache)
        self.statements = record.guide
        self.forced = forced

    def sample(self, message: Sample, forward: Forward) -> Message:
        if message.observed:
            raise SiteError(
                "is observed in the guide",
                site=message.name,
                because="a guide is a distribution over the model's latent choices and conditions by taking arguments",
                try_="obs= in the model, and the data as an argument of the guide",
            )
        settings, record, name = self.settings, self.record, message.name
        message = with_fresh_distribution(message)
        self._plates(message)
        statement = record.tracker.examine(message)
        plain = statement.message
        assert isinstance(plain, Sample)
        choice = choose(plain, settings.patterns, settings.nondifferentiable, settings.decided)
        estimator = choice.estimator
        for part, module in estimator.parameters_of_baselines().items():
            settings.owner.adopt_baseline(name, part, module)
        draw, drawing, needs = self._draw(plain, estimator), estimator.drawing, estimator.needs
        if needs.slope is not None and not draw.value.requires_grad:
            draw = evolve(draw, value=draw.value.detach().requires_grad_())
        found = get_provenance(draw.value)  # picked up inside a distribution that the engine cannot look into
        if found:
            draw = evolve(draw, value=untracked(draw.value))
            statement = evolve(statement, upstream=statement.upstream | found, given=statement.given | found)
        if settings.follower is not None:
            lane = -settings.vectorization.dims - 1 if settings.vectorization.count > 1 else None
            draw = evolve(draw, value=settings.follower.drawn(draw.value, plain, statement.upstream, lane))
        record.choices[name] = choice
        follow = needs.cost or settings.track_all or drawing.partial or is_partial(plain.distribution)
        marked = record.tracker.mark(draw.value, statement, follow, pathwise=drawing.pathwise)
        particles = -settings.vectorization.dims if settings.vectorization.particles > 1 else None
        record.draws[name] = evolve(draw, plates=plain.plates, values=record.values, particles=particles)
        record.values[name] = marked
        if settings.explore:
            record.marked.append(Marked(evolve(message, value=marked), guide=True, pathwise=drawing.pathwise))
        drawn = evolve(plain, value=draw.value, distribution=draw.distribution)
        record.guide.append(evolve(statement, message=drawn))
        return forward(evolve(message, value=marked))

    def _draw(self, message: Sample, estimator: Estimator) -> Draw:
        settings = self.settings
        settings.source.site = message.name
        distribution = expanded(message)
        if message.value is not None:
            return Draw(distribution, message.value)
        if message.name in self.forced:
            return Draw(distribution, self.forced[message.name])
        if settings.explore:
            reparameterised = estimator.drawing.pathwise and distribution.has_rsample
            return Draw(distribution, settings.source.draw(distribution, reparameterised=reparameterised))
        if settings.loop:
            return self._draw_in_loop(message, distribution, estimator)
        lanes = settings.vectorization.lanes_of(message.name)
        state = settings.states.get(message.name)
        if lanes is not None:
            if len(lanes.own) != estimator.alternatives(distribution):
                raise VectorizationChanged(message.name)
            if lanes.own or len(distribution.batch_shape) > settings.vectorization.dims:
                wide = lanes.expand(distribution)
                return estimator.draw(wide, lanes, self._source(estimator, wide), state)
        elif estimator.alternatives(distribution):
            raise VectorizationChanged(message.name)
        return estimator.draw(distribution, None, self._source(estimator, distribution), state)

    def _source(self, estimator: Estimator, distribution: td.Distribution) -> Source:
        """The source of a draw's numbers: coupled across particles, where the estimator asks for it."""
        settings = self.settings
        if estimator.drawing.coupling is None:
            return settings.source
        if settings.vectorization.particles == 1:
            raise SiteError(
                f"{type(estimator.drawing.coupling).__name__} cannot couple the particles' draws",
                site=settings.source.site,
                because="the particles run one by one",
                try_="plan(), which says why, and a program that can run side by side; or Pathwise()",
            )
        batch = distribution.batch_shape
        return Coupled(settings.source, estimator.drawing.coupling, batch, len(batch) - settings.vectorization.dims)

    def _draw_in_loop(self, message: Sample, distribution: td.Distribution, estimator: Estimator) -> Draw:
        """Draw a site with its alternatives; the run goes on with lane 0, and the others wait for separate runs."""
        count = 1 + estimator.alternatives(distribution)
        state = self.settings.states.get(message.name)
        if count == 1:
            return estimator.draw(distribution, None, self._source(estimator, distribution), state)
        if self.forced:
            return Draw(distribution, self.settings.source.draw(distribution))
        lanes = Lanes(count, self.settings.vectorization.dims, tuple(range(1, count)), tuple(range(count)))
        wide = estimator.draw(lanes.expand(distribution), lanes, self.settings.source, state)
        event = wide.value.shape[wide.value.dim() - len(distribution.event_shape) :]
        values = wide.value.reshape(count, *distribution.batch_shape, *event)
        if estimator.needs.slope is not None and not values.requires_grad:
            values = values.detach().requires_grad_()
        self.record.alternatives[message.name] = evolve(wide, value=values, plates=message.plates)
        return Draw(distribution, values[0].clone())


class _Model(_Program):
    """The model's handler: replays the guide's values and collects the model's densities."""

    def __init__(self, settings: RunSettings, record: RunRecord, cache: dict[str, Tensor], guide: _Guide) -> None:
        super().__init__(settings, record, cache)
        self.statements = record.model
        self.guide = guide
        self.latent: set[str] = set()
        self.marginal = MarginalValues(settings, record, guide.forced)

    def sample(self, message: Sample, forward: Forward) -> Message:
        message = with_fresh_distribution(message)
        self._plates(message)
        if not message.observed:
            if message.estimator is not None:
                raise SiteError(
                    "has an estimator in the model",
                    site=message.name,
                    because="the guide draws it",
                    try_="estimator= at the guide's site, or ELBO(estimators={...})",
                )
            if self.settings.marginal and message.name not in self.record.values and self.marginal.includes(message):
                return self._sum_out(message, forward)
            if message.name not in self.record.values and not self.settings.strict:
                self.record.unguided.add(message.name)
                self.guide.sample(message, _unheard)
            if message.name not in self.record.values:
                refuse_missing(message, self.record.values, self.settings.marginal)
            self.latent.add(message.name)
            message = evolve(message, value=self.record.values[message.name])
        if self.settings.explore:
            self.record.marked.append(Marked(message))
        statement = self.record.tracker.examine(message)
        self.record.model.append(statement)
        if self.record.marginal:
            self.marginal.check_slots(statement)
        return forward(message)

    def _sum_out(self, message: Sample, forward: Forward) -> Message:
        """Put in all values of a site that is summed out, or the one that is asked for."""
        record = self.record
        plain = record.tracker.examine(message).message
        assert isinstance(plain, Sample)
        message = evolve(message, value=self.marginal.put(plain))
        if self.settings.explore:
            record.marked.append(Marked(message))
        statement = record.tracker.examine(message)
        record.model.append(statement)
        self.marginal.check_slots(statement)
        return forward(message)

    def chain(self, message: Chain) -> Chain:
        return self.marginal.chain(message) if self.settings.marginal else message

    def factor(self, statement: Statement) -> None:
        if self.record.marginal:
            self.marginal.check_slots(statement)


def with_fresh_distribution(message: Sample) -> Sample:
    """The message with a copy of its distribution that remembers nothing computed before."""
    distribution = fresh(message.distribution)
    return message if distribution is message.distribution else evolve(message, distribution=distribution)


def _unheard(message: Message) -> Message:
    return message
