r"""Concrete (Gumbel-softmax) relaxation: a discrete draw as the sign or argmax of a continuous variable.

Bernoulli with logit :math:`\theta`: :math:`z = \theta + \operatorname{logit} u`, and the draw is :math:`1[z > 0]`.
One-hot: :math:`z_i = \log p_i - \log(-\log u_i)`, and the draw is the largest. Softened by a temperature
:math:`\lambda`, they are :math:`\sigma(z / \lambda)` and softmax :math:`(z / \lambda)`.

References:
    Maddison, Mnih, Teh (2017), The Concrete distribution. arXiv:1611.00712.
    Tucker, Mnih, Maddison, Lawson, Sohl-Dickstein (2017), REBAR (given the draw). arXiv:1703.07370.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as td
from torch.nn.functional import softplus

from varigrad.distributions.finite_support import inner_of
from varigrad.distributions.rng import Source
from varigrad.estimators.base import Draw, first


def refusal_to_relax(name: str, distribution: td.Distribution) -> tuple[str, str] | None:
    """Why a site has no concrete variable behind its draw, and what to try instead; None if it has one."""
    inner, _ = inner_of(distribution)
    if isinstance(inner, (td.Bernoulli, td.OneHotCategorical)):
        return None
    kind = type(inner).__name__
    if isinstance(inner, td.Categorical):
        return (
            f"{name} needs values between the categories, and a {kind}'s are indices",
            "OneHotCategorical and one_hot @ table in place of table[index]; or LeaveOneOut(4)",
        )
    return f"{name} is for Bernoulli and OneHotCategorical choices, and this is {kind}", "LeaveOneOut(4)"


def is_one_hot(distribution: td.Distribution) -> bool:
    """Whether the distribution is one-hot; else it is Bernoulli."""
    return isinstance(inner_of(distribution)[0], td.OneHotCategorical)


def logits_of(draw: Draw) -> Tensor:
    """Lane 0's logits, `[*plates, *event]`."""
    inner, _ = inner_of(draw.distribution)
    assert isinstance(inner, (td.Bernoulli, td.OneHotCategorical))
    return first(inner.logits, draw, len(draw.distribution.event_shape))


def values_of(draw: Draw) -> Tensor:
    """The values in the compared lanes, `[1 + alternatives, *plates, *event]`."""
    assert draw.lanes is not None
    value = draw.value.reshape(*draw.distribution.batch_shape, *draw.distribution.event_shape)
    return value[list(draw.lanes.compared)]


def slopes_of(draw: Draw) -> Tensor:
    """The cost's derivatives, `[1 + alternatives, *plates, *event]`; zero where it has none."""
    assert draw.slope is not None
    slope = torch.where(draw.slope.isfinite(), draw.slope, 0.0)
    return slope.reshape(values_of(draw).shape)


def uniform(source: Source, like: Tensor) -> Tensor:
    """Uniform numbers strictly between 0 and 1, in the shape of `like`."""
    finfo = torch.finfo(like.dtype)
    return source.uniform(like.shape, like).clamp(finfo.tiny, 1 - finfo.eps)


def given(draw: Tensor, logits: Tensor, noise: Tensor, one_hot: bool) -> Tensor:
    """The concrete variable given the draw, differentiable in the logits.

    Marginally, over draws, it is the concrete variable.

    Args:
        draw: `[*plates, *event]`, zeros and ones.
        logits: `[*plates, *event]`.
        noise: uniform numbers in (0, 1), `[*plates, *event]`.
        one_hot: whether the last dimension is one category, not independent coins.

    Returns:
        `[*plates, *event]`.
    """
    if not one_hot:
        sign = 2 * draw - 1
        return sign * (softplus(sign * logits + noise.log()) - torch.log1p(-noise))
    exponential = (-noise.log()).log()
    largest = (exponential * draw).sum(-1, keepdim=True)
    others = torch.logaddexp(exponential - logits.log_softmax(-1), largest)
    return -torch.where(draw > 0, largest, others)


def softened(z: Tensor, temperature: Tensor | float, one_hot: bool) -> Tensor:
    """The concrete variable at a temperature, in `[0, 1]`.

    Args:
        z: `[*plates, *event]`.
        temperature: a positive number, or a tensor that broadcasts to `z`.
        one_hot: whether the last dimension is one category, not independent coins.

    Returns:
        `[*plates, *event]`.
    """
    z = z / temperature
    return z.softmax(-1) if one_hot else z.sigmoid()
