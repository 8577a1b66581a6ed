"""The cost of a site: sums the terms downstream of it, reduced to its plates (Rao-Blackwellisation).

The product of the site's score and a term that is not downstream has mean zero; leaving such terms out is
Rao-Blackwellisation. The same holds for the other elements of a plate, unless it has cross-element dependence on the
choice.

References:
    Schulman, Heess, Weber, Abbeel (2015), Gradient estimation using stochastic computation graphs.
    Ranganath, Gerrish, Blei (2014), Black box variational inference.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from varigrad.language.messages import Plate
from varigrad.terms.term import Term


def downstream(terms: Iterable[Term], site: str) -> list[Term]:
    """The terms that depend on `site`, its own included."""
    return [t for t in terms if site in t.upstream or (t.name == site and t.latent)]


def kept_plates(term: Term, site: str, plates: Sequence[Plate]) -> tuple[Plate, ...]:
    """The plates of a site along which one term of its cost is element by element.

    Args:
        term: a term downstream of the site.
        site: the site's name.
        plates: the site's plates.
    """
    cross_element = term.upstream.get(site, frozenset())
    shared = {p.name for p in term.plates if p.dim is not None} - cross_element
    return tuple(p for p in plates if p.dim is not None and p.name in shared)


def cost(terms: Iterable[Term], site: str, plates: Sequence[Plate], chosen: Sequence[int], dims: int) -> Tensor:
    """The detached cost of `site` in the given lanes.

    Args:
        terms: those downstream of the site.
        site: the site's name.
        plates: the site's plates.
        chosen: lanes to look at, lane 0 first; empty if the site has no alternatives.
        dims: number of plate dimensions; lanes lie at dimension `-dims - 1`.

    Returns:
        `[len(chosen), *plates]`, or `[*plates]` if no lanes are chosen; size 1 (or absent) where all elements share it.
    """
    total: Tensor | None = None
    for term in terms:
        keep = kept_plates(term, site, plates) if plates else ()
        if keep:
            log_prob = _reduced(term.log_prob.detach(), {p.dim for p in keep}, dims)
        else:
            log_prob = term.total(dims)
        log_prob = lanes(log_prob, chosen, dims)
        if total is None:
            total = log_prob if term.sign > 0 else -log_prob
        else:
            total = total + log_prob if term.sign > 0 else total - log_prob
    assert total is not None, "a site's own density is always downstream of it"
    return total


def _reduced(log_prob: Tensor, keep: set[int | None], dims: int) -> Tensor:
    """Sum a log-density over the plate dimensions that are not kept; summed dimensions stay, with size 1."""
    present = min(log_prob.dim(), dims)
    summed = [d for d in range(-present, 0) if d not in keep and log_prob.shape[d] != 1]
    return log_prob.sum(summed, keepdim=True) if summed else log_prob


def lanes(value: Tensor, chosen: Sequence[int], dims: int) -> Tensor:
    """The chosen lanes of a value.

    Args:
        value: `[lanes, *plates]`, or `[*plates]` where all lanes agree.
        chosen: the lanes; empty: lane 0 alone.
        dims: number of plate dimensions.

    Returns:
        `[len(chosen), *plates]`, or `[*plates]` if none are chosen.
    """
    wide = value.dim() > dims
    if not chosen:
        return value[0] if wide else value
    if wide:
        if len(chosen) == value.shape[0]:
            return value
        return value.index_select(0, torch.tensor(chosen, device=value.device))
    shape = (1,) * (dims - value.dim()) + tuple(value.shape)
    return value.reshape(1, *shape).expand(len(chosen), *shape)
