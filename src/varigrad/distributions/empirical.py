"""`Empirical`: a distribution over stored samples with weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from varigrad.distributions.mixin import Methods
from varigrad.shapes import Shape


class Empirical(Methods, td.Distribution):
    """One of `n` stored samples, chosen with weights.

    Args:
        samples: `[*batch, n, *event]`.
        log_weights: `[*batch, n]`, up to a constant.

    Raises:
        ValueError: the shapes disagree.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.Empirical(torch.tensor([1.0, 2.0, 3.0]), log_weights=torch.tensor([0.5, 0.25, 0.25]).log())
        >>> d.mean, round(d.log_prob(torch.tensor(1.0)).exp().item(), 4)
        (tensor(1.7500), 0.5)
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    support: constraints.Constraint = constraints.real
    has_enumerate_support = True

    def __init__(self, samples: Tensor, log_weights: Tensor, validate_args: bool | None = None) -> None:
        dims = log_weights.dim()
        if dims == 0 or samples.shape[:dims] != log_weights.shape:
            raise ValueError(
                f"log_weights, of shape {tuple(log_weights.shape)}, must have the leading dimensions of samples, "
                f"of shape {tuple(samples.shape)}"
            )
        self._samples = samples
        self._log_weights = log_weights
        td.Distribution.__init__(self, log_weights.shape[:-1], samples.shape[dims:], validate_args=False)

    @property
    def log_weights(self) -> Tensor:
        return self._log_weights

    @property
    def sample_size(self) -> int:
        """How many samples are stored in all."""
        return self._log_weights.numel()

    @property
    def mean(self) -> Tensor:
        return self._average(self._samples)

    @property
    def variance(self) -> Tensor:
        centre = self.mean.unsqueeze(len(self.batch_shape))
        return self._average((self._samples - centre).square())

    def expand(self, batch_shape: Shape, _instance: td.Distribution | None = None) -> Empirical:
        shape, weights = torch.Size(batch_shape), self._log_weights
        n = weights.shape[-1:]
        return type(self)(self._samples.expand(shape + n + self.event_shape), weights.expand(shape + n))

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        shape, batch = torch.Size(sample_shape), self.batch_shape
        with torch.no_grad():
            probs = self._log_weights.softmax(-1)
            flat = torch.multinomial(probs.reshape(-1, probs.shape[-1]), max(shape.numel(), 1), replacement=True)
            index = flat.T[: shape.numel()].reshape(shape + batch)
            event = len(self.event_shape)
            rows = index.reshape(*index.shape, *(1,) * (event + 1)).expand(*index.shape, 1, *self.event_shape)
            return self._samples.expand(shape + self._samples.shape).gather(len(index.shape), rows).squeeze(-event - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        shape = self.batch_shape + self.event_shape
        if value.shape != shape:
            raise ValueError(f"the value has shape {tuple(value.shape)}, not {tuple(shape)}")
        batch, weights = len(self.batch_shape), self._log_weights
        equal = self._samples == value.unsqueeze(batch)
        if self.event_shape:
            equal = equal.flatten(batch + 1).all(-1)
        return torch.where(equal, weights, -torch.inf).logsumexp(-1) - weights.logsumexp(-1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        return self._samples

    def _average(self, values: Tensor) -> Tensor:
        weights = self._log_weights.softmax(-1).to(values.dtype)
        return (values * weights.reshape(weights.shape + (1,) * len(self.event_shape))).sum(len(self.batch_shape))
