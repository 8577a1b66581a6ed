"""`Tracker`: finds the random choices on which each statement of a run depends.

A `Token` names a site and the plates whose elements have been mixed since it was drawn. Inside a plate, element `n`
of a cost depends on element `n` of a site only, unless the dependency went through a statement outside the plate
(a global latent that reads the sum of a plate's sites, say) or left torch: then it depends on all of them, the plate
has *cross-element dependence*, and the cost must not be taken per element.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple, overload

from torch import Tensor

from varigrad._torch_internals import version_of
from varigrad.distributions.tensor_walk import replace_tensors, tensors_of
from varigrad.errors import SiteError
from varigrad.language.messages import Factor, Forward, Message, Plate, Program, Sample, evolve
from varigrad.language.runtime import Handled, Scope
from varigrad.terms.caught_errors import would_be_caught
from varigrad.terms.data_assignment import Guard
from varigrad.terms.escapes import same_numbers
from varigrad.terms.force_eager import FORCE_EAGER
from varigrad.terms.poles import sign_of_draws
from varigrad.terms.provenance import (
    NOTHING,
    Escapes,
    Provenance,
    Tracked,
    get_blocked,
    get_provenance,
    refuse_wrappers,
    track_provenance,
    untracked,
)

PARTICLES = "particles"
"""The plate that all particles of an objective lie along."""
NOT_PATHWISE = "\0not pathwise"
"""Stands among a token's `cross_element` while a program is explored: on the way from the source lies a choice that no
gradient goes through."""


class Token(NamedTuple):
    """A random choice upstream of a value, and the plates whose elements were mixed on the way."""

    site: str
    cross_element: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False, init=False)
class Statement:
    """A `Sample` or `Factor` of a run, with plain tensors, and everything upstream of its log-density."""

    message: Sample | Factor
    upstream: Provenance
    given: Provenance = NOTHING
    """The part of `upstream` that does not come through the site's own value."""
    opaque: bool = False
    """Whether the distribution is of a class that may hide tensors: its density has to be tracked itself."""

    def __init__(
        self,
        message: Sample | Factor,
        upstream: Provenance,
        given: Provenance = NOTHING,
        opaque: bool = False,
    ) -> None:
        # At once, as messages are filled (`language/messages.py`).
        self.__dict__.update(message=message, upstream=upstream, given=given, opaque=opaque)


_UNGUARDED = nullcontext()


