"""`Estimator`, the interface of gradient estimators: draws a site and, given its cost, returns a surrogate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor, nn
from torch import distributions as td

from varigrad.distributions.rng import Source
from varigrad.estimators.traits import Drawing, Needs, Promises, refuse_former_flags
from varigrad.language.messages import Plate

State: TypeAlias = "Tensor | tuple[State, ...] | None"
"""A tree of tensors (nested tuples) that an estimator carries from step to step; None if it carries nothing."""

Noise: TypeAlias = "Tensor | tuple[Tensor, ...] | None"
"""What an estimator's `surrogate` has to know of its `draw`, besides the value."""


def tuple_of(state: State) -> tuple[State, ...]:
    """The parts of a state that is a tuple."""
    assert isinstance(state, tuple), f"a state has turned from a tuple to {type(state).__name__}"
    return state


def tensor_of(state: State) -> Tensor:
    """A state that is a tensor, or a part that is one."""
    assert isinstance(state, Tensor), f"a state has turned from a tensor to {type(state).__name__}"
    return state


@dataclass(frozen=True)
class Lanes:
    """The leading batch dimension that holds the alternatives of sites.

    Lane 0 is the run itself. In a lane of site `i`, site `i` holds an alternative, sites before it hold lane 0's
    values, sites after it are drawn anew given the lane. So one pass costs one plus the *sum* of the alternatives.

    Attributes:
        count: how many lanes there are in all.
        dims: number of plate dimensions; lanes are at batch dimension `-dims - 1`.
        own: the lanes of this site.
        source: for each lane, the lane whose draw it holds: itself, or 0.

    Example:
        >>> from varigrad.estimators import Lanes
        >>> Lanes(count=3, dims=1, own=(1, 2), source=(0, 1, 2)).compared
        (0, 1, 2)
    """

    count: int
    dims: int
    own: tuple[int, ...]
    source: tuple[int, ...]

    @property
    def compared(self) -> tuple[int, ...]:
        """Lane 0 and the site's own: the lanes whose costs its surrogate compares."""
        return (0, *self.own)

    def expand(self, distribution: td.Distribution) -> td.Distribution:
        """Give a distribution the lane dimension: `[lanes, *plates]`."""
        batch = distribution.batch_shape
        if len(batch) == self.dims + 1:  # a leading dimension of size one is the same in all lanes
            if batch[0] == self.count:
                return distribution
            shape = (self.count, *batch[1:])
        else:
            shape = (self.count, *(1,) * (self.dims - len(batch)), *batch)
        full: td.Distribution = distribution.expand(shape)
        return full

    def share(self, value: Tensor) -> Tensor:
        """Give every lane the draw that belongs there: `[lanes, ...]`."""
        return value[list(self.source)]

    def drawn(self, *but: int) -> tuple[int, ...]:
        """The lanes with a draw of their own, except for these."""
        return tuple(sorted({*self.source} - {*but}))

    def begin(self, distribution: td.Distribution, source: Source) -> Tensor:
        """Draw lane 0 and the lanes of earlier sites, `[lanes, ...]`; the site's own are to be written."""
        return self.share(source.draw(distribution, lanes=self.drawn(*self.own)))


@dataclass(frozen=True, eq=False, init=False)
class Draw:
    """An estimator's draw at a site.

    Attributes:
        distribution: what it was drawn from, `[lanes?, *plates]`.
        value: `[lanes?, *plates, *event]`.
        lanes: where its alternatives lie, or None if it has none.
        plates: the site's plates.
        log_q: log-density of the value, `[*plates]`, or of each value, `[1 + alternatives, *plates]`; filled in
            before `surrogate` is called.
        particles: the dimension of the particles plate, or None if there is one particle.
        values: the guide's values so far, by site.
        noise: what else the estimator's `surrogate` has to know of its `draw`.
        slope: `[1 + alternatives, *plates, *event]`, the derivative of the mean cost, summed over plates, by the
            value, for an estimator that needs a `slope`; filled in before `surrogate` is called.
        state: what the next step's `draw` is to know, from an estimator without a cost.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> from varigrad.estimators import Draw
        >>> Draw(dist.Normal(0.0, 1.0), torch.tensor(0.5)).value
        tensor(0.5000)
    """

    distribution: td.Distribution
    value: Tensor
    lanes: Lanes | None = None
    plates: tuple[Plate, ...] = ()
    log_q: Tensor | None = None
    particles: int | None = None
    values: Mapping[str, Tensor] | None = None
    noise: Noise = None
    slope: Tensor | None = None
    state: State = None

    def __init__(
        self,
        distribution: td.Distribution,
        value: Tensor,
        lanes: Lanes | None = None,
        plates: tuple[Plate, ...] = (),
        log_q: Tensor | None = None,
        particles: int | None = None,
        values: Mapping[str, Tensor] | None = None,
        noise: Noise = None,
        slope: Tensor | None = None,
        state: State = None,
    ) -> None:
        # At once, as messages are filled (`language/messages.py`).
        self.__dict__.update(
            distribution=distribution,
            value=value,
            lanes=lanes,
            plates=plates,
            log_q=log_q,
            particles=particles,
            values=values,
            noise=noise,
            slope=slope,
            state=state,
        )


