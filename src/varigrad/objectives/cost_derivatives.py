r"""Derivatives of a site's cost by its value, in every lane, including the effect on choices drawn downstream.

Where a downstream choice is drawn without a derivative, the score function gives the derivative of the mean over it,

.. math:: \nabla_z E_{y \sim q(\cdot|z)}[f] = E[\nabla_z f + (f_y - b)\, \nabla_z \log q(y|z)],

with the same cost in lane 0 for a baseline, whose draws are independent of the lane's given its value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from varigrad.estimators.base import Draw
from varigrad.objectives.run_record import Ensemble, Vectorization
from varigrad.terms.cost import cost, downstream, lanes
from varigrad.terms.term import Term


def slope(site: str, ensemble: Ensemble, draw: Draw, vectorization: Vectorization, again: bool) -> Tensor:
    """The derivative of the cost's mean, `[rows, *plates, *event]`, by the site's value in its rows (lane 0 first).

    Args:
        draw: the site's, from which the runs have gone on.
        again: keep it differentiable.
    """
    assert draw.lanes is not None
    rows = draw.lanes.compared
    looped = site in ensemble.alternatives
    if looped:
        runs = [ensemble, *ensemble.alternatives[site]]
        parts = [part for run in runs for part in _looped(site, run, ensemble, vectorization.dims)]
    else:
        parts = list(_wide(site, ensemble, rows, vectorization.dims))
    parts = [part for part in parts if part.requires_grad]
    if not parts:
        found = torch.zeros_like(draw.value)
    else:
        total = torch.stack(parts).sum()
        (found,) = torch.autograd.grad(total, draw.value, retain_graph=True, create_graph=again, materialize_grads=True)
    return found if looped else found[list(rows)]


def _wide(site: str, ensemble: Ensemble, rows: Sequence[int], dims: int) -> Iterator[Tensor]:
    below = downstream(ensemble.terms, site)
    for term in below:
        if term.log_prob.dim() > dims:
            yield term.sign * lanes(term.log_prob, rows, dims).sum()
    for own in _drawn_below(site, ensemble, below):
        if own.raw.dim() > dims:
            plates = ensemble.base.draws[own.name].plates
            costs = cost(downstream(ensemble.terms, own.name), own.name, plates, rows, dims)
            yield ((costs[1:] - costs[:1]) * lanes(own.raw, rows, dims)[1:]).sum()


def _looped(site: str, run: Ensemble, base: Ensemble, dims: int) -> Iterator[Tensor]:
    below = downstream(run.terms, site)
    for term in below:
        yield term.sign * term.log_prob.sum()
    for own in _drawn_below(site, run, below) if run is not base else ():
        plates = run.base.draws[own.name].plates
        costs = cost(downstream(run.terms, own.name), own.name, plates, (), dims)
        if own.name in base.base.draws:  # control flow may have left it out
            costs = costs - cost(downstream(base.terms, own.name), own.name, plates, (), dims)
        yield (costs * own.raw).sum()


def _drawn_below(site: str, run: Ensemble, below: Sequence[Term]) -> Iterator[Term]:
    """The guide's densities of choices after the site that carry no derivative."""
    choices = run.base.choices
    wanted = choices[site].estimator.needs.slope
    if wanted is not None and wanted.apart:
        return
    for term in below:
        if term.sign < 0 and term.latent and term.name != site and not choices[term.name].estimator.drawing.pathwise:
            yield term
