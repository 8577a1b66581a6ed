"""`AutoGuideList`: combines several guides into one program; each draws its part of the sites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from varigrad.errors import SiteError, VarigradError
from varigrad.guides.base import AutoGuide
from varigrad.language.messages import Program


class AutoGuideList(nn.Module):
    """Several guides, one after the other: automatic ones for some sites, the user's programs for others.

        AutoGuideList(AutoMultivariateNormal(model, sites=["mean", "scale"]), AutoNormal(model, sites="z*"), my_guide)

    Args:
        parts: automatic guides, modules or functions; all are called with the model's arguments. An entry of a
            dictionary that one returns counts as a value of its sites.

    Raises:
        VarigradError: there are no parts, or one is not callable.
        SiteError: two automatic guides cover one site.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> def model():
        ...     a = vg.sample("a", dist.Normal(0.0, 1.0))
        ...     vg.sample("b", dist.Normal(a, 1.0))
        >>> def my_guide():
        ...     return {"b": vg.sample("b", dist.Normal(vg.param("m", 0.0), 1.0))}
        >>> guide = vg.guides.AutoGuideList(vg.guides.AutoNormal(model, sites="a"), my_guide)
        >>> sorted(guide())
        ['a', 'b']
    """

    def __init__(self, *parts: Program) -> None:
        super().__init__()
        self._parts: list[Callable[..., Any]] = []
        self._checked = False
        self.parts: nn.ModuleList = nn.ModuleList()
        for part in parts:
            self.append(part)
        if not parts:
            raise VarigradError(
                "AutoGuideList has no parts", try_="AutoGuideList(AutoNormal(model, sites='z*'), guide)"
            )

    def append(self, part: Program) -> None:
        """Add a part at the end."""
        if not callable(part):
            raise VarigradError(f"a part of a guide must be a callable program, got {type(part).__name__}")
        self._parts.append(part)
        if isinstance(part, nn.Module):
            self.parts.append(part)
        self._refuse_doubles()

    def forward(self, *args: object, **kwargs: object) -> dict[str, Tensor]:
        """Run every part; returns the values by name, as far as the parts return them."""
        values: dict[str, Tensor] = {}
        for part in self._parts:
            found = part(*args, **kwargs)
            if isinstance(found, dict):
                values.update(found)
        if not self._checked:  # parts may have been built just now
            self._refuse_doubles()
        return values

    def median(self) -> dict[str, Tensor]:
        """The medians of all automatic parts."""
        return {name: value for part in self._automatic() for name, value in part.median().items()}

    def quantiles(self, probabilities: Sequence[float] | Tensor) -> dict[str, Tensor]:
        """The quantiles of all automatic parts."""
        return {name: value for part in self._automatic() for name, value in part.quantiles(probabilities).items()}

    def _automatic(self) -> list[AutoGuide | AutoGuideList]:
        return [p for p in self._parts if isinstance(p, (AutoGuide, AutoGuideList))]

    def _names(self) -> list[str]:
        return [
            name
            for part in self._automatic()
            for name in (part._names() if isinstance(part, AutoGuideList) else [x.name for x in part.latents])
        ]

    def _refuse_doubles(self) -> None:
        names = self._names()
        self._checked = all(part._ready for part in self._automatic() if isinstance(part, AutoGuide))
        for name in names:
            if names.count(name) > 1:
                raise SiteError("is covered by two parts of the guide", site=name, try_="sites=[...] in both")
