"""Measures gradient noise at intervals during a run, outside the training steps."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from varigrad.compile.trace.tracer import is_tracing
from varigrad.errors import VarigradError, check_whole, store_whole
from varigrad.inference.noise_history import NoiseHistory, NoiseSnapshot
from varigrad.objectives.bound import Bound
from varigrad.objectives.gradient_draws import by_site, leaves_of
from varigrad.objectives.shadow_parameters import shadow_of
from varigrad.objectives.surrogate import SurrogateParts

Grads = Mapping[str, Sequence[Tensor | None]]


@dataclass(frozen=True)
class Gradients:
    """Configures measurements of gradient noise: `svi.run(..., monitor=Gradients())` adds them to `fit.gradients`.

    Every look runs the programs twice more, in Python (also beside compiled steps), at the parameters and arguments of
    the step that was just taken, with random numbers of its own. It changes nothing: losses and parameters are, bit for
    bit, those of a run without it. What a loader's batches add to the noise is not in it, a look being at one batch.

    Args:
        every: steps between two looks; None: as often as `budget` allows, which depends on the machine's speed.
        budget: the share of the run's processor time that looks may take.
        reach: figures are averages over about so many looks, the newest counting most.
        seed: of the looks' draws.

    Raises:
        VarigradError: an argument is none of these.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> def model():
        ...     z = vg.sample("z", dist.Normal(0.0, 1.0))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(2.0))
        >>> def guide():
        ...     vg.sample("z", dist.Normal(vg.param("m", 0.0), 0.7))
        >>> svi = vg.SVI(model, guide, vg.optim.Adam(lr=0.1), seed=0)
        >>> fit = svi.run(20, monitor=vg.Gradients(every=5))
        >>> type(fit.gradients).__name__
        'NoiseHistory'
    """

    every: int | None = None
    budget: float = 0.04
    reach: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        store_whole(self, "every", "reach", "seed")
        if self.every is not None:
            check_whole("every", self.every)
        check_whole("reach", self.reach)
        if not isinstance(self.budget, (int, float)) or not 0 < self.budget < 1:
            raise VarigradError(f"budget must be a number between 0 and 1, got {self.budget!r}")


class Monitor:
    """Measures the gradient's noise during a run.

    Args:
        config: when to look.
        bound: the objective whose gradient is looked at.
        looks: the history to add to.
    """

    def __init__(self, config: Gradients, bound: Bound, looks: NoiseHistory) -> None:
        self.config = config
        self.bound = bound
        self.looks = looks
        looks.reach, looks.cost = config.reach, math.nan
        self.note: str = ""
        self._twin: Bound | None = None
        self._made_for: tuple[int, Mapping[str, object]] = (-1, {})
        self._start = time.process_time()
        self._spent = 0.0

    def room(self, done: int) -> int | None:
        """The number of steps that may be taken in a row after `done` steps; None: as many as there are."""
        every = self.config.every
        return None if every is None else every - done % every

    def due(self, done: int) -> bool:
        """Whether it is time to look, after `done` steps of the run."""
        if self.config.every is not None:
            return done % self.config.every == 0
        return self._spent <= self.config.budget * (time.process_time() - self._start)

    def look(self, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        """Take a look. An error in it is counted, and does not end the run.

        Raises:
            VarigradError: a step is being captured, and the look would become part of it.
        """
        if is_tracing():
            raise VarigradError(
                "a monitor cannot look at a gradient inside a step that is being captured",
                because="the graph would look once, at tensors of the recording, and never again",
                try_="svi.run(..., monitor=Gradients()) outside of the program: it looks beside compiled steps",
            )
        start = time.process_time()
        seed = (1_000_003 * self.config.seed + self.bound.steps) % 2**63
        try:
            made_for = self.bound.version, self.bound.decided
            if self._twin is None or self._made_for != made_for:
                self._twin, self._made_for = self._twin_of(self.bound), made_for
            with self.bound.preserved(seed), torch.enable_grad():
                self.looks.add(self._snapshot(self._twin, args, kwargs))
        except (ValueError, RuntimeError, ArithmeticError) as error:
            self.looks.fail(str(error) or type(error).__name__)
        now = time.process_time()
        self._spent += now - start
        self.looks.cost = self._spent / max(now - self._start, 1e-9)
        self.note = self.looks.note

    def _snapshot(self, twin: Bound, args: tuple[object, ...], kwargs: dict[str, object]) -> NoiseSnapshot:
        bound, leaves = self.bound, leaves_of(self.bound)
        twin.mirror(bound)
        pair = [twin.estimate(*args, **kwargs).parts() for _ in range(2)]
        grads = [by_site(parts, list(leaves.values())) for parts in pair]
        sites, parameters = _moments(grads[0], grads[1], list(leaves))
        return NoiseSnapshot(bound.steps, sites, parameters, _costs(pair))

    @staticmethod
    def _twin_of(bound: Bound) -> Bound:
        """The same objective of the same parameters; new parameters are its own."""
        twin = bound.twin(bound.source, shadow_of(bound.owner))
        twin.decide(bound.decided)
        return twin


def _moments(
    first: Grads, second: Grads, names: Sequence[str]
) -> tuple[dict[str, tuple[float, float, float]], dict[str, tuple[float, float]]]:
    """Signals and noises from two independent gradients, by site and by parameter: see `NoiseSnapshot`."""
    sites = list(dict.fromkeys([*first, *second]))
    absent = [None] * len(names)
    wholes = [[_sum([parts[s][i] for s in parts]) for i in range(len(names))] for parts in (first, second)]
    numbers: list[Tensor] = []
    for a, b in zip(*wholes, strict=True):
        numbers += [_inner([a], [b]), _inner([_minus(a, b)], [_minus(a, b)]) / 2]
    whole = [_minus(a, b) for a, b in zip(*wholes, strict=True)]
    for site in sites:
        one, other = first.get(site, absent), second.get(site, absent)
        apart = [_minus(a, b) for a, b in zip(one, other, strict=True)]
        numbers += [_inner(one, other), _inner(apart, apart) / 2, _inner(apart, whole) / 2]
    found = iter(torch.stack(numbers).tolist())
    parameters = {name: (next(found), next(found)) for name in names}
    return {site: (next(found), next(found), next(found)) for site in sites}, parameters


def _costs(pair: Sequence[SurrogateParts]) -> dict[str, tuple[float, float]]:
    """`site -> (mean of (cost - baseline)^2, variance of the cost)`."""
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for share in (share for parts in pair for share in parts.shares):
        if share.baseline is not None and share.baseline.numel():
            cost, baseline = torch.broadcast_tensors(share.cost.double(), share.baseline.double())
            found.setdefault(share.site, []).append((cost.reshape(-1), baseline.reshape(-1)))
    joined = {site: [torch.cat(column) for column in zip(*some, strict=True)] for site, some in found.items()}
    return {
        site: (float((cost - baseline).square().mean()), float(cost.var()))
        for site, (cost, baseline) in joined.items()
        if len(cost) > 1
    }


def _inner(a: Sequence[Tensor | None], b: Sequence[Tensor | None]) -> Tensor:
    products = [(x * y).sum().double() for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    return torch.stack(products).sum() if products else torch.zeros((), dtype=torch.float64)


def _minus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if b is None:
        return a
    return -b if a is None else a - b


def _sum(parts: Sequence[Tensor | None]) -> Tensor | None:
    given = [part for part in parts if part is not None]
    return sum(given[1:], given[0]) if given else None
