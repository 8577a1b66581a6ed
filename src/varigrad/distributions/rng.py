"""`Source`: the source of all randomness of a run, with a generator that is separate from torch's global one.

Two threads, two runs or two processes with the same seed get the same numbers, because no draw uses torch's
process-wide generator unless the source has no generator. `Outcomes` (`gradients/outcomes.py`) is a source that
enumerates outcomes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, SupportsIndex

import torch
from torch import Tensor
from torch import distributions as td
from torch.overrides import TorchFunctionMode
from torch.quasirandom import SobolEngine

from varigrad._torch_internals import bartlett_sample, dirichlet_of_beta, sample_dirichlet, standard_gamma
from varigrad.distributions import continuous_bernoulli, families
from varigrad.distributions.fresh_copies import fresh
from varigrad.errors import VarigradError

_SEEDS = range(-(2**63), 2**64)
"""What torch's generators take."""


def check_seed(seed: object) -> None:
    """Check that a seed is None or a whole number that a generator takes.

    Raises:
        VarigradError: it is not.
    """
    whole = seed is None or (isinstance(seed, SupportsIndex) and not isinstance(seed, (bool, torch.Tensor)))
    if not whole or (isinstance(seed, SupportsIndex) and int(seed) not in _SEEDS):
        raise VarigradError(f"seed must be a whole number (of at most 64 bits) or None, got {seed!r}", try_="seed=0")


GlobalState = Tensor | tuple[Tensor, ...]
"""The state of torch's generator on the CPU, or those of it and of the GPUs' generators."""

GeneratorState = GlobalState | Mapping[Any, Any]
"""What `Source.get_state` returns, for `set_state`."""


