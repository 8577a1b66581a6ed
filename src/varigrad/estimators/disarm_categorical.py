r"""DisARM for categories: a choice among C is the first head of C - 1 coins, which are tossed in antithetic pairs.

Coin k falls heads with :math:`p_k = q_k / \sum_{l \ge k} q_l`, the chance of category k if none before it was chosen.
The pair's coins are DisARM's, so for each logit :math:`\phi_k = \log q_k - \log \sum_{l > k} q_l`

.. math:: \tfrac12 \big(f(z) - f(\tilde z)\big)\, E[(b_k - \tilde b_k)\, \sigma(|\phi_k|) \mid z, \tilde z]

where the expectation takes the place of coins that were not needed: :math:`b_k - p_k` if only the first of the two got
as far as k, :math:`-(\tilde b_k - p_k)` if only the second did.

References:
    Dong, Mnih, Tucker (2021), Coupled gradient estimators for discrete latent variables. arXiv:2106.08056.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as td

from varigrad.distributions.finite_support import inner_of
from varigrad.distributions.rng import Source
from varigrad.estimators.base import Draw, Lanes, first, tensor_of


def draw_pair(distribution: td.Distribution, lanes: Lanes, source: Source) -> Draw:
    """Draw the site and its coupled twin.

    Args:
        distribution: `[lanes, *plates]`, categorical.
        lanes: lane 0 gets the draw, the site's own lane its twin.
        source: where random numbers come from.

    Returns:
        The draw; its `noise` are the categories of the two, `[2, *plates, *coordinates]`.
    """
    value = source.draw(distribution, lanes=lanes.drawn(*lanes.compared))
    inner, _ = inner_of(distribution)
    probs = inner.probs[0].detach()
    count = probs.shape[-1]
    pair = source.index(joint(probs).flatten(-2))
    both = torch.stack([pair // count, pair % count])
    one_hot = isinstance(inner, td.OneHotCategorical)
    found = torch.nn.functional.one_hot(both, count) if one_hot else both
    value[[0, lanes.own[0]]] = found.to(value.dtype).reshape(2, *value.shape[1:])
    return Draw(distribution, lanes.share(value), lanes, noise=both)


def joint(probs: Tensor) -> Tensor:
    """Chances of the pairs, `[*plates, C, C]`, from those of the categories, `[*plates, C]`."""
    heads, after = _sticks(probs)
    apart, together = torch.minimum(heads, 1 - heads), (2 * heads - 1).clamp(min=0)
    neither = (1 - 2 * heads).clamp(min=0)
    reached = torch.cat([torch.ones_like(neither[..., :1]), neither[..., :-1].cumprod(-1)], -1)
    alone = torch.where(after > 0, reached * apart / after, 0.0)  # one stops here, the other goes on by itself
    upper = (alone.unsqueeze(-1) * probs.unsqueeze(-2)).triu(1)
    return upper + upper.mT + torch.diag_embed(reached * together)


def field(draw: Draw) -> Tensor:
    """The field to differentiate: half of the bracket above, by the categories' logits and times them, `[*plates]`."""
    inner, dims = inner_of(draw.distribution)
    logits = first(inner.logits, draw, dims + 1)
    probs = logits.detach().exp()
    heads, after = _sticks(probs)
    place = torch.arange(probs.shape[-1], device=probs.device)
    one, two = (category.unsqueeze(-1) for category in tensor_of(draw.noise))
    fell = (place == one).to(probs.dtype), (place == two).to(probs.dtype)
    pulled = (fell[0] - fell[1]) * torch.maximum(heads, 1 - heads)
    weight = torch.where(
        place <= torch.minimum(one, two),
        pulled,
        torch.where(place <= one, fell[0] - heads, torch.where(place <= two, heads - fell[1], 0.0)),
    )
    # By the chain rule: category i's logit is in its own coin's and in those of all coins before.
    before = torch.where(after > 0, weight / after, 0.0)
    slope = weight - probs * (before.cumsum(-1) - before)
    return 0.5 * (slope * torch.where(probs > 0, logits, 0.0)).sum(list(range(-dims - 1, 0)))


def _sticks(probs: Tensor) -> tuple[Tensor, Tensor]:
    """The coins' chances of heads, and what is left for the categories after each."""
    left = probs.flip(-1).cumsum(-1).flip(-1)
    heads = torch.where(left > 0, probs / left, 0.0).clamp(max=1)
    return heads, torch.cat([left[..., 1:], torch.zeros_like(left[..., :1])], -1)
