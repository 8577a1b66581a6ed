"""Baselines: control variates that are subtracted from a cost before it multiplies the score.

`E[b grad log q(z)] = 0` for every b that does not depend on this draw of z, so a baseline changes the variance and
never the mean. Baselines add: `MovingAverage() + NeuralBaseline(net, x)`; the second then learns what the first leaves.

References:
    Mnih, Gregor (2014), Neural variational inference and learning in belief networks. arXiv:1402.0030.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from varigrad.errors import BaselineError
from varigrad.estimators.base import Draw, State, tensor_of, tuple_of
from varigrad.shapes import join
from varigrad.terms.provenance import NOTHING, get_provenance, leaving, untracked

Input = Tensor | tuple[Tensor, ...] | Callable[[Mapping[str, Tensor]], Any]


@dataclass(frozen=True, eq=False)
class Guess:
    """A baseline's value for this step, its state for the next one, and the loss that trains its parameters."""

    value: Tensor
    state: State = None
    regression: Tensor | None = None


class Baseline(ABC):
    """Interface of baselines: each predicts a site's cost independently of the site's draw.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad.estimators import Baseline, Score
        >>> from varigrad.estimators.baselines import Guess
        >>> class Constant(Baseline):
        ...     def guess(self, cost, draw, state):
        ...         return Guess(torch.tensor(3.0))
        >>> Score(baseline=Constant()).promises.unbiased
        True
    """

    @abstractmethod
    def guess(self, cost: Tensor, draw: Draw, state: State) -> Guess:
        """The baseline for this step; `cost`, `[*plates]`, may be used for the *next* state and the regression only."""

    def modules(self) -> Mapping[str, nn.Module]:
        """Networks that the baseline trains."""
        return {}

    def given(self) -> tuple[Input, ...]:
        """Tensors that the user handed in, to be checked for the draw they must not depend on."""
        return ()

    def __add__(self, other: Baseline) -> Baseline:
        return Sum(_summands(self) + _summands(other))


def _summands(baseline: Baseline) -> tuple[Baseline, ...]:
    return baseline.parts if isinstance(baseline, Sum) else (baseline,)


@dataclass(frozen=True)
class NoBaseline(Baseline):
    """A baseline of zero, which changes nothing.

    Example:
        >>> from varigrad.estimators import Score
        >>> Score().baseline
        NoBaseline()
    """

    def guess(self, cost: Tensor, draw: Draw, state: State) -> Guess:
        return Guess(cost.new_zeros(()))


@dataclass(frozen=True)
class MovingAverage(Baseline):
    r"""Decaying average of past costs, :math:`c_{t+1} = \beta c_t + (1 - \beta) f_t` with :math:`c_0 = 0`.

    The average *before* this draw is used, which keeps the estimator unbiased.

    Args:
        decay: beta, in [0, 1).
        per_element: keep one average for each element of the site's plates (by index, so it may be a subsampled
            plate); default: one for all, which survives any change of minibatch.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist, testing
        >>> from varigrad.estimators import MovingAverage, Score
        >>> def model():
        ...     z = vg.sample("z", dist.Bernoulli(0.3))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.5))
        >>> def guide():
        ...     vg.sample("z", dist.Bernoulli(logits=vg.param("w", 0.0)), estimator=Score(MovingAverage(0.9)))
        >>> bound = vg.ELBO()(model, guide)
        >>> _, exact = testing.exact_gradient(bound)
        >>> testing.largest_difference(testing.expected_gradient(bound).mean, exact) < 1e-6
        True
    """

    decay: float = 0.9
    per_element: bool = False

    def __post_init__(self) -> None:
        if not (isinstance(self.decay, (int, float)) and 0 <= self.decay < 1):
            raise BaselineError(f"decay must be in [0, 1), got {self.decay!r}", site="MovingAverage")

    def guess(self, cost: Tensor, draw: Draw, state: State) -> Guess:
        # The program may have been moved to another dtype or device.
        averages = None if state is None else tensor_of(state).to(cost)
        if not self.per_element or cost.dim() == 0:
            average = cost.new_zeros(()) if averages is None else averages
            return Guess(average, self._next(average, cost.mean() if cost.dim() else cost))
        plates = [p for p in draw.plates if p.dim is not None and p.dim != draw.particles]
        shape = tuple(next((p.size or p.batch or 1 for p in plates if p.dim == d), 1) for d in range(-cost.dim(), 0))
        here = tuple(
            next((p.subsample for p in plates if p.dim == d and p.subsample is not None), None)
            for d in range(-cost.dim(), 0)
        )
        if averages is None:
            averages = cost.new_zeros(shape)
        elif tuple(averages.shape) != shape:
            averages = averages.mean().expand(shape).clone()
        fresh = cost if draw.particles is None else cost.mean(draw.particles, keepdim=True)
        if all(i is None for i in here):  # the whole plate: nothing to look up
            return Guess(averages, self._next(averages, fresh.expand(averages.shape)))
        everywhere = [range(n) if i is None else i for n, i in zip(shape, here, strict=True)]
        grid = torch.meshgrid(*(torch.as_tensor(i, device=cost.device) for i in everywhere), indexing="ij")
        average = averages[grid]
        return Guess(average, averages.index_put(grid, self._next(average, fresh.expand(average.shape))))

    def _next(self, average: Tensor, fresh: Tensor) -> Tensor:
        return torch.lerp(average, fresh, 1 - self.decay)


