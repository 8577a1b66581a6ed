"""Checks of a program's first run, which are repeated when a loss or gradient is not finite; normal steps skip them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType

import torch
from torch import Tensor

from varigrad.errors import (
    ArgumentError,
    GuideMismatchError,
    PlateError,
    SiteError,
    SiteNameError,
    did_you_mean,
)
from varigrad.estimators.baselines import NoBaseline
from varigrad.estimators.pathwise import Pathwise, is_partial
from varigrad.language.messages import Program, Sample
from varigrad.language.runtime import signature_of
from varigrad.objectives.checks.own_families import check_own_family
from varigrad.objectives.checks.pairs import check_pair
from varigrad.objectives.checks.sites import check_density, check_device, check_parameters, check_score, check_value
from varigrad.objectives.run_record import RunRecord
from varigrad.terms.dependency_tracker import NOT_PATHWISE, Token
from varigrad.terms.term import Term
from varigrad.user_warnings import warn_user


def check_pass(run: RunRecord) -> None:
    """Check the distributions, values and shapes of one run.

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
            check_pair(q, model[name], guide, model)
    for statement in (*run.guide, *run.model):
        check_density(statement.message, guide, model)
    check_minibatches(run)
    for name, choice in run.choices.items():
        estimator = choice.estimator
        check_score(guide[name], estimator)
        if run.tracker.escapes.with_gradients:
            check_own_family(guide[name], estimator)
        idle = isinstance(estimator, Pathwise) and not isinstance(estimator.baseline, NoBaseline)
        if idle and not is_partial(guide[name].distribution):
            raise SiteError(
                "a baseline has no effect on a pathwise gradient",
                site=name,
                because=f"{type(guide[name].distribution).__name__} is fully reparameterised and has no score part",
                try_="Pathwise(), or Score(baseline)",
            )


def check_minibatches(run: RunRecord) -> None:
    """Check that a plate has the same minibatch wherever it is entered.

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


def check_particles(run: RunRecord, particles: int) -> None:
    """Check that there are enough particles for estimators that compare or couple them.

    Raises:
        SiteError: it has not.
    """
    for name, choice in run.choices.items():
        coupling = choice.estimator.drawing.coupling
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
        if choice.estimator.needs.across_particles and particles < 2:
            raise SiteError(
                f"{type(choice.estimator).__name__}() has no other particles to leave in",
                site=name,
                because="the objective has one particle",
                try_="ELBO(particles=4), or LeaveOneOut(4)",
            )


def check_smooth(
    run: RunRecord, nondifferentiable: Container[str], crossed: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Check that costs can be differentiated, as far as can be seen, where an estimator needs that.

    Args:
        crossed: sites of which a pole was seen to lie between two values, each with a sentence.

    Raises:
        SiteError: the value is stepped, detached or taken out of torch, or a draw below has half a derivative.
    """
    escapes = run.tracker.escapes
    for name, choice in run.choices.items():
        if not choice.estimator.needs.differentiable:
            continue
        because = None
        if name in nondifferentiable:
            because = "its value is compared, rounded, converted or used as an index, which has no derivative"
        elif _reaches(escapes.held | escapes.blocked, name):
            because = (
                "its value is detached, used under torch.no_grad() or made an index, so not all of its effect can be "
                "differentiated"
            )
        elif name in crossed:
            because = f"{crossed[name]}, and the derivatives between its values miss the jump there"
        elif _reaches(escapes.provenance, name):
            because = (
                "its value leaves torch (a number, a branch, numpy, the validation of raw torch.distributions), so "
                "not all of its effect can be differentiated"
            )
        for statement in run.guide:
            below = statement.message
            if not isinstance(below, Sample) or not _reaches(statement.upstream, name):
                continue
            if run.choices[below.name].estimator.drawing.partial or is_partial(below.distribution):
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
    return any(t.site == site and NOT_PATHWISE not in t.cross_element for t in provenance)


def check_patterns(run: RunRecord, options: Mapping[str, Iterable[str]]) -> None:
    """Check that every name in the objective's configuration is that of a site, and warn of globs that match none.

    A glob may be meant for a site that only another run meets, in a branch, so it is no error.

    Raises:
        SiteError: there is no site of this name.
    """
    names = {s.message.name for s in (*run.guide, *run.model)}
    for option, patterns in options.items():
        known = run.choices.keys() if option == "estimators" else names
        there = ", ".join(map(repr, known)) or "none"
        for pattern in patterns:
            if pattern in known or any(fnmatchcase(name, pattern) for name in known):
                continue
            if option == "estimators" and pattern in run.marginal:
                raise SiteError(
                    "estimators names it, and it is summed out",
                    site=pattern,
                    because="marginal= sums over its values, so nothing is estimated there",
                    try_="estimators= without it, or marginal= without it and a site of the guide",
                )
            if not any(c in pattern for c in "*?["):
                raise SiteError(
                    f"{option} names it, and there is no such site{did_you_mean(pattern, known)}",
                    site=pattern,
                    because=f"the sites are {there}",
                    try_="the site's name, or a glob such as 'z*'",
                )
            if known and pattern != "*":
                warn_user(
                    f"{pattern!r}: {option} has this glob, and it matches no site of the first run"
                    f"{did_you_mean(pattern, known)}; the sites are {there}. Try: a glob that matches, unless it is "
                    "for a site that only other runs meet"
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


def check_arguments(model: Program, guide: Program, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    """Check that both programs take the arguments that they are called with.

    Raises:
        ArgumentError: one of them does not take these.
    """
    for what, program in (("model", model), ("guide", guide)):
        signature = signature_of(program)
        if signature is None:
            continue
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise ArgumentError(
                f"the {what} does not accept the arguments it is called with: {error}",
                because=f"model and guide get the same arguments, and its signature is {signature}",
                try_=f"the same parameters in the {what}, used or not (or *args, **kwargs)",
            ) from error
