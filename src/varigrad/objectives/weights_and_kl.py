"""Adjusts the terms before they are summed: multiplies weights, and inserts closed-form KL divergences."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor
from torch import distributions as td

from varigrad.distributions.mixin import masked
from varigrad.errors import SiteError
from varigrad.language.messages import Sample, evolve
from varigrad.language.runtime import plate_shape
from varigrad.objectives.objective import Weight
from varigrad.objectives.run_record import RunRecord
from varigrad.shapes import join
from varigrad.terms.dependency_tracker import Statement, by_site
from varigrad.terms.term import Term


def weighted(terms: list[Term], weights: Mapping[str, Weight], step: int) -> list[Term]:
    """Every term times the weight of the first pattern that matches its name.

    Raises:
        SiteError: densities that a sum over a site's values joins have different weights.
    """
    if not weights:
        return terms
    changed = []
    for term in terms:
        weight = _weight(term.name, weights)
        for part in term.parts:
            other = _weight(part, weights)
            if other is not weight and (not isinstance(other, float) or other != weight):
                raise SiteError(
                    f"has another weight than {term.name!r}",
                    site=part,
                    because="a sum over values joins their densities, and a power of one of them alone is no density",
                    try_="one pattern in weights= that matches both, or neither",
                )
        if weight is not None:
            weight = weight(step) if callable(weight) and not isinstance(weight, Tensor) else weight
            term = evolve(term, log_prob=term.log_prob * weight)
        changed.append(term)
    return changed


def _weight(name: str, weights: Mapping[str, Weight]) -> Weight | None:
    return next((w for pattern, w in weights.items() if fnmatchcase(name, pattern)), None)


def analytic(terms: list[Term], run: RunRecord, wanted: bool | Sequence[str]) -> list[Term]:
    r"""`log p(z) - log q(z)` replaced by :math:`-KL(q \| p)` where both are families with a known divergence.

    It has to be an expectation over the site's own draw alone, so the model's distribution of z must not depend on
    z, not even through another site.

    Raises:
        SiteError: a site that was named has no closed form, or may not use it.
    """
    if wanted is False:
        return terms
    guide = {s.message.name: s for s in run.guide}
    model = {s.message.name: s for s in run.model}
    replaced: dict[str, Term] = {}
    for name, q in guide.items():
        if wanted is not True and not any(fnmatchcase(name, pattern) for pattern in wanted):
            continue
        term = _divergence(name, q, model[name], run.marginal) if name in model else "it is a factor, not a choice"
        if isinstance(term, Term):
            replaced[name] = term
        elif wanted is not True:
            raise SiteError(
                "has no divergence in closed form here", site=name, because=term, try_="analytic_kl without this site"
            )
    kept = [t for t in terms if t.name not in replaced]
    # The guide's own density stays where an estimator needs it: with weight zero in the sum.
    own = [evolve(t, log_prob=torch.zeros_like(t.log_prob)) for t in terms if t.sign < 0 and t.name in replaced]
    return kept + own + list(replaced.values())


def _divergence(name: str, q: Statement, p: Statement, marginal: Collection[str]) -> Term | str:
    """The term with the closed-form divergence of a site, or why there is none; `marginal` sites are summed out."""
    left, right = q.message, p.message
    if not isinstance(left, Sample) or not isinstance(right, Sample):
        return "it is a factor, not a choice"
    given = by_site(q.given | p.given)
    if name in given:
        return "the model's distribution of it depends on its own draw, through another site"
    if not given.keys().isdisjoint(marginal):
        return "the model's distribution of it depends on a site that is summed out"
    if left.mask is not right.mask or (left.scale is not right.scale and left.scale != right.scale):
        return "model and guide mask or scale it differently"
    try:
        # Some of torch's divergences write through masks, which do not broadcast.
        batch = join(left.distribution.batch_shape, right.distribution.batch_shape)
        kl = td.kl_divergence(
            *(d if d.batch_shape == batch else d.expand(batch) for d in (left.distribution, right.distribution))
        )
    except NotImplementedError:
        families = f"{type(left.distribution).__name__} and {type(right.distribution).__name__}"
        return f"torch knows no divergence between {families}"
    shape = plate_shape(right)
    kl = kl.expand(join(kl.shape, shape))
    density = kl if right.mask is None else masked(kl, right.mask)
    density = density * right.scale
    return Term(name, -1, density, right.plates, given, kl, False)
