"""`assert_step(svi, *args)`: tests that a step moves the parameters as torch's plain optimiser would."""

from __future__ import annotations

import contextlib
import copy
import math
import random
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from varigrad.distributions.counter_rng import Noise
from varigrad.errors import VarigradError, whole_number
from varigrad.language.runtime import modules_of
from varigrad.objectives.bound import Bound

ROUNDINGS = 64
"""Operations on a parameter's value in one step, at most; each rounds once."""
PERTURBATIONS = 8
"""At how many parameters, each entry off by rounding, a gradient is taken again to measure its rounding errors."""
MARGIN = 8
"""How many times larger than the measured rounding errors of a gradient the true ones may be."""


class Steps(Protocol):
    """Interface of objects that take steps, such as an `SVI`."""

    bound: Bound
    metrics: Any

    @property
    def optimizer(self) -> torch.optim.Optimizer | None: ...

    @property
    def clip_norm(self) -> float | None: ...

    def init(self, *args: object, **kwargs: object) -> Any: ...

    def step(self, *args: object, **kwargs: object) -> float: ...

    def state(self) -> dict[str, Any]: ...

    def load_state(self, state: dict[str, object]) -> None: ...


def assert_step(svi: Steps, *args: object, steps: int = 4, tolerance: float | None = None, **kwargs: object) -> None:
    """Raise unless steps of an `SVI` are steps of torch's plain optimiser along the surrogate's gradient.

    Both start where the SVI stands, with the same random numbers. The one side is `svi.step`, compiled where it
    compiles. The other calls `backward()` on minus the surrogate, copies gradients and parameters into the order of
    their indices, and hands them to the class of torch that the optimiser is one of, with `foreach` and `fused` off; an
    optimiser that is none of torch's is handed them itself, as a copy. So an optimiser that reads memory instead of
    indices is found if a parameter is laid out in another order.

    A gradient that is zero but for rounding (of a bias before batch normalisation, say) moves a parameter nowhere in
    particular under an optimiser that divides it by its own size, such as Adam. So rounding errors of the gradient are
    measured, by taking it again at parameters that are off by rounding, and two more copies of the plain optimiser are
    handed gradients that are larger and smaller by eight times as much. A parameter may lie as far from the plain
    optimiser's as these two copies do; where it does, the comparison goes on from the SVI's value. Elsewhere the three
    agree, and this allows nothing.

    Afterwards the SVI is as it was, bit for bit: parameters, `.grad`, optimiser, schedule, estimators' state, buffers,
    modes of modules and generators. Only what had not happened before stays: parameters that came into being, and a
    compiled step, for which parameters lie side by side.

    Args:
        svi: whose steps; programs that have not been run are run once.
        args, kwargs: handed to model and guide, as in `svi.step`.
        steps: how many. An SVI with `compile="wait"` compiles its third.
        tolerance: the largest difference, as a part of the parameter's way so far, besides the rounding of 64
            operations a step, and of the gradient; None: 0, or for compiled steps, which add up in another order, the
            square root of the type's precision.

    Raises:
        AssertionError: a parameter is elsewhere; the text says which, its layout, where and by how much.
        VarigradError: `steps` is not a whole number of at least 1, or parameters come into being on the way.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> from varigrad.testing import assert_step
        >>> def model():
        ...     vg.sample("z", dist.Normal(1.0, 1.0))
        >>> def guide():
        ...     vg.sample("z", dist.Normal(vg.param("w", torch.zeros(5)).sum(), 1.0))
        >>> svi = vg.SVI(model, guide, vg.optim.Adam(lr=0.01), seed=0)
        >>> assert_step(svi)
    """
    steps = whole_number("steps", steps)
    with _untouched(svi):
        if svi.optimizer is None:
            generator = svi.bound.source.get_state()
            svi.init(*args, **kwargs)
            svi.bound.source.set_state(generator)
        names = {n: p for n, p in svi.bound.named_parameters() if isinstance(p, nn.Parameter)}
        before = svi.state()
        start = {n: p.detach().clone() for n, p in names.items()}
        with _untouched(svi):
            found = []
            settings = []
            for _ in range(steps):
                assert svi.optimizer is not None
                settings.append([_settings(group) for group in svi.optimizer.param_groups])
                svi.step(*args, **kwargs)
                found.append({n: p.detach().clone() for n, p in names.items()})
            if len(names) != len(list(svi.bound.named_parameters())):
                raise VarigradError("a parameter came into being on the way", try_="svi.step(...) before assert_step")
            svi.load_state(before)
        try:
            plain = _Plain(svi, names)
            for number in range(steps):
                plain.step(settings[number], args, kwargs)
                for name in names:
                    _compare(number + 1, name, found[number][name], start[name], tolerance, plain)
        finally:
            svi.load_state(before)


