"""Computes a step's estimate from its runs: the value, the surrogate, and the next states of estimators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

from varigrad.errors import PlateError, ShapeError, SiteError
from varigrad.estimators.base import Draw, Estimator, State, Surrogate
from varigrad.estimators.baselines import Baseline, NoBaseline, check_independent
from varigrad.estimators.pathwise import is_partial
from varigrad.language.messages import evolve
from varigrad.objectives.cost_derivatives import slope
from varigrad.objectives.run_record import Ensemble, RunRecord, Vectorization
from varigrad.terms.cost import cost, downstream, kept_plates, lanes
from varigrad.terms.dependency_tracker import PARTICLES
from varigrad.terms.marginal import JointDensity, Slots
from varigrad.terms.provenance import Escapes
from varigrad.terms.term import Term, collect, log_densities

Adjust = Callable[[RunRecord, list[Term]], list[Term]]


@dataclass(frozen=True, eq=False)
class Share:
    """The share of a site in the surrogate, a scalar, if the site's estimator needs a cost.

    Attributes:
        cost, baseline: what it was made of, and what was subtracted; None if nothing was.
    """

    site: str
    surrogate: Tensor
    cost: Tensor
    baseline: Tensor | None


@dataclass(frozen=True, eq=False)
class SurrogateParts:
    """The summands of a surrogate without the baselines' own losses: `(path + the shares) / count`.

    Attributes:
        path: what is differentiated directly.
        values: `(site, value)` for the draws that may carry gradients to the guide's parameters.
    """

    path: Tensor | None
    shares: Sequence[Share]
    values: Sequence[tuple[str, Tensor]]
    count: int


@dataclass(frozen=True, eq=False, init=False)
class Estimate:
    """The result of one step's runs.

    Attributes:
        value: the bound, a scalar; differentiating it gives only the part that flows through the terms.
        surrogate: a scalar; its gradient is the estimate of the bound's gradient, and minus the gradient of the
            baselines' own loss for the parameters of their networks.
        state: next state of the estimators, by site.
        terms: `site -> contribution to the bound`, scalars.
        parts: what the surrogate is made of.
    """

    value: Tensor
    surrogate: Tensor
    state: Mapping[str, State]
    terms: Callable[[], dict[str, Tensor]]
    parts: Callable[[], SurrogateParts]

    def __init__(
        self,
        value: Tensor,
        surrogate: Tensor,
        state: Mapping[str, State],
        terms: Callable[[], dict[str, Tensor]],
        parts: Callable[[], SurrogateParts],
    ) -> None:
        # At once, as messages are filled (`language/messages.py`).
        self.__dict__.update(value=value, surrogate=surrogate, state=state, terms=terms, parts=parts)


def terms_of(run: RunRecord, vectorization: Vectorization, adjust: Adjust) -> list[Term]:
    """The terms of a run, with weights and analytic divergences put in by `adjust`."""
    return adjust(run, collect(run.guide, run.model, **_collected(run, vectorization)))


def densities_of(run: RunRecord, vectorization: Vectorization) -> tuple[list[Term], list[JointDensity]]:
    """The log-densities of a run before sites are summed out: those that read no such site, and those that do."""
    return log_densities(run.guide, run.model, **_collected(run, vectorization))


class _Collected(TypedDict):
    dims: int
    fixed: list[str]
    escapes: Escapes
    relaxed: list[str]
    marginal: Slots | None


def _collected(run: RunRecord, vectorization: Vectorization) -> _Collected:
    """What the densities of a run depend on besides its statements."""
    return {
        "dims": vectorization.dims,
        "fixed": [name for name, choice in run.choices.items() if choice.estimator.needs.constant_density],
        "relaxed": [name for name, choice in run.choices.items() if choice.estimator.needs.between_values],
        "escapes": run.tracker.escapes,
        "marginal": run.slots(vectorization),
    }


def scored(run: RunRecord) -> dict[str, Estimator]:
    """The sites whose estimators need a cost."""
    return {
        name: choice.estimator
        for name, choice in run.choices.items()
        if choice.estimator.needs.cost or choice.estimator.drawing.partial or is_partial(run.draws[name].distribution)
    }


def estimate(ensembles: Sequence[Ensemble], vectorization: Vectorization, state: Mapping[str, State]) -> Estimate:
    """Combine the particles' terms into value and surrogate.

    Args:
        ensembles: one for each particle that was run by itself.
        state: what the last step returned.
    """
    count = len(ensembles) * vectorization.particles
    states = dict(state)
    losses: list[Tensor] = []
    paths: list[Tensor] = []
    shares: list[Share] = []
    values: list[Tensor] = []
    for ensemble in ensembles:
        estimators = scored(ensemble.base)
        for site, estimator in estimators.items():
            if estimator.needs.per_element:
                for one in (ensemble, *ensemble.alternatives.get(site, ())):
                    _refuse_joint_costs(estimator, site, ensemble.base.draws[site], downstream(one.terms, site))
        value, path = _value(ensemble, estimators, vectorization)
        values.append(value)
        if path is not None:
            paths.append(path)
        for site, estimator in estimators.items():
            if estimator.needs.across_particles and len(ensembles) > 1:
                continue
            shares.append(_share(estimator, site, [ensemble], vectorization, states, losses))
    if len(ensembles) > 1:
        across = {s: e for one in ensembles for s, e in scored(one.base).items() if e.needs.across_particles}
        for site, estimator in across.items():
            having = [e for e in ensembles if site in e.base.draws]  # control flow may have left it out of some
            shares.append(_share(estimator, site, having, vectorization, states, losses))
    for ensemble in ensembles:
        states.update({site: draw.state for site, draw in ensemble.base.draws.items() if draw.state is not None})
    surrogate = _total([*paths, *(share.surrogate for share in shares)])
    value = _total(values)
    if count > 1:
        surrogate, value = surrogate / count, value / count
    # One backward pass serves both: the networks' inputs and targets are detached, and so is their output elsewhere.
    for loss in losses:
        surrogate = surrogate - loss
    return Estimate(
        value,
        surrogate,
        states,
        lambda: _by_site(ensembles, vectorization, count),
        lambda: SurrogateParts(_total(paths) if paths else None, shares, drawn(ensembles), count),
    )


def drawn(ensembles: Sequence[Ensemble]) -> list[tuple[str, Tensor]]:
    """`(site, value)` for the draws that carry gradients to the guide's parameters, in the order of drawing."""
    runs = [ensemble.base for ensemble in ensembles]
    return [
        (site, run.draws[site].value) for run in runs for site, c in run.choices.items() if c.estimator.drawing.pathwise
    ]


