"""Transforms between a parameter's constrained value and the unconstrained tensor that an optimiser updates."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import ExpTransform, Transform, constraints, transform_to

from varigrad.errors import ConstraintError, ParameterError
from varigrad.language.messages import Param
from varigrad.language.value_conversion import check_unmasked


def initial_value(message: Param) -> Tensor:
    """The constrained initial value, checked.

    Raises:
        ParameterError: there is none, or it is not a real floating-point tensor.
        ConstraintError: it lies outside the constraint, or is not finite.
    """
    init, name = message.init, message.name
    if init is None:
        raise ParameterError(
            "has no initial value and was never declared before", site=name, try_="param(name, init_value)"
        )
    value = init() if callable(init) else init
    check_unmasked(name, value, "the initial value")
    try:
        value = torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ParameterError(
            f"an initial value must be a tensor or a number, got {type(value).__name__}", site=name
        ) from error
    if not value.is_floating_point():
        if value.is_complex() or isinstance(init, Tensor) or callable(init):
            raise ParameterError(
                f"a parameter must be real and floating point, got {value.dtype}",
                site=name,
                because="gradients do not exist for it",
                try_="init.float()",
            )
        value = value.to(torch.get_default_dtype())
    if not bool(value.isfinite().all()):
        raise ConstraintError("the initial value is NaN or infinite", site=name)
    if not bool(message.constraint.check(value).all()):
        raise ConstraintError(
            f"the initial value {_shown(value)} is outside its constraint {message.constraint}",
            site=name,
            try_="an initial value strictly inside",
        )
    return value


def to_constrained(constraint: constraints.Constraint) -> Transform | None:
    """The map from the unconstrained space to the constrained one; None where they are the same."""
    if constraint is constraints.real:
        return None
    if type(constraint) in (type(constraints.positive), type(constraints.nonnegative)):
        bound = constraint.lower_bound  # type: ignore[attr-defined]
        if isinstance(bound, (float, int)) and bound == 0:
            return ExpTransform()  # torch adds an affine step, which would multiply by one and add zero in every step
    transform: Transform = transform_to(constraint)
    return transform


def unconstrain(value: Tensor, constraint: constraints.Constraint, name: str) -> Tensor:
    """The unconstrained tensor behind a constrained value, a new leaf.

    Args:
        value: the constrained value.
        constraint: where it lives.
        name: the parameter's name, for the error.

    Raises:
        ConstraintError: it lies on the edge of the constraint, where no finite unconstrained value maps to it.
    """
    transform = to_constrained(constraint)
    free = value if transform is None else transform.inv(value)
    # torch keeps some transforms off the edge by a rounding error, where no gradient would ever move the parameter.
    bounds = [b for b in (getattr(constraint, f"{end}_bound", None) for end in ("lower", "upper")) if b is not None]
    if not bool(free.isfinite().all()) or any(bool((value == bound).any()) for bound in bounds):
        raise ConstraintError(
            f"the initial value {_shown(value)} is on the edge of its constraint {constraint}",
            site=name,
            because="no finite unconstrained value maps to it",
            try_="an initial value strictly inside",
        )
    return free.detach().clone().contiguous()


def _shown(value: Tensor) -> str:
    return str(value.item()) if value.numel() == 1 else f"of shape {tuple(value.shape)}"