class Tracker:
    """Tracks the dependencies on the sites of one run of guide and model.

    Args:
        watch: note values that go through steps without a useful derivative.
        mixed: `site -> plates` whose elements are known to be mixed by what reads the site.
        guarded: whether the program is known to swap the memory of tensors.
        compare: where `watch` is set, compare contents as well: that reads numbers, which a mode around the run sees.
    """

    def __init__(
        self,
        watch: bool = False,
        mixed: Mapping[str, frozenset[str]] | None = None,
        guarded: bool = False,
        compare: bool = True,
    ) -> None:
        self.escapes: Escapes = Escapes(watch, compare)
        self.guarded: bool = guarded or watch
        self.mixed: Mapping[str, frozenset[str]] = mixed or {}
        self._eager = False
        self.plates: dict[str, frozenset[str]] = {}
        self._plated = False
        self._drawn: list[tuple[str, Tensor, int]] = []
        self._copies: list[Tensor] = []

    def guard(self) -> AbstractContextManager[object]:
        """A context that has to be around the programs for the tracker to see all that they do."""
        return Guard(self.escapes) if self.guarded else _UNGUARDED

    def examine(self, message: Sample | Factor) -> Statement:
        """Read off what a statement depends on, and return it with plain tensors.

        Raises:
            VarigradError: a tensor of a class that may hide what it was computed from.
        """
        if not self.plates:
            return Statement(message, NOTHING)
        escaped = self.escapes.provenance
        upstream, inside, through_value, opaque = NOTHING, NOTHING, NOTHING, False
        if escaped:
            # Not the plate of particles: whether they run side by side is decided by what keeps them apart.
            upstream = frozenset(Token(t.site, self.plates[t.site] - {PARTICLES}) for t in escaped)
        changes: dict[str, object] = {}
        if self.escapes.watch:
            parts = [message.log_factor] if isinstance(message, Factor) else tensors_of(message.distribution)[0]
            self.escapes.blocked |= get_blocked(*parts, getattr(message, "value", None), message.mask, message.scale)
        if isinstance(message, Factor):
            refuse_wrappers(message.log_factor)
            upstream |= get_provenance(message.log_factor)
            changes["log_factor"] = untracked(message.log_factor)
        else:
            tensors, complete = tensors_of(message.distribution)
            refuse_wrappers(*tensors, message.value)
            inside, opaque = get_provenance(*tensors), not complete
            if inside:
                upstream |= inside
                if not opaque:
                    changes["distribution"] = replace_tensors(message.distribution, untracked)
            if type(message.value) is Tracked:
                through_value = message.value._provenance
                changes["value"] = untracked(message.value)
        if type(message.mask) is Tracked:
            upstream |= message.mask._provenance
            changes["mask"] = untracked(message.mask)
        if type(message.scale) is Tracked:
            upstream |= message.scale._provenance
            changes["scale"] = untracked(message.scale)
        for plate in message.plates:
            if type(plate.subsample) is Tracked:
                upstream |= plate.subsample._provenance
                changes["plates"] = tuple(evolve(p, subsample=_plain(p.subsample)) for p in message.plates)
        plain = evolve(message, **changes) if changes else message
        given = self._beyond(upstream, message.plates) if upstream else upstream
        if (
            inside and isinstance(message, Sample) and not message.observed and would_be_caught()
        ):  # drawing may fail for some parameters
            self.escapes.add(inside)
        if not through_value:
            return Statement(plain, given, given, opaque)
        return Statement(plain, given | self._beyond(through_value, message.plates), given, opaque)

    def mark(self, value: Tensor, site: Statement, own: bool, pathwise: bool = True) -> Tensor:
        """A drawn value that carries what its distribution depends on, and itself if it is to be followed.

        Provenance picked up while drawing (from a distribution that the engine cannot take apart) is kept.

        Args:
            value: what was drawn.
            site: the statement that it was drawn for.
            own: whether the site itself is followed.
            pathwise: whether a gradient goes through the draw. If not, a non-differentiable function of the value is
                none of what lies upstream of it.
        """
        name, plates = site.message.name, site.message.plates
        provenance = site.upstream
        self._watch(name, value)
        if not pathwise and provenance and self.escapes.watch:
            provenance = frozenset(Token(t.site, t.cross_element | {NOT_PATHWISE}) for t in provenance)
        if own:
            inside = self.plates[name] = frozenset([p.name for p in plates if p.dim is not None])
            self._plated = self._plated or bool(inside)
            provenance = provenance | {Token(name, self.mixed.get(name, NOTHING))}
            self._eager = self._eager or FORCE_EAGER.enter()
        if not provenance:
            return value
        marked = track_provenance(value, provenance, self.escapes)
        watched = self.escapes.watch and not value.is_inference()
        if watched and type(marked) is Tracked and isinstance(site.message, Sample):
            marked._sign, marked._signed = sign_of_draws(site.message.distribution), version_of(value)
        return marked

    def mark_marginal(self, name: str, value: Tensor, plates: tuple[Plate, ...]) -> Tensor:
        """A value, or all values, of a choice that is summed out: it carries the choice, and nothing that its
        distribution depends on, because its values do not.
        """
        inside = self.plates[name] = frozenset([p.name for p in plates if p.dim is not None])
        self._plated = self._plated or bool(inside)
        self._eager = self._eager or FORCE_EAGER.enter()
        self._watch(name, value)
        return track_provenance(value, frozenset({Token(name)}), self.escapes)

    def _watch(self, name: str, value: Tensor) -> None:
        """Note a value, so that writing into it is noticed."""
        if not value.is_inference():  # tensors of that mode do not count how often they are written to
            self._drawn.append((name, value, version_of(value)))
            if self.escapes.compare:  # `.data` has a count of versions of its own
                self._copies.append(value.detach().clone())

    def check(self) -> None:
        """Refuse a program that wrote into a value it was given.

        What was written through `detach()` or `.data` into something computed from a value is noted as a step.

        Raises:
            SiteError: it wrote into a value; the site is named.
        """
        if self.escapes.compare:
            self.escapes.nondifferentiable |= self.escapes.overwritten()
        for i, (name, value, version) in enumerate(self._drawn):
            if version_of(value) != version or (self._copies and not same_numbers(value.detach(), self._copies[i])):
                raise SiteError(
                    "the program writes into its value",
                    site=name,
                    because="log-densities are evaluated at the value that was drawn, and it is gone",
                    try_="z = z + 1 instead of z += 1, or sample(...).clone()",
                )

    def finish(self) -> None:
        """Stop following: what comes after the programs is differentiation."""
        self.escapes.active = False
        if self._eager:
            FORCE_EAGER.leave()
            self._eager = False

    def _beyond(self, upstream: Provenance, plates: tuple[Plate, ...]) -> Provenance:
        """What is upstream of a statement in `plates`, with the plates that its elements share.

        Plates of a source that the statement is not in have cross-element dependence.
        """
        if not self._plated:
            return upstream
        here = {p.name for p in plates}
        if all(self.plates[t.site] <= here or self.plates[t.site] <= t.cross_element for t in upstream):
            return upstream
        return frozenset(Token(t.site, t.cross_element | (self.plates[t.site] - here)) for t in upstream)


def by_site(upstream: Provenance) -> Mapping[str, frozenset[str]]:
    """Plates with cross-element dependence by site, over all ways in which the site is upstream."""
    sites: dict[str, frozenset[str]] = dict(upstream)
    if len(sites) == len(upstream):
        return sites
    sites = {}
    for token in upstream:
        sites[token.site] = sites.get(token.site, frozenset()) | token.cross_element
    return sites


def _plain(value: object) -> object:
    return untracked(value) if type(value) is Tracked else value


def _follow(message: Message, forward: Forward) -> Message:
    answer = forward(message)
    if not isinstance(answer, Sample) or answer.value is None:
        return answer
    upstream = get_provenance(*tensors_of(answer.distribution)[0], answer.value)
    if not answer.observed and not answer.distribution.has_rsample:
        upstream |= {answer.name}
    return evolve(answer, value=track_provenance(answer.value, upstream)) if upstream else answer


@overload
def track_sites(program: None = None) -> Scope: ...
@overload
def track_sites(program: Program) -> Handled: ...
def track_sites(program: Program | None = None) -> Scope | Handled:
    """Mark values of choices that cannot be reparameterised with their names, and so everything computed from them.

    Around a program, or as a `with` block. Read the marks with `get_provenance`; a site's density,
    `message.distribution.log_prob(message.value)`, carries all choices that it depends on.

    Args:
        program: a function of any arguments; None: a `with` block.

    Returns:
        The program, whose draws are marked; or the block.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> def program():
        ...     a = vg.sample("a", dist.Categorical(torch.tensor([0.3, 0.7])))
        ...     return vg.sample("b", dist.Categorical(torch.tensor([[0.1, 0.9], [0.8, 0.2]])[a]))
        >>> sorted(vg.get_provenance(vg.track_sites(program)()))
        ['a', 'b']
    """
    return Scope(_follow) if program is None else Handled(program, _follow)