def _share(
    estimator: Estimator,
    site: str,
    ensembles: Sequence[Ensemble],
    vectorization: Vectorization,
    states: dict[str, State],
    losses: list[Tensor],
) -> Share:
    """One site's surrogate, summed over its plates."""
    draw, costs = _draw_and_cost(site, estimator, ensembles, vectorization)
    wanted = estimator.needs.slope
    if wanted is not None:
        if not torch.is_grad_enabled():  # a value is all that is wanted
            return Share(site, torch.zeros(()), costs, None)
        draw = evolve(draw, slope=slope(site, ensembles[0], draw, vectorization, again=wanted.twice))
    return site_surrogate(estimator, site, draw, costs, states, losses)


def site_surrogate(
    estimator: Estimator, site: str, draw: Draw, costs: Tensor, states: dict[str, State], losses: list[Tensor]
) -> Share:
    """Sum a site's surrogate; its next state and its baseline's loss go to `states` and `losses`."""
    baseline = getattr(estimator, "baseline", None)
    if isinstance(baseline, Baseline) and draw.values is not None and baseline.given():
        check_independent(baseline, site, draw.values)
    result = estimator.surrogate(draw, costs, states.get(site))
    if not isinstance(result, Surrogate) or not isinstance(result.value, Tensor):
        raise SiteError(
            f"{type(estimator).__name__}.surrogate returned {result!r}",
            site=site,
            because="its value is a tensor to be differentiated",
            try_="return Surrogate(cost.detach() * draw.log_q), of varigrad.estimators",
        )
    if result.state is not None:
        states[site] = _cut(result.state)
    if result.regression is not None:
        losses.append(result.regression)
    guess = None if isinstance(baseline, NoBaseline) else result.baseline
    return Share(site, result.value.sum() if result.value.dim() else result.value, costs, guess)