@dataclass(frozen=True, eq=False)
class NeuralBaseline(Baseline):
    """A network's prediction of the cost, trained by its squared error to it.

    Its parameters are trained by that loss alone, and the loss trains nothing else: input and target are detached.
    They appear in the objective's `named_parameters()` under `baselines.<site>`, so an optimiser can give them a
    learning rate of their own.

    Args:
        module: maps the input to a shape that broadcasts to the site's plates, `[*plates]` (a last dimension of
            size 1 is dropped).
        input: tensor, tuple of tensors, or a function of the guide's values by site name; it may depend on the
            data and on choices upstream of the site, never on the site's own draw.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> from varigrad.estimators import NeuralBaseline, Score
        >>> network, x = torch.nn.Linear(2, 1), torch.tensor([1.0, 2.0])
        >>> def model():
        ...     z = vg.sample("z", dist.Bernoulli(0.3))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.5))
        >>> def guide():
        ...     vg.sample("z", dist.Bernoulli(logits=vg.param("w", 0.0)), estimator=Score(NeuralBaseline(network, x)))
        >>> loss = vg.ELBO()(model, guide)
        >>> loss().backward()
        >>> sorted(name for name, _ in loss.named_parameters())
        ['baselines.z.bias', 'baselines.z.weight', 'w']
    """

    module: nn.Module
    input: Input

    def guess(self, cost: Tensor, draw: Draw, state: State) -> Guess:
        given = self.input(draw.values or {}) if callable(self.input) else self.input
        inputs = given if isinstance(given, tuple) else (given,)
        output = self.module(*[_cut(i) for i in inputs])
        value = fit(output, cost, draw)
        return Guess(value.detach(), None, (cost - value).square().mean())

    def modules(self) -> Mapping[str, nn.Module]:
        return {"": self.module}

    def given(self) -> tuple[Input, ...]:
        return (self.input,)


@dataclass(frozen=True, eq=False)
class ValueBaseline(Baseline):
    """A tensor the user computed, broadcastable to the site's plates; detached before use.

    Args:
        value: the guess.
        learn: train what `value` was computed from by its squared error to the cost: a network of yours, declared
            with `module`. Then it is for you to detach the network's inputs from model and guide.

    Example:
        >>> import torch
        >>> from varigrad.estimators import Score, ValueBaseline
        >>> Score(ValueBaseline(torch.tensor(-2.0))).promises.unbiased
        True
    """

    value: Tensor
    learn: bool = False

    def guess(self, cost: Tensor, draw: Draw, state: State) -> Guess:
        value = fit(untracked(torch.as_tensor(self.value)), cost, draw)
        regression = (cost - value).square().mean() if self.learn and value.requires_grad else None
        return Guess(value.detach(), None, regression)

    def given(self) -> tuple[Input, ...]:
        return (self.value,)


