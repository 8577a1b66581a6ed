"""Interface that `ELBO` and `Renyi` implement for a bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

from torch import Tensor

from varigrad.estimators.base import State
from varigrad.objectives.estimator_selection import Asked
from varigrad.objectives.marginal_sites import Marginal
from varigrad.objectives.run_record import Ensemble, RunRecord, Vectorization
from varigrad.objectives.surrogate import Estimate

Weight = float | Tensor | Callable[[int], float | Tensor]
"""A factor on terms: a number, a tensor, or a function of the number of steps taken."""


class Objective(Protocol):
    """The configuration of a bound; the docstring of `ELBO` describes the attributes."""

    @property
    def particles(self) -> int: ...

    @property
    def estimators(self) -> Mapping[str, Asked] | Literal["auto"] | None: ...

    @property
    def analytic_kl(self) -> bool | tuple[str, ...] | list[str]: ...

    @property
    def weights(self) -> Mapping[str, Weight]: ...

    @property
    def vectorize(self) -> bool | None: ...

    @property
    def strict(self) -> bool: ...

    @property
    def marginal(self) -> Marginal: ...

    def check(self, run: RunRecord) -> None:
        """Raise if the objective cannot serve the programs of this run."""

    def combine(
        self, ensembles: Sequence[Ensemble], vectorization: Vectorization, state: Mapping[str, State]
    ) -> Estimate:
        """Value and surrogate from the terms of all particles."""
