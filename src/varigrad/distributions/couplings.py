"""Coupled random numbers for particles (antithetic, Sobol): correlated, each with the usual marginal distribution.

Since each particle's numbers have the usual distribution, a mean over particles keeps its expectation. Its variance
falls where the errors of different particles cancel.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from varigrad.distributions.counter_rng import Arithmetic
from varigrad.distributions.rng import Source
from varigrad.errors import SiteError


class Coupling(ABC):
    """Interface of couplings: they generate correlated random numbers for the particles.

    Example:
        >>> from varigrad import distributions as dist
        >>> from varigrad.estimators import Antithetic
        >>> Antithetic().refusal(particles=3)
        ('3 is odd, so that one particle has no mirror image', 'ELBO(particles=4)')
    """

    @abstractmethod
    def refusal(self, particles: int) -> tuple[str, str] | None:
        """Why it cannot couple so many particles (at least 2), and what to try instead; None if it can."""

    @abstractmethod
    def numbers(self, source: Source, particles: int, count: int, like: Tensor, normal: bool) -> Tensor:
        """`[particles, count]`, standard normal or uniform in [0, 1); a row by itself has independent entries."""


@dataclass(frozen=True)
class Antithetic(Coupling):
    """Antithetic pairs: half of the particles, and their mirror images: x and -x, u and 1 - u.

    Odd parts of a cost cancel. Of an even one every value comes twice, which doubles the variance.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> from varigrad.estimators import Antithetic, Pathwise
        >>> def model():
        ...     vg.sample("x", dist.Normal(vg.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=torch.tensor(2.0))
        >>> def guide():
        ...     vg.sample("z", dist.Normal(vg.param("m", 0.0), 1.0), estimator=Pathwise(coupling=Antithetic()))
        >>> loss = vg.ELBO(particles=4)(model, guide)
        >>> loss().backward()
        >>> round(loss.m.grad.item(), 4)
        -2.0

    References:
        Hammersley, Morton (1956), A new Monte Carlo technique: antithetic variates.
        doi:10.1017/S0305004100031455.
    """

    def refusal(self, particles: int) -> tuple[str, str] | None:
        if particles % 2:
            return f"{particles} is odd, so that one particle has no mirror image", f"ELBO(particles={particles + 1})"
        return None

    def numbers(self, source: Source, particles: int, count: int, like: Tensor, normal: bool) -> Tensor:
        shape = (particles // 2, count)
        half = source.normal(shape, like) if normal else source.uniform(shape, like)
        # Uniform numbers lie on a grid in [0, 1) that is even about this: 1 - u would lie in (0, 1].
        middle = 0.0 if normal else 1 - torch.finfo(half.dtype).eps / 2
        return torch.cat([half, middle - half])


@dataclass(frozen=True)
class Sobol(Coupling):
    """Points of a Sobol sequence, scrambled anew at each step: unbiased quasi-Monte Carlo.

    As many particles as a power of two are best. Each site has a sequence of its own, independent of the others'. For
    smooth costs in few dimensions the error of the mean falls almost like 1 / particles. Scrambling takes time: about a
    millisecond a step for some hundred numbers.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> from varigrad.estimators import Pathwise, Sobol
        >>> def model():
        ...     vg.sample("x", dist.Normal(vg.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=torch.tensor(2.0))
        >>> def guide():
        ...     vg.sample("z", dist.Normal(vg.param("m", 0.0), 1.0), estimator=Pathwise(coupling=Sobol()))
        >>> loss = vg.ELBO(particles=8)(model, guide)
        >>> loss().backward()
        >>> loss.plan()["z"].estimator
        'Pathwise(coupling=Sobol())'

    References:
        Owen (1995), Randomly permuted (t,m,s)-nets and (t,s)-sequences.
        Matoušek (1998), On the L2-discrepancy for anchored boxes.
        Buchholz, Wenzel, Mandt (2018), Quasi-Monte Carlo variational inference. arXiv:1807.01604.
    """

    def refusal(self, particles: int) -> tuple[str, str] | None:
        return None

    def numbers(self, source: Source, particles: int, count: int, like: Tensor, normal: bool) -> Tensor:
        return source.quasi(particles, count, like, normal)


class Coupled(Arithmetic):
    """Draws of one site for all particles at once, as functions of numbers that are coupled across particles.

    Args:
        source: where the numbers come from in the end.
        coupling: how they belong together.
        batch: the batch shape of the distribution, which its numbers have, too.
        axis: the dimension of the particles in it.
        rounds: how many dimensions the numbers have in front of the batch, for attempts that may fail.
    """

    def __init__(self, source: Source, coupling: Coupling, batch: Sequence[int], axis: int, rounds: int = 0) -> None:
        super().__init__(source.generator)
        self.site: str = source.site
        self.source: Source = source
        self.coupling: Coupling = coupling
        self.batch: tuple[int, ...] = tuple(batch)
        self.axis: int = axis
        self.rounds: int = rounds

    def on(self, device: torch.device) -> torch.Generator | None:
        return self.source.on(device)

    def uniform(self, shape: Sequence[int], like: Tensor, degree: int | None = None) -> Tensor:
        return self._numbers(shape, like, normal=False)

    def normal(self, shape: Sequence[int], like: Tensor) -> Tensor:
        return self._numbers(shape, like, normal=True)

    def log_gamma(self, concentration: Tensor) -> Tensor:
        return Arithmetic.log_gamma(Coupled(self.source, self.coupling, self.batch, self.axis, 1), concentration)

    def by_torch(
        self, function: Callable[..., Tensor], args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> Tensor:
        raise self._error(f"torch.{function.__name__} draws it, and cannot be given its random numbers")

    def _numbers(self, shape: Sequence[int], like: Tensor, normal: bool) -> Tensor:
        end = self.rounds + len(self.batch)
        if tuple(shape[self.rounds : end]) != self.batch:
            raise self._error(f"it asks for random numbers of shape {tuple(shape)}, and its batch is {self.batch}")
        axis = self.rounds + self.axis
        particles, rest = shape[axis], [n for d, n in enumerate(shape) if d != axis]
        numbers = self.coupling.numbers(self.source, particles, math.prod(rest), like, normal)
        return numbers.reshape(particles, *rest).movedim(0, axis)

    def _error(self, because: str) -> SiteError:
        kind = type(self.coupling).__name__
        return SiteError(
            f"{kind} cannot couple the particles' draws", site=self.site, because=because, try_="Pathwise()"
        )
