"""`HiddenMarkov`: what hidden Markov distributions share: their shapes, their duration and missing observations.

A state is drawn before the first time and moved before every observation: the state at the first time has already made
one transition, as in Pyro.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Size, Tensor
from torch import distributions as td

from varigrad.distributions.mixin import Methods
from varigrad.shapes import Shape, broadcasts, join


class HiddenMarkov(Methods, td.Distribution):
    """Interface of distributions over sequences of observations that hidden states have made.

    Attributes:
        duration: number of times; None if every parameter is the same at all times and no number was given. Then a
            density takes sequences of any length, and there are no draws.
        observed: bool, `[*batch, time]`, where observations count; None: everywhere.
    """

    duration: int | None
    observed: Tensor | None

    def _lay_out(
        self,
        shapes: Sequence[Shape],
        event: Size,
        duration: int | None,
        mask: Tensor | None,
        validate_args: bool | None,
    ) -> None:
        """Set the shapes and run torch's part of a constructor.

        Args:
            shapes: of the parameters, `[*batch, time]`, where time may be one.
            event: the shape of one observation.
            duration: as it was given.
            mask: as it was given.
            validate_args: as it was given.

        Raises:
            ValueError: the shapes do not broadcast, or contradict the duration.
            TypeError: the mask is not bool.
        """
        kind = type(self).__name__
        if mask is not None and (not isinstance(mask, Tensor) or mask.dtype != torch.bool):
            found = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(f"{kind}: mask must be a bool tensor of shape [*batch, time], got {found}")
        if mask is not None and mask.dim() < 1:
            raise ValueError(f"{kind}: mask must have the shape [*batch, time], got a scalar")
        if duration is not None and (isinstance(duration, bool) or not isinstance(duration, int) or duration < 1):
            raise ValueError(f"{kind}: duration must be a whole number above zero, got {duration!r}")
        try:
            joint = join((1,), *shapes, *([] if mask is None else [mask.shape]))
        except RuntimeError as error:
            raise ValueError(f"{kind}: the parameters do not agree in batch and time: {error}") from error
        if duration is not None and joint[-1] not in (1, duration):
            raise ValueError(f"{kind}: duration={duration}, but the parameters have {joint[-1]} times")
        self.duration = duration or (joint[-1] if joint[-1] > 1 else None)
        self.observed = mask
        self._begin(joint[:-1], Size((self.duration or 1, *event)), validate_args)

    def expand(self, batch_shape: Shape, _instance: td.Distribution | None = None) -> Self:
        """The same parameters, which broadcast, under a larger batch shape."""
        shape = Size(batch_shape)
        if not broadcasts(self.batch_shape, shape):
            raise ValueError(f"a batch shape of {tuple(self.batch_shape)} cannot be expanded to {tuple(shape)}")
        twin = self.__new__(type(self)) if _instance is None else _instance
        assert isinstance(twin, type(self))
        twin.__dict__.update(self.__dict__)
        td.Distribution.__init__(twin, shape, self.event_shape, validate_args=False)
        twin._validate_args = self._validate_args
        return self._as_told(twin)

    def _steps(self) -> int:
        """How many times a draw has.

        Raises:
            ValueError: nothing says so.
        """
        if self.duration is None:
            kind = type(self).__name__
            raise ValueError(f"{kind}: all parameters are the same at all times; say how many to draw by duration=")
        return self.duration

    def _check(self, value: Tensor) -> None:
        """Check the shape of a sequence of observations.

        Raises:
            ValueError: it has another length or other observations than this distribution.
        """
        event = self.event_shape
        given = value.shape[max(0, value.dim() - len(event)) :]
        steps = given[:1] if self.duration is None else event[:1]
        if given != steps + event[1:] or not given[0]:
            times = "time" if self.duration is None else str(self.duration)
            wanted = ", ".join(["*batch", times, *map(str, event[1:])])
            raise ValueError(f"{type(self).__name__}: a value has the shape [{wanted}], got {list(value.shape)}")

    def _over_batch(self, density: Tensor) -> Tensor:
        """A log-density, `[*sample, *batch]`, of parameters that do not depend on every batch dimension."""
        return density.expand(join(density.shape, self.batch_shape))
