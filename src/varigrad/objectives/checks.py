"""Checks made on a program's first run, and again when a number goes bad: never on the step's path."""

from __future__ import annotations

import math
import warnings
from collections.abc import Container, Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from varigrad.distributions.delta import Delta
from varigrad.distributions.inner import inner_of
from varigrad.distributions.methods import filled
from varigrad.distributions.parts import tensors_of
from varigrad.errors import (
    ConstraintError,
    GuideMismatchError,
    PlateError,
    ShapeError,
    SiteError,
    SiteNameError,
    SupportError,
    did_you_mean,
)
from varigrad.estimators.baselines import NoBaseline
from varigrad.estimators.pathwise import Pathwise, is_partial
from varigrad.language.messages import Factor, Sample
from varigrad.language.runtime import plate_shape
from varigrad.objectives.run import Pass
from varigrad.objectives.supports import reach
from varigrad.shapes import broadcasts, join, table
from varigrad.terms.term import Term, check_batch
from varigrad.terms.tracking import SEVERED, Token


class SupportWarning(UserWarning):
    """A guide cannot reach all values that the model allows."""


def check_pass(run: Pass) -> None:
    """Everything that can be wrong with the distributions, values and shapes of one run.

    Raises:
        ConstraintError: a distribution's parameter is NaN, infinite or outside its domain.
        SupportError: an observation is NaN, infinite or outside the support, or the guide draws what the model
            cannot have.
        ShapeError: model and guide, or a site and its data, have different shapes.
        GuideMismatchError: the model has no sites at all.
        SiteNameError: a subsampled plate has the name of a site.
        SiteError: a log-density cannot be computed, or a baseline would have no effect.
    """
    guide = {s.message.name: s.message for s in run.guide if isinstance(s.message, Sample)}
    model = {s.message.name: s.message for s in run.model if isinstance(s.message, Sample)}
    if not run.model:
        raise GuideMismatchError("the model has no sites", try_="sample(name, distribution) in the model")
    for message in (*guide.values(), *model.values()):
        check_device(message)
        check_parameters(message)
    for name in run.indices.keys() & (guide.keys() | model.keys()):
        raise SiteNameError("is the name of a subsampled plate and of a site", site=name, try_="two names")
    for message in model.values():
        if message.observed:
            check_value(message, guide, model)
    for name, q in guide.items():
        if name in model:
            _check_pair(q, model[name], guide, model)
    for statement in (*run.guide, *run.model):
        check_density(statement.message, guide, model)
    check_minibatches(run)
    for name, choice in run.choices.items():
        estimator = choice.estimator
        idle = isinstance(estimator, Pathwise) and not isinstance(estimator.baseline, NoBaseline)
        if idle and not is_partial(guide[name].distribution):
            raise SiteError(
                "a baseline has no effect on a pathwise gradient",
                site=name,
                because=f"{type(guide[name].distribution).__name__} is fully reparameterised and has no score part",
                try_="Pathwise(), or Score(baseline)",
            )


def check_minibatches(run: Pass) -> None:
    """A plate means the same elements wherever it is entered.

    Raises:
        PlateError: it has other indices in the guide than in the model.
    """
    known: dict[str, Tensor] = {}
    for statement in (*run.guide, *run.model):
        for plate in statement.message.plates:
            if plate.subsample is not None and not torch.equal(
                known.setdefault(plate.name, plate.subsample), plate.subsample
            ):
                raise PlateError(
                    f"has another minibatch at site {statement.message.name!r} than before",
                    site=plate.name,
                    because="a plate means the same elements wherever it is entered, in model and guide",
                    try_="the same subsample= in both, or subsample_size= in both",
                )


def check_particles(run: Pass, particles: int) -> None:
    """An estimator whose draws are the particles, or are coupled across them, has as many as it needs.

    Raises:
        SiteError: it has not.
    """
    for name, choice in run.choices.items():
        coupling = choice.estimator.coupling
        if coupling is not None:
            one = "there is one particle, and nothing to couple it with", "ELBO(particles=2)"
            refusal = one if particles < 2 else coupling.refusal(particles)
            if refusal is not None:
                because, try_ = refusal
                raise SiteError(
                    f"{type(coupling).__name__} cannot couple the particles' draws",
                    site=name,
                    because=because,
                    try_=try_,
                )
        if choice.estimator.across_particles and particles < 2:
            raise SiteError(
                f"{type(choice.estimator).__name__}() has no other particles to leave in",
                site=name,
                because="the objective has one particle",
                try_="ELBO(particles=4), or LeaveOneOut(4)",
            )


