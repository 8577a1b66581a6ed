"""`AutoGuideList`: a guide that combines several guides."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from varigrad.compat.pyro.infer.autoguide.base import AutoGuide, ModelGuide
from varigrad.compat.pyro.nn.module import PyroModuleList
from varigrad.errors import SiteError
from varigrad.language.messages import Program


class AutoCallable(AutoGuide):
    """A user's program as a part of an `AutoGuideList`.

    Args:
        model: the model.
        guide: the program; what it returns, if a dictionary, counts as values of sites.
        median: a function of the model's arguments that returns medians by site.
    """

    def __init__(
        self, model: Program, guide: Program, median: Callable[..., dict[str, Tensor]] = lambda *args, **kwargs: {}
    ) -> None:
        super().__init__(model)
        self._guide = guide
        self.__dict__["median"] = median

    def forward(self, *args: object, **kwargs: object) -> dict[str, Tensor]:
        """Run the part and return its values by name."""
        result = self._guide(*args, **kwargs)
        return result if isinstance(result, dict) else {}


class AutoGuideList(AutoGuide, PyroModuleList):
    """Several guides, one after the other: `guide.append(AutoDelta(poutine.block(model, expose=[...])))`.

    Args:
        model: the model.
    """

    def __init__(self, model: Program, *, create_plates: Program | None = None) -> None:
        PyroModuleList.__init__(self)
        self._belong(model, create_plates)

    def append(self, part: Program) -> None:  # type: ignore[override]
        """Add a guide, or a user's program, at the end."""
        super().append(part if isinstance(part, AutoGuide) else AutoCallable(self.model, part))

    def add(self, part: Program) -> None:
        """`append`, under an older name."""
        self.append(part)

    def forward(self, *args: object, **kwargs: object) -> dict[str, Tensor]:
        """Run every part; returns the values by name.

        Raises:
            SiteError: two parts have values for one site.
        """
        values: dict[str, Tensor] = {}
        for part in self:
            found = part(*args, **kwargs)
            for name in found.keys() & values.keys():
                raise SiteError("is covered by two parts of the guide", site=name)
            values.update(found)
        return values

    def median(self, *args: object, **kwargs: object) -> dict[str, Tensor]:
        """The medians of all parts."""
        return {name: value for part in self._parts() for name, value in part.median(*args, **kwargs).items()}

    def quantiles(self, quantiles: Sequence[float] | Tensor, *args: object, **kwargs: object) -> dict[str, Tensor]:
        """The quantiles of all parts."""
        return {
            name: value for part in self._parts() for name, value in part.quantiles(quantiles, *args, **kwargs).items()
        }

    def _parts(self) -> list[ModelGuide]:
        return list(self)  # type: ignore[arg-type] # a list of modules, all of them guides
