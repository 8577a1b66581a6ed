"""`estimators="auto"`: a short pilot tries the estimators that fit each site; the least variance x cost wins.

Costs are counted, not timed, and draws have fixed seeds, so the choice is always the same for the same program at the
same parameters.
"""

from __future__ import annotations

import inspect
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from varigrad import estimators
from varigrad.diagnostics.cost_model import microseconds
from varigrad.errors import VarigradError
from varigrad.estimators import Estimator, LeaveOneOut, MovingAverage, Pathwise, Score
from varigrad.gradients.moments import seeded, warm_up
from varigrad.language.messages import Sample, evolve
from varigrad.language.runtime import expanded
from varigrad.objectives.bound import Bound
from varigrad.objectives.estimator_selection import SCORE, Choice, is_auto, patterns_of
from varigrad.objectives.gradient_draws import by_site, leaves_of, samples
from varigrad.objectives.plan import Plan, shown
from varigrad.objectives.shadow_parameters import ShadowParameters

VARIANTS: tuple[Estimator, ...] = (
    Pathwise(),
    Pathwise(sticking_the_landing=True),
    Score(MovingAverage()),
    LeaveOneOut(2),
    LeaveOneOut(4),
)
"""Settings that are tried; besides, every estimator that needs none."""

LEFT_OUT = frozenset({"Score", "LeaveOneOut", "ARM", "Pathwise"})
"""Those that are tried with other settings, or (ARM) are never better than another."""

WIDEST = 256
"""More alternatives than these are not tried."""

ROUNDS = (8, 12, 24, 48)
"""Draws; after each round those stay that may be the best, as far as the draws can tell."""

STEPS_FOR_STATE = 30
"""Before anything is drawn from an estimator that keeps averages."""

CLOSE = 1.2
"""Where the least work is not this many times less, what is in use stays, or what stands first in the list is taken."""

NEGLIGIBLE = 1e-12
"""A variance smaller than this part of the largest is rounding."""


def candidates() -> tuple[Estimator, ...]:
    """Every unbiased estimator that can be made without more ado."""
    found: list[Estimator] = list(VARIANTS)
    for name, kind in sorted(vars(estimators).items()):
        if not isinstance(kind, type) or not issubclass(kind, Estimator) or inspect.isabstract(kind):
            continue
        needs = any(p.default is p.empty and p.name != "self" for p in inspect.signature(kind).parameters.values())
        if name not in LEFT_OUT and not needs and kind().promises.unbiased:
            found.append(kind())
    return tuple(found)


def decide(bound: Bound, *args: object, seed: int = 0, compiled: bool = False, **kwargs: object) -> Plan:
    """Find out by measuring which estimators serve the sites that are "auto", and use them.

    For each such site (those whose names differ in digits only are taken together), the noisiest first: every unbiased
    estimator that serves it gives a few gradients at the current parameters, and the one with the least variance times
    cost is kept, the variance summed over all parameters, the cost counted in operations (of those within a factor of
    1.2, the simplest). Changes nothing else of yours, nor any generator. Called again it measures again, and changes an
    estimator only for one that needs 1.2 times less.

    Args:
        bound: such as `ELBO(estimators="auto")(model, guide)`; parameters that do not exist yet are made.
        args, kwargs: what the programs are called with.
        seed: of the draws.
        compiled: count costs as in compiled steps, where operations on few numbers cost next to nothing.

    Returns:
        The plan, which says what was chosen and why.

    Raises:
        VarigradError: nothing is to be decided.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> def model():
        ...     z = vg.sample("z", dist.Normal(0.0, 1.0))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(2.0))
        >>> def guide():
        ...     vg.sample("z", dist.Gumbel(vg.param("m", 0.0), 1.0))
        >>> bound = vg.ELBO(estimators="auto")(model, guide)
        >>> plan = vg.decide(bound)
        >>> plan["z"].unbiased
        True
    """
    patterns = patterns_of(bound.config.estimators)
    if not any(asked == "auto" for _, asked in patterns):
        raise VarigradError(
            "there is nothing to decide", because='no estimator is "auto"', try_='ELBO(estimators="auto")'
        )
    if not bound.undecided:
        bound.decide(_measured(bound, args, kwargs, seed, compiled))
        bound.init(*args, **kwargs)
        assert bound.latest_plan is not None
        return bound.latest_plan
    before = bound.source.get_state()
    bound.decide({})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of is the rule's choice, which is not the last word
            bound.init(*args, **kwargs)  # parameters come into being
        choices = _measured(bound, args, kwargs, seed, compiled)
    except BaseException:
        bound.decide(None)
        raise
    if bound.source.generator is not None:
        bound.source.set_state(before)  # from here on as if the estimators had been known from the beginning
    bound.decide(choices)
    bound.init(*args, **kwargs)
    assert bound.latest_plan is not None
    return bound.latest_plan


