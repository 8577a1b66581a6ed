r"""Autoregressive flows: networks of the preceding entries scale and shift each entry.

References:
    Kingma, Salimans, Jozefowicz, Chen, Sutskever, Welling (2016), Improving variational inference with inverse
    autoregressive flow.
    Papamakarios, Pavlakou, Murray (2017), Masked autoregressive flow for density estimation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from varigrad.distributions.flows.base import VectorTransform, clamp_preserving_gradients
from varigrad.distributions.flows.networks import AutoRegressiveNN


class AffineAutoregressive(VectorTransform):
    r""":math:`y_i = \mu_i(x_{<i}) + \sigma_i(x_{<i}) x_i`. The inverse takes as many passes as there are entries.

    Args:
        autoregressive_nn: an `AutoRegressiveNN` with two parameters for each entry.
        log_scale_min_clip, log_scale_max_clip: bounds of :math:`\log \sigma`.
        sigmoid_bias: with `stable`, what is added before the sigmoid.
        stable: :math:`y = \sigma x + (1 - \sigma) \mu` with a sigmoid as :math:`\sigma`.
    """

    def __init__(
        self,
        autoregressive_nn: nn.Module,
        log_scale_min_clip: float = -5.0,
        log_scale_max_clip: float = 3.0,
        sigmoid_bias: float = 2.0,
        stable: bool = False,
    ) -> None:
        super().__init__()
        self.arn = autoregressive_nn
        self.log_scale_min_clip: float = log_scale_min_clip
        self.log_scale_max_clip: float = log_scale_max_clip
        self.sigmoid_bias: float = sigmoid_bias
        self.stable: bool = stable

    def _shift_and_log_scale(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and logarithm of the scale, from the network."""
        mean, raw = self.arn(x)
        if self.stable:
            log_scale = logsigmoid(raw + self.sigmoid_bias)
            return -torch.expm1(log_scale) * mean, log_scale
        return mean, clamp_preserving_gradients(raw, self.log_scale_min_clip, self.log_scale_max_clip)

    def _call(self, x: Tensor) -> Tensor:
        shift, log_scale = self._shift_and_log_scale(x)
        self._keep(x, log_scale.sum(-1))
        return log_scale.exp() * x + shift

    def _inverse(self, y: Tensor) -> Tensor:
        x = torch.zeros_like(y)
        for _ in range(y.shape[-1]):  # after n passes the first n entries, in the network's order, are right
            shift, log_scale = self._shift_and_log_scale(x)
            x = (y - shift) * (-log_scale).exp()
        return x

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        known = self._kept(x)
        return self._shift_and_log_scale(x)[1].sum(-1) if known is None else known


def affine_autoregressive(input_dim: int, hidden_dims: Sequence[int] | None = None, **kwargs: Any) -> Any:
    """An `AffineAutoregressive` with a new network; hidden layers of three times `input_dim` plus one."""
    hidden = [3 * input_dim + 1] if hidden_dims is None else list(hidden_dims)
    return AffineAutoregressive(AutoRegressiveNN(input_dim, hidden), **kwargs)
