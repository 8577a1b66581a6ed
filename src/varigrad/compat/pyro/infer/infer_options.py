"""Translates Pyro's options of a site, `infer={...}`, to an estimator of varigrad's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from varigrad.compat.pyro.infer.baselines import baseline_of, learns
from varigrad.compat.pyro.infer.summed_out import without_mask
from varigrad.compat.pyro.sites import acts
from varigrad.errors import BaselineError, did_you_mean
from varigrad.estimators.base import Estimator
from varigrad.estimators.enumeration import Enumerate
from varigrad.estimators.leave_one_out import LeaveOneOut
from varigrad.estimators.pathwise import Pathwise, is_partial
from varigrad.estimators.score import Score
from varigrad.language.messages import Forward, Message, Program, Sample, evolve
from varigrad.language.runtime import Handled
from varigrad.objectives.bound import BiasWarning
from varigrad.objectives.estimator_selection import NONDIFFERENTIABLE
from varigrad.objectives.plan import Plan
from varigrad.user_warnings import warn_user


class Reading:
    """Two handlers, around a model and a guide, that translate the options of their sites to estimators.

    Args:
        enumerates: whether the objective enumerates the sites that ask for it.
        strict: whether to warn if there is none.

    Attributes:
        learns: whether a baseline with parameters was seen.
        regressions: the losses of such baselines, collected while it is a list.
        enumerated: whether a site of the guide is enumerated, or one of the model summed out.
        enumerated_in_guide: the sites of the guide that are.
    """

    def __init__(self, enumerates: bool, strict: bool = False) -> None:
        self.enumerates = enumerates
        self.strict = strict
        self.regressions: list[Tensor] | None = None
        self.checked = False
        self.enumerated: bool = False
        self.enumerated_in_guide: set[str] = set()
        self.learns: bool = False
        self._guide: dict[str, bool] = {}
        self._model: dict[str, None] = {}

    def around_guide(self, guide: Program) -> Handled:
        """The guide, with estimators at its sites."""
        return Handled(guide, self._read_guide)

    def around_model(self, model: Program) -> Handled:
        """The model, with its options checked."""
        return Handled(model, self._read_model)

    def warn(self, plan: Plan) -> None:
        """Say once what is odd about a model and a guide that have been run."""
        names = {
            "the model and not of the guide": [n for n in self._model if n not in self._guide],
            "the guide and not of the model": [n for n, aux in self._guide.items() if not aux and n not in self._model],
        }
        missing, foreign = names.values()
        if missing:
            near = did_you_mean(missing[0], foreign)
            warn_user(
                f"{missing} are sites of the model and not of the guide{near}: they are drawn from the model's own "
                "distribution, as if that were the guide's. Try: sample statements of these names in the guide"
            )
        if foreign:
            warn_user(
                f"{foreign} are sites of the guide and not of the model: they count as auxiliary, "
                "with minus their log-density in the bound. Try: the model's names, or infer={'is_auxiliary': True}"
            )
        for site in plan.sites:
            if site.why == NONDIFFERENTIABLE.why:
                warn_user(
                    f"{site.name!r}: its value goes through a comparison, rounding or conversion, whose jumps a "
                    "gradient through the value misses, so the score function is used, which is noisier. "
                    "Try: a smooth function, or, if nothing jumps there, infer={'estimator': Pathwise()}",
                    BiasWarning,
                )
        if self.enumerates and self.strict and not self.enumerated:
            warn_user(
                "no site asks for enumeration. Try: @config_enumerate on the model or the guide, "
                "infer={'enumerate': 'parallel'} at a site, or Trace_ELBO() if nothing is to be enumerated"
            )

    def _read_guide(self, message: Message, forward: Forward) -> Message:
        if type(message) is not Sample or message.observed:
            return forward(message)
        notes = message.notes
        auxiliary = message.auxiliary or bool(notes.get("is_auxiliary"))
        self._guide[message.name] = auxiliary
        estimator = message.estimator or notes.get("estimator") or self._estimator(message, notes)
        if estimator is None and not auxiliary:
            return forward(message)
        return forward(evolve(message, estimator=estimator, auxiliary=auxiliary))

    _read_guide.takes_modules = True  # type: ignore[attr-defined]

    def _read_model(self, message: Message, forward: Forward) -> Message:
        if type(message) is not Sample or message.observed:
            return forward(message)
        notes = message.notes
        if notes:
            if acts(notes.get("baseline")):
                raise BaselineError(
                    "has a baseline in the model",
                    site=message.name,
                    because="the guide draws it",
                    try_="infer={'baseline': ...} at the guide's site",
                )
            if self.enumerates and notes.get("enumerate") and message.name not in self._guide:
                self.enumerated = True
                return forward(without_mask(message))
        self._model[message.name] = None
        return forward(message)

    _read_model.takes_modules = True  # type: ignore[attr-defined]

    def _estimator(self, message: Sample, notes: Mapping[str, Any]) -> Estimator | None:
        """The estimator that the options amount to; None leaves the choice to the engine."""
        baseline = notes.get("baseline")
        baseline = baseline if acts(baseline) else None
        distribution = message.distribution
        if self.enumerates and notes.get("enumerate"):
            self.enumerated = True
            self.enumerated_in_guide.add(message.name)
            if not (distribution.has_rsample and notes.get("num_samples")):
                if baseline is not None:
                    raise _cannot_act(message.name, "it is enumerated, and an exact sum has no noise")
                count = notes.get("num_samples")
                if count is None:
                    return Enumerate()
                return LeaveOneOut(count) if count > 1 else Score()
        if baseline is None:
            return None if distribution.has_rsample else Score()
        self.learns = self.learns or learns(baseline)
        if not distribution.has_rsample:
            return Score(baseline_of(baseline, self.regressions))
        if is_partial(distribution):
            return Pathwise(baseline=baseline_of(baseline, self.regressions))
        kind = type(distribution).__name__
        raise _cannot_act(message.name, f"{kind} is reparameterised: the gradient goes through its draw")


def _cannot_act(name: str, because: str) -> BaselineError:
    return BaselineError(
        "has a baseline that cannot act",
        site=name,
        because=because,
        try_="no baseline there, or a distribution without rsample",
    )
