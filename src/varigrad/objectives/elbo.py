"""`ELBO`: the evidence lower bound, and the options of its gradient estimate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from varigrad.distributions.rng import Source
from varigrad.errors import VarigradError, check_whole, store_whole
from varigrad.estimators.base import Estimator, State
from varigrad.language.messages import Program
from varigrad.objectives.bound import Bound
from varigrad.objectives.estimator_selection import Asked, patterns_of
from varigrad.objectives.marginal_sites import Marginal, check_marginal
from varigrad.objectives.objective import Weight
from varigrad.objectives.parameters import ParameterStore
from varigrad.objectives.run_record import Ensemble, RunRecord, Vectorization
from varigrad.objectives.surrogate import Estimate, estimate


@dataclass(frozen=True)
class ELBO:
    r"""Evidence lower bound, :math:`E_q[\log p(x, z) - \log q(z)]`.

    Applied to a model and a guide it gives a torch module: `loss = ELBO()(model, guide)`; `loss(data)` is minus the
    bound, and `loss(data).backward()` leaves the estimators' gradient in `.grad`.

    Args:
        particles: K independent runs of the whole program, averaged.
        estimators: `{glob on site names: estimator}`, before what the guide says; the first match counts. "auto" in
            the place of an estimator, or of the whole: measured by an `SVI` before its first step (`vg.decide`).
        analytic_kl: replace `log p(z) - log q(z)` by minus the closed-form divergence: True wherever that is
            possible, or a collection of globs where it has to be.
        weights: `{glob: weight}`, factors on all terms of the matching sites: numbers, tensors or functions of the
            step number (KL annealing: name the latent sites).
        vectorize: run particles and alternatives side by side along leading dimensions (the program must
            broadcast), or one by one in a loop; None: side by side if, on the first call, that gives the same
            densities as the loop.
        strict: False: model and guide may have different latent sites. One that the guide lacks is drawn from the
            model's distribution, as if the guide had it; one that the model lacks is auxiliary.
        marginal: discrete sites of the model that the guide lacks, by name or glob, or True for every one with finitely
            many values: they are summed out exactly. A function is asked about each site: `(Sample) -> bool`.

    Raises:
        VarigradError: particles is not a whole number of at least 1.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> def model():
        ...     z = vg.sample("z", dist.Normal(0.0, 1.0))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(2.0))
        >>> def guide():
        ...     vg.sample("z", dist.Normal(vg.param("m", 0.0), 0.7))
        >>> loss = vg.ELBO(particles=4)(model, guide)
        >>> loss().backward()
        >>> loss.m.grad.shape
        torch.Size([])

    References:
        Jordan, Ghahramani, Jaakkola, Saul (1999), An introduction to variational methods for graphical models.
        doi:10.1023/A:1007665907178.
        Ranganath, Gerrish, Blei (2014), Black box variational inference. arXiv:1401.0118.
    """

    particles: int = 1
    estimators: Mapping[str, Asked] | Literal["auto"] | None = None
    analytic_kl: bool | tuple[str, ...] | list[str] = False
    weights: Mapping[str, Weight] = field(default_factory=dict)
    vectorize: bool | None = None
    strict: bool = True
    marginal: Marginal = False

    def __post_init__(self) -> None:
        store_whole(self, "particles")
        check_particles_and_estimators(self.particles, self.estimators)
        check_switches(strict=self.strict, vectorize=self.vectorize)
        check_marginal(self.marginal)
        if not isinstance(self.analytic_kl, bool):
            _check_names("analytic_kl", self.analytic_kl)
        if not isinstance(self.weights, Mapping):
            raise VarigradError(f"weights must be a dictionary from sites to weights, got {self.weights!r}")
        _check_names("weights", tuple(self.weights))
        for site, weight in self.weights.items():
            if isinstance(weight, str) or not (isinstance(weight, (int, float, Tensor)) or callable(weight)):
                raise VarigradError(f"weights[{site!r}] must be a number, or a function of the step, got {weight!r}")

    def __call__(self, model: Program, guide: Program) -> Bound:
        """The objective of this model and guide, a torch module that owns their parameters."""
        return self.bind(model, guide, None)

    def bind(self, model: Program, guide: Program, source: Source | None, owner: ParameterStore | None = None) -> Bound:
        """The bound of this model and guide, with a source for all draws, and another owner of the parameters."""
        return Bound(self, model, guide, source, owner)

    def check(self, run: RunRecord) -> None:
        """Accept the programs, whatever their estimators are."""

    def combine(
        self, ensembles: Sequence[Ensemble], vectorization: Vectorization, state: Mapping[str, State]
    ) -> Estimate:
        """Value and surrogate from the terms of all particles."""
        return estimate(ensembles, vectorization, state)


def check_switches(**switches: object) -> None:
    """Check that each of these is True, False or None.

    Raises:
        VarigradError: one is not, such as "no", which would count as True.
    """
    for name, value in switches.items():
        if value is not None and not isinstance(value, bool):
            raise VarigradError(f"{name} must be True or False, got {value!r}")


def _check_names(what: str, names: object) -> None:
    """Check that sites are named by a tuple or list of strings."""
    if not isinstance(names, (tuple, list, set, frozenset)) or not all(isinstance(name, str) for name in names):
        raise VarigradError(
            f"{what} must name sites by strings (globs are allowed), got {names!r}", try_='("z*",) or {"z*": ...}'
        )


def check_particles_and_estimators(
    particles: object, estimators: Mapping[str, Asked] | Literal["auto"] | None, at_least: int = 1
) -> None:
    """Check what every objective's configuration has to be.

    Raises:
        VarigradError: particles is not a whole number of at least `at_least`, or an estimator is none.
    """
    check_whole("particles", particles, at_least)
    if estimators is not None and estimators != "auto" and not isinstance(estimators, Mapping):
        raise VarigradError(
            f"estimators must be a mapping or 'auto', got {estimators!r}", try_='{"z*": LeaveOneOut(4)}'
        )
    _check_names("estimators", () if estimators is None or estimators == "auto" else tuple(estimators))
    for pattern, estimator in patterns_of(estimators):
        if not isinstance(estimator, Estimator) and not (isinstance(estimator, str) and estimator == "auto"):
            hint = f"{estimator.__name__}()" if isinstance(estimator, type) else "Score(MovingAverage())"
            raise VarigradError(
                f"estimators[{pattern!r}] must be an Estimator, got {estimator!r}",
                because="configuration is objects",
                try_=hint,
            )
