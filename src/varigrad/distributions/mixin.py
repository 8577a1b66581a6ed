"""`Methods`, the mixin of every varigrad distribution: adds `to_event`, `mask` and `expand_by` to torch's families."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, TypeVar

import torch
from torch import Size, Tensor
from torch import distributions as td
from torch.distributions import constraints

from varigrad.shapes import Shape, join

if TYPE_CHECKING:  # a mixin's methods are those of the family behind it
    _Family = td.Distribution
else:
    _Family = object


class Methods(_Family):
    """Mixin in front of a `torch.distributions` family. Arguments are checked by the engine, not at construction.

    torch checks parameters and values on every construction and every density, which forces a synchronisation
    each time. varigrad checks once, when a program is first run, and again when a number goes bad; pass
    `validate_args=True` for torch's own checks, and `False` to have values outside the support taken as they are.
    """

    _validate_args = False
    unchecked: bool = False
    """Whether `validate_args=False` was said: then values are not checked against the support."""

    if not TYPE_CHECKING:  # type checkers see the signatures of torch's families

        def __init__(self, *args, validate_args=None, **kwargs):
            # Said explicitly, because families built of others hand it on and would check by default.
            super().__init__(*args, validate_args=bool(validate_args), **kwargs)
            self._said(validate_args)

        def expand(self, batch_shape, _instance=None):
            instance = self.__new__(type(self)) if _instance is None else _instance
            return self._as_told(super().expand(batch_shape, instance))

        def __getstate__(self):
            state = dict(self.__dict__)
            if "transforms" in state:
                state["transforms"] = [_Inverse(t.inv) if _is_inverse(t) else t for t in state["transforms"]]
            return state

        def __setstate__(self, state):
            if "transforms" in state:
                state["transforms"] = [t.of.inv if isinstance(t, _Inverse) else t for t in state["transforms"]]
            self.__dict__.update(state)

    def _said(self, validate_args: bool | None) -> None:
        """Keep what a constructor was told about validation."""
        if validate_args is False:
            self.unchecked = True

    def _as_told(self, twin: M) -> M:
        """Give a copy of another shape this distribution's setting for validation."""
        if twin.unchecked is not self.unchecked:
            twin.unchecked = self.unchecked
        return twin

    def _begin(self, batch: Size, event: Size, validate_args: bool | None) -> None:
        """Run the end of a constructor: torch's own part, which checks parameters if it was asked to."""
        td.Distribution.__init__(self, batch, event, validate_args=bool(validate_args))
        self._said(validate_args)

    def to_event(self, dims: int | None = None) -> Independent | Self:
        """Declare the `dims` rightmost batch dimensions (default: all) one event: dependent, summed over."""
        dims = len(self.batch_shape) if dims is None else dims
        return Independent(self, dims) if dims else self

    def mask(self, mask: Tensor | bool) -> Masked:
        """Ignore the density where `mask`, `[*batch]`, is False; draws stay as they are."""
        return Masked(self, mask)

    def expand_by(self, sample_shape: Shape) -> Self:
        """Independent copies: batch shape `[*sample_shape, *batch]`."""
        result: Self = self.expand(torch.Size(sample_shape) + self.batch_shape)
        return result


M = TypeVar("M", bound=Methods)


class _Inverse:
    """Stands for an inverse transform in a pickle or a copy, where torch's own loses the original transform."""

    def __init__(self, of: td.Transform) -> None:
        self.of = of


def _is_inverse(transform: td.Transform) -> bool:
    return type(transform).__name__ == "_InverseTransform"


class Independent(Methods, td.Independent[td.Distribution]):
    """Declares some batch dimensions of `base_distribution` one event."""


