"""`mask`: ignores log-densities where a mask is False."""

from __future__ import annotations

import torch
from torch import Tensor

from varigrad.compat.pyro.poutine.messenger import Messenger
from varigrad.language.handlers import _mask
from varigrad.language.messages import Forward, Message


class MaskMessenger(Messenger):
    """Log-densities count where `mask`, a bool or a bool tensor broadcastable to `[*plates]`, is True.

    Raises:
        ValueError: it is neither.
    """

    def __init__(self, mask: Tensor | bool) -> None:
        super().__init__()
        if isinstance(mask, Tensor) and mask.dtype != torch.bool:
            raise ValueError(f"Expected mask to be a BoolTensor but got {mask.dtype}. Try: mask.bool()")
        if not isinstance(mask, (Tensor, bool)):
            raise ValueError(f"Expected mask to be a bool or a BoolTensor but got {type(mask)}")
        self.mask = mask
        self.tensor: Tensor = torch.as_tensor(mask)

    def _handle(self, message: Message, forward: Forward) -> Message:
        return _mask(self.tensor, message, forward)
