"""Exceptions for users' mistakes: what is wrong, at which site, why, and what to try."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from difflib import get_close_matches

_TRUTHS = ("bool", "torch.bool")


class VarigradError(ValueError):
    """Base of every error that varigrad raises about a program or its configuration.

    Args:
        what: the mistake, as a sentence without its subject's name.
        site: the site, plate, parameter or estimator it concerns, if there is one.
        because: why it cannot work.
        try_: what to write instead.
    """

    def __init__(self, what: str, *, site: str | None = None, because: str = "", try_: str = "") -> None:
        self.what: str = what
        self.site: str | None = site
        self.because: str = because
        self.try_: str = try_
        message = f"{site!r}: {what}" if site is not None else what
        if because:
            message += f"; because {because}"
        if try_:
            told = message.rstrip(" ")
            ended = told.endswith(("?", "!")) or (told.endswith(".") and not told.endswith(".."))
            message = f"{told}{' ' if ended else '. '}Try: {try_}"
        super().__init__(message)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.site, self.because, self.try_)


def _rebuild(kind: type[VarigradError], what: str, site: str | None, because: str, try_: str) -> VarigradError:
    return kind(what, site=site, because=because, try_=try_)


class SiteError(VarigradError):
    """A site has a wrong argument, or an estimator that cannot serve it."""


class SiteNameError(SiteError):
    """A site's name is missing, malformed or used twice in one program."""


class ShapeError(SiteError):
    """Shapes disagree: an undeclared batch dimension, or model and guide that do not match."""


class PlateError(SiteError):
    """A plate's size, dimension or subsample is wrong, or its promise of independence is broken."""


class SupportError(SiteError):
    """A value is NaN, infinite or outside its distribution's support."""


class ConstraintError(SiteError):
    """A parameter is outside its constraint, or a distribution's parameter outside its domain."""


class ParameterError(SiteError):
    """A parameter is declared twice in different ways, has the wrong dtype, or is shared where that is forbidden."""


class GuideMismatchError(SiteError):
    """Model and guide do not have the same latent sites."""


class BaselineError(SiteError):
    """A baseline would have no effect, depends on the draw it is subtracted from, or leaks gradients."""


class ArgumentError(VarigradError):
    """A program does not take the arguments it is called with."""


class NonFiniteError(VarigradError):
    """A loss or a gradient is NaN or infinite."""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`" (did you mean 'z'?)"` if one of the names is similar, else nothing."""
    near = get_close_matches(name, list(names), 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def is_whole(value: object, least: int = 1, most: int | None = None) -> bool:
    """Whether a value is a whole number (see `as_whole`) within bounds; True and False are none.

    Args:
        value: anything.
        least: the smallest that will do.
        most: the largest that will do; None: any.
    """
    number = as_whole(value)
    return number is not None and number >= least and (most is None or number <= most)


def as_whole(value: object) -> int | None:
    """The whole number that a value is, of Python, numpy or a tensor without dimensions; None if it is none."""
    if type(value) is int:
        return value
    if isinstance(value, bool) or getattr(value, "shape", ()) != () or str(getattr(value, "dtype", "")) in _TRUTHS:
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def store_whole(record: object, *names: str) -> None:
    """Put Python's whole numbers in the place of numpy's and torch's, in fields of a frozen record.

    A configuration is printed, compared and hashed, and its numbers become sizes.
    """
    for name in names:
        number = as_whole(getattr(record, name))
        if number is not None:
            object.__setattr__(record, name, number)


def whole_number(name: str, value: object, least: int = 1) -> int:
    """The whole number of at least `least` that a value is; see `as_whole`.

    Raises:
        VarigradError: it is none.
    """
    check_whole(name, value, least)
    number = as_whole(value)
    assert number is not None
    return number


def check_whole(
    name: str, value: object, least: int = 1, *, error: type[VarigradError] = VarigradError, site: str | None = None
) -> None:
    """Check that a value is a whole number.

    Args:
        name: what the number is, for the error.
        value: anything.
        least: the smallest that will do.
        error: the class of the error.
        site: the site that the error is about.

    Raises:
        VarigradError: it is not, or is smaller than `least`.
    """
    if not is_whole(value, least):
        raise error(f"{name} must be a whole number of at least {least}, got {value!r}", site=site)