class Wrapper(Methods, td.Distribution):
    """Interface of distributions that change a property of another one, `base`, and leave its draws unchanged.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.Masked(dist.Normal(0.0, 1.0), True)
        >>> isinstance(d, dist.Wrapper), d.base.loc
        (True, tensor(0.))
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    base: td.Distribution

    @property
    def support(self) -> constraints.Constraint | None:
        return self.base.support

    @property
    def mean(self) -> Tensor:
        return self.base.mean

    @property
    def variance(self) -> Tensor:
        return self.base.variance

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        return self.base.sample(sample_shape)


class Masked(Wrapper):
    """`base` whose density counts only where `mask` is True.

    Args:
        base: any distribution.
        mask: bool, broadcastable to `[*batch]`.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> d = dist.Masked(dist.Normal(torch.zeros(2), 1.0), torch.tensor([True, False]))
        >>> d.log_prob(torch.ones(2)) != 0
        tensor([ True, False])
    """

    def __init__(self, base: td.Distribution, mask: Tensor | bool) -> None:
        self.base = base
        self.density_mask: Tensor = torch.as_tensor(mask)
        if self.density_mask.dtype != torch.bool:
            raise TypeError(f"a mask is a bool tensor, got {self.density_mask.dtype}")
        shape = join(base.batch_shape, self.density_mask.shape)
        self.base: td.Distribution = base if shape == base.batch_shape else base.expand(shape)
        td.Distribution.__init__(self, shape, base.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]  # torch's families set it, here it is read
        return self.base.has_rsample

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]  # torch's families set it, here it is read
        return self.base.has_enumerate_support

    def expand(self, batch_shape: Shape, _instance: td.Distribution | None = None) -> Self:
        return type(self)(self.base.expand(batch_shape), self.density_mask)

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        return self.base.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return masked(self.base.log_prob(filled(self.base, value, self.density_mask)), self.density_mask)

    def entropy(self) -> Tensor:
        return masked(self.base.entropy(), self.density_mask)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        return self.base.enumerate_support(expand)


def masked(log_prob: Tensor, mask: Tensor) -> Tensor:
    """A log-density that is zero where a mask is False.

    The gradient there is zero as well, if the density is that of a `filled` value.

    Args:
        log_prob: `[*batch]`.
        mask: bool, `[*batch]`.
    """
    return torch.where(mask, log_prob, torch.zeros((), dtype=log_prob.dtype, device=log_prob.device))


def filled(distribution: td.Distribution, value: Tensor, mask: Tensor) -> Tensor:
    """`value` with one from the support where a mask is False.

    What is missing may be coded as anything. NaN times a gradient of zero is NaN, so it has to go before the density is
    taken, not after.

    Args:
        distribution: the distribution whose support counts.
        value: `[*batch, *event]`.
        mask: bool, `[*batch]`.
    """
    event = len(distribution.event_shape)
    return torch.where(
        mask.reshape(mask.shape + (1,) * event) if event else mask, value, _harmless(distribution, value)
    )


def _harmless(distribution: td.Distribution, value: Tensor) -> Tensor | int:
    try:
        support = distribution.support
    except NotImplementedError:
        return 0
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is None or support is constraints.real or constraints.is_dependent(support):
        return 0
    shape = distribution.event_shape
    if support.is_discrete:
        if not support.event_dim:
            return torch.as_tensor(getattr(support, "lower_bound", 0), dtype=value.dtype, device=value.device)
        # One-hot vectors and counts of categories: everything in the first.
        total = torch.as_tensor(getattr(support, "upper_bound", 1), dtype=value.dtype, device=value.device)
        first = torch.arange(shape[-1], device=value.device) == 0
        return torch.where(first, total.unsqueeze(-1), 0)
    if isinstance(support, constraints.interval):
        low, high = torch.as_tensor(support.lower_bound), torch.as_tensor(support.upper_bound)
        centre = (low + high) / 2
        return torch.where(centre.isfinite(), centre, low + 1).to(value)
    try:
        transform = td.transform_to(support)
        centre = value.new_zeros(transform.inverse_shape(shape[len(shape) - support.event_dim :]))
        result: Tensor | int = transform(centre).to(value.dtype)
        return result
    except NotImplementedError:
        return 0


def unmasked(distribution: td.Distribution) -> td.Distribution:
    """The same distribution with every mask taken off: its draws follow this density whatever the mask hides."""
    if isinstance(distribution, Masked):
        return unmasked(distribution.base)
    if isinstance(distribution, td.Independent):
        base = unmasked(distribution.base_dist)
        if base is not distribution.base_dist:
            return Independent(base, distribution.reinterpreted_batch_ndims)
    return distribution


def _kl_masked(p: Masked, q: Masked) -> Tensor:
    return masked(td.kl_divergence(p.base, q.base), p.density_mask & q.density_mask)


td.register_kl(Masked, Masked)(_kl_masked)