def check_smooth(run: Pass, kinked: Container[str]) -> None:
    """Every cost of an estimator that needs differentiable ones can be differentiated, as far as can be seen.

    Raises:
        SiteError: the value is stepped, detached or taken out of torch, or a draw below has half a derivative.
    """
    escapes = run.tracker.escapes
    for name, choice in run.choices.items():
        if not choice.estimator.smooth:
            continue
        because = None
        if name in kinked:
            because = "its value is compared, rounded, converted or used as an index, which has no derivative"
        elif _reaches(escapes.held, name):
            because = "its value is detached, so not all of its effect can be differentiated"
        elif _reaches(escapes.provenance, name):
            because = (
                "its value leaves torch (a number, a branch, numpy, the validation of raw torch.distributions), so "
                "not all of its effect can be differentiated"
            )
        for statement in run.guide:
            below = statement.message
            if not isinstance(below, Sample) or not _reaches(statement.upstream, name):
                continue
            if run.choices[below.name].estimator.partial or is_partial(below.distribution):
                because = f"the draw of {below.name!r} below it is only partly differentiable"
        if because:
            raise SiteError(
                f"{type(choice.estimator).__name__} cannot serve this site",
                site=name,
                because=because,
                try_="arithmetic in place of indices and branches (z * a + (1 - z) * b, one_hot @ table) and "
                "distributions from varigrad.distributions; or LeaveOneOut(2), which needs no derivatives",
            )


def _reaches(provenance: Iterable[Token], site: str) -> bool:
    return any(t.site == site and SEVERED not in t.crossed for t in provenance)


def check_patterns(run: Pass, options: Mapping[str, Iterable[str]]) -> None:
    """Every name (not glob) in the objective's configuration is that of a site.

    Raises:
        SiteError: there is no such site.
    """
    names = {s.message.name for s in (*run.guide, *run.model)}
    for option, patterns in options.items():
        known = run.choices.keys() if option == "estimators" else names
        for pattern in patterns:
            if pattern not in known and not any(c in pattern for c in "*?["):
                raise SiteError(
                    f"{option} names it, and there is no such site{did_you_mean(pattern, known)}",
                    site=pattern,
                    because=f"the sites are {', '.join(map(repr, known)) or 'none'}",
                    try_="the site's name, or a glob such as 'z*'",
                )


def check_device(message: Sample) -> None:
    """A site's distribution and value are on one device (scalars on the CPU go with any)."""
    assert message.value is not None
    tensors, _ = tensors_of(message.distribution)
    there = next((t for t in tensors if t.dim() or t.device.type != "cpu"), None)
    value = message.value
    if there is None or there.device == value.device or (value.dim() == 0 and value.device.type == "cpu"):
        return
    raise SiteError(
        f"its distribution is on {there.device} (parameter of shape {tuple(there.shape)}), its value on {value.device} "
        f"(shape {tuple(value.shape)})",
        site=message.name,
        try_=f"data.to({str(there.device)!r}), or svi.bound.to(device) for the parameters",
    )


def check_density(message: Sample | Factor, guide: dict[str, Sample], model: dict[str, Sample]) -> None:
    """The shapes of a site's distribution, value and plates fit together, and its log-density can be computed."""
    if isinstance(message, Factor):
        check_batch(message, message.log_factor.shape, plate_shape(message), message.log_factor.dim())
        return
    distribution, value = message.distribution, message.value
    assert value is not None
    batch, event = distribution.batch_shape, len(distribution.event_shape)
    given = value.shape[: value.dim() - event]
    for shape in (batch, given):
        check_batch(message, torch.Size(shape), plate_shape(message), len(shape))
    try:
        torch.broadcast_shapes(batch, given)
    except RuntimeError as error:
        raise ShapeError(
            f"its value has batch shape {tuple(given)}, its distribution {tuple(batch)}{_sites(guide, model)}",
            site=message.name,
            try_="data and parameters of the plates' sizes (or 1)",
        ) from error
    if message.mask is not None and message.observed:
        value = filled(distribution, value, message.mask)
    try:
        distribution.log_prob(value)
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        whole = not value.is_floating_point()
        raise SiteError(
            f"{type(distribution).__name__}.log_prob failed on a value of shape {tuple(value.shape)} and dtype "
            f"{value.dtype}: {error or type(error).__name__}",
            site=message.name,
            try_="data.float()" if whole else "values of the dtype and device of the distribution's parameters",
        ) from error


