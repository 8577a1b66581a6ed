"""Rejection samplers without loops: draws computed from random numbers generated beforehand, which can be compiled.

Each function makes a fixed number of proposals at once and takes the first that is accepted. All proposals fail with a
probability below 2e-16, the resolution of double precision, whatever the parameters; the first one is then taken.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

GAMMA_ROUNDS = 12
"""Marsaglia and Tsang accept with probability at least 0.951 where the shape is at least 1: 0.049^12 = 2e-16."""

VON_MISES_ROUNDS = 34
"""Best and Fisher accept with probability at least 0.657 (concentration to infinity): 0.343^34 = 2e-16."""


def log_gamma(concentration: Tensor, normal: Tensor, uniform: Tensor) -> Tensor:
    """The logarithm of a Gamma(concentration, 1) draw; without gradient.

    Args:
        concentration: `[*batch]`, positive.
        normal: `[GAMMA_ROUNDS, *batch]`, standard normal.
        uniform: `[GAMMA_ROUNDS + 1, *batch]`, in [0, 1).

    References:
        Marsaglia, Tsang (2000), A simple method for generating gamma variables.
    """
    small = concentration < 1
    d = torch.where(small, concentration + 1, concentration) - 1 / 3
    root = 1 + normal / (9 * d).sqrt()
    # The cube may be negative or zero, where nothing is accepted: its logarithm has to exist all the same.
    log_v = 3 * root.clamp_min(1e-10).log()
    accepted = (root > 1e-10) & ((1 - uniform[:-1]).log() < 0.5 * normal.square() + d * (1 - root**3 + log_v))
    value = d.log() + _first(accepted, log_v)
    # Gamma(a) is Gamma(a + 1) times U^(1 / a).
    return value + torch.where(small, (1 - uniform[-1]).log() / concentration, 0.0)


def von_mises(loc: Tensor, concentration: Tensor, uniform: Tensor) -> Tensor:
    """An angle in [-pi, pi).

    Args:
        loc, concentration: `[*batch]`.
        uniform: `[3, VON_MISES_ROUNDS, *batch]`, in [0, 1).

    References:
        Best, Fisher (1979), Efficient simulation of the von Mises distribution.
    """
    kappa = concentration.double()
    tau = 1 + (1 + 4 * kappa**2).sqrt()
    rho = (tau - (2 * tau).sqrt()) / (2 * kappa)
    # For a concentration near zero the ratio loses its digits; its series does not.
    proposal = torch.where(kappa < 1e-5, 1 / kappa + kappa, (1 + rho**2) / (2 * rho))
    u1, u2, u3 = uniform.double().unbind(0)
    z = (math.pi * u1).cos()
    f = (1 + proposal * z) / (proposal + z)
    c = kappa * (proposal - f)
    accepted = (c * (2 - c) > u2) | ((c / u2).log() + 1 - c >= 0)
    angle = _first(accepted, (u3 - 0.5).sign() * f.clamp(-1, 1).acos())
    return torch.remainder(angle.to(loc.dtype) + math.pi + loc, 2 * math.pi) - math.pi


def _first(accepted: Tensor, proposals: Tensor) -> Tensor:
    """The first accepted proposal along the leading dimension; the first of all where none is."""
    return proposals.gather(0, accepted.to(torch.uint8).argmax(0, keepdim=True)).squeeze(0)