@dataclass(frozen=True, eq=False)
class Surrogate:
    """An estimator's surrogate at a site: a field whose gradient is the site's share of the gradient.

    Attributes:
        value: the field to differentiate.
        state: what the next step is given.
        regression: a loss for the parameters of baselines.
        baseline: what was subtracted from the cost, for reports.

    Example:
        >>> import torch
        >>> from varigrad.estimators import Surrogate
        >>> Surrogate(torch.tensor(2.0), baseline=torch.tensor(1.0)).value
        tensor(2.)
    """

    value: Tensor
    state: State = None
    regression: Tensor | None = None
    baseline: Tensor | None = None


_DRAWING, _NEEDS, _PROMISES = Drawing(), Needs(), Promises()


class Estimator(ABC):
    """Interface of gradient estimators: how to draw one random choice, and the surrogate of its share of the gradient.

    A leaf is a frozen dataclass. To write one, implement `refusal`, `surrogate` and, if it looks at alternatives,
    `alternatives`, `draw` and `lane_weights`; state what is special about it in `drawing`, `needs` and `promises`; then
    hold it to `varigrad.testing.check_estimator`.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist, testing
        >>> from varigrad.estimators import Estimator, Surrogate
        >>> def model():
        ...     z = vg.sample("z", dist.Bernoulli(0.3))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.5))
        >>> class Reinforce(Estimator):
        ...     def refusal(self, distribution):
        ...         return None
        ...     def surrogate(self, draw, cost, state):
        ...         return Surrogate(cost * draw.log_q)
        >>> def guide():
        ...     vg.sample("z", dist.Bernoulli(logits=vg.param("w", 0.0)), estimator=Reinforce())
        >>> bound = vg.ELBO()(model, guide)
        >>> _, exact = testing.exact_gradient(bound)
        >>> testing.largest_difference(testing.expected_gradient(bound).mean, exact) < 1e-6
        True
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        refuse_former_flags(cls)

    @property
    def drawing(self) -> Drawing:
        """How it draws; by default independently, without a derivative."""
        return _DRAWING

    @property
    def needs(self) -> Needs:
        """What it needs of the cost; by default its value at the draw."""
        return _NEEDS

    @property
    def promises(self) -> Promises:
        """What it promises; by default to be unbiased."""
        return _PROMISES

    @abstractmethod
    def refusal(self, distribution: td.Distribution) -> tuple[str, str] | None:
        """Why it cannot serve a site with this distribution, and what to try instead; None if it can."""

    def alternatives(self, distribution: td.Distribution) -> int:
        """The number of lanes that it needs besides lane 0."""
        return 0

    def draw(self, distribution: td.Distribution, lanes: Lanes | None, source: Source, state: State) -> Draw:
        """Draw the site.

        Args:
            distribution: `[*plates]`, or `[lanes, *plates]` with lanes.
            lanes: where alternatives lie; None if no site has any.
            source: where the random numbers come from.
            state: what the last step returned, or None at the first.
        """
        if lanes is None:
            return Draw(distribution, source.draw(distribution, reparameterised=self.drawing.pathwise))
        value = source.draw(distribution, reparameterised=self.drawing.pathwise, lanes=lanes.drawn())
        return Draw(distribution, lanes.share(value), lanes)

    def lane_weights(self, draw: Draw) -> Tensor | None:
        """Weights that make the lanes an unbiased average of any quantity downstream, where lane 0 alone is not meant.

        Returns:
            `[1 + alternatives]` or `[1 + alternatives, *plates]`; None for lane 0 alone.
        """
        return None

    def surrogate(self, draw: Draw, cost: Tensor, state: State) -> Surrogate:
        r"""Field whose gradient is this site's share of :math:`\nabla E_q[f]`.

        Args:
            draw: what `draw` returned, with `log_q`.
            cost: `[*plates]`, or `[1 + alternatives, *plates]` for an estimator with alternatives; detached: the
                terms downstream of the site, never the whole bound.
            state: what the last step returned, or None at the first.
        """
        raise NotImplementedError(f"{type(self).__name__} needs no cost")

    def parameters_of_baselines(self) -> Mapping[str, nn.Module]:
        """Networks that the estimator trains itself, by name."""
        return {}


def first(tensor: Tensor, draw: Draw, event_dim: int = 0) -> Tensor:
    """Lane 0 of a distribution's parameter, `[*plates, *event]`.

    Args:
        tensor: `[lanes?, *plates, *event]`.
        draw: the draw, which knows the lanes.
        event_dim: number of event dimensions of the parameter.
    """
    if draw.lanes is not None and tensor.dim() == draw.lanes.dims + 1 + event_dim:
        return tensor[0]
    return tensor


def equal_weights(draw: Draw) -> Tensor:
    """`lane_weights` where each of the site's lanes is a draw from its distribution: `[1 + alternatives]`."""
    assert draw.lanes is not None and draw.log_q is not None
    count = len(draw.lanes.compared)
    return draw.log_q.new_full((count,), 1 / count)  # in the precision of the terms