@dataclass(frozen=True, eq=False)
class Sum(Baseline):
    """A sum of baselines: each predicts the rest of the cost that those before it leave."""

    parts: tuple[Baseline, ...]

    def guess(self, cost: Tensor, draw: Draw, state: State) -> Guess:
        total, states, losses = cost.new_zeros(()), [], []
        before = (None,) * len(self.parts) if state is None else tuple_of(state)
        for part, old in zip(self.parts, before, strict=True):
            guess = part.guess(cost - total, draw, old)
            total = total + guess.value
            states.append(guess.state)
            if guess.regression is not None:
                losses.append(guess.regression)
        return Guess(total, tuple(states), sum(losses) if losses else None)  # type: ignore[arg-type]

    def modules(self) -> Mapping[str, nn.Module]:
        return _modules(self.parts)

    def given(self) -> tuple[Input, ...]:
        return tuple(g for p in self.parts for g in p.given())


@dataclass(frozen=True, init=False)
class Combination(Baseline):
    r"""Several predictions of the whole cost, combined with the coefficients that were best for past draws.

    .. math:: b = \sum_i \alpha_i b_i, \qquad
              \alpha = \arg\min_\alpha \overline{\Big(f - \sum_i \alpha_i b_i\Big)^2}

    The bar is a decaying average over *past* draws (of products of the guesses with each other and with the cost), so
    the coefficients do not depend on this one. With nothing seen yet, all are :math:`1 / k`, and guesses that always
    agree have equal shares.

    Args:
        parts: the baselines, at least two; each learns as if it were alone.
        decay: of the averages, in [0, 1).

    Example:
        >>> from varigrad.estimators import Combination, MovingAverage, Score
        >>> Score(Combination(MovingAverage(0.5), MovingAverage(0.9))).promises.unbiased
        True

    References:
        Geffner, Domke (2018), Using large ensembles of control variates for variational inference. arXiv:1810.04482.
    """

    parts: tuple[Baseline, ...]
    decay: float

    def __init__(self, *parts: Baseline, decay: float = 0.99) -> None:
        if len(parts) < 2 or not all(isinstance(p, Baseline) for p in parts):
            raise BaselineError(
                f"there must be two or more baselines, got {parts!r}",
                site="Combination",
                try_="Combination(MovingAverage(), NeuralBaseline(net, x))",
            )
        if not 0 <= decay < 1:
            raise BaselineError(f"decay must be in [0, 1), got {decay!r}", site="Combination")
        object.__setattr__(self, "parts", parts)
        object.__setattr__(self, "decay", decay)

    def guess(self, cost: Tensor, draw: Draw, state: State) -> Guess:
        k = len(self.parts)
        olds, averages = ((None,) * k, cost.new_zeros(k, k + 1)) if state is None else tuple_of(state)
        products = tensor_of(averages).to(cost)
        guesses = [part.guess(cost, draw, old) for part, old in zip(self.parts, tuple_of(olds), strict=True)]
        *values, f = torch.broadcast_tensors(*[g.value for g in guesses], cost)
        total = sum(a * b for a, b in zip(_coefficients(products).unbind(), values, strict=True))
        b = torch.stack(values).reshape(k, -1)
        fresh = b @ torch.cat([b, f.reshape(1, -1)]).T / b.shape[1]
        losses = [g.regression for g in guesses if g.regression is not None]
        following = tuple(g.state for g in guesses), torch.lerp(products, fresh, 1 - self.decay)
        return Guess(total, following, sum(losses) if losses else None)  # type: ignore[arg-type]

    def modules(self) -> Mapping[str, nn.Module]:
        return _modules(self.parts)

    def given(self) -> tuple[Input, ...]:
        return tuple(g for p in self.parts for g in p.given())


