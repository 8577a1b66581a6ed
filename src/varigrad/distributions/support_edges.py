"""Discontinuities of log-densities by family: at the ends of the support, and between the parts of a mixture.

A pathwise gradient differentiates the log-density along a draw, and misses every jump that the draw can cross. Whether
a draw can cross a jump depends on the program; this module finds the jumps, which depend on the family only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from varigrad.distributions import transformed
from varigrad.distributions.compound import BetaBinomial, DirichletMultinomial
from varigrad.distributions.delta import Delta
from varigrad.distributions.empirical import Empirical
from varigrad.distributions.finite_support import support_of
from varigrad.distributions.hidden_markov.discrete import DiscreteHMM
from varigrad.distributions.improper import ImproperUniform
from varigrad.distributions.mixin import Wrapper
from varigrad.distributions.mixtures import MaskedMixture
from varigrad.distributions.tensor_walk import tensors_of
from varigrad.distributions.transforms import LeakyReLUTransform
from varigrad.distributions.unit import Unit
from varigrad.distributions.zero_inflated import ZeroInflated
from varigrad.shapes import join


@dataclass(frozen=True, eq=False)
class Edges:
    """The places where a log-density jumps, and the tensors that move them.

    Attributes:
        low, high: ends of the support, each broadcastable to `[*batch]`; None where there is none, or it is at
            infinity.
        inside: whether the density also jumps between them, at places that a value can cross.
        movers: tensors that move these places, besides `low` and `high` themselves.
    """

    low: Tensor | None = None
    high: Tensor | None = None
    inside: bool = False
    movers: tuple[Tensor, ...] = ()

    @property
    def ends(self) -> tuple[Tensor, ...]:
        """The ends of the support that are finite."""
        return tuple(end for end in (self.low, self.high) if end is not None)

    @property
    def moving(self) -> tuple[Tensor, ...]:
        """Every tensor that moves a jump."""
        return self.ends + self.movers


NOWHERE = Edges()


def edges_of(distribution: td.Distribution) -> Edges:
    """Where the log-density of a distribution jumps, as far as its class and its declared support say."""
    rule = _rule(type(distribution))  # type: ignore[arg-type]
    return of_support(distribution) if rule is None else rule(distribution)


@lru_cache(maxsize=1024)
def _rule(kind: type) -> Rule | None:
    return next((_RULES[parent] for parent in kind.__mro__ if parent in _RULES), None)


def of_support(distribution: td.Distribution) -> Edges:
    """The edges of a family whose density is smooth inside its support."""
    support = support_of(distribution)
    if support is constraints.boolean:
        return Edges(torch.tensor(0.0), torch.tensor(1.0))
    return Edges(_finite(getattr(support, "lower_bound", None)), _finite(getattr(support, "upper_bound", None)))


def _finite(bound: Tensor | float | None) -> Tensor | None:
    if bound is None:
        return None
    bound = torch.as_tensor(bound)
    return bound if bool(bound.detach().isfinite().any()) else None


def _of_base(distribution: td.Independent[td.Distribution] | Wrapper) -> Edges:
    return edges_of(distribution.base_dist if isinstance(distribution, td.Independent) else distribution.base)


def _of_point(distribution: Delta) -> Edges:
    """The edges of a point mass: both ends in one place, which a draw from it moves with."""
    return Edges(distribution.value, distribution.value)


def _of_points(distribution: Empirical) -> Edges:
    return Edges(inside=True, movers=(distribution._samples,))


def _of_counts(distribution: td.Binomial | td.Multinomial | BetaBinomial | DirichletMultinomial) -> Edges:
    """The edges of counts: the largest count is the total."""
    total = distribution.total_count
    return Edges(torch.tensor(0.0), movers=(total,) if isinstance(total, Tensor) else ())


def _of_mixture(distribution: td.MixtureSameFamily) -> Edges:
    return _of_any(distribution.component_distribution)


def _of_chain(distribution: DiscreteHMM) -> Edges:
    return _of_any(distribution.observation_dist)


def _of_any(components: td.Distribution) -> Edges:
    """The edges of a mixture: components that end at different places jump between the outermost ends."""
    component = edges_of(components)
    if all(_same_for_all(end) for end in component.ends):
        return component
    return Edges(inside=True, movers=component.moving)


def _same_for_all(end: Tensor) -> bool:
    return end.numel() <= 1 or (_constant(end) and bool((end == end.flatten()[0]).all()))


def _constant(value: object) -> bool:
    """Whether nothing moves a value: neither a parameter nor a tracked choice."""
    return not isinstance(value, Tensor) or (type(value) is Tensor and not value.requires_grad)


def _of_exceedances(distribution: td.GeneralizedPareto) -> Edges:
    """The edges of a generalised Pareto distribution.

    The upper end is finite where the concentration is negative, which a concentration that moves may become.
    """
    edges = of_support(distribution)
    if _constant(distribution.concentration):
        return edges
    return Edges(edges.low, edges.high, False, (distribution.scale, distribution.concentration))


def _of_one_hot(distribution: td.OneHotCategorical) -> Edges:
    return Edges(inside=True)


def _of_masked_mixture(distribution: MaskedMixture) -> Edges:
    first, second = edges_of(distribution.component0), edges_of(distribution.component1)
    moving = first.moving + second.moving
    if not moving and not first.inside and not second.inside:
        return NOWHERE
    return Edges(_outer(first.low, second.low, torch.min), _outer(first.high, second.high, torch.max), True, moving)


def _outer(first: Tensor | None, second: Tensor | None, pick: Callable[..., Tensor]) -> Tensor | None:
    return None if first is None or second is None else pick(first, second)


def _of_zeros(distribution: ZeroInflated) -> Edges:
    """The edges of a zero-inflated family: a mass at zero beside those of the counts."""
    base = edges_of(distribution.base)
    return Edges(base.low, base.high, True, base.movers)


def _of_folded(distribution: transformed.FoldedDistribution) -> Edges:
    base = edges_of(distribution.base_dist)
    return Edges(torch.tensor(0.0), None, base.inside or bool(base.ends), base.moving)


def _of_transformed(distribution: td.TransformedDistribution) -> Edges:
    """The image of the base's edges."""
    base = edges_of(distribution.base_dist)
    low, high, inside, movers = base.low, base.high, base.inside, list(base.movers)
    for transform in _each(distribution.transforms):
        tensors = tensors_of(transform)[0]
        if isinstance(_forward(transform), LeakyReLUTransform):
            inside = True  # its slope jumps at zero, and so does the density
        elif inside:
            movers += tensors
        if transform.domain.event_dim or not transform.bijective:
            # No interval any more. What the transform reads may move the image of an edge, wherever that is.
            if low is not None or high is not None:
                movers += [*tensors, *(end for end in (low, high) if end is not None and not _constant(end))]
            low = high = None
            continue
        low, high = _image(transform, low, -torch.inf), _image(transform, high, torch.inf)
        if _turns(transform):
            low, high = high, low
    return Edges(low, high, inside, tuple(movers))


