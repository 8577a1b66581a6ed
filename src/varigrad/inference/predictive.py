"""`Predictive`: draws predictions from a model, given draws of its latent sites."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from functools import partial

import torch
from torch import Tensor

from varigrad.distributions.rng import Source
from varigrad.errors import (
    GuideMismatchError,
    ShapeError,
    SiteError,
    VarigradError,
    did_you_mean,
    whole_number,
)
from varigrad.inference.predictive_run import PredictiveHandler, PredictiveRun, drawn, minibatch
from varigrad.language.messages import Names, Plate, Program, Record, Sample
from varigrad.language.plates import InPlate
from varigrad.language.primitives import UNOBSERVED
from varigrad.language.runtime import expanded, run
from varigrad.language.trace import Recorder
from varigrad.language.value_conversion import as_numbers
from varigrad.objectives.checks.replays import FAILURES, same
from varigrad.objectives.parameters import ParameterStore
from varigrad.terms.dependency_tracker import Tracker
from varigrad.terms.provenance import untracked

PREDICTIONS = "predictions"
"""The plate around all of them, where they run side by side."""


class Predictive:
    """Draws from a model, given draws of its latent sites that a guide makes or the user provides.

    A site that the model draws itself has to depend on what was learnt. One that does not comes from its prior, which
    is rarely what is meant (nothing else tells a forgotten latent site from a prediction), so it has to be named in
    `return_sites`.

    Args:
        model: the model; `handlers.uncondition(model)` if it is written with its data in it.
        guide: where latent values come from; or
        posterior_samples: their draws by site, `[num_samples, *site]`. With neither, everything is drawn from the
            prior.
        num_samples: how many predictions; by default as many as there are posterior samples.
        return_sites: names (globs) of the sites to return; default: all that the model draws or computes, and neither
            observed ones nor the guide's.
        vectorize: run all predictions side by side along a leading dimension, or one by one; None: side by side if
            the densities of some of them, run by themselves, come out the same.
        owner: whose parameters the programs use: `fit.bound`, `svi.bound`.
        source: of the draws; default: torch's global generator.
        strict: False: sites may be drawn from the prior, and posterior samples may be of other sites than the model's.
        include: names of sites whose posterior samples are returned, too.

    Raises:
        VarigradError: arguments that do not go together.
        ShapeError: posterior samples of different lengths.
        SiteError: posterior samples that are no numbers.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> def model():
        ...     z = vg.sample("z", dist.Normal(0.0, 1.0))
        ...     with vg.plate("data", 3):
        ...         vg.sample("x", dist.Normal(z, 1.0))
        >>> vg.Predictive(model, posterior_samples={"z": torch.randn(100)})()["x"].shape
        torch.Size([100, 3])
    """

    def __init__(
        self,
        model: Program,
        guide: Program | None = None,
        posterior_samples: Mapping[str, Tensor] | None = None,
        num_samples: int | None = None,
        return_sites: str | Names | None = None,
        *,
        vectorize: bool | None = None,
        owner: ParameterStore | None = None,
        source: Source | None = None,
        strict: bool = True,
        include: Names = (),
    ) -> None:
        if guide is not None and posterior_samples is not None:
            raise VarigradError("Predictive takes a guide or posterior_samples, not both")
        samples = {n: as_numbers(n, v, "posterior samples") for n, v in (posterior_samples or {}).items()}
        lengths = {name: len(v) if v.dim() else 0 for name, v in samples.items()}
        if len(set(lengths.values())) > 1 or 0 in lengths.values():
            raise ShapeError(
                f"posterior samples have different numbers of draws: {lengths}",
                try_="one leading dimension, of the same size for all sites",
            )
        given = next(iter(lengths.values()), None)
        if num_samples is None and given is None:
            raise VarigradError("it is not said how many predictions to make", try_="Predictive(..., num_samples=1000)")
        if num_samples is not None:
            num_samples = whole_number("num_samples", num_samples)
        if num_samples is not None and given is not None and num_samples != given:
            raise ShapeError(
                f"num_samples is {num_samples}, and there are {given} posterior samples",
                try_="num_samples left out, or samples[:num_samples]",
            )
        self.model = model
        self.guide = guide
        self.posterior_samples = samples
        self.num_samples: int = num_samples or given or 0
        self.return_sites: tuple[str, ...] | None = _names(return_sites)
        self.vectorize = vectorize
        self.owner = owner
        self.source: Source = Source() if source is None else source
        self.strict = strict
        self.include: frozenset[str] = frozenset(include)

    def __call__(self, *args: object, **kwargs: object) -> dict[str, Tensor]:
        """Run the model on these arguments; returns `[num_samples, *site]` by site.

        Raises:
            GuideMismatchError: a latent value is given for a site that the model does not have, or a site of the model
                is drawn from its prior without having been asked for.
            SiteError: a site to return is not there, observed or no number, or there is nothing to return.
            SupportError: a posterior sample is NaN, infinite or outside its site's support.
            ConstraintError: a distribution's parameter is NaN, infinite or outside its domain.
            PlateError: posterior samples are of a minibatch, and it is not known of which.
            ParameterError: the programs have parameters, and no owner was named.
        """
        with torch.no_grad():
            indices: dict[str, Tensor] = {}
            program = partial(self._run_once, args, kwargs, indices)
            first = program(self._row(0), track=True)
            if self.strict:
                self._check(first)
            wanted = self._wanted(first)
            if self.vectorize is not False:
                wide = self._side_by_side(program, first, wanted, indices)
                if wide is not None:
                    return wide
            runs = [program(self._cut(self._row(i), first, indices)) for i in range(self.num_samples)]
            for i, one in enumerate(runs):
                if set(wanted) - one.values.keys():
                    raise SiteError(
                        f"is not there in prediction {i}",
                        site=min(set(wanted) - one.values.keys()),
                        because="the model has other sites in other runs, and they cannot be stacked",
                        try_="return_sites without it",
                    )
            return {n: torch.stack([as_numbers(n, one.values[n], "the value") for one in runs]) for n in wanted}

    def _row(self, index: int) -> dict[str, Tensor]:
        return {name: value[index] for name, value in self.posterior_samples.items()}

    def _run_once(
        self,
        args: tuple[object, ...],
        kwargs: dict[str, object],
        indices: dict[str, Tensor],
        given: Mapping[str, Tensor],
        width: tuple[int, int] | None = None,
        track: bool = False,
        forced: Mapping[str, Tensor] | None = None,
    ) -> PredictiveRun:
        """Run guide and model; with `width`, `(how many, dim)`, side by side."""
        outer = () if width is None else (InPlate(Plate(PREDICTIONS, width[0], -width[1])),)
        tracker = Tracker()
        found = PredictiveRun({}, {}, dict(given))
        cache: dict[str, Tensor] = {}
        drawing = partial(
            PredictiveHandler,
            self.owner,
            self.source,
            indices,
            cache,
            stored=frozenset(self.posterior_samples),
            found=found,
        )
        forced = forced or {}
        try:
            if self.guide is not None:
                recorder = Recorder()
                run(self.guide, (drawing(values=forced), recorder, *outer), args, kwargs)
                found.guide = recorder.messages
                latents = drawn(recorder.messages)
                own = {n for n, m in recorder.messages.items() if isinstance(m, Sample) and m.auxiliary}
                given = {n: v for n, v in latents.items() if n not in own}
                found.values.update(given)
            recorder = Recorder()
            handler = drawing(values={**forced, **given}, given=frozenset(given), tracker=tracker if track else None)
            run(self.model, (handler, recorder, *outer), args, kwargs)
            found.model = recorder.messages
        finally:
            tracker.finish()
        found.values.update(drawn(recorder.messages))
        found.values.update({n: _number(m) for n, m in recorder.messages.items() if type(m) is Record})
        return found

    def _check(self, first: PredictiveRun) -> None:
        latent = {n: m for n, m in first.model.items() if type(m) is Sample and not m.observed}
        auxiliary = {n for n, m in first.guide.items() if type(m) is Sample and m.auxiliary}
        given = {n for n, m in first.guide.items() if type(m) is Sample} - auxiliary | self.posterior_samples.keys()
        # Values that were missing when the guide was fitted belong to the rows of that fit, and no others.
        missing = {name + UNOBSERVED for name in latent}
        for name in sorted(given - latent.keys() - missing):
            observed = name in first.model and type(first.model[name]) is Sample
            raise GuideMismatchError(
                "has posterior samples and is observed by the model" if observed else "is no latent site of the model",
                site=name,
                because=f"its latent sites are {_listed(latent)}{did_you_mean(name, latent)}",
                try_="obs=None for predictions" if observed else "posterior samples of the model's sites only",
            )
        asked = self.return_sites or ()
        forgotten = [n for n in first.untouched if not _matches(n, asked)] if given else []
        if forgotten:
            raise GuideMismatchError(
                f"would be drawn from the prior, and so would {_listed(forgotten[1:])}"
                if forgotten[1:]
                else "would be drawn from the prior",
                site=forgotten[0],
                because=f"there are posterior samples of {_listed(sorted(given))} only, and it depends on none of them",
                try_=f"posterior samples of it, or return_sites=[{forgotten[0]!r}, ...] if that is what you want",
            )

    def _wanted(self, first: PredictiveRun) -> list[str]:
        """The sites to return."""
        there = list(first.values)
        if self.return_sites is None:
            given = self.posterior_samples.keys() - self.include
            latent = {n for n, m in first.guide.items() if type(m) is Sample} | given
            wanted = [n for n in there if n not in latent]
            if not wanted:
                raise SiteError(
                    "there is nothing to predict",
                    because="every site of the model is observed, or has posterior samples",
                    try_="obs=None in the model's arguments, handlers.uncondition(model), or return_sites=[...]",
                )
            return wanted
        observed = [n for n, m in first.model.items() if type(m) is Sample and m.observed]
        for pattern in self.return_sites:
            if any(fnmatchcase(name, pattern) for name in there):
                continue
            if pattern in observed:
                raise SiteError(
                    "is observed, so a prediction of it would be the data",
                    site=pattern,
                    try_="obs=None in the model's arguments, or handlers.uncondition(model)",
                )
            raise SiteError(
                f"return_sites names it, and there is no such site{did_you_mean(pattern, there)}",
                site=pattern,
                because=f"the sites are {_listed(there)}",
            )
        return [n for n in there if _matches(n, self.return_sites)]

    def _cut(
        self, given: Mapping[str, Tensor], first: PredictiveRun, indices: Mapping[str, Tensor], lead: int = 0
    ) -> dict[str, Tensor]:
        """Posterior samples, cut down to the minibatches of this call; `lead` dimensions are of the samples."""
        return {n: minibatch(n, v, first.model[n], indices, lead) for n, v in given.items() if n in first.model}

    def _side_by_side(
        self,
        program: Callable[..., PredictiveRun],
        first: PredictiveRun,
        wanted: list[str],
        indices: Mapping[str, Tensor],
    ) -> dict[str, Tensor] | None:
        """All predictions in one run; None if the programs do not broadcast."""
        count = self.num_samples
        statements = [m for m in (*first.guide.values(), *first.model.values()) if hasattr(m, "plates")]
        dims = 1 + max((-p.dim for m in statements for p in m.plates if p.dim is not None), default=0)
        given = {}
        for name, value in self._cut(self.posterior_samples, first, indices, 1).items():
            message = first.model[name]
            event = len(message.distribution.event_shape)
            given[name] = value.reshape(count, *(1,) * (dims - (value.dim() - event)), *value.shape[1:])
        failure: Exception | str | None = None
        try:
            wide = program(given, width=(count, dims))
            failure = self._disagreement(program, wide, first)
            numbers = {name: as_numbers(name, wide.values[name], "the value") for name in wanted}
            found = {name: _stacked(value, first.values[name].shape, count) for name, value in numbers.items()}
        except FAILURES as error:
            failure = error
        if failure is None:
            return found
        if self.vectorize:
            if isinstance(failure, VarigradError):  # one of the predictions may be wrong by itself, and says so
                for row in range(count):
                    program(self._cut(self._row(row), first, indices))
            raise VarigradError(
                f"cannot run predictions side by side: {failure}",
                because="vectorize=True asks for it",
                try_="vectorize=False, which loops, or code that leaves leading dimensions alone",
            )
        return None

    def _disagreement(
        self, program: Callable[..., PredictiveRun], wide: PredictiveRun, first: PredictiveRun
    ) -> str | None:
        """Run single predictions again by themselves, on the same values; the first difference, None without one."""
        count = self.num_samples
        for row in sorted({0, count - 1}):
            values = {
                name: _stacked(value, originals[name].value.shape, count)[row]
                for messages, originals in ((wide.guide, first.guide), (wide.model, first.model))
                for name, value in drawn(messages).items()
            }
            alone = program({n: values[n] for n in self.posterior_samples if n in values}, forced=values)
            for together, single in ((wide.guide, alone.guide), (wide.model, alone.model)):
                if together.keys() != single.keys():
                    return "the programs have other sites when they run by themselves"
                for name, m in together.items():
                    if type(m) in (Sample, Record):
                        one = _figure(single[name])
                        if isinstance(one, Tensor) and not same(one, _stacked(_figure(m), one.shape, count)[row]):
                            return f"{name!r} mixes predictions"
        return None


def _figure(message: Sample | Record) -> Tensor:
    """The value that has to be the same however a program is run: a density, or a computed value."""
    if isinstance(message, Record):
        return _number(message)
    assert message.value is not None
    return expanded(message).log_prob(message.value)


def _number(message: Record) -> Tensor:
    """A computed value as a tensor, if it can be one: programs may record what they like."""
    try:
        return as_numbers(message.name, untracked(message.value), "the value")
    except SiteError:
        return message.value


def _stacked(value: Tensor, shape: torch.Size, count: int) -> Tensor:
    """`[predictions, *site]` from `[predictions, 1, ..., *site]`, or from a value that all share."""
    return value.expand(count, *shape) if value.shape == shape else value.reshape(count, *shape)


def _names(names: str | Names | None) -> tuple[str, ...] | None:
    return None if names is None else (names,) if isinstance(names, str) else tuple(names)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"
