"""Operations whose arguments that are no tensors say which elements meet: a flag, an axis, offsets, strides.

A run is told from another by the operations that are called on tracked tensors. For most operations that is enough,
because what an argument changes shows in a shape; for these it is not, so their arguments are told as well.
"""

# ruff: noqa: SIM905 - a list of words reads better as words
from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from torch import Tensor

ARRANGED = frozenset(
    """batch_norm instance_norm group_norm layer_norm rms_norm local_response_norm normalize embedding_bag as_strided
    as_strided_copy as_strided_scatter softmax log_softmax softmin gumbel_softmax cumsum cumprod cummax cummin
    logcumsumexp flip roll rot90 sort argsort msort renorm cross diff unfold narrow select_scatter slice_scatter
    transpose swapaxes swapdims permute movedim moveaxis einsum tensordot multi_head_attention_forward
    scaled_dot_product_attention dropout feature_dropout alpha_dropout pixel_shuffle pixel_unshuffle channel_shuffle
    sum mean prod logsumexp var std amax amin norm pad interpolate avg_pool1d avg_pool2d conv1d conv2d""".split()
)
_OFFSETS = ("embedding_bag", 2, "offsets")
"""The one tensor among such arguments: where it lies, and its name."""
_MOST = 4096


def arrangement(name: str, args: Sequence[object], kwargs: Mapping[str, object]) -> Hashable:
    """What a call of such an operation says of which elements meet, the same for the same arguments.

    Args:
        name: the operator's.
        args, kwargs: what it was called with, as plain tensors.
    """
    offsets, place, key = _OFFSETS
    given: Hashable = None
    if name == offsets:
        found = args[place] if place < len(args) else kwargs.get(key)
        if isinstance(found, Tensor) and found.numel() <= _MOST and found.device.type == "cpu":
            given = tuple(found.flatten().tolist())
    return name, given, tuple(map(_told, args)), tuple([(k, _told(v)) for k, v in kwargs.items()])


def _told(value: object) -> Hashable:
    """An argument by its value; a tensor only by being there."""
    if isinstance(value, Tensor):
        return "Tensor"
    if isinstance(value, (tuple, list)):
        return tuple(map(_told, value))
    if isinstance(value, (bool, int, float, str)):
        return value
    return type(value).__qualname__