def check_parameters(message: Sample) -> None:
    """Every parameter of the distribution is finite and inside its domain."""
    for owner in _layers(message.distribution):
        try:
            declared = owner.arg_constraints
        except NotImplementedError:
            continue
        for name, constraint in declared.items():
            if name not in vars(owner) or constraints.is_dependent(constraint):
                continue
            value = getattr(owner, name)
            if not isinstance(value, Tensor):
                continue
            bad = ~constraint.check(value)
            if value.is_floating_point():
                # A logarithm of nought is a number here: a category that never occurs.
                broken = value.isnan() if "log" in name else ~value.isfinite()
                event = value.dim() - bad.dim()
                bad = bad | (broken.flatten(-event).any(-1) if event else broken)
            if bool(bad.any()):
                raise ConstraintError(
                    f"parameter {name!r} of {type(owner).__name__} is {_example(value, bad)}, outside {constraint}",
                    site=message.name,
                    because=f"{int(bad.sum())} of {bad.numel()} entries are outside",
                    try_="param(..., constraint=...), or a positive link such as softplus or exp",
                )


def check_value(message: Sample, guide: dict[str, Sample], model: dict[str, Sample]) -> None:
    """An observed value has the distribution's shape and lies in its support; masked elements are exempt."""
    distribution, value, name = message.distribution, message.value, message.name
    assert value is not None
    event = distribution.event_shape
    shape = tuple(value.shape)
    if value.dim() < len(event) or (event and not broadcasts(value.shape[value.dim() - len(event) :], event)):
        raise ShapeError(
            f"the observation has shape {shape}, the event shape is {tuple(event)}{_sites(guide, model)}",
            site=name,
            try_="data whose last dimensions are the event",
        )
    ok = _in_support(distribution, value)
    if ok is None:
        return
    if message.mask is not None:
        ok = ok | ~message.mask
    if not bool(ok.all()):
        bad = ~ok
        first = tuple(int(i) for i in bad.nonzero()[0])
        raise SupportError(
            f"the observation has {int(bad.sum())} of {bad.numel()} values outside the support of "
            f"{type(distribution).__name__}, the first at index {first}: {_example(value, bad)}",
            site=name,
            because="NaN, infinite and impossible values have no density",
            try_="clean data, or mask=/obs_mask= for what is missing",
        )


def _without_leading_ones(shape: Sequence[int]) -> Sequence[int]:
    while shape and shape[0] == 1:
        shape = shape[1:]
    return shape


def _check_pair(q: Sample, p: Sample, guide: dict[str, Sample], model: dict[str, Sample]) -> None:
    name = q.name
    q_event, p_event = tuple(q.distribution.event_shape), tuple(p.distribution.event_shape)
    if len(q_event) != len(p_event):
        raise ShapeError(
            f"has event dims {len(q_event)} in the guide and {len(p_event)} in the model{_sites(guide, model)}",
            site=name,
            because="their log-densities would be summed over different dimensions",
            try_=".to_event(n) in one of them",
        )
    if q_event != p_event:
        raise ShapeError(
            f"has event shape {q_event} in the guide and {p_event} in the model{_sites(guide, model)}", site=name
        )
    assert q.value is not None
    batch = tuple(q.value.shape[: q.value.dim() - len(q_event)])
    own, given = _without_leading_ones(p.distribution.batch_shape), _without_leading_ones(batch)
    if not broadcasts(own, given) and not broadcasts(given, own):
        raise ShapeError(
            f"has batch shape {batch} in the guide and {tuple(p.distribution.batch_shape)} in the model"
            f"{_sites(guide, model)}",
            site=name,
            try_="the same plates in both",
        )
    if join(p.distribution.batch_shape, batch).numel() > math.prod(batch):
        raise ShapeError(
            f"the guide draws batch shape {batch}, the model has {tuple(p.distribution.batch_shape)}"
            f"{_sites(guide, model)}",
            site=name,
            because="one draw would be counted several times",
            try_="the same plates in both",
        )
    if _named(q) != _named(p):
        raise ShapeError(
            f"is in plates {_named(q) or 'none'} in the guide and {_named(p) or 'none'} in the model", site=name
        )
    if isinstance(q.distribution, Delta):
        ok = _in_support(p.distribution, q.value.expand(batch + q_event))
    else:
        ok = _in_support(p.distribution, q.value)
    if ok is not None and not bool(ok.all()):
        raise SupportError(
            f"the guide ({type(q.distribution).__name__}) draws values outside the model's support "
            f"({type(p.distribution).__name__}), such as {_example(q.value, ~ok)}",
            site=name,
            because="the bound is then minus infinity",
            try_="a guide distribution on the same support",
        )
    _check_reach(q, p)


