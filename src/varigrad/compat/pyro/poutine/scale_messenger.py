"""`scale`: multiplies log-densities by a factor."""

from __future__ import annotations

import torch
from torch import Tensor

from varigrad.compat.pyro.poutine.messenger import Messenger
from varigrad.compat.pyro.poutine.util import is_validation_enabled
from varigrad.language.handlers import _scale
from varigrad.language.messages import Forward, Message


class ScaleMessenger(Messenger):
    """Log-densities are multiplied by `scale`, a positive number or tensor.

    Raises:
        ValueError: it is not positive.
    """

    def __init__(self, scale: Tensor | float) -> None:
        super().__init__()
        checked = not isinstance(scale, Tensor) or is_validation_enabled()
        if checked and not bool((torch.as_tensor(scale) > 0).all()):
            raise ValueError(f"Expected scale > 0 but got {scale}")
        self.scale = scale

    def _handle(self, message: Message, forward: Forward) -> Message:
        return _scale(self.scale, message, forward)
