"""`LinearHMM`: draws of a linear chain whose noise may have any law; and what the Gaussian chains share with it."""

from __future__ import annotations

import torch
from torch import Size, Tensor
from torch import distributions as td
from torch.distributions import constraints

from varigrad.distributions.hidden_markov.base import HiddenMarkov
from varigrad.distributions.hidden_markov.scan import Elements, matmul, states
from varigrad.shapes import Shape


class LinearChain(HiddenMarkov):
    """Interface of distributions over observations of states that move by matrices and noise."""

    arg_constraints: dict[str, constraints.Constraint] = {
        "transition_matrix": constraints.independent(constraints.real, 2),
        "observation_matrix": constraints.independent(constraints.real, 2),
    }
    has_rsample = True

    initial_dist: td.Distribution
    transition_matrix: Tensor
    transition_dist: td.Distribution
    observation_matrix: Tensor
    observation_dist: td.Distribution

    def _keep(
        self,
        parts: tuple[td.Distribution, Tensor, td.Distribution, Tensor, td.Distribution],
        duration: int | None,
        mask: Tensor | None,
        validate_args: bool | None,
        shapes: tuple[Shape, ...] = (),
    ) -> None:
        """Keep the parameters, and set the shapes.

        Args:
            parts: initial_dist, transition_matrix, transition_dist, observation_matrix, observation_dist.
            duration: as it was given.
            mask: as it was given.
            validate_args: as it was given.
            shapes: of further parameters, `[*batch, time]`.

        Raises:
            ValueError: the shapes do not fit each other.
        """
        initial, move, noise, look, error = parts
        kind = type(self).__name__
        for name, matrix in (("transition_matrix", move), ("observation_matrix", look)):
            if matrix.dim() < 2:
                raise ValueError(f"{kind}: {name} must be a matrix [*batch, time, rows, columns], got {matrix.dim()}-d")
        hidden, seen = look.shape[-2:]
        wanted = {
            "initial_dist": (initial, hidden),
            "transition_dist": (noise, hidden),
            "observation_dist": (error, seen),
        }
        for name, (part, size) in wanted.items():
            if tuple(part.event_shape) != (size,):
                raise ValueError(
                    f"{kind}: {name} must have the event shape ({size},), as observation_matrix is {hidden} x {seen}, "
                    f"got {tuple(part.event_shape)}"
                )
        if tuple(move.shape[-2:]) != (hidden, hidden):
            raise ValueError(f"{kind}: transition_matrix must be {hidden} x {hidden}, got {list(move.shape[-2:])}")
        self.initial_dist, self.transition_matrix, self.transition_dist, self.observation_matrix, _ = parts
        self.observation_dist = error
        over_time = [(*initial.batch_shape, 1), move.shape[:-2], noise.batch_shape, look.shape[:-2], error.batch_shape]
        self._lay_out([*over_time, *shapes], Size((seen,)), duration, mask, validate_args)

    def _draws(
        self, sample_shape: Shape, error: td.Distribution, spread: Tensor | float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Draws of states and observations, with gradients.

        Args:
            sample_shape: how many.
            error: the law of an observation around what the state predicts.
            spread: what the deviation of all noise from its mean is multiplied with, `[*sample_shape, *batch]`.

        Returns:
            `[*sample_shape, *batch, time, hidden]` and `[*sample_shape, *batch, time, seen]`.
        """
        batch, steps, sample = self.batch_shape, self._steps(), Size(sample_shape)

        def noise(law: td.Distribution, shape: Size) -> Tensor:
            value: Tensor = law.expand(shape).rsample(sample)
            if isinstance(spread, float):
                return value
            scale = spread.reshape(spread.shape + (1,) * (value.dim() - spread.dim()))
            mean: Tensor = law.mean
            return mean + scale * (value - mean)

        start = noise(self.initial_dist, batch).unsqueeze(-2).unsqueeze(-2)
        moved = noise(self.transition_dist, Size((*batch, steps))).unsqueeze(-2)
        matrix = self.transition_matrix.expand(*self.transition_matrix.shape[:-3], steps, -1, -1)
        path = states((start,), (matrix, moved), _one_map, _moved)[0]
        seen = matmul(path, self.observation_matrix).squeeze(-2)
        return path.squeeze(-2), seen + noise(error, Size((*batch, steps)))


class LinearHMM(LinearChain):
    r"""Sequences of observations of a linear chain, whose noise may have any law. It has draws, but no density.

    .. math:: z_0 \sim \mathrm{initial}, \quad z_t = z_{t-1} F_t + \mathrm{transition}_t, \quad
        y_t = g(z_t H_t + \mathrm{observation}_t), \qquad t = 1, \dots, T

    where :math:`g` are the transforms of `observation_dist` if that is a `TransformedDistribution`.

    Args:
        initial_dist: of the state before the first time: batch shape `[*batch]`, event shape `[hidden]`.
        transition_matrix: `[*batch, time, hidden, hidden]`; a row vector of the state stands to its left.
        transition_dist: of the noise: batch shape `[*batch, time]`, event shape `[hidden]`.
        observation_matrix: `[*batch, time, hidden, seen]`.
        observation_dist: of the noise: batch shape `[*batch, time]`, event shape `[seen]`.
        duration: number of times. Needed for draws if all parameters are the same at all times.

    Raises:
        ValueError: the shapes do not fit each other, or contradict the duration.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> heavy = dist.StudentT(3.0, torch.zeros(2), 1.0).to_event(1)
        >>> dist.LinearHMM(heavy, torch.eye(2), heavy, torch.eye(2), heavy, duration=5).rsample().shape
        torch.Size([5, 2])
    """

    transforms: list[td.Transform]

    def __init__(
        self,
        initial_dist: td.Distribution,
        transition_matrix: Tensor,
        transition_dist: td.Distribution,
        observation_matrix: Tensor,
        observation_dist: td.Distribution,
        validate_args: bool | None = None,
        duration: int | None = None,
    ) -> None:
        parts = (initial_dist, transition_matrix, transition_dist, observation_matrix, observation_dist)
        self._keep(parts, duration, None, validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]  # torch's families set it, here it is read
        parts = self.initial_dist, self.transition_dist, self.observation_dist
        return all(part.has_rsample for part in parts)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        _, transforms = _taken_apart(self.observation_dist)
        if not transforms:
            return constraints.independent(constraints.real, 2)
        each = self.observation_dist.support
        assert each is not None
        return constraints.independent(each, 1)

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        error, transforms = _taken_apart(self.observation_dist)
        _, value = self._draws(sample_shape, error)
        for transform in transforms:
            value = transform(value)
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        raise NotImplementedError(
            "LinearHMM has draws but no density. Try GaussianHMM, where all noise is Gaussian, or the states as sites"
        )


def _taken_apart(law: td.Distribution) -> tuple[td.Distribution, list[td.Transform]]:
    """The law of an observation's noise, and the transforms that act after it was added."""
    inner: td.Distribution = law
    while isinstance(inner, td.Independent):
        inner = inner.base_dist
    if not isinstance(inner, td.TransformedDistribution):
        return law, []
    base: td.Distribution = inner.base_dist
    missing = len(law.event_shape) - len(base.event_shape)
    return (td.Independent(base, missing) if missing > 0 else base), list(inner.transforms)


def _one_map(earlier: Elements, later: Elements) -> Elements:
    """Affine maps of row vectors, one after the other: a matrix, and what is added then."""
    return matmul(earlier[0], later[0]), matmul(earlier[1], later[0]) + later[1]


def _moved(state: Elements, step: Elements) -> Elements:
    """Row vectors, moved by affine maps."""
    return (matmul(state[0], step[0]) + step[1],)
