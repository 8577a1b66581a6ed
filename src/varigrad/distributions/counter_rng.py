"""Draws computed from random numbers generated beforehand, so that a step can be compiled.

A `Noise` generates a row of normal and a row of uniform numbers for each step, from two separate streams, and every
family's draw becomes plain arithmetic on them. Rows for many steps can be drawn at once: a row is the same whether it
is drawn alone or with others. Functions without such a form (`poisson`, `binomial`, a user's dropout) draw from torch's
global generator, which has this source's state meanwhile.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td
from torch.overrides import TorchFunctionMode

from varigrad._torch_internals import sample_dirichlet, standard_gamma, standard_gamma_grad
from varigrad.distributions import rejection_kernels
from varigrad.distributions.rng import (
    TAKES_GENERATOR,
    GeneratorState,
    Source,
    device_of,
    generator_on,
    global_on,
)
from varigrad.shapes import join

Device = torch.device | str | int | None

Kind = tuple[Any, ...]
"""`("normal", dtype)`, `("uniform", dtype)`, `("subset", size, count)` or `("quasi", points, dims, dtype, normal)`.

The first two name the device as well, last, unless it is the CPU; the others are always drawn there."""

Rows = Mapping[Kind, Tensor]

_UNIT = 16
"""Rows of normals are a multiple of this long: torch makes them sixteen at a time."""

_CHUNK = 4096
"""And rows on a GPU of this: drawn so many at a time, numbers do not depend on how many are wanted."""

_CPU = torch.device("cpu")

OURS = "a function of the rows"

_GLOBAL = threading.RLock()


class Arithmetic(Source):
    """A source whose draws are arithmetic on normal and uniform numbers; subclasses generate those numbers."""

    def draw(
        self, distribution: td.Distribution, *, reparameterised: bool = False, lanes: tuple[int, ...] | None = None
    ) -> Tensor:
        if isinstance(distribution, td.VonMises):
            shape = (3, rejection_kernels.VON_MISES_ROUNDS, *distribution.batch_shape)
            with torch.no_grad():
                loc, kappa = distribution.loc, distribution.concentration
                return rejection_kernels.von_mises(loc, kappa, self.uniform(shape, loc))
        return super().draw(distribution, reparameterised=reparameterised, lanes=lanes)

    def dirichlet(self, concentration: Tensor) -> Tensor:
        # Strictly inside the simplex, as torch's: at its border the density is infinite or zero.
        limits = torch.finfo(concentration.dtype)
        return self.log_gamma(concentration).softmax(-1).clamp(limits.tiny, 1 - limits.eps / 2)

    def log_gamma(self, concentration: Tensor) -> Tensor:
        """Logarithm of a standard Gamma draw, without gradient."""
        alpha, rounds = concentration.detach(), rejection_kernels.GAMMA_ROUNDS
        normal = self.normal((rounds, *alpha.shape), alpha)
        return rejection_kernels.log_gamma(alpha, normal, self.uniform((rounds + 1, *alpha.shape), alpha))

    def by_torch(
        self, function: Callable[..., Tensor], args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> Tensor:
        """Make a draw that has no arithmetic form by a function of torch, from a generator of torch's."""
        raise NotImplementedError(f"torch.{function.__name__} has no functional form")

    def _call(self, draw: Callable[[], Tensor]) -> Tensor:
        with _Functional(self):
            return draw()


