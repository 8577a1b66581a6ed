"""Normal likelihoods that ignore missing data, which are marked by NaN."""

from __future__ import annotations

import torch
from torch import Tensor

from varigrad.distributions.families import MultivariateNormal, Normal


class NanMaskedNormal(Normal):
    """Normal whose log-density is zero where the value is NaN.

    Args:
        loc: `[*batch]`.
        scale: `[*batch]`, positive.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.NanMaskedNormal(torch.zeros(2), torch.ones(2))
        >>> d.log_prob(torch.tensor([1.0, float("nan")])) != 0
        tensor([ True, False])
    """

    def log_prob(self, value: Tensor) -> Tensor:
        missing = value.isnan()
        # Filled in before the density is taken: NaN times a gradient of zero would be NaN.
        return torch.where(missing, 0.0, super().log_prob(torch.where(missing, self.loc.detach(), value)))


class NanMaskedMultivariateNormal(MultivariateNormal):
    """Multivariate Normal whose density is the marginal one of the entries that are not NaN.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.NanMaskedMultivariateNormal(torch.zeros(2), torch.eye(2))
        >>> round(d.log_prob(torch.tensor([0.0, float("nan")])).item(), 4)
        -0.9189
    """

    def log_prob(self, value: Tensor) -> Tensor:
        missing = value.isnan()
        loc, value = torch.broadcast_tensors(self.loc, torch.where(missing, self.loc.detach(), value))
        both = missing.unsqueeze(-1) | missing.unsqueeze(-2)
        # Missing entries become independent of the others and standard normal at their mean, so their share is known.
        eye = torch.eye(loc.shape[-1], dtype=loc.dtype, device=loc.device)
        joint = MultivariateNormal(loc, torch.where(both, eye, self.covariance_matrix))
        constant = -0.5 * torch.log(torch.tensor(2 * torch.pi, dtype=loc.dtype))
        result: Tensor = joint.log_prob(value) - missing.sum(-1) * constant
        return result
