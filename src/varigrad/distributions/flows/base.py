"""Interfaces of transforms that are torch modules with trainable parameters, and their composition."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import ComposeTransform, Transform

from varigrad._torch_internals import version_of
from varigrad.distributions import constraints


class TransformModule(Transform, nn.Module):
    """Interface of transforms that are torch modules: their parameters are declared with `module(name, transform)`.

    The last value and its image are remembered, so that the density of a draw needs no inverse; but only as long as
    the parameters stay as they are, and not if the image was made without gradients that are wanted now.
    """

    def __init__(self, cache_size: int = 1) -> None:
        Transform.__init__(self, cache_size=cache_size)
        nn.Module.__init__(self)

    __hash__ = nn.Module.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __call__(self, x: Tensor) -> Tensor:
        x_old, y_old = self._cached_x_y
        if x is x_old and self._fresh(y_old):
            return y_old
        y: Tensor = self._call(x)
        if self._cache_size:
            self.__dict__.update(_cached_x_y=(x, y), _made=self._now())
        return y

    def _inv_call(self, y: Tensor) -> Tensor:
        # An inverse is not remembered: a data set would be mapped back once, and never learnt from again.
        x_old, y_old = self._cached_x_y
        result: Tensor = x_old if y is y_old and self._fresh(y_old) else self._inverse(y)
        return result

    def _fresh(self, y: Tensor) -> bool:
        if self._made != self._now():
            return False
        return y.requires_grad or not torch.is_grad_enabled() or not any(p.requires_grad for p in self.parameters())

    def _now(self) -> int:
        """Counts of how often parameters and averages have been written to."""
        return sum(version_of(p) for p in (*self.parameters(), *self.buffers()))

    _made = -1
    _log_det: tuple[Tensor, Tensor, int, bool] | None = None
    """Of the last value: the value, what `_keep` was given, and when."""

    def _keep(self, x: Tensor, log_det: Tensor) -> None:
        """Remember the logarithm of the Jacobian's determinant, if it comes for free with the image."""
        self.__dict__["_log_det"] = x, log_det, self._now(), torch.is_grad_enabled()

    def _kept(self, x: Tensor) -> Tensor | None:
        known = self._log_det
        if known is None or known[0] is not x or known[2] != self._now():
            return None
        return known[1] if known[3] or not torch.is_grad_enabled() else None

    def clear_cache(self) -> None:
        """Forget the last value."""
        self.__dict__.update(_cached_x_y=(None, None), _log_det=None)

    def __getstate__(self) -> dict[str, object]:
        # What is remembered of a call has a history, which cannot be copied or written down.
        return {**self.__dict__, "_inv": None, "_cached_x_y": (None, None), "_log_det": None}


class VectorTransform(TransformModule):
    """Interface of transforms of real vectors, `[*, d] -> [*, d]`."""

    domain: constraints.Constraint = constraints.real_vector
    codomain: constraints.Constraint = constraints.real_vector
    bijective = True


class ComposeTransformModule(ComposeTransform, nn.ModuleList):
    """Several transforms one after the other, as a module that has the parameters of those that are modules.

    Args:
        parts: the first acts first.
    """

    def __init__(self, parts: list[Transform], cache_size: int = 0) -> None:
        ComposeTransform.__init__(self, parts, cache_size=cache_size)
        nn.ModuleList.__init__(self, [p for p in parts if isinstance(p, nn.Module)])

    __hash__ = nn.Module.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


class Cached:
    """Mixin for transforms without a closed-form inverse: it inverts only their own latest image.

    Raises:
        NotImplementedError: another value is to be inverted.
    """

    def _inverse(self: Any, y: Tensor) -> Tensor:
        raise NotImplementedError(
            f"{type(self).__name__} has no inverse: only the last value it made can be mapped back. "
            "Try: the transform the other way round, in a guide, or one that is inverted in closed form (a spline)"
        )


def clamp_preserving_gradients(x: Tensor, low: float, high: float) -> Tensor:
    """`x` between two bounds, with the gradient of `x` everywhere, so that what was cut off can come back.

    Args:
        x: any shape.
        low, high: the bounds.

    Returns:
        Values of the shape of `x`.
    """
    return x + (x.clamp(low, high) - x).detach()


def uniform_(parameter: Tensor, bound: float) -> None:
    """Fill with numbers between `-bound` and `bound`."""
    with torch.no_grad():
        parameter.uniform_(-bound, bound)
