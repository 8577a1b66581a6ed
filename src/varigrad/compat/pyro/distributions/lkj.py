"""Distributions of correlation matrices and their Cholesky factors."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch import distributions as td

from varigrad import distributions as native
from varigrad.compat.pyro.distributions.torch import FAMILIES, family

LKJ = family(native.LKJ, __name__)


def LKJCorrCholesky(d: int, eta: Tensor, validate_args: bool | None = None) -> td.Distribution:  # noqa: N802
    """An older name of `LKJCholesky`."""
    made: Callable[..., td.Distribution] = FAMILIES["LKJCholesky"]
    return made(d, concentration=eta, validate_args=validate_args)
