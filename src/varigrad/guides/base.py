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

from varigrad.errors import ConstraintError, PlateError, ShapeError, SiteError
from varigrad.language import handlers
from varigrad.language.messages import Indices, Plate, Program, Sample
from varigrad.language.plates import plate
from varigrad.language.primitives import sample, subsample
from varigrad.language.runtime import takes_no_arguments
from varigrad.language.trace import Trace


@dataclass(frozen=True)
class Frame:
    """A plate of the model, to be entered again."""

    name: str
    size: int
    dim: int
    subsample_size: int | None


@dataclass(frozen=True, eq=False)
class Latent:
    """A latent site.

    Attributes:
        frames: its plates, outermost first.
        event_dim: how many event dimensions its values have.
        free_dim: how many its unconstrained values have.
        transform: from unconstrained values to its support.
        mask: where it counts at all; None for everywhere.
    """

    name: str
    frames: tuple[Frame, ...]
    event_dim: int
    free_dim: int
    transform: td.Transform
    mask: Tensor | None = None


class AutoGuide(nn.Module):
    """A guide with one independent distribution for each latent site of a model.

    Args:
        model: the model; its latent sites must be continuous.
        args, kwargs: what to call it with to find its sites; a model without arguments needs none. Left out
            otherwise, the guide is built when it is first called.
        init: maps a site's name and a stack of prior draws, `[draws, *site]`, to a starting value `[*site]`; default:
            the median, of unconstrained values.
        plates: function of the model's arguments that returns plates to use, for a model that passes `subsample=`.

    Raises:
        SiteError: a latent site is discrete or not always there, or the model has none.
        PlateError: a latent site's plate has no size, or a minibatch that only the model knows.
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
        if args or kwargs or takes_no_arguments(model):
            self.setup(*args, **kwargs)

    @property
    def latents(self) -> tuple[Latent, ...]:
        """The sites it covers."""
        return tuple(self._latents)

    def setup(self, *args: Any, **kwargs: Any) -> None:
        """Run the model a few times, always on the same random numbers, and make the parameters."""
        with torch.no_grad(), handlers.block(), handlers.seed(seed=0):
            traces = [handlers.trace(self._model[0])(*args, **kwargs) for _ in range(self.draws_for_init)]
            for name in traces[0].latents:
                latent = self._latent(name, traces)
                draws = torch.stack([_full(t[name].value, latent) for t in traces])
                self._latents.append(latent)
                self.make(latent, self._start(latent, draws))
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
                if latent.mask is not None:
                    stack.enter_context(handlers.mask(mask=latent.mask))
                values[latent.name] = sample(latent.name, self.distribution(latent))
        return values

    @abstractmethod
    def make(self, latent: Latent, start: Tensor) -> None:
        """Create the parameters of one site; `start` is unconstrained and full-size, `[*plates, *free]`."""

    @abstractmethod
    def distribution(self, latent: Latent) -> td.Distribution:
        """The site's distribution for this run, cut down to the minibatch."""

    def parameter(self, kind: str, latent: Latent) -> Tensor:
        """A site's parameter, cut down to the minibatches of the plates in force."""
        value = getattr(self._modules[kind], _key(latent.name))
        cut = self._plates is not None or any(f.subsample_size is not None for f in latent.frames)
        return subsample(value, latent.free_dim) if cut else value

    def store(self, kind: str, latent: Latent, value: Tensor) -> None:
        """Make `value` a parameter of the site."""
        if kind not in self._modules:
            self.add_module(kind, nn.ParameterDict())
        parameters = self._modules[kind]
        assert isinstance(parameters, nn.ParameterDict)
        parameters[_key(latent.name)] = nn.Parameter(value.detach().clone().contiguous())

    def _latent(self, name: str, traces: list[Trace]) -> Latent:
        message = traces[0][name]
        if any(name not in t.latents for t in traces) or any(
            t.latents.keys() - traces[0].latents.keys() for t in traces
        ):
            others = {n for t in traces for n in t.latents if any(n not in u.latents for u in traces)}
            raise SiteError(
                "is a latent site in some runs of the model and not in others",
                site=min(others),
                because=f"{type(self).__name__} has a fixed set of parameters",
                try_="a guide of your own",
            )
        transform = self._transform(message)
        event = len(message.distribution.event_shape)
        free = event - transform.codomain.event_dim + transform.domain.event_dim
        plates = [p for p in message.plates if p.dim is not None]
        known = {n for n, m in traces[0].items() if isinstance(m, Indices)}
        frames = tuple(_frame(p, message, p.name in known or self._plates is not None) for p in plates)
        return Latent(name, frames, event, free, transform, _mask(message, plates))

    def _start(self, latent: Latent, draws: Tensor) -> Tensor:
        """The unconstrained value to start from."""
        if self._init is None:
            free = latent.transform.inv(draws)
            if not is_identity(latent.transform):
                # A draw on the edge of the support (a Gamma's that rounds to nought) is infinitely far out.
                free = free.nan_to_num(0.0, 50.0, -50.0).clamp(-50, 50)
            return free.median(0).values
        value = self._init(latent.name, draws)
        if value.shape != draws.shape[1:]:
            raise ShapeError(
                f"init gives shape {tuple(value.shape)}, the site has {tuple(draws.shape[1:])}", site=latent.name
            )
        free = latent.transform.inv(value)
        if not bool(free.isfinite().all()):
            raise ConstraintError("init gives a value outside the support, or on its edge", site=latent.name)
        return free

    def _transform(self, message: Sample) -> td.Transform:
        support: Any = message.distribution.support
        if getattr(support, "is_discrete", False):
            raise SiteError(
                f"{type(self).__name__} has no distribution for a discrete site",
                site=message.name,
                because=f"it is a {type(message.distribution).__name__}",
                try_="a guide of your own for it, with LeaveOneOut(4) or Enumerate()",
            )
        while True:
            try:
                return td.biject_to(support)
            except NotImplementedError as error:
                if not hasattr(support, "base_constraint"):
                    raise SiteError(
                        f"{type(self).__name__} knows no map to its support, {support}",
                        site=message.name,
                        try_="a guide of your own for it",
                    ) from error
                support = support.base_constraint