def _measured(
    bound: Bound, args: tuple[object, ...], kwargs: dict[str, object], seed: int, compiled: bool
) -> dict[str, Choice]:
    with bound.preserved(seed), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _Pilot(bound, args, kwargs, seed, compiled).choices()


def named(choices: Mapping[str, Choice]) -> dict[str, tuple[str, str]]:
    """Choices as text, `site -> (estimator, why)`; no estimator where it is the site's own."""
    return {site: ("" if choice.own else shown(choice.estimator), choice.why) for site, choice in choices.items()}


def from_names(names: Mapping[str, tuple[str, str]]) -> dict[str, Choice]:
    """The choices that `named` was made of."""
    known = {shown(estimator): Choice(estimator, "") for estimator in candidates()}
    known[""] = evolve(SCORE, own=True)
    return {site: evolve(known[name], why=why) for site, (name, why) in names.items() if name in known}


@dataclass(eq=False)
class _Contender:
    """An estimator that competes for some sites.

    Attributes:
        floor: a variance below it is rounding.
    """

    choice: Choice
    bound: Bound
    microseconds: float
    draws: list[Tensor] = field(default_factory=list)
    floor: float = 0.0

    def draw(self, count: int, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        self.draws.append(samples(self.bound, count, args, kwargs).double())

    @property
    def _squares(self) -> Tensor:
        draws = torch.cat(self.draws)
        return (draws - draws.mean(0)).square().sum(-1)

    @property
    def variance(self) -> float:
        """The variance of a gradient, summed over all elements; NaN where one is not finite."""
        squares = self._squares
        return max(float(squares.sum()) / (len(squares) - 1), self.floor)

    @property
    def work(self) -> float:
        """The variance times the cost of a gradient."""
        return self.variance * self.microseconds if math.isfinite(self.variance) else math.inf

    @property
    def error(self) -> float:
        """The relative standard error of variance and work."""
        squares = self._squares
        mean = float(squares.mean())
        if mean <= self.floor:
            return 0.0
        least = math.sqrt(2 / len(squares))  # a normal number's: few draws do not show what tails there are
        return max(least, float(squares.std()) / mean / math.sqrt(len(squares)))

    def worse(self, other: _Contender) -> bool:
        """Whether the draws tell that it needs more work."""
        if not math.isfinite(self.work):
            return True
        return math.log(self.work / other.work) > 2 * math.hypot(self.error, other.error)


@dataclass(frozen=True, eq=False)
class _Pilot:
    """The comparisons for all sites, at the parameters of a bound whose state is preserved."""

    at: Bound
    args: tuple[object, ...]
    kwargs: dict[str, object]
    seed: int
    compiled: bool

    def choices(self) -> dict[str, Choice]:
        """The estimators that win, by site."""
        trace, patterns = self.at.trace_guide(*self.args, **self.kwargs), patterns_of(self.at.config.estimators)
        sites = {n: m for n, m in trace.items() if isinstance(m, Sample) and is_auto(n, patterns)}
        groups: dict[Any, list[Sample]] = {}
        for name, message in sites.items():
            groups.setdefault((re.sub(r"\d+", "", name), type(message.distribution)), []).append(message)
        noise = self._noise()
        found = {site: choice for site, choice in self.at.decided.items() if site in sites}
        for group in sorted(groups.values(), key=lambda g: -sum(noise.get(m.name, 0.0) for m in g)):
            found.update(self._winner(group, found))
        return found

    def _noise(self) -> dict[str, float]:
        """`site -> the variance of its part` of the gradient, roughly."""
        bound = self._bound(dict(self.at.decided), self.seed)
        leaves = list(leaves_of(bound).values())
        found: dict[str, list[Tensor]] = {}
        for _ in range(ROUNDS[0]):
            for site, grads in by_site(bound.estimate(*self.args, **self.kwargs).parts(), leaves).items():
                flat = [torch.zeros_like(p) if g is None else g for p, g in zip(leaves, grads, strict=True)]
                found.setdefault(site, []).append(torch.cat([g.reshape(-1) for g in flat]).double())
        return {site: float(torch.stack(some).var(0).sum()) for site, some in found.items() if len(some) > 1}

    def _bound(self, choices: Mapping[str, Choice], seed: int) -> Bound:
        bound = self.at.twin(seeded(seed), ShadowParameters(self.at.owner))
        bound.advance(steps=self.at.steps - bound.steps)
        bound.decide(choices)
        return bound.init(*self.args, **self.kwargs)

    def _winner(self, group: Sequence[Sample], others: Mapping[str, Choice]) -> dict[str, Choice]:
        """The estimator with the least work for the sites of a group, given those of the other sites."""
        held = others.get(group[0].name)
        with ExitStack() as stack:
            contenders = list(self._contenders(group, others, stack))
            return self._contest(group, contenders, held)

    def _contest(
        self, group: Sequence[Sample], contenders: Sequence[_Contender], held: Choice | None
    ) -> dict[str, Choice]:
        incumbent = next((c for c in contenders if held is not None and c.choice.key == held.key), None)
        alive = rivals = contenders
        for draws in ROUNDS:
            for contender in alive:
                contender.draw(draws, self.args, self.kwargs)
            if alive is contenders:
                _set_floor(contenders)
            rivals, least = alive, min(alive, key=lambda c: c.work, default=None)
            alive = [c for c in alive if least is not None and (c is incumbent or not c.worse(least))]
            if len(alive) < 2:
                break
        finite = [c for c in alive if math.isfinite(c.work)]
        if not finite:
            return {}  # the rule has the say
        close = [c for c in finite if c.work <= CLOSE * min(c.work for c in finite)]
        best = incumbent if incumbent in close else close[0]
        why = _reason(best, rivals, len(contenders), self.at.steps)
        return {message.name: evolve(best.choice, why=why) for message in group}

    def _contenders(
        self, group: Sequence[Sample], others: Mapping[str, Choice], stack: ExitStack
    ) -> Iterator[_Contender]:
        """Those that serve all sites of the group, warm; what they train is put back when the stack is left."""
        own = [m.estimator for m in group]
        choices = [Choice(estimator, "") for estimator in candidates()]
        first = own[0]
        unbiased = all(isinstance(estimator, Estimator) and estimator.promises.unbiased for estimator in own)
        if isinstance(first, Estimator) and unbiased:
            choices = [Choice(first, "", own=True), *(c for c in choices if c.estimator != first)]
        for i, choice in enumerate(choices):
            estimator = choice.estimator
            if any(estimator.refusal(m.distribution) is not None for m in group):
                continue
            if sum(estimator.alternatives(expanded(m)) for m in group) > WIDEST:
                continue
            some = [e for e in own if isinstance(e, Estimator)] if choice.own else [estimator]
            networks = [p for e in some for net in e.parameters_of_baselines().values() for p in net.parameters()]
            try:
                bound = self._bound({**others, **{m.name: choice for m in group}}, self.seed + 1 + i)
                assert bound.latest_plan is not None
                if any(bound.latest_plan[m.name].suspect for m in group):
                    continue
                cost = microseconds(partial(samples, bound, 1, self.args, self.kwargs), self.compiled)
                if networks:
                    stack.enter_context(_kept(networks))
                    warm_up(bound, self.args, networks)
                elif bound.estimator_states:
                    samples(bound, STEPS_FOR_STATE, self.args, self.kwargs)
            except (VarigradError, RuntimeError):
                # It cannot serve here; the plan of a run that asks for it by name says why. torch has no narrower error
                # for what a program cannot do that an estimator asks of it (half a coin for an index, a dimension more,
                # a second derivative); and the program itself has run before, under the rule's estimators.
                continue
            yield _Contender(choice, bound, cost)


@contextmanager
def _kept(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Preserve some parameters and their gradients."""
    before = [(p, p.detach().clone(), p.grad) for p in parameters]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value, grad in before:
                parameter.copy_(value)
                parameter.grad = grad


def _set_floor(contenders: Sequence[_Contender]) -> None:
    largest = max((c.variance for c in contenders if math.isfinite(c.variance)), default=0.0)
    for contender in contenders:
        contender.floor = NEGLIGIBLE * largest or 1.0


def _reason(best: _Contender, rivals: Sequence[_Contender], count: int, steps: int) -> str:
    """Why an estimator was chosen among those of the last round."""
    auto = f"auto at step {steps}" if steps else "auto"
    rest = [c for c in rivals if c is not best]
    if not rest:
        return f"{auto}: the only unbiased estimator that serves"
    other = min(rest, key=lambda c: c.work)
    ratio, name = other.work / best.work, shown(other.choice.estimator)
    known = f"known to ±{100 * math.hypot(best.error, other.error):.0f} %"
    if ratio >= 1:
        return f"{auto}: the least variance x cost of {count}, {ratio:.3g} times less than {name} ({known})"
    return f"{auto}: {1 / ratio:.3g} times the least variance x cost of {count}, too close to prefer {name} ({known})"