def _each(transforms: Iterable[td.Transform]) -> Iterator[td.Transform]:
    """Transforms one by one, the first acts first, with compositions taken apart."""
    for transform in transforms:
        forward = _forward(transform)
        if isinstance(forward, td.ComposeTransform):
            parts = list(_each(forward.parts))
            yield from parts if forward is transform else (part.inv for part in reversed(parts))
        elif isinstance(forward, td.IndependentTransform):
            part = forward.base_transform
            yield from _each([part if forward is transform else part.inv])
        else:
            yield transform


def _forward(transform: td.Transform) -> td.Transform:
    return transform.inv if type(transform).__name__ == "_InverseTransform" else transform


def _turns(transform: td.Transform) -> bool:
    """Whether a transform maps larger values to smaller ones."""
    try:
        return bool((torch.as_tensor(transform.sign) < 0).all())
    except NotImplementedError:
        return False


def _image(transform: td.Transform, end: Tensor | None, infinity: float) -> Tensor | None:
    """The image of one end; None if it is infinitely far out.

    Args:
        transform: an increasing or decreasing map.
        end: the end; None: at infinity.
        infinity: which infinity an end that is None stands for.
    """
    if end is None and isinstance(transform, td.AffineTransform):
        return None
    if end is not None and _constant(end):
        if isinstance(transform, td.AffineTransform) and bool((end == 0).all()):
            return _finite(transform.loc)  # not `loc + scale * 0`, which a scale would seem to move
        forward = _forward(transform)
        if isinstance(forward, td.transforms.PowerTransform) and bool((end == 0).all()):
            return end if bool((torch.as_tensor(forward.exponent) > 0).all()) else None  # an inverse has its sign
        inverse = _forward(transform) is not transform
        if inverse and isinstance(transform.inv, td.SigmoidTransform) and bool(((end == 0) | (end == 1)).all()):
            return None  # torch's inverse stops short of infinity
    try:
        return _finite(transform(torch.tensor(infinity) if end is None else end))
    except (RuntimeError, ValueError, TypeError, NotImplementedError):
        return end


def _of_smooth(distribution: td.Distribution) -> Edges:
    return NOWHERE


Rule = Callable[[Any], Edges]
"""The edges of one family of distributions."""

_RULES: dict[type, Rule] = {
    td.Independent: _of_base,
    Wrapper: _of_base,
    td.GeneralizedPareto: _of_exceedances,
    td.OneHotCategorical: _of_one_hot,
    Delta: _of_point,
    Empirical: _of_points,
    td.Binomial: _of_counts,
    BetaBinomial: _of_counts,
    DirichletMultinomial: _of_counts,
    td.Multinomial: _of_counts,
    td.MixtureSameFamily: _of_mixture,
    DiscreteHMM: _of_chain,
    MaskedMixture: _of_masked_mixture,
    ZeroInflated: _of_zeros,
    transformed.FoldedDistribution: _of_folded,
    td.TransformedDistribution: _of_transformed,
    ImproperUniform: _of_smooth,
    Unit: _of_smooth,
}
# Families that torch makes by transforming others, and whose support does not move with the way they are made.
for _kind in (
    td.LogNormal, td.HalfNormal, td.HalfCauchy, td.Gumbel, td.Weibull, td.Kumaraswamy, td.LogisticNormal,
    td.InverseGamma, td.RelaxedBernoulli, td.RelaxedOneHotCategorical, td.Pareto,
    transformed.AffineBeta, transformed.LKJ,
):  # fmt: skip
    _RULES[_kind] = of_support


def within(first: Edges, second: Edges) -> bool:
    """Whether the support of `first` lies inside that of `second`, by their ends as they are now."""
    for ours, theirs, sign in ((first.low, second.low, 1), (first.high, second.high, -1)):
        if theirs is None:
            continue
        if ours is None:
            return False
        try:
            join(ours.shape, theirs.shape)
        except RuntimeError:
            return False
        if not bool((sign * ours.detach() >= sign * theirs.detach()).all()):
            return False
    return True