def _coefficients(products: Tensor) -> Tensor:
    """The coefficients of the best combination, `[k]`.

    Args:
        products: averages `[k, k + 1]` of `b_i b_j`, and of `b_i f` in the last column.
    """
    k = len(products)
    gram, along = products[:, :-1], products[:, -1]
    size = gram.diagonal().sqrt()
    seen = size > 0
    inverse = torch.where(seen, 1 / torch.where(seen, size, 1.0), 0.0)
    # In units of each guess's own size, and pulled towards 1 / k by no more than rounding calls for: it decides where
    # guesses agree.
    scaled = gram * inverse * inverse.unsqueeze(-1)
    ridge = torch.where(seen, 1000 * torch.finfo(gram.dtype).eps, 1.0)
    missing = (along - gram.sum(-1) / k) * inverse
    found: Tensor = 1 / k + inverse * torch.linalg.solve(scaled + torch.diag(ridge), missing)
    return found


def _modules(parts: tuple[Baseline, ...]) -> Mapping[str, nn.Module]:
    return {f"{i}.{k}".rstrip("."): m for i, p in enumerate(parts) for k, m in p.modules().items()}


def fit(value: Tensor, cost: Tensor, draw: Draw) -> Tensor:
    """Give a baseline's value the shape of the cost.

    Args:
        value: `[*plates]` or `[*plates, 1]`, perhaps with lanes.
        cost: `[*plates]`.
        draw: the draw, which knows lanes and plates.

    Returns:
        The value in a shape that broadcasts to the cost's.

    Raises:
        BaselineError: no such shape is meant.
    """
    value = _lane_zero(value, cost, draw)
    plates = max((-p.dim for p in draw.plates if p.dim is not None and p.dim != draw.particles), default=0)
    if value.dim() in (plates + 1, cost.dim() + 1) and value.shape[-1] == 1:
        value = value.squeeze(-1)
    while value.dim() > cost.dim() and value.shape[0] == 1:
        value = value.squeeze(0)
    try:
        joint = join(value.shape, cost.shape)
    except RuntimeError:
        joint = None
    if joint is None or len(joint) > cost.dim():
        raise BaselineError(
            f"the baseline has shape {tuple(value.shape)}, the cost {tuple(cost.shape)}",
            because="a baseline has one value for each element of the site's plates",
            try_="a network that returns [*plates], or [*plates, 1]",
        )
    return value


def _lane_zero(value: Tensor, cost: Tensor, draw: Draw) -> Tensor:
    """Lane 0 of a value that was made of values upstream, and so may have all lanes."""
    if draw.lanes is None or not value.dim() or value.shape[0] != draw.lanes.count:
        return value
    dims = value.dim() - draw.lanes.dims
    narrow = dims == 1 and value.shape[-1] == 1 and cost.shape[:1] == value.shape[:1]  # [*plates, 1]
    return value[0] if dims == 2 or (dims == 1 and not narrow) else value


def check_independent(baseline: Baseline, site: str, values: Mapping[str, Tensor]) -> None:
    """Check that everything handed to a baseline is independent of the site's own draw.

    Args:
        baseline: what will be subtracted from the site's cost.
        site: the site's name.
        values: the guide's values by site, which carry what they were computed from.

    Raises:
        BaselineError: its input carries the site in its provenance.
    """
    for given in baseline.given():
        found, left = given, NOTHING
        if callable(given) and not isinstance(given, Tensor):
            found, left = leaving(partial(given, values), values.values())
        tensors = found if isinstance(found, tuple) else (found,)
        if any(getattr(source, "site", source) == site for source in get_provenance(*tensors) | left):
            raise BaselineError(
                "its baseline depends on its own draw",
                site=site,
                because="subtracting a function of the draw changes the gradient's mean",
                try_="an input from the data, or from choices made before this one",
            )


def _cut(tensor: Tensor) -> Tensor:
    return untracked(tensor).detach()