def _cut(state: State) -> State:
    """Detach a state: an autograd graph that grew from step to step would never be freed."""
    if isinstance(state, tuple):
        return tuple(_cut(part) for part in state)
    return state.detach() if isinstance(state, Tensor) and state.requires_grad else state


def _draw_and_cost(
    site: str, estimator: Estimator, ensembles: Sequence[Ensemble], vectorization: Vectorization
) -> tuple[Draw, Tensor]:
    """The draw with its densities, and the cost, both `[1 + alternatives, *plates]`."""
    ensemble = ensembles[0]
    draw = ensemble.base.draws[site]
    alternatives = ensemble.alternatives.get(site)
    dims = vectorization.dims
    if alternatives is not None:
        draw = evolve(ensemble.base.alternatives[site], values=draw.values)
        runs = [one.terms for one in (ensemble, *alternatives)]
        return _stacked(draw, [_one(terms, site, draw, (0,), dims) for terms in runs])
    rows = draw.lanes.compared if draw.lanes is not None and draw.lanes.own else ()
    if not estimator.needs.across_particles or vectorization.particles > 1:
        log_q, costs = _one(ensemble.terms, site, draw, rows, dims)
        return evolve(draw, log_q=log_q), costs
    pairs = [_one(e.terms, site, draw, rows, dims) for e in ensembles]
    log_q = torch.stack([_full(p[0], dims) for p in pairs])
    costs = torch.stack(torch.broadcast_tensors(*[_full(p[1], dims) for p in pairs]))
    return evolve(draw, log_q=log_q, particles=-dims - 1), costs


def _full(value: Tensor, dims: int) -> Tensor:
    return value.reshape((1,) * (dims - value.dim()) + tuple(value.shape))


def _stacked(draw: Draw, pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Draw, Tensor]:
    log_q = torch.cat(torch.broadcast_tensors(*[p[0] for p in pairs]))
    return evolve(draw, log_q=log_q), torch.cat(torch.broadcast_tensors(*[p[1] for p in pairs]))


def _one(terms: list[Term], site: str, draw: Draw, rows: Sequence[int], dims: int) -> tuple[Tensor, Tensor]:
    """Log-density and cost of a site in some lanes of one run."""
    below = downstream(terms, site)
    own = next(t for t in below if t.name == site and t.sign < 0)
    return lanes(own.raw, rows, dims), cost(below, site, draw.plates, rows, dims)


def _refuse_joint_costs(estimator: Estimator, site: str, draw: Draw, below: list[Term]) -> None:
    plates = [p for p in draw.plates if p.dim is not None]
    for term in below:
        kept = kept_plates(term, site, plates)
        if len(kept) < len(plates):
            plate = next(p for p in plates if p not in kept)
            kind = type(estimator).__name__
            if plate.name == PARTICLES:
                raise PlateError(
                    f"the term {term.name!r} of one particle depends on the draws of another",
                    site=site,
                    try_="ELBO(vectorize=False)",
                )
            raise SiteError(
                f"{kind} cannot serve this site",
                site=site,
                because=f"it varies all elements of plate {plate.name!r} together, and the term {term.name!r} "
                "depends on several of them at once",
                try_="LeaveOneOut(4), Score(MovingAverage()), or DisARM() for Bernoulli",
            )


