"""Straight-through families: rounded draws of relaxed distributions, with the relaxed draw's (biased) gradient.

The density is that of the relaxed draw, which is stored on the rounded tensor object. `log_prob` refuses copies of the
tensor, which lack it, instead of returning a wrong density.
"""

from __future__ import annotations

import torch
from torch import Tensor

from varigrad.distributions.families import RelaxedBernoulli, RelaxedOneHotCategorical
from varigrad.shapes import Shape


def _rounded(hard: Tensor, soft: Tensor) -> Tensor:
    """`hard`, with the gradient of `soft` and a note of it."""
    value = hard + (soft - soft.detach()) if soft.requires_grad else hard
    value._unquantize = soft  # type: ignore[attr-defined]
    return value


def _soft(value: Tensor, kind: str) -> Tensor:
    soft: Tensor | None = getattr(value, "_unquantize", None)
    if soft is not None:
        return soft
    raise ValueError(
        f"{kind} has a density for its own draws only, which remember the relaxed value behind the rounded one: "
        "this value was made or copied by something else. Try: the family without StraightThrough, or a discrete one"
    )


class RelaxedBernoulliStraightThrough(RelaxedBernoulli):
    """0 or 1, by rounding a relaxed Bernoulli; gradients through the draw are those of the relaxed one (biased).

    Args:
        temperature: `[]`, positive.
        probs: `[*batch]`, in [0, 1]; give these or
        logits: `[*batch]`, their logits.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.RelaxedBernoulliStraightThrough(torch.tensor(0.5), logits=torch.zeros(3))
        >>> sorted(set(d.rsample((100,)).flatten().tolist()))
        [0.0, 1.0]
    """

    straight_through = True

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        soft = super().rsample(sample_shape)
        return _rounded(soft.detach().round(), soft)

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        result: Tensor = super().log_prob(_soft(value, type(self).__name__))
        return result


class RelaxedOneHotCategoricalStraightThrough(RelaxedOneHotCategorical):
    """One-hot, by taking the largest entry of a relaxed draw, whose gradient it carries (biased).

    Args:
        temperature: `[]`, positive.
        probs: `[*batch, categories]`; give these or
        logits: `[*batch, categories]`, up to a constant.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.RelaxedOneHotCategoricalStraightThrough(torch.tensor(0.5), logits=torch.zeros(3))
        >>> d.rsample().sum().item()
        1.0
    """

    straight_through = True

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        soft = super().rsample(sample_shape)
        hard = torch.zeros_like(soft).scatter_(-1, soft.detach().argmax(-1, keepdim=True), 1.0)
        return _rounded(hard, soft)

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        result: Tensor = super().log_prob(_soft(value, type(self).__name__))
        return result
