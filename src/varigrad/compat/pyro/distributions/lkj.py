"""Distributions of correlation matrices and their Cholesky factors."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from varigrad import distributions as native
from varigrad.compat.pyro.distributions.torch import FAMILIES, family

LKJ = family(native.LKJ, __name__)


def LKJCorrCholesky(d: int, eta: Tensor, validate_args: bool | None = None) -> Any:  # noqa: N802
    """An older name of `LKJCholesky`."""
    return FAMILIES["LKJCholesky"](d, concentration=eta, validate_args=validate_args)
