"""Pyro's methods for torch's distributions: call to draw, `shape`, `has_rsample_`, `mask`, `expand_by`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar

import torch
from torch import Size, Tensor
from torch import distributions as td

from varigrad import distributions as native
from varigrad.compat.pyro import settings
from varigrad.compat.pyro.distributions.score_parts import ScoreParts

D = TypeVar("D", bound=td.Distribution)


class TorchDistributionMixin:
    """Mixin in front of a `torch.distributions.Distribution` that adds Pyro's methods."""

    is_pyro_distribution = True

    @property
    def unchecked(self) -> bool:
        """Whether `validate_args=False` was said, here or for all families: then values may be outside the support."""
        return self.__dict__.get("_unchecked", False) or not settings.get("validate_distributions_pyro")

    @unchecked.setter
    def unchecked(self, value: bool) -> None:
        self.__dict__["_unchecked"] = value

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        own = vars(cls)
        if "score_parts" in own and "score_part" not in own:
            # A partly reparameterised family of the user's: our estimators ask for the part on the cost alone.
            cls.score_part = _score_function  # type: ignore[attr-defined]

    def __call__(self: Any, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """A draw, `[*sample, *batch, *event]`, with gradients if the family is reparameterised."""
        drawn: Tensor = self.rsample(sample_shape) if self.has_rsample else self.sample(sample_shape)
        return drawn

    @property
    def event_dim(self: Any) -> int:
        """Number of dimensions of an event."""
        return len(self.event_shape)

    def shape(self: Any, sample_shape: Sequence[int] = torch.Size()) -> Size:
        """The shape of a draw."""
        return torch.Size((*sample_shape, *self.batch_shape, *self.event_shape))

    def has_rsample_(self: Any, value: bool) -> Any:
        """Switch reparameterisation of this object off or on; returns it.

        Raises:
            ValueError: `value` is not True or False.
        """
        if value not in (True, False):
            raise ValueError(f"has_rsample_ takes True or False, got {value!r}")
        try:
            self.has_rsample = value
        except AttributeError:  # a wrapper, which asks what it wraps: that may be in use elsewhere, so change a copy
            name = "base" if isinstance(self, native.Wrapper) else "base_dist"
            self.__dict__[name] = _switched(self.__dict__[name], value)
        return self

    def expand(self: Any, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """Independent copies, `[*batch_shape, *event]`; works for every class."""
        try:
            twin = super().expand(batch_shape, _instance)  # type: ignore[misc]
        except NotImplementedError:
            return ExpandedDistribution(self, batch_shape)
        switched = self.__dict__.get("has_rsample")
        if switched is not None:
            twin.has_rsample = switched
        if "_unchecked" in self.__dict__:
            twin.unchecked = self.__dict__["_unchecked"]
        return twin

    def expand_by(self: Any, sample_shape: Sequence[int]) -> Any:
        """Independent copies: batch shape `[*sample_shape, *batch]`."""
        return self.expand(torch.Size(sample_shape) + self.batch_shape)

    def to_event(self: Any, reinterpreted_batch_ndims: int | None = None) -> Any:
        """Declare the rightmost batch dimensions (default: all) one event.

        Raises:
            ValueError: there are not so many.
        """
        dims = len(self.batch_shape) if reinterpreted_batch_ndims is None else reinterpreted_batch_ndims
        if not 0 <= dims <= len(self.batch_shape):
            raise ValueError(f"to_event({dims}) of a distribution with batch shape {tuple(self.batch_shape)}")
        return Independent(self, dims) if dims else self

    def independent(self: Any, reinterpreted_batch_ndims: int | None = None) -> Any:
        """An older name of `to_event`."""
        return self.to_event(reinterpreted_batch_ndims)

    def mask(self: Any, mask: Tensor | bool) -> MaskedDistribution:
        """Ignore the density where `mask`, `[*batch]`, is False (or zero)."""
        return MaskedDistribution(self, mask)

    def score_parts(self: Any, value: Tensor) -> ScoreParts:
        """The density as Pyro's estimators take it apart; ours do not use it."""
        log_prob = self.log_prob(value)
        return ScoreParts(log_prob, 0, log_prob) if self.has_rsample else ScoreParts(log_prob, log_prob, 0)

    def conjugate_update(self, other: object) -> NoReturn:
        """Refuse, as this is not supported."""
        raise NotImplementedError(f"{type(self).__name__} has no conjugate_update")


def _score_function(self: Any, value: Tensor) -> Tensor:
    part: Tensor = self.score_parts(value).score_function
    return part


def _switched(distribution: D, value: bool) -> D:
    twin = copy.copy(distribution)
    if isinstance(twin, TorchDistributionMixin):
        twin.has_rsample_(value)
    else:
        twin.has_rsample = value
    return twin


class TorchDistribution(TorchDistributionMixin, td.Distribution):
    """Base class of users' distributions, which define `sample` (and `rsample`) and `log_prob`.

    Args:
        batch_shape, event_shape: as in torch.
        validate_args: torch's checks of every parameter and value; by default the engine checks, once.
    """

    _validate_args = False

    def __init__(
        self,
        batch_shape: Sequence[int] = torch.Size(),
        event_shape: Sequence[int] = torch.Size(),
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(torch.Size(batch_shape), torch.Size(event_shape), validate_args=bool(validate_args))


class Independent(TorchDistributionMixin, native.Independent):
    """Declares some batch dimensions of `base_distribution` one event."""


class _Based:
    """Mixin that names a wrapper's inner distribution `base_dist`, as Pyro does."""

    @property
    def base_dist(self: Any) -> Any:
        return self.base


class MaskedDistribution(TorchDistributionMixin, _Based, native.Masked):
    """`base_dist` whose density counts only where `mask` is True (or not zero)."""

    def __init__(self, base_dist: td.Distribution, mask: Tensor | bool) -> None:
        super().__init__(base_dist, mask.bool() if isinstance(mask, Tensor) else bool(mask))


class ExpandedDistribution(TorchDistributionMixin, _Based, native.Expanded):
    """Independent copies of `base_dist`, of batch shape `batch_shape`."""

    def __init__(self, base_dist: td.Distribution, batch_shape: Sequence[int] = torch.Size()) -> None:
        super().__init__(base_dist, torch.Size(batch_shape))
