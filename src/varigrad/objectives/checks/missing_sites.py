"""Refuses a guide that lacks sites of the model, and one that has others."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NoReturn

from varigrad.errors import GuideMismatchError, did_you_mean
from varigrad.language.messages import Sample
from varigrad.objectives.marginal_sites import Marginal, can_be_marginal, globs_of
from varigrad.terms.dependency_tracker import Statement


def refuse_missing(message: Sample, guided: Collection[str], marginal: Marginal) -> NoReturn:
    """Refuse a latent site of the model that the guide lacks.

    Args:
        message: its statement.
        guided: the sites of the guide.
        marginal: which sites the objective sums out.

    Raises:
        GuideMismatchError: always.
    """
    because = _sites_text("the guide's sites", guided, message.name)
    if globs_of(marginal):
        because += f"; marginal= names {', '.join(map(repr, globs_of(marginal)))}"
    base, _, label = message.name.rpartition("_")
    in_chain = any(plate.name.endswith(f"_{label}") and label for plate in message.plates)
    if in_chain and "-" in label:
        raise GuideMismatchError(
            "is drawn inside scan and not summed out",
            site=f"{base}_*",
            because=f"{because}; where sites are summed out, all rounds but the first run at once, and the guide can "
            "draw in none of them",
            try_=f"marginal={base + '_*'!r} if it is discrete; else the site before scan, in a plate over the rounds, "
            "and its value among the rows",
        )
    summed = f"{base}_*" if in_chain else message.name
    raise GuideMismatchError(
        "is a latent site of the model and missing from the guide",
        site=message.name,
        because=because,
        try_=f"sample({message.name!r}, ...) in the guide, or obs= in the model"
        + (f", or ELBO(marginal={summed!r}) to sum it out" if can_be_marginal(message) else ""),
    )


def refuse_foreign(guide: Iterable[Statement], latent: Collection[str]) -> None:
    """Check that the guide has no sites that the model lacks.

    Args:
        guide: its statements.
        latent: the latent sites of the model.

    Raises:
        GuideMismatchError: it has.
    """
    for statement in guide:
        message = statement.message
        if isinstance(message, Sample) and not message.auxiliary and message.name not in latent:
            raise GuideMismatchError(
                "is a site of the guide and not of the model",
                site=message.name,
                because=_sites_text("the model's latent sites", latent, message.name),
                try_="the model's name, deterministic() for a value that is no random choice, or auxiliary=True for "
                "noise that other sites are made of",
            )


def _sites_text(what: str, names: Collection[str], wanted: str) -> str:
    listed = ", ".join(map(repr, names))
    return f"{what} are {listed}{did_you_mean(wanted, names)}" if listed else f"{what}: there are none"
