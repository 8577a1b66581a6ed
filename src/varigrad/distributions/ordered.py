"""`OrderedLogistic`: ordered categories, which thresholds cut from a latent score."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from varigrad.distributions.fast_families import Categorical
from varigrad.shapes import Shape, join


class OrderedLogistic(Categorical):
    r"""Category :math:`k` with probability :math:`\sigma(c_k - x) - \sigma(c_{k-1} - x)`.

    Args:
        predictor: `[*batch]`, the score :math:`x`.
        cutpoints: `[*batch, categories - 1]`, increasing.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.OrderedLogistic(torch.tensor(0.0), torch.tensor([-1.0, 1.0]))
        >>> round(d.probs.sum().item(), 4)
        1.0
    """

    arg_constraints: dict[str, constraints.Constraint] = {
        "predictor": constraints.real,
        "cutpoints": constraints.real_vector,
    }

    def __init__(self, predictor: Tensor | float, cutpoints: Tensor, validate_args: bool | None = None) -> None:
        score = torch.as_tensor(predictor, dtype=cutpoints.dtype, device=cutpoints.device)
        shape = join(score.shape, cutpoints.shape[:-1])
        self.predictor: Tensor = score.expand(shape)
        self.cutpoints: Tensor = cutpoints.expand(shape + cutpoints.shape[-1:])
        upper = self.cutpoints - self.predictor.unsqueeze(-1)
        ends = upper.new_full((*shape, 1), torch.inf)
        below, above = torch.cat([upper, ends], -1), torch.cat([-ends, upper], -1)
        # sigma(b) - sigma(a) = sigma(b) sigma(-a) (1 - exp(a - b)), which does not cancel.
        width = torch.cat([ends, upper.diff(dim=-1), ends], -1)
        super().__init__(logits=logsigmoid(below) + logsigmoid(-above) + torch.log(-torch.expm1(-width)))
        self._validate_args = bool(validate_args)
        self._said(validate_args)

    def expand(self, batch_shape: Shape, _instance: td.Distribution | None = None) -> Self:
        shape = torch.Size(batch_shape)
        cutpoints = self.cutpoints.expand(shape + self.cutpoints.shape[-1:])
        return self._as_told(type(self)(self.predictor.expand(shape), cutpoints))
