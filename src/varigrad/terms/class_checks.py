"""Errors of functions that compare classes of tensors: a tracked tensor has a class of its own, which they refuse."""

from __future__ import annotations

from collections.abc import Iterator

from varigrad.errors import VarigradError
from varigrad.terms.escapes import Provenance
from varigrad.terms.tracked import Tracked

_NAME = f"{Tracked.__module__}.{Tracked.__qualname__}"


def refusal_of_class(error: BaseException) -> VarigradError | None:
    """What to say in place of an error that comes of the class of a tracked tensor; None for any other error.

    Args:
        error: what a program has raised.
    """
    if _NAME not in str(error):
        return None
    function = "a function"
    found: Provenance = frozenset()
    for name, provenance in _frames(error):
        function = name
        found = provenance or found
    sites = ", ".join(sorted({repr(getattr(source, "site", source)) for source in found})) or "random choices"
    return VarigradError(
        f"{function} wants tensors of one class, and what is computed from {sites} has another one",
        because="it is marked with the choices that it was computed from, in a subclass of torch.Tensor",
        try_="the functions of torch that take a mask or where(), as torch.masked.sum(x, mask=mask) for masked_tensor",
    )


def _frames(error: BaseException) -> Iterator[tuple[str, Provenance]]:
    """The functions that the error went through, outermost first, with what tensors in them depend on."""
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        marked = [v._provenance for v in frame.f_locals.values() if type(v) is Tracked]
        if marked:
            name = f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}"
            yield name, frozenset[object]().union(*marked)
        trace = trace.tb_next