def _check_reach(q: Sample, p: Sample) -> None:
    """What the two supports promise, beyond the values that happened to be drawn."""
    ours, theirs = reach(q.distribution), reach(p.distribution)
    if ours is None or theirs is None:
        return
    families = f"the guide's {type(q.distribution).__name__} and the model's {type(p.distribution).__name__}"
    if ours.discrete is not theirs.discrete:
        raise SupportError(
            f"of {families} one is discrete and the other continuous",
            site=q.name,
            because="a mass and a density cannot be compared",
            try_="a guide distribution of the model's kind",
        )
    try:
        wider = bool((ours.low < theirs.low).any() or (ours.high > theirs.high).any())
        narrower = bool((ours.low > theirs.low).any() or (ours.high < theirs.high).any())
    except RuntimeError:  # bounds that do not broadcast: shapes have been compared already
        return
    if wider:
        raise SupportError(
            f"the guide ({type(q.distribution).__name__}) can draw values outside the model's support "
            f"({type(p.distribution).__name__}): {ours} against {theirs}",
            site=q.name,
            because="the bound is then minus infinity",
            try_="a guide distribution on the same support",
        )
    if narrower:
        warnings.warn(
            f"{q.name!r}: of {families} the guide's cannot reach all values: {ours} against {theirs}. What the "
            "posterior has outside is lost. Try: a guide distribution on the same support",
            SupportWarning,
            stacklevel=2,
        )


def first_bad(terms: Iterable[Term]) -> str | None:
    """A sentence about the first term that is NaN or infinite."""
    for term in terms:
        bad = ~term.log_prob.isfinite()
        if bool(bad.any()):
            kind = "model" if term.sign > 0 else "guide"
            value = term.log_prob[bad].flatten()[0].item()
            count = f"{int(bad.sum())} of {bad.numel()} entries"
            return f"the {kind}'s log-density of site {term.name!r} is {value} in {count}"
    return None


def _unchecked(distribution: td.Distribution) -> bool:
    """Whether the program has said `validate_args=False`."""
    return getattr(inner_of(distribution)[0], "unchecked", False)


def _in_support(distribution: td.Distribution, value: Tensor) -> Tensor | None:
    if _unchecked(distribution):
        return None
    try:
        support = distribution.support
    except NotImplementedError:
        return None
    if support is None or constraints.is_dependent(support):
        return None
    ok = support.check(value)
    if value.is_floating_point():
        finite = value.isfinite()
        event = value.dim() - ok.dim()
        ok = ok & (finite.flatten(-event).all(-1) if event > 0 else finite)
    return ok


def _layers(distribution: td.Distribution) -> Iterable[td.Distribution]:
    yield distribution
    for part in vars(distribution).values():
        if isinstance(part, td.Distribution):
            yield from _layers(part)


def _named(message: Sample) -> tuple[str, ...]:
    return tuple(sorted(p.name for p in message.plates))


def _example(value: Tensor, bad: Tensor) -> str:
    event = value.dim() - bad.dim()
    if event < 0:
        return "of the wrong shape"
    rows = value.expand(bad.shape + value.shape[bad.dim() :])[bad]
    row = rows[0]
    return f"{row.item():g}" if row.numel() == 1 else f"{row.tolist()}"[:80]


def _sites(guide: dict[str, Sample], model: dict[str, Sample]) -> str:
    rows = []
    for program, sites in (("guide", guide), ("model", model)):
        for name, m in sites.items():
            d = m.distribution
            value = tuple(m.value.shape) if m.value is not None else ""
            rows.append((program, name, type(d).__name__, tuple(d.batch_shape), tuple(d.event_shape), value))
    return "\n" + table(rows, ("program", "site", "distribution", "batch", "event", "value")) + "\n"