class _Copy:
    """A copy of an SVI's optimiser, of torch's plain form, with contiguous copies of the parameters."""

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = {
            n: nn.Parameter(p.detach().clone().contiguous(), p.requires_grad) for n, p in parameters.items()
        }
        twins = {id(p): self.parameters[n] for n, p in parameters.items()}
        kind = next(k for k in type(optimizer).__mro__ if k.__module__.startswith("torch.optim"))
        if kind is torch.optim.Optimizer:
            self.optimizer, self.name = copy.deepcopy(optimizer, dict(twins)), type(optimizer).__name__
            return
        groups = [
            {**_settings(group), "params": [twins[id(p)] for p in group["params"]]} for group in optimizer.param_groups
        ]
        self.optimizer, self.name = kind(groups), f"torch's plain {kind.__name__}"
        self.optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for kept in self.optimizer.state.values():
            for key, value in kept.items():
                if isinstance(value, Tensor):
                    kept[key] = value.contiguous()

    def step(self, gradients: Mapping[str, Tensor | None]) -> None:
        """Take one step along these gradients."""
        for name, twin in self.parameters.items():
            twin.grad = gradients[name]
        self.optimizer.step()


class _Plain:
    """The plain optimiser that steps are compared with, and two copies that rounding of the gradient moves apart."""

    def __init__(self, svi: Steps, parameters: Mapping[str, nn.Parameter]) -> None:
        optimizer = svi.optimizer
        assert optimizer is not None
        self.svi = svi
        self.parameters = parameters
        self.plain, *self.bounds = (_Copy(optimizer, parameters) for _ in range(3))
        self.name: str = self.plain.name
        self._generator = torch.Generator().manual_seed(0)

    def step(self, settings: list[dict[str, object]], args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        """Take one step, with these settings of the groups, unless loss or gradient is not finite."""
        for one in (self.plain, *self.bounds):
            for group, own in zip(one.optimizer.param_groups, settings, strict=True):
                group.update(own)
        source = self.svi.bound.source
        before = source.get_state()
        if isinstance(self.plain.optimizer, torch.optim.LBFGS):  # it takes gradients where its line search leads it

            def closure() -> float:
                source.set_state(before)
                self._give()
                loss, _, gradients = self._differentiate(args, kwargs)
                for name, twin in self.plain.parameters.items():
                    twin.grad = gradients[name]
                return loss

            self.plain.optimizer.step(closure)
            for bound in self.bounds:
                for name, twin in bound.parameters.items():
                    twin.data.copy_(self.plain.parameters[name])
            self._accept()
            return
        first, errors = self._rounding_errors(args, kwargs)
        source.set_state(before)
        loss, norm, gradients = self._differentiate(args, kwargs)
        if any(g is not None and n in first and not torch.equal(g, first[n]) for n, g in gradients.items()):
            errors = {}  # a second gradient at the same parameters is another one, and not because of rounding
        if math.isfinite(loss) and math.isfinite(norm):
            for one, sign in zip((self.plain, *self.bounds), (0, 1, -1), strict=True):
                one.step({n: g if g is None else g + sign * MARGIN * errors.get(n, 0.0) for n, g in gradients.items()})
            self._accept()

    def spread(self, name: str) -> Tensor:
        """How far rounding of the gradients so far may have moved a parameter, entry by entry."""
        plain = self.plain.parameters[name].detach()
        return torch.stack([(b.parameters[name].detach() - plain).abs() for b in self.bounds]).amax(0)

    def adopt(self, name: str, where: Tensor, found: Tensor) -> None:
        """Go on from these values of a parameter, at the entries that are True in `where`."""
        with torch.no_grad():
            for one in (self.plain, *self.bounds):
                twin = one.parameters[name]
                twin.copy_(torch.where(where, found, twin))
        self._give()

    def _rounding_errors(
        self, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The gradient, and the largest change of each of its entries when parameters change by rounding."""
        source = self.svi.bound.source
        before = source.get_state()
        first: dict[str, Tensor] = {}
        errors: dict[str, Tensor] = {}
        for attempt in range(1 + PERTURBATIONS):
            source.set_state(before)
            with torch.no_grad():
                for p in self.parameters.values() if attempt else ():
                    signs = torch.randint(-1, 2, p.shape, generator=self._generator).to(p.device)
                    p.mul_(1 + signs * 2 * torch.finfo(p.dtype).eps)
            with _untouched(self.svi):
                found = {n: g for n, g in self._differentiate(args, kwargs)[2].items() if g is not None}
            self._give()
            first = first or found
            for name, gradient in found.items():
                change = (gradient - first.get(name, 0.0)).abs()
                errors[name] = torch.maximum(change, errors[name]) if name in errors else change
        return first, errors

    def _differentiate(
        self, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[float, float, dict[str, Tensor | None]]:
        """The loss, the norm of its gradient, and the gradient for each parameter, clipped."""
        for p in self.parameters.values():
            p.grad = None
        source = self.svi.bound.source
        lent: Any = contextlib.nullcontext()
        if isinstance(source, Noise):
            source.measure()
            lent = source.lent(next(iter(self.parameters.values())).device)
        with lent:
            result = self.svi.bound.estimate(*args, **kwargs)
        (-result.surrogate).backward()
        self._state = result.state
        twins = self.plain.parameters
        for name, p in self.parameters.items():
            twins[name].grad = None if p.grad is None else p.grad.clone().contiguous()
        norm = nn.utils.clip_grad_norm_(list(twins.values()), self.svi.clip_norm or math.inf, foreach=False)
        return -float(result.value), float(norm), {n: twin.grad for n, twin in twins.items()}

    def _accept(self) -> None:
        self.svi.bound.advance(self._state)
        self._give()

    def _give(self) -> None:
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(self.plain.parameters[name])


def _settings(group: dict[str, object]) -> dict[str, Any]:
    """The settings of a parameter group, in the plain form where there are several."""
    plain: dict[str, Any] = {k: False for k in ("foreach", "fused") if k in group}
    return {**{k: v for k, v in group.items() if k not in ("params", "param_names")}, **plain}


def _compare(step: int, name: str, found: Tensor, start: Tensor, tolerance: float | None, plain: _Plain) -> None:
    expected = plain.parameters[name].detach()
    if not expected.numel():
        return
    precision = torch.finfo(expected.dtype).eps
    if tolerance is None:
        tolerance = math.sqrt(precision) if isinstance(plain.svi.bound.source, Noise) else 0.0
    size, way = float(expected.abs().max()), float((expected - start).abs().max())
    limit = step * ROUNDINGS * precision * max(size, way) + tolerance * way
    apart = (found - expected).abs()
    apart = torch.where(found.isnan() & expected.isnan(), 0.0, apart)
    spread = plain.spread(name)
    if bool((apart <= limit + spread).all()):
        plain.adopt(name, apart > limit, found)
        return
    at = int(torch.where(apart.isnan(), torch.inf, apart - spread).argmax())
    index = [int(i) for i in np.unravel_index(at, expected.shape)]
    difference, allowed, ours, theirs = (x.reshape(-1)[at].item() for x in (apart, limit + spread, found, expected))
    raise AssertionError(
        f"step {step}: the parameter {name!r} of shape {tuple(expected.shape)} and strides {expected.stride()} is off "
        f"by {difference:.3g} at {index}: {ours:.6g}, and by {plain.name} {theirs:.6g} (limit {allowed:.2g})"
    )


@contextlib.contextmanager
def _untouched(svi: Steps) -> Iterator[None]:
    """Put back afterwards what `svi.state()` does not hold: gradients, buffers, modes and global generators."""
    bound, metrics = svi.bound, svi.metrics
    programs = (bound, *modules_of(bound.model_program), *modules_of(bound.guide_program))
    modules = {id(m): m for top in programs if isinstance(top, nn.Module) for m in top.modules()}
    modes = [(m, m.training) for m in modules.values()]
    buffers = [(b, b.clone()) for m in modules.values() for b in m.buffers(recurse=False)]
    grads = [(p, p.grad, None if p.grad is None else p.grad.clone()) for p in bound.parameters()]
    others = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([]):
        try:
            yield
        finally:
            for m, mode in modes:
                m.training = mode
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)
                for p, grad, old in grads:
                    p.grad = grad if grad is None or old is None else grad.copy_(old)
            random.setstate(others[0])
            np.random.set_state(others[1])
            svi.metrics = metrics