def is_identity(transform: td.Transform) -> bool:
    """Whether it does nothing, whatever it is wrapped in."""
    if isinstance(transform, td.IndependentTransform):
        return is_identity(transform.base_transform)
    return isinstance(transform, td.ComposeTransform) and not transform.parts


def _key(name: str) -> str:
    return name.replace(".", "__")


def _frame(found: Plate, message: Sample, minibatch_known: bool) -> Frame:
    if found.size is None:
        raise PlateError(
            "has no size", site=found.name, because=f"site {message.name!r} needs one parameter per element"
        )
    if found.subsample is not None and not minibatch_known:
        raise PlateError(
            "is given its minibatch by the model (subsample=), which the guide cannot see",
            site=found.name,
            because=f"site {message.name!r} has parameters for each element",
            try_=f"plates=lambda *args: vg.plate({found.name!r}, size, subsample=indices), made of the same arguments",
        )
    assert found.dim is not None
    return Frame(found.name, found.size, found.dim, None if found.subsample is None else len(found.subsample))


def _mask(message: Sample, plates: list[Plate]) -> Tensor | None:
    """Where the model masks a site its guide must too: what has no prior would spread without end."""
    mask = message.mask
    if mask is None or bool(mask.all()):
        return None
    if any(
        p.subsample is not None and p.dim is not None and mask.dim() >= -p.dim and mask.shape[p.dim] > 1 for p in plates
    ):
        raise SiteError(
            "is masked, element by element, in a subsampled plate",
            site=message.name,
            because="the mask of the next minibatch is not known",
            try_="a guide of your own for it",
        )
    return mask


def _full(value: Tensor, latent: Latent) -> Tensor:
    """A draw in the full size of its plates: a minibatch's mean stands for those that were not drawn."""
    for frame in latent.frames:
        dim = frame.dim - latent.event_dim
        if frame.subsample_size is not None and value.shape[dim] != frame.size:
            shape = list(value.shape)
            shape[dim] = frame.size
            value = value.mean(dim, keepdim=True).expand(shape)
    return value
