"""What automatic guides share: they learn a model's latent sites and plates from one run of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributions as td

from varigrad.errors import PlateError, SiteError
from varigrad.language import handlers
from varigrad.language.messages import Program, Sample
from varigrad.language.plates import plate
from varigrad.language.primitives import sample, subsample


@dataclass(frozen=True)
class Frame:
    """A plate of the model, to be entered again."""

    name: str
    size: int
    dim: int
    subsample_size: int | None


@dataclass(frozen=True)
class Latent:
    """A latent site: its plates, outermost first, and how many event dimensions its values have."""

    name: str
    frames: tuple[Frame, ...]
    event_dim: int


class AutoGuide(nn.Module):
    """A guide with one independent distribution for each latent site of a model.

    Args:
        model: the model; its latent sites must be continuous.
        args, kwargs: what to call it with to find its sites; a model without arguments needs none. Left out
            otherwise, the guide is built when it is first called.
        init: maps a site's name and a stack of prior draws, `[draws, *site]`, to a starting value `[*site]`; default:
            the median.
        plates: function of the model's arguments that returns plates to use, for a model that passes `subsample=`.

    Raises:
        SiteError: a latent site is discrete, or the model has none.
    """

    draws_for_init = 16

    def __init__(
        self,
        model: Program,
        *args: Any,
        init: Callable[[str, Tensor], Tensor] | None = None,
        plates: Callable[..., Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple: the model's parameters are not the guide's
        self._init = init
        self._plates = plates
        self._latents: list[Latent] = []
        self._ready = False
        if args or kwargs:
            self.setup(*args, **kwargs)

    @property
    def latents(self) -> tuple[Latent, ...]:
        """The sites it covers."""
        return tuple(self._latents)

    def setup(self, *args: Any, **kwargs: Any) -> None:
        """Run the model a few times and make the parameters."""
        with torch.no_grad(), handlers.block():
            traces = [handlers.trace(self._model[0])(*args, **kwargs) for _ in range(self.draws_for_init)]
            for name, message in traces[0].samples.items():
                if message.observed:
                    continue
                self._check(message)
                frames = tuple(_frame(p, message) for p in message.plates if p.dim is not None)
                latent = Latent(name, frames, len(message.distribution.event_shape))
                draws = torch.stack([_full(t[name].value, latent) for t in traces])
                start = draws.median(0).values if self._init is None else self._init(name, draws)
                self._latents.append(latent)
                self.make(latent, message.distribution, start)
        if not self._latents:
            raise SiteError("the model has no latent sites", try_="sample(name, distribution) without obs=")
        self._ready = True

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Sample every site; returns the values by name."""
        if not self._ready:
            self.setup(*args, **kwargs)
        given = {}
        if self._plates is not None:
            made = self._plates(*args, **kwargs)
            given = {p.name: p for p in (made if isinstance(made, (tuple, list)) else (made,))}
        values = {}
        entered: dict[str, plate] = dict(given)
        for latent in self._latents:
            with ExitStack() as stack:
                for frame in latent.frames:
                    if frame.name not in entered:
                        entered[frame.name] = plate(frame.name, frame.size, frame.subsample_size, dim=frame.dim)
                    stack.enter_context(entered[frame.name])
                values[latent.name] = sample(latent.name, self.distribution(latent))
        return values

    @abstractmethod
    def make(self, latent: Latent, prior: td.Distribution, start: Tensor) -> None:
        """Create the parameters of one site; `start` is full-size, `[*plates, *event]`."""

    @abstractmethod
    def distribution(self, latent: Latent) -> td.Distribution:
        """The site's distribution for this run, cut down to the minibatch."""

    def parameter(self, kind: str, latent: Latent) -> Tensor:
        """A site's parameter, cut down to the minibatches of the plates in force."""
        value = self.get_submodule(kind).get_parameter(_key(latent.name))
        return subsample(value, latent.event_dim)

    def store(self, kind: str, latent: Latent, value: Tensor) -> None:
        """Make `value` a parameter of the site."""
        if kind not in self._modules:
            self.add_module(kind, nn.ParameterDict())
        parameters = self._modules[kind]
        assert isinstance(parameters, nn.ParameterDict)
        parameters[_key(latent.name)] = nn.Parameter(value.detach().clone().contiguous())

    def _check(self, message: Sample) -> None:
        if message.distribution.support is not None and getattr(message.distribution.support, "is_discrete", False):
            raise SiteError(
                f"{type(self).__name__} has no distribution for a discrete site",
                site=message.name,
                because=f"it is a {type(message.distribution).__name__}",
                try_="a guide of your own for it, with LeaveOneOut(4) or Enumerate()",
            )


def _key(name: str) -> str:
    return name.replace(".", "__")


def _frame(found: Any, message: Sample) -> Frame:
    if found.size is None:
        raise PlateError(
            "has no size", site=found.name, because=f"site {message.name!r} needs one parameter per element"
        )
    return Frame(found.name, found.size, found.dim, None if found.subsample is None else len(found.subsample))


def _full(value: Tensor, latent: Latent) -> Tensor:
    """A draw in the full size of its plates: a minibatch's mean stands for those that were not drawn."""
    for frame in latent.frames:
        dim = frame.dim - latent.event_dim
        if frame.subsample_size is not None and value.shape[dim] != frame.size:
            shape = list(value.shape)
            shape[dim] = frame.size
            value = value.mean(dim, keepdim=True).expand(shape)
    return value
