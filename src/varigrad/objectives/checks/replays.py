"""Replays of a run with other values: the types, values and comparison that the checks by values share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from varigrad.distributions.delta import Delta
from varigrad.distributions.finite_support import inner_of, listed
from varigrad.language.messages import Factor, Sample
from varigrad.objectives.run_record import RunRecord, Vectorization
from varigrad.terms.term import Term

Again = Callable[[Vectorization, RunRecord | None, dict[str, Tensor]], RunRecord]
"""Runs the programs once more with a vectorization: like another run (its minibatches), with some values forced."""

Collect = Callable[[RunRecord, Vectorization], list[Term]]

FAILURES = (Exception,)
"""What a program may raise at values, or in shapes, that it was not made for: any error, its own classes included."""


def term_key(term: Term) -> tuple[str, int, bool]:
    """A key that tells a term from others: a divergence in closed form has the name and sign of its site's density."""
    return term.name, term.sign, term.latent


def listed_values(message: Sample | Factor) -> Tensor | None:
    """All values of one choice, `[values, *event]` (an event of independent choices: of each); None if not listed."""
    return listed(inner_of(message.distribution)[0]) if isinstance(message, Sample) else None


def is_certain(message: Sample | Factor) -> bool:
    """Whether a site is a point mass, whose value follows from other values."""
    return isinstance(message, Sample) and isinstance(inner_of(message.distribution)[0], Delta)


def scattered_values(message: Sample | Factor, run: RunRecord, generator: torch.Generator) -> Tensor:
    """Values from all over a finite support, in the shape of the drawn ones; these, where the support is not finite."""
    value = run.draws[message.name].value.detach()
    support = listed_values(message)
    if support is None:
        return value
    shape = value.shape[: value.dim() - (support.dim() - 1)]
    index = torch.randint(len(support), shape, generator=generator, device=generator.device)
    return support[index.to(support.device)]


TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3}
"""How far two computations of the same numbers may be apart by rounding; of coarser types, some units of rounding."""


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two log-densities are, up to rounding and broadcasting."""
    if a.numel() != b.numel():
        try:
            a, b = torch.broadcast_tensors(a, b)
        except RuntimeError:
            return False
    if not a.is_floating_point():
        return torch.equal(a.reshape(-1), b.reshape(-1))
    tolerance = TOLERANCES.get(a.dtype) or 32 * torch.finfo(a.dtype).eps
    a, b = a.reshape(-1).double(), b.reshape(-1).double()
    return bool(torch.isclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True).all())