class Noise(Arithmetic):
    """A source whose draws are functions of rows of numbers.

    Args:
        seed: of all streams.

    Attributes:
        demand: how many numbers of each kind the draws since `measure` have taken, rounded up.
        overdrawn: whether more was asked for than the row in use had.
        drawn: who made the draws since then, `site -> ` a function of torch with randomness of its own, or `OURS`.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(torch.Generator().manual_seed(seed))
        self.seed: int = seed
        self.overdrawn: bool = False
        self.drawn: dict[str, str] = {}
        self._streams: dict[Kind, torch.Generator] = {}
        self._taken: dict[Kind, int] = {}
        self._left: dict[Kind, Tensor] = {}
        self._rows: Rows | None = None
        self._lent: set[torch.device] = set()

    @property
    def demand(self) -> dict[Kind, int]:
        """Length of the row of each kind that the draws since `measure` have taken."""
        return {kind: -(-n // _unit(kind)) * _unit(kind) for kind, n in self._taken.items()}

    def measure(self) -> None:
        """Take fresh numbers from now on, and count how many."""
        self._rows, self._taken, self._left, self.overdrawn, self.drawn = None, {}, {}, False, {}

    def use(self, rows: Rows) -> None:
        """Take the numbers for one step from these rows, from their beginning."""
        self._rows, self._taken, self._left, self.overdrawn = rows, {}, {}, False

    def rows(self, demand: Mapping[Kind, int], count: int) -> dict[Kind, Tensor]:
        """Draw numbers for `count` steps: `kind -> [count, length]`."""
        return {kind: self._fresh(kind, (count, length)) for kind, length in demand.items()}

    def get_state(self) -> dict[Any, Any]:
        """The state of every stream, and under "global" that of what torch's generators are lent."""
        self._left = {}
        own = {k: g.get_state() for k, g in self._streams.items()}
        return {"global": super().get_state(), "seed": self.seed, **own}

    def set_state(self, state: GeneratorState) -> None:
        """Go back to where `get_state` was called."""
        assert isinstance(state, Mapping)
        super().set_state(state["global"])
        self._streams, self._left = {}, {}
        self.seed = state.get("seed", self.seed)  # of streams that have not begun
        for kind, value in state.items():
            if kind not in ("global", "seed"):
                self._stream(kind).set_state(value)

    @contextmanager
    def lent(self, device: torch.device = _CPU) -> Iterator[None]:
        """Let torch's global generators, the CPU's and that of a GPU, continue this source's own meanwhile."""
        places = [place for place in dict.fromkeys((_CPU, device)) if place not in self._lent]
        pairs: list[tuple[torch.Generator, Any]] = [(global_on(place), self.on(place)) for place in places]
        with _GLOBAL:
            before = [theirs.get_state() for theirs, _ in pairs]
            for theirs, own in pairs:
                theirs.set_state(own.get_state())
            self._lent.update(places)
            try:
                yield
            finally:
                self._lent.difference_update(places)
                for theirs, own in pairs:
                    own.set_state(theirs.get_state())
                for (theirs, _), state in zip(pairs, before, strict=True):
                    theirs.set_state(state)

    def uniform(self, shape: Sequence[int], like: Tensor, degree: int | None = None) -> Tensor:
        return self._take(("uniform", like.dtype, *_device_part(like)), shape)

    def normal(self, shape: Sequence[int], like: Tensor) -> Tensor:
        return self._take(("normal", like.dtype, *_device_part(like)), shape)

    def quasi(self, points: int, dims: int, like: Tensor, normal: bool) -> Tensor:
        return self._take(("quasi", points, dims, like.dtype, normal), (points, dims)).to(like.device)

    def by_torch(
        self, function: Callable[..., Tensor], args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> Tensor:
        self.drawn[self.site] = f"torch.{function.__name__}"
        with self.lent(device_of(args, kwargs)):
            return function(*args, **kwargs)

    def subset(self, size: int, count: int) -> Tensor:
        # A captured step has its rows where its parameters are, and indices have to be there, too.
        return self._take(("subset", size, count), (count,))

    def _take(self, kind: Kind, shape: Sequence[int]) -> Tensor:
        if kind[0] != "subset":  # a plate's
            self.drawn.setdefault(self.site, OURS)
        count = math.prod(shape)
        start = self._taken.get(kind, 0)
        self._taken[kind] = start + count
        row = None if self._rows is None else self._rows.get(kind)
        if row is not None and start + count <= len(row):
            value = row[start : start + count]
        else:
            self.overdrawn = self.overdrawn or self._rows is not None
            value = self._measured(kind, count)
        return value.reshape(tuple(shape))

    def _measured(self, kind: Kind, count: int) -> Tensor:
        """The next numbers of a kind.

        All that are taken since `measure` are together the row that a step will be given.
        """
        unit = _unit(kind)
        if unit == 1:
            return self._fresh(kind, (1, count))[0]
        left = self._left.get(kind)
        missing = count - (0 if left is None else len(left))
        fresh = self._fresh(kind, (1, max(0, -(-missing // unit) * unit)))[0]
        numbers = fresh if left is None else torch.cat([left, fresh])
        self._left[kind] = numbers[count:]
        return numbers[:count]

    def _fresh(self, kind: Kind, shape: tuple[int, int]) -> Tensor:
        generator = self._stream(kind)
        if kind[0] in ("normal", "uniform"):
            draw = torch.randn if kind[0] == "normal" else torch.rand
            like = torch.empty(0, dtype=kind[1], device=_device(kind))
            own: dict[str, Any] = {"generator": generator, "dtype": like.dtype, "device": like.device}
            if like.device == _CPU:
                return draw(shape, **own)
            return torch.cat([like, *(draw(_CHUNK, **own) for _ in range(math.prod(shape) // _CHUNK))]).reshape(shape)
        plain = Source(generator)
        if kind[0] == "quasi":
            _, points, dims, dtype, normal = kind
            like = torch.empty(0, dtype=dtype, device=_CPU)
            rows = [plain.quasi(points, dims, like, normal) for _ in range(shape[0] * shape[1] // (points * dims))]
        else:
            _, size, count = kind
            rows = [plain.subset(size, count) for _ in range(shape[0] * shape[1] // count)]
        return torch.stack(rows).reshape(shape)

    def _stream(self, kind: Kind) -> torch.Generator:
        known = self._streams.get(kind)
        if known is None:
            known = self._streams[kind] = generator_on(_device(kind)).manual_seed(self._seed_of(kind))
        return known

    def _seed_of(self, kind: object) -> int:
        # Another seed for each kind, the same in every process; torch takes its lower half.
        return int.from_bytes(hashlib.sha256(repr((self.seed, kind)).encode()).digest()[:4], "little")


def _device_part(like: Tensor) -> tuple[str, ...]:
    """The part of a kind that names the device."""
    return () if like.device == _CPU else (str(like.device),)


def _device(kind: Kind) -> torch.device:
    named = kind[0] in ("normal", "uniform") and len(kind) > 2
    return torch.device(kind[2]) if named else _CPU


def _unit(kind: Kind) -> int:
    """The number that the length of a row of this kind is a multiple of."""
    if _device(kind) != _CPU:
        return _CHUNK
    return _UNIT if kind[0] == "normal" else 1


class _Functional(TorchFunctionMode):
    """A mode in which torch's random functions become arithmetic on the source, for a family's own `sample`."""

    def __init__(self, source: Arithmetic) -> None:
        super().__init__()
        self.source = source

    def __torch_function__(
        self,
        func: Callable[..., Tensor],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        known = _FUNCTIONAL.get(func)
        if known is not None:
            return known(self.source, *args, **kwargs)
        if func in TAKES_GENERATOR:
            return self.source.by_torch(func, args, kwargs)
        return func(*args, **kwargs)


def _size(args: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(args[0]) if len(args) == 1 and not isinstance(args[0], int) else tuple(args)


def _like(dtype: torch.dtype | None, device: Device) -> Tensor:
    return torch.empty(0, dtype=dtype or torch.get_default_dtype(), device=device)


def _rand(
    source: Arithmetic, *size: int | Sequence[int], dtype: torch.dtype | None = None, device: Device = None, **_: object
) -> Tensor:
    return source.uniform(_size(size), _like(dtype, device))


def _randn(
    source: Arithmetic, *size: int | Sequence[int], dtype: torch.dtype | None = None, device: Device = None, **_: object
) -> Tensor:
    return source.normal(_size(size), _like(dtype, device))


def _normal(
    source: Arithmetic, mean: Tensor | float, std: Tensor | float = 1.0, size: Sequence[int] | None = None, **_: object
) -> Tensor:
    like = next((x for x in (mean, std) if isinstance(x, Tensor)), torch.empty(0))
    shape = tuple(size) if size is not None else join(*[getattr(x, "shape", ()) for x in (mean, std)])
    return mean + std * source.normal(shape, like)


def _filled(by: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make an in-place draw of a function that maps uniform numbers to values."""

    def fill(source: Arithmetic, target: Tensor, *args: float, generator: object = None, **kwargs: float) -> Tensor:
        return target.copy_(by(source.uniform(target.shape, target), *args, **kwargs))

    return fill


def _between(u: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    # Never below `low`, by rounding, for those who pass the smallest positive number and take a logarithm.
    return (low + (high - low) * u).clamp_min(low)


def _exponential(u: Tensor, rate: float = 1.0) -> Tensor:
    # Never zero, as torch's: a root of it has to have a derivative.
    return -torch.log1p(-u.clamp_min(torch.finfo(u.dtype).eps / 4)) / rate


def _bernoulli(source: Arithmetic, probs: Tensor, **_: object) -> Tensor:
    return source.bernoulli(probs)


def _multinomial(source: Arithmetic, probs: Tensor, count: int, replacement: bool = False, **_: object) -> Tensor:
    if not replacement and count > 1:
        raise NotImplementedError("multinomial without replacement")
    return source.index(probs.unsqueeze(-2).expand(*probs.shape[:-1], count, probs.shape[-1]))


def _standard_gamma(source: Arithmetic, concentration: Tensor, **_: object) -> Tensor:
    with torch.no_grad():
        value = source.log_gamma(concentration).exp().clamp_min(torch.finfo(concentration.dtype).tiny)
    if not (torch.is_grad_enabled() and concentration.requires_grad):
        return value
    # Implicit reparameterisation: the value as it is, the derivative that keeps its quantile.
    slope = standard_gamma_grad(concentration.detach(), value)
    return value + slope * (concentration - concentration.detach())


def _dirichlet(source: Arithmetic, concentration: Tensor, **_: object) -> Tensor:
    return source.dirichlet(concentration)


def _one_hot(source: Arithmetic, index: Tensor, num_classes: int = -1) -> Tensor:
    return (index.unsqueeze(-1) == torch.arange(num_classes, device=index.device)).to(torch.int64)


_FUNCTIONAL: Mapping[Callable[..., object], Callable[..., Tensor]] = {
    torch.rand: _rand,
    torch.randn: _randn,
    torch.rand_like: lambda source, like, **_: source.uniform(like.shape, like),
    torch.randn_like: lambda source, like, **_: source.normal(like.shape, like),
    torch.normal: _normal,
    torch.bernoulli: _bernoulli,
    torch.multinomial: _multinomial,
    standard_gamma: _standard_gamma,
    sample_dirichlet: _dirichlet,
    torch.nn.functional.one_hot: _one_hot,
    Tensor.uniform_: _filled(_between),
    Tensor.exponential_: _filled(_exponential),
    Tensor.cauchy_: _filled(lambda u, median=0.0, sigma=1.0: median + sigma * (math.pi * (u - 0.5)).tan()),
    Tensor.geometric_: _filled(lambda u, p: (torch.log1p(-u) / math.log1p(-p)).ceil().clamp_min(1)),
    Tensor.normal_: lambda source, target, mean=0.0, std=1.0, **_: target.copy_(
        mean + std * source.normal(target.shape, target)
    ),
    Tensor.log_normal_: lambda source, target, mean=1.0, std=2.0, **_: target.copy_(
        (mean + std * source.normal(target.shape, target)).exp()
    ),
}
