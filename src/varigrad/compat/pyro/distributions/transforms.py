"""Pyro's transforms: torch's, varigrad's, and functions that build flows with their networks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from varigrad.distributions.flows import *  # noqa: F403
from varigrad.distributions.flows import ComposeTransformModule as ComposeTransformModule
from varigrad.distributions.transforms import *  # noqa: F403
from varigrad.distributions.transforms import ELUTransform, LeakyReLUTransform, Permute, Transform
from varigrad.distributions.transforms import biject_to as biject_to
from varigrad.distributions.transforms import transform_to as transform_to


def iterated(
    repeats: int, base_fn: Callable[..., Transform], *args: object, **kwargs: object
) -> ComposeTransformModule:
    """Several transforms of a kind, one after the other, each with separate parameters."""
    return ComposeTransformModule([base_fn(*args, **kwargs) for _ in range(repeats)])


def permute(input_dim: int, permutation: Tensor | None = None, dim: int = -1) -> Permute:
    """A `Permute`; default: in a random order."""
    return Permute(torch.randperm(input_dim) if permutation is None else permutation, dim=dim)


def elu() -> ELUTransform:
    """Make an `ELUTransform`, which has no parameters."""
    return ELUTransform()


def leaky_relu() -> LeakyReLUTransform:
    """Make a `LeakyReLUTransform`, which has no parameters."""
    return LeakyReLUTransform()
