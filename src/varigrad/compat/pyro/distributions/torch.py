"""Every family of `torch.distributions`: varigrad's version with Pyro's methods, by the mixin in `family`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from torch import distributions as td

from varigrad import distributions as native
from varigrad.compat.pyro.distributions.torch_distribution import Independent as Independent
from varigrad.compat.pyro.distributions.torch_distribution import TorchDistributionMixin

K = TypeVar("K", bound=td.Distribution)


def family(kind: type[K], module: str) -> type[K]:
    """`kind` with Pyro's methods, as a class of `module`."""
    return type(kind.__name__, (TorchDistributionMixin, kind), {"__doc__": kind.__doc__, "__module__": module})


FAMILIES: dict[str, type[td.Distribution]] = {
    name: family(kind, __name__)
    for name, kind in vars(native).items()
    if isinstance(kind, type) and isinstance(getattr(td, name, None), type) and name != "Independent"
}


class TransformedDistribution(TorchDistributionMixin, native.TransformedDistribution):
    """A base distribution pushed through bijections."""

    def clear_cache(self) -> None:
        """Let the transforms forget their last values; those of varigrad know when these are out of date."""
        for transform in self.transforms:
            getattr(transform, "clear_cache", lambda: None)()


FAMILIES["TransformedDistribution"] = TransformedDistribution
globals().update(FAMILIES)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