def _value(
    ensemble: Ensemble, estimators: Mapping[str, Estimator], vectorization: Vectorization
) -> tuple[Tensor, Tensor | None]:
    """The bound's value, detached, and the part of it to differentiate."""
    dropped: list[Tensor] = []
    model: list[Tensor] = []
    guide: list[Tensor] = []
    weighted: dict[str, tuple[tuple[int, ...], Tensor]] | None = None
    for term in ensemble.terms:
        log_prob = term.log_prob
        # At a score-function site -grad log q(z) has mean zero given what is upstream: leave it out.
        # A divergence in closed form stands for its site and is no score: it keeps its gradient.
        drop = term.sign < 0 and term.latent and term.name in estimators and estimators[term.name].needs.cost
        if drop:
            log_prob = log_prob.detach()
        if log_prob.dim() > vectorization.dims:
            if log_prob.shape[0] not in (1, vectorization.count):
                extra = -vectorization.dims - 1
                raise ShapeError(
                    f"log-density has shape {tuple(log_prob.shape)}, and dim {extra} belongs to no plate",
                    site=term.name,
                    because="it was not there when the program was first run",
                    try_="plate(...) for each batch dimension, or .to_event(n)",
                )
            if weighted is None:
                weighted = _lane_weights(ensemble, estimators, vectorization)
            log_prob = _averaged(term, log_prob, weighted)
            total = log_prob.sum() if log_prob.dim() else log_prob
        elif drop:
            total = term.total(vectorization.dims)
        else:
            total = log_prob.sum() if log_prob.dim() else log_prob
        (dropped if drop else model if term.sign > 0 else guide).append(total)
    path = _total(model) if model else None
    if guide:
        path = -_total(guide) if path is None else path - _total(guide)
    value = torch.zeros(()) if path is None else path.detach()
    return value - _total(dropped) if dropped else value, path


def _lane_weights(
    ensemble: Ensemble, estimators: Mapping[str, Estimator], vectorization: Vectorization
) -> dict[str, tuple[tuple[int, ...], Tensor]]:
    """`site -> (its lanes, weights [lanes, *plates])` for the sites whose lanes form an unbiased average."""
    found = {}
    for site, estimator in estimators.items():
        draw = ensemble.base.draws[site]
        if draw.lanes is None or not draw.lanes.own:
            continue
        own = next(t for t in ensemble.terms if t.name == site and t.sign < 0)
        weights = estimator.lane_weights(evolve(draw, log_q=lanes(own.raw, draw.lanes.compared, vectorization.dims)))
        if weights is not None:
            weights = weights.reshape(weights.shape + (1,) * (vectorization.dims + 1 - weights.dim()))
            found[site] = (draw.lanes.compared, weights)
    return found


def _averaged(term: Term, log_prob: Tensor, weighted: Mapping[str, tuple[tuple[int, ...], Tensor]]) -> Tensor:
    """A term's average over the lanes of the sites it depends on; lane 0 where no site offers one."""
    sites = [s for s in weighted if s in term.upstream or (s == term.name and term.latent)]
    if not sites:
        return log_prob[0]
    averages = []
    for site in sites:
        rows, weights = weighted[site]
        # A value of probability zero may have an infinite density: it counts nothing.
        rows_of_term = torch.where(weights > 0, log_prob[list(rows)], 0.0)
        averages.append((weights * rows_of_term).sum(0))
    return averages[0] if len(averages) == 1 else torch.stack(averages).mean(0)


def _by_site(ensembles: Sequence[Ensemble], vectorization: Vectorization, count: int) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for ensemble in ensembles:
        for term in ensemble.terms:
            row = term.log_prob[0] if term.log_prob.dim() > vectorization.dims else term.log_prob
            share = term.sign * row.detach().sum() / count
            found[term.name] = found[term.name] + share if term.name in found else share
    return found


def _total(parts: Sequence[Tensor]) -> Tensor:
    """The sum of scalars, in one node of the autograd graph where that is cheaper."""
    if len(parts) > 8 and len({(p.dtype, p.device) for p in parts}) == 1:
        return torch.stack(list(parts)).sum()
    total = parts[0] if parts else torch.zeros(())
    for part in parts[1:]:
        total = total + part
    return total