class Source:
    """Draws from distributions with one generator; on other devices, with generators that are seeded from it.

    Args:
        generator: the generator to draw from; None means torch's global ones.

    Attributes:
        site: whose draws these are, for sources that keep a record.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> source = dist.Source(torch.Generator().manual_seed(0))
        >>> source.draw(dist.Normal(torch.zeros(3), 1.0)).shape
        torch.Size([3])
    """

    site = ""

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator
        self._elsewhere: dict[str, torch.Generator] = {}

    def on(self, device: torch.device) -> torch.Generator | None:
        """The generator that draws on a device, made when it is first needed; None for torch's global one there."""
        if self.generator is None or self.generator.device == device:
            return self.generator
        known = self._elsewhere.get(str(device))
        if known is None:
            known = self._elsewhere[str(device)] = generator_on(device).manual_seed(self._seed_of(device))
        return known

    def draw(
        self, distribution: td.Distribution, *, reparameterised: bool = False, lanes: tuple[int, ...] | None = None
    ) -> Tensor:
        """One value, `[*batch, *event]`; carries gradients only if `reparameterised`.

        Args:
            lanes: a promise that only these entries of the leading dimension will be used (a source that enumerates
                outcomes then leaves out the others).
        """
        short = _shortcut(type(distribution))  # type: ignore[arg-type]
        if short is not None:
            if reparameterised:
                if short in _REPARAMETERISED:
                    return short(self, distribution)
            else:
                with torch.no_grad():
                    return short(self, distribution)
        if reparameterised:
            if isinstance(distribution, td.Independent):
                return self.draw(distribution.base_dist, reparameterised=True)
            if isinstance(distribution, td.TransformedDistribution) and _is_torchs_continuous_bernoulli(distribution):
                value = self.draw(distribution.base_dist, reparameterised=True)
                for transform in distribution.transforms:
                    value = transform(value)
                return value
            return self._call(distribution.rsample)
        with torch.no_grad():
            if isinstance(distribution, td.Independent):
                return self.draw(distribution.base_dist)
            # From a copy, or what is computed here without gradients would answer when the density is asked for.
            return self._call(fresh(distribution).sample)

    def get_state(self) -> GeneratorState:
        """The state of the generators: one tensor, or `{"root": state, device: state}`."""
        if self.generator is None:
            return global_state()
        root = self.generator.get_state()
        return {"root": root, **{d: g.get_state() for d, g in self._elsewhere.items()}} if self._elsewhere else root

    def set_state(self, state: GeneratorState) -> None:
        """Go back to where `get_state` was called."""
        if self.generator is None:
            assert not isinstance(state, Mapping)
            set_global_state(state)
            return
        states: dict[str, Any] = dict(state) if isinstance(state, Mapping) else {"root": state}
        self.generator.set_state(states.pop("root"))
        # One that came into being since will do so again, with the same seed.
        self._elsewhere = {device: generator_on(device) for device in states}
        for device, own in states.items():
            self._elsewhere[device].set_state(own)

    def fresh_seed(self) -> int:
        """A seed for another source, drawn from this one."""
        device = _CPU if self.generator is None else self.generator.device
        return int(torch.randint(2**62, (), generator=self.generator, device=device).item())

    def _seed_of(self, device: torch.device) -> int:
        """A seed for the generator of another device."""
        return self.fresh_seed()

    def uniform(self, shape: Sequence[int], like: Tensor, degree: int | None = None) -> Tensor:
        """Numbers in [0, 1), of the given shape, in the dtype and on the device of `like`.

        Args:
            degree: a promise that the gradient is a polynomial of at most this degree in each of them (a source that
                enumerates outcomes then needs no more than a few nodes for its exact mean and variance).
        """
        return torch.rand(shape, generator=self.on(like.device), dtype=like.dtype, device=like.device)

    def normal(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Standard normal numbers, of the given shape, in the dtype and on the device of `like`."""
        return torch.randn(shape, generator=self.on(like.device), dtype=like.dtype, device=like.device)

    def quasi(self, points: int, dims: int, like: Tensor, normal: bool) -> Tensor:
        """Scrambled Sobol points, `[points, dims]`, in the dtype and on the device of `like`.

        Each by itself is uniform in the unit cube (or standard normal), and together they lie more evenly than
        independent ones. They are scrambled anew each time. Groups of 21201 dimensions are independent of each other.
        """
        numbers = torch.cat([_sobol(points, part, self.on(_CPU)) for part in _divided(dims, SobolEngine.MAXDIM)], -1)
        numbers = torch.special.ndtri(numbers) if normal else numbers
        return numbers.to(like)

    def dirichlet(self, concentration: Tensor) -> Tensor:
        """A draw that carries no gradient, `[*batch, categories]`."""
        return sample_dirichlet(concentration, generator=self.on(concentration.device))

    def bernoulli(self, probs: Tensor, shape: torch.Size | None = None) -> Tensor:
        """Zeros and ones with the given probabilities, in their dtype. Several times faster than `torch.bernoulli`."""
        shape = probs.shape if shape is None else shape
        return (self.uniform(shape, probs) < probs).to(probs.dtype)

    def index(self, probs: Tensor, shape: torch.Size | None = None) -> Tensor:
        """Category numbers by inverse CDF, `[*batch]` (or `shape`) from `[*batch, categories]`."""
        shape = probs.shape[:-1] if shape is None else shape
        cdf = probs.cumsum(-1)
        uniform = self.uniform(shape, probs)
        # Scaled by the last entry, so that rounding in the sum can never select a category past the end, and the
        # strict comparison never one of probability zero at the beginning.
        return (cdf[..., :-1] <= (uniform * cdf[..., -1]).unsqueeze(-1)).sum(-1)

    def subset(self, size: int, count: int) -> Tensor:
        """`count` distinct numbers below `size`, `[count]`, in random order; the cost does not grow with `size`.

        They are on the CPU, from where they can index tensors on any device.
        """
        own: dict[str, Any] = {"generator": self.on(_CPU), "device": _CPU}
        if count * 4 > size:
            return torch.randperm(size, **own)[:count]
        drawn = torch.randint(size, (count,), **own)
        while True:
            # Duplicates are drawn again: every set of distinct numbers stays equally likely.
            kept, first = torch.unique(drawn, return_inverse=True)
            missing = count - len(kept)
            if missing == 0:
                return drawn
            place = torch.arange(count, device=_CPU)
            order = torch.full((len(kept),), count, device=_CPU).scatter_reduce(0, first, place, "amin")
            drawn = torch.cat([drawn[order.sort().values], torch.randint(size, (missing,), **own)])

    def _call(self, draw: Callable[[], Tensor]) -> Tensor:
        if self.generator is None:
            return draw()
        with _Generator(self):
            return draw()


_CPU = torch.device("cpu")


def generator_on(device: torch.device | str) -> torch.Generator:
    """A new generator that draws on a device."""
    return torch.Generator(device)


def global_on(device: torch.device) -> torch.Generator:
    """Torch's own generator of a device."""
    return torch.default_generator if device == _CPU else torch.cuda.default_generators[device.index]


def global_state() -> GlobalState:
    """The state of torch's global generators: the CPU's, and the GPUs' where these are in use."""
    own = torch.default_generator.get_state()
    return (own, *torch.cuda.get_rng_state_all()) if torch.cuda.is_initialized() else own


def set_global_state(state: GlobalState) -> None:
    """Go back to where `global_state` was called."""
    own, *gpus = state if isinstance(state, (tuple, list)) else (state,)
    torch.default_generator.set_state(own)
    if gpus:
        torch.cuda.set_rng_state_all(gpus)


def _sobol(points: int, dims: int, generator: torch.Generator | None) -> Tensor:
    """Scrambled Sobol points in (0, 1), `[points, dims]`, in double precision."""
    seed = int(torch.randint(2**62, (), generator=generator, device=_CPU).item())
    engine = SobolEngine(dims, scramble=True, seed=seed)
    step = 2.0**-SobolEngine.MAXBIT
    # torch gives the first point in single precision; it is the engine's state.
    first = engine.quasi.double() * step
    grid = torch.cat([first.unsqueeze(0), engine.draw(points, dtype=torch.float64)[1:]])
    # A point of the grid stands for its cell.
    inside = torch.rand(grid.shape, generator=generator, dtype=torch.float64, device=_CPU)
    return (grid + step * inside).clamp_min(torch.finfo(torch.float64).tiny)


def _divided(total: int, most: int) -> list[int]:
    """Split a number into parts of at most `most`."""
    return [min(most, total - start) for start in range(0, total, most)]


def _normal(source: Source, d: td.Normal) -> Tensor:
    return torch.addcmul(d.loc, d.scale, source.normal(d.loc.shape, d.loc))


def _lean_normal(source: Source, d: families.Normal) -> Tensor:
    return d.from_noise(source.normal(d.loc.shape, d.loc))


def _log_normal(source: Source, d: td.LogNormal) -> Tensor:
    assert isinstance(d.base_dist, td.Normal)
    return _normal(source, d.base_dist).exp()


def _lean_log_normal(source: Source, d: families.LogNormal) -> Tensor:
    assert isinstance(d.base_dist, td.Normal)
    return d.from_noise(source.normal(d.base_dist.loc.shape, d.base_dist.loc))


def _bernoulli(source: Source, d: td.Bernoulli) -> Tensor:
    # Not `d.probs`, which makes them with gradients and keeps them; a draw needs neither.
    return source.bernoulli(d.probs if "probs" in d.__dict__ else d.logits.sigmoid())


def _categorical(source: Source, d: td.Categorical) -> Tensor:
    # The logits of a Categorical are logarithms of probabilities.
    return source.index(d.probs if "probs" in d.__dict__ else d.logits.exp())


def _beta(source: Source, d: td.Beta) -> Tensor:
    return source.dirichlet(dirichlet_of_beta(d).concentration)[..., 0]


def _dirichlet(source: Source, d: td.Dirichlet) -> Tensor:
    return source.dirichlet(d.concentration)


def _wishart(source: Source, d: td.Wishart) -> Tensor:
    # torch takes its test for singular draws the wrong way round: it warns of, and redraws, the good ones.
    return source._call(partial(bartlett_sample, d, torch.Size()))


def _lkj(source: Source, d: td.LKJCholesky) -> Tensor:
    # torch's own draws do not follow its density.
    ours = families.LKJCholesky(d.dim, d.concentration)
    return source._call(ours.sample)


def _continuous_bernoulli(source: Source, d: Any) -> Tensor:
    # torch's own draws have no derivative where the density is nearly uniform.
    return continuous_bernoulli.inverse_cdf(d.logits, source.uniform(d.logits.shape, d.logits))


def _is_torchs_continuous_bernoulli(d: td.TransformedDistribution) -> bool:
    """Whether the numbers that are transformed are drawn by torch's class, in torch's own way."""
    base = d.base_dist
    while isinstance(base, td.Independent):
        base = base.base_dist
    return type(base) is td.ContinuousBernoulli and type(d).rsample is td.TransformedDistribution.rsample


Draws = Callable[[Source, Any], Tensor]
"""A way to draw from one family of distributions."""

# Families drawn without the detour through their own `sample`: same distribution, several times faster.
_SHORT: Mapping[type, Draws] = {
    td.Normal: _normal,
    families.Normal: _lean_normal,
    td.LogNormal: _log_normal,
    families.LogNormal: _lean_log_normal,
    td.Bernoulli: _bernoulli,
    families.Bernoulli: _bernoulli,
    td.Categorical: _categorical,
    families.Categorical: _categorical,
    td.Beta: _beta,
    families.Beta: _beta,
    td.Dirichlet: _dirichlet,
    families.Dirichlet: _dirichlet,
    td.Wishart: _wishart,
    td.LKJCholesky: _lkj,
    td.ContinuousBernoulli: _continuous_bernoulli,
}

_REPARAMETERISED: tuple[Draws, ...] = (
    _normal,
    _lean_normal,
    _log_normal,
    _lean_log_normal,
    _wishart,
    _continuous_bernoulli,
)


@lru_cache(maxsize=1024)
def _shortcut(kind: type) -> Draws | None:
    """How to draw from a class; None where it, or a parent nearer than the one we know, draws in its own way."""
    for parent in kind.__mro__:
        short = _SHORT.get(parent)
        if short is not None:
            same = kind.sample is parent.sample and kind.rsample is parent.rsample  # type: ignore[attr-defined]
            return short if same else None
    return None


TAKES_GENERATOR = frozenset(
    {
        torch.bernoulli, torch.binomial, torch.multinomial, torch.normal, torch.poisson, torch.rand, torch.randint,
        torch.randn, torch.randperm, standard_gamma, sample_dirichlet,
        Tensor.cauchy_, Tensor.exponential_, Tensor.geometric_, Tensor.log_normal_, Tensor.normal_, Tensor.uniform_,
    }
)  # fmt: skip

_LIKE = {torch.rand_like: torch.rand, torch.randn_like: torch.randn}


class _Generator(TorchFunctionMode):
    """A mode that makes every random function of torch use the source's generator."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.source = source

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if func in TAKES_GENERATOR:
            kwargs = {**kwargs, "generator": self.source.on(device_of(args, kwargs))}
        elif func in _LIKE:
            device = device_of(args, kwargs)
            kwargs = {"dtype": args[0].dtype, **kwargs, "device": device, "generator": self.source.on(device)}
            return _LIKE[func](args[0].shape, **kwargs)
        return func(*args, **kwargs)


def device_of(args: Sequence[object], kwargs: Mapping[str, Any]) -> torch.device:
    """The device on which a function of torch, called like this, has its result."""
    device = kwargs.get("device")
    if device is not None:
        own: torch.device = torch.empty(0, device=device).device  # "cuda" is one of several
        return own
    like = next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), None)
    return torch.get_default_device() if like is None else like.device
