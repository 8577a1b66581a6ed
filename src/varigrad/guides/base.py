"""`AutoGuide`, the interface of automatic guides: finds a model's latent sites and plates from one run of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial

import torch
from torch import Tensor, nn
from torch import distributions as td

from varigrad.distributions.finite_support import count_of, inner_of
from varigrad.distributions.unconstrained import unconstrained
from varigrad.errors import ConstraintError, PlateError, ShapeError, SiteError
from varigrad.guides.init_strategies import Init, init_to_median
from varigrad.language import handlers
from varigrad.language.messages import Indices, Names, Plate, Program, Sample
from varigrad.language.plates import plate
from varigrad.language.runtime import lasting, takes_no_arguments
from varigrad.language.trace import Trace


@dataclass(frozen=True)
class Frame:
    """A plate of the model, which the guide enters again."""

    name: str
    size: int
    dim: int
    subsample_size: int | None


@dataclass(frozen=True, eq=False)
class Latent:
    """A latent site of the model, with its plates, shapes and transform.

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


_NOWHERE = nullcontext()

Inside = Callable[[Latent], AbstractContextManager[object]]
"""The plates (and the mask) of a latent site."""


class AutoGuide(nn.Module):
    """Interface of guides that are built from a model.

    Args:
        model: the model; its latent sites must be continuous. Discrete ones with finitely many values are left to
            `ELBO(marginal=...)`.
        args, kwargs: what to call it with to find its sites; a model without arguments needs none. Left out
            otherwise, the guide is built when it is first called.
        init: where to start: `init_to_median` and its like in `varigrad.guides`, or a function of the site's message
            and a stack of prior draws, `[draws, *site]`, that returns a value `[*site]`.
        sites: names (globs) of the latent sites to cover; default: all. `AutoGuideList` joins guides for the others.
        plates: function of the model's arguments that returns plates to use, for a model that passes `subsample=`.

    Raises:
        SiteError: a latent site is discrete and has infinitely many values, is not always there, or there is none.
        PlateError: a latent site's plate has no size, or a minibatch that only the model chooses.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> def model():
        ...     with vg.plate("data", 3):
        ...         rate = vg.sample("rate", dist.Gamma(2.0, 1.0))
        ...         vg.sample("x", dist.Poisson(rate), obs=torch.tensor([1.0, 0.0, 4.0]))
        >>> guide = vg.guides.AutoNormal(model)
        >>> isinstance(guide, vg.guides.AutoGuide), sorted(guide())
        (True, ['rate'])
    """

    draws_for_init = 16

    def __init__(
        self,
        model: Program,
        *args: object,
        init: Init = init_to_median,
        sites: str | Names | None = None,
        plates: Callable[..., plate | Sequence[plate]] | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple: the model's parameters are not the guide's
        self._init = init
        self._patterns = None if sites is None else (sites,) if isinstance(sites, str) else tuple(sites)
        self._plates = plates
        self._latents: list[Latent] = []
        self._ready = False
        if args or kwargs or takes_no_arguments(model):
            self.setup(*args, **kwargs)

    @property
    def kind(self) -> str:
        """The name that errors give the guide."""
        return type(self).__name__

    @property
    def latents(self) -> tuple[Latent, ...]:
        """The sites that the guide covers."""
        return tuple(self._latents)

    def setup(self, *args: object, **kwargs: object) -> None:
        """Run the model a few times, always on the same random numbers, and make the parameters."""
        starts = []
        with torch.no_grad(), handlers.block(), self.randomness():
            traces = [handlers.trace(self._model[0])(*args, **kwargs) for _ in range(self.draws_for_init)]
            covered = [name for name in traces[0].latents if self._covers(name)]
            for name in self._without_finite(covered, traces[0]):
                latent = self._latent(name, traces)
                draws = torch.stack([_full(t.latents[name], latent) for t in traces])
                starts.append((latent, self._start(latent, traces[0].samples[name], draws)))
        if not starts:
            self.without_sites()
        self._latents = [latent for latent, _ in starts]
        self.make(starts)
        self._ready = True

    def without_sites(self) -> None:
        """Answer a model without a site to cover.

        Raises:
            SiteError: always, unless a guide has nothing against it.
        """
        raise SiteError(
            "the model has no latent sites" + (f" that match {self._patterns}" if self._patterns else ""),
            try_="sample(name, distribution) without obs=",
        )

    def randomness(self) -> AbstractContextManager[object]:
        """A context that gives the draws of `setup` their random numbers."""
        context: AbstractContextManager[object] = handlers.seed(seed=0)
        return context

    def knows_minibatch(self, plate: Plate, trace: Trace) -> bool:
        """Whether the guide, entering a plate of the model anew, has the model's minibatch."""
        return self._plates is not None or isinstance(trace.get(plate.name), Indices)

    def forward(self, *args: object, **kwargs: object) -> dict[str, Tensor]:
        """Sample every site; returns the values by name."""
        if not self._ready:
            with lasting():
                self.setup(*args, **kwargs)
        entered: dict[str, plate] = {}
        if self._plates is not None:
            made = self._plates(*args, **kwargs)
            entered = {p.name: p for p in (made if isinstance(made, (tuple, list)) else (made,))}
        return self.draw(partial(self._inside, entered))

    def median(self) -> dict[str, Tensor]:
        """The median of every site, full-size, `[*plates, *event]`: that of each unconstrained coordinate, pushed to
        the support.
        """
        with torch.no_grad():
            return {latent.name: latent.transform(loc) for latent, loc, _ in self._marginals()}

    def quantiles(self, probabilities: Sequence[float] | Tensor) -> dict[str, Tensor]:
        """Quantiles of every site, full-size, `[probabilities, *plates, *event]`.

        They are those of each unconstrained coordinate, pushed to the support: of each element, where the support is
        one of elements; of no single number, where it is one of vectors (a simplex).
        """
        p = torch.as_tensor(probabilities, dtype=torch.float64)
        if p.dim() > 1 or bool(((p <= 0) | (p >= 1)).any()):
            raise SiteError(f"probabilities must be numbers between 0 and 1, got {probabilities!r}")
        found = {}
        with torch.no_grad():
            for latent, loc, scale in self._marginals():
                z = torch.special.ndtri(p).to(loc) * _direction(latent.transform)
                found[latent.name] = latent.transform(loc + scale * z.reshape(z.shape + (1,) * loc.dim()))
        return found

    @abstractmethod
    def make(self, starts: Sequence[tuple[Latent, Tensor]]) -> None:
        """Create the parameters; what the sites start from is unconstrained and full-size, `[*plates, *free]`."""

    @abstractmethod
    def draw(self, inside: Inside) -> dict[str, Tensor]:
        """Sample every site, each inside its plates."""

    @abstractmethod
    def marginal(self, latent: Latent) -> tuple[Tensor, Tensor]:
        """Location and standard deviation of a site's unconstrained values, full-size, `[*plates, *free]`."""

    def _marginals(self) -> Iterator[tuple[Latent, Tensor, Tensor]]:
        if not self._ready:
            raise SiteError(
                "the guide has not been built yet",
                because="its model takes arguments, and it has not been called",
                try_=f"{self.kind}(model, *args)",
            )
        for latent in self._latents:
            yield (latent, *self.marginal(latent))

    def _inside(self, entered: dict[str, plate], latent: Latent) -> AbstractContextManager[object]:
        return self._plated(entered, latent) if latent.frames or latent.mask is not None else _NOWHERE

    @contextmanager
    def _plated(self, entered: dict[str, plate], latent: Latent) -> Iterator[None]:
        with ExitStack() as stack:
            for frame in latent.frames:
                if frame.name not in entered:
                    entered[frame.name] = plate(frame.name, frame.size, frame.subsample_size, dim=frame.dim)
                stack.enter_context(entered[frame.name])
            if latent.mask is not None:
                stack.enter_context(handlers.mask(mask=latent.mask))
            yield

    def _covers(self, name: str) -> bool:
        return self._patterns is None or any(fnmatchcase(name, pattern) for pattern in self._patterns)

    def _without_finite(self, names: list[str], trace: Trace) -> list[str]:
        """The sites without those that the objective can sum out, unless the user has named them."""
        if self._patterns is not None:
            return names
        kept = [name for name in names if count_of(inner_of(trace.samples[name].distribution)[0]) is None]
        return kept or names

    def _latent(self, name: str, traces: list[Trace]) -> Latent:
        message = traces[0].samples[name]
        if any(name not in t.latents for t in traces) or any(
            t.latents.keys() - traces[0].latents.keys() for t in traces
        ):
            others = {n for t in traces for n in t.latents if any(n not in u.latents for u in traces)}
            raise SiteError(
                "is a latent site in some runs of the model and not in others",
                site=min(others),
                because=f"{self.kind} has a fixed set of parameters",
                try_="a guide of your own",
            )
        transform = self._transform(message)
        event = len(message.distribution.event_shape)
        free = event - transform.codomain.event_dim + transform.domain.event_dim
        plates = [p for p in message.plates if p.dim is not None]
        frames = tuple(_frame(p, message, self.knows_minibatch(p, traces[0])) for p in plates)
        return Latent(name, frames, event, free, transform, _mask(message, plates))

    def _start(self, latent: Latent, message: Sample, draws: Tensor) -> Tensor:
        """The unconstrained value to start from."""
        value = self._init(message, draws)
        if value.shape != draws.shape[1:]:
            raise ShapeError(
                f"init gives shape {tuple(value.shape)}, the site has {tuple(draws.shape[1:])}", site=latent.name
            )
        free: Tensor = latent.transform.inv(value)
        if not bool(free.isfinite().all()):
            raise ConstraintError("init gives a value outside the support, or on its edge", site=latent.name)
        return free

    def _transform(self, message: Sample) -> td.Transform:
        support = message.distribution.support
        if getattr(support, "is_discrete", False):
            raise SiteError(
                f"{self.kind} has no distribution for a discrete site",
                site=message.name,
                because=f"it is a {type(message.distribution).__name__}",
                try_="a guide of your own for it, with LeaveOneOut(4) or Enumerate(), and AutoGuideList to join them",
            )
        try:
            return unconstrained(support)
        except NotImplementedError as error:
            raise SiteError(
                f"{self.kind} knows no map to its support, {support}",
                site=message.name,
                try_="a guide of your own for it",
            ) from error


def _direction(transform: td.Transform) -> int:
    """-1 where larger unconstrained values are smaller ones of the support, else 1."""
    if transform.domain.event_dim:
        return 1
    while isinstance(transform, td.IndependentTransform):
        transform = transform.base_transform
    try:
        sign = transform.sign
    except NotImplementedError:
        return 1
    return -1 if not isinstance(sign, Tensor) and sign < 0 else 1


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
    """The mask of a site in the model, which its guide must have too.

    A value that has no prior would spread without end.
    """
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
