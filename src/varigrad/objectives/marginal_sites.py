"""The sites of a model that an objective sums out: which they are, their values, and where these lie."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from math import prod

from torch import Tensor

from varigrad.distributions.finite_support import count_of, inner_of, listed
from varigrad.errors import SiteError, VarigradError
from varigrad.language.messages import Sample
from varigrad.language.runtime import plate_shape
from varigrad.terms.dependency_tracker import Statement, Token
from varigrad.terms.elimination.contraction import LARGEST, too_large
from varigrad.terms.marginal import MarginalSite, slots_for

Marginal = bool | str | tuple[str, ...] | list[str] | Callable[[Sample], bool]
"""The discrete sites to sum out: True for all that the guide lacks, globs, or a function that says it of a site."""

MOST_SLOTS = 25
"""Tensors have at most so many leading dimensions for values."""


def check_marginal(marginal: object) -> None:
    """Check an objective's `marginal=`.

    Raises:
        VarigradError: it is neither a Boolean, nor one or several strings, nor a function.
    """
    names = [marginal] if isinstance(marginal, str) else marginal
    if isinstance(marginal, bool) or callable(marginal):
        return
    if not isinstance(names, (tuple, list, set, frozenset)) or not all(isinstance(n, str) and n for n in names):
        raise VarigradError(
            f"marginal must be True or name sites of the model by strings (globs are allowed), got {marginal!r}",
            try_='marginal="k", marginal=("k", "state*") or marginal=True',
        )


def globs_of(marginal: Marginal) -> tuple[str, ...]:
    """The globs that an objective's `marginal=` names; none if it is a Boolean or a function."""
    if isinstance(marginal, bool) or callable(marginal):
        return ()
    return (marginal,) if isinstance(marginal, str) else tuple(marginal)


def is_marginal(message: Sample, marginal: Marginal) -> bool:
    """Whether a site of the model that the guide lacks is to be summed out."""
    if message.observed:
        return False
    if isinstance(marginal, bool):
        return marginal and count_of(inner_of(message.distribution)[0]) is not None
    if callable(marginal):
        return marginal(message)
    return any(fnmatchcase(message.name, glob) for glob in globs_of(marginal))


def can_be_marginal(message: Sample) -> bool:
    """Whether a site's values can be listed, so that it could be summed out."""
    return refusal(message) is None


def refusal(message: Sample) -> tuple[str, str] | None:
    """Why a site cannot be summed out, and what to try instead; None if it can be."""
    inner, coordinates = inner_of(message.distribution)
    kind = type(inner).__name__
    if count_of(inner) is None:
        endless = "Poisson", "Geometric", "NegativeBinomial"
        return (
            f"{kind} does not have a finite, listed support",
            "a Categorical over the values that matter, or a site of the guide"
            if kind in endless
            else "a site of the guide",
        )
    if coordinates and message.distribution.event_shape.numel() > inner.event_shape.numel():
        return (
            f"an event of {kind} choices has as many values as the product over its elements",
            "a plate instead of .to_event",
        )
    if listed(inner) is None:
        return "its values differ between the elements of a batch, or are too many for a list", "a site of the guide"
    return None


def marginal_site(message: Sample) -> MarginalSite:
    """A site that is summed out, with its values.

    Raises:
        SiteError: they cannot be listed.
    """
    found = refusal(message)
    if found is not None:
        because, try_ = found
        raise SiteError("cannot be summed out", site=message.name, because=because, try_=try_)
    inner, _ = inner_of(message.distribution)
    values = listed(inner)
    assert isinstance(values, Tensor)
    return MarginalSite(message.name, values.reshape(len(values), *message.distribution.event_shape), message.plates)


def allocate(statements: Iterable[Statement], sites: Mapping[str, MarginalSite]) -> dict[str, int]:
    """A slot for every marginal site of a run.

    Raises:
        SiteError: there have to be more of them than a tensor has dimensions, or their values are too many for memory.
    """
    if not sites:
        return {}
    statements = list(statements)
    together = reads(statements, sites)
    slots = slots_for(together, sites)
    most = max(slots.values())
    if most >= MOST_SLOTS:
        site = max(slots, key=slots.__getitem__)
        raise SiteError(
            f"is read together with {most} other sites that are summed out",
            site=site,
            because=f"tensors have at most {MOST_SLOTS} dimensions for values",
            try_="sites that depend on fewer others, or a guide for some of them",
        )
    for statement, read in zip(statements, together, strict=True):
        sizes = {name: len(sites[name].values) for name in read}
        entries = prod(sizes.values()) * prod(plate_shape(statement.message))
        if entries > LARGEST:
            raise too_large(entries, sizes, read[0])
    return slots


def check_named(
    marginal: Marginal, summed: Collection[str], observed: Collection[str], guided: Collection[str]
) -> None:
    """Check that every site that `marginal=` names (without a glob) is summed out.

    Args:
        marginal: the objective's option.
        summed: the sites that are summed out.
        observed: the observed sites of the model.
        guided: the sites of the guide.

    Raises:
        SiteError: one is observed, or the guide draws it.
    """
    for name in globs_of(marginal):
        if name in summed:
            continue
        if name in observed:
            raise SiteError(
                "is named in marginal= and observed",
                site=name,
                because="an observed site has one value, and there is nothing to sum",
                try_="marginal= without it, or the model without obs= there",
            )
        if name in guided:
            raise SiteError(
                "is named in marginal= and a site of the guide",
                site=name,
                because="a site is either drawn by the guide or summed out",
                try_="marginal= without it, or a guide without it; Enumerate() sums over a site of the guide",
            )


def reads(statements: Iterable[Statement], sites: Mapping[str, MarginalSite]) -> list[list[str]]:
    """For every statement, the marginal sites that it reads; all of them, where it cannot be looked into."""
    return [
        list(sites)
        if statement.opaque
        else [site for site in dict.fromkeys(token.site for token in statement.upstream) if site in sites]
        for statement in statements
    ]


def check_values_stay(sites: Mapping[str, MarginalSite], left: Iterable[Token]) -> None:
    """Check that no value of a site that is summed out decides anything outside of torch.

    Args:
        sites: the sites that are summed out.
        left: what has left torch.

    Raises:
        SiteError: one does.
    """
    gone = {token.site for token in left}
    for name in sites:
        if name in gone:
            raise SiteError(
                "cannot be summed out",
                site=name,
                because="its value leaves torch (a branch, a number, numpy, the validation of raw "
                "torch.distributions, an error that a try block would catch), and all of its values are there at once",
                try_="torch.where(k == 1, a, b) or a[k] for a branch, distributions from varigrad.distributions; or a "
                "site of the guide",
            )
