"""`Pathwise`: the reparameterisation gradient, which differentiates through the draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch import distributions as td

from varigrad.distributions.couplings import Coupling
from varigrad.distributions.tensor_walk import is_known
from varigrad.estimators.base import Draw, Estimator, State, Surrogate
from varigrad.estimators.baselines import Baseline, NoBaseline
from varigrad.estimators.traits import Drawing, Needs
from varigrad.shapes import sum_rightmost


@dataclass(frozen=True)
class Pathwise(Estimator):
    r"""Reparameterisation, :math:`\nabla_z f \, \partial z / \partial \phi`.

    Serves distributions with `rsample` whose downstream costs are differentiable in the draw. One evaluation and one
    backward pass. Unbiased. A rejection-sampled family (one with a method `score_part`) adds its score part, with
    the baseline subtracted from the cost.

    Args:
        sticking_the_landing: evaluate log q at parameters held constant, which drops a term of mean zero; its
            variance is then zero where the guide equals the posterior.
        baseline: for the score part of rejection-sampled families only.
        coupling: `Antithetic()` or `Sobol()` draws for the particles of the objective, at least 2 side by side.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> from varigrad.estimators import Pathwise
        >>> def model():
        ...     vg.sample("x", dist.Normal(vg.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=torch.tensor(2.0))
        >>> def guide():
        ...     vg.sample("z", dist.Normal(vg.param("m", 0.0), 1.0), estimator=Pathwise())
        >>> loss = vg.ELBO()(model, guide)
        >>> loss().backward()
        >>> loss.plan()["z"].unbiased
        True

    References:
        Kingma, Welling (2014), Auto-encoding variational Bayes. arXiv:1312.6114.
        Roeder, Wu, Duvenaud (2017), Sticking the landing. arXiv:1703.09194.
        Naesseth, Ruiz, Linderman, Blei (2017), Reparameterization gradients through acceptance-rejection sampling.
        arXiv:1610.05683.
    """

    sticking_the_landing: bool = False
    baseline: Baseline = field(default_factory=NoBaseline)
    coupling: Coupling | None = None

    def __post_init__(self) -> None:
        if self.coupling is not None and not isinstance(self.coupling, Coupling):
            raise TypeError(f"coupling must be a Coupling such as Antithetic(), got {self.coupling!r}")

    @property
    def drawing(self) -> Drawing:
        return _REPARAMETERISED if self.coupling is None else Drawing(pathwise=True, coupling=self.coupling)

    @property
    def needs(self) -> Needs:
        return _CONSTANT_DENSITY if self.sticking_the_landing else _NO_COST

    def refusal(self, distribution: td.Distribution) -> tuple[str, str] | None:
        if not distribution.has_rsample:
            return f"{type(distribution).__name__} has no rsample to differentiate through", "Score(MovingAverage())"
        if self.sticking_the_landing and not is_known(distribution):
            return (
                f"sticking the landing has to hold the parameters of {type(distribution).__name__} constant, "
                "and cannot see them",
                "Pathwise()",
            )
        if self.coupling is not None and (is_partial(distribution) or not is_known(distribution)):
            return (
                f"{type(self.coupling).__name__} couples random numbers, and how {type(distribution).__name__} makes "
                "its draws of them is not known, or takes as many attempts as it happens to take",
                "Pathwise()",
            )
        return None

    def surrogate(self, draw: Draw, cost: Tensor, state: State) -> Surrogate:
        r"""The score part of a rejection-sampled draw, :math:`(f - b) \nabla_\phi \log r_\phi(\epsilon)`."""
        part = score_part(draw.distribution, draw.value)
        if draw.lanes is not None:
            part = part[0]
        guess = self.baseline.guess(cost, draw, state)
        return Surrogate((cost - guess.value) * part, guess.state, guess.regression, guess.value)

    def parameters_of_baselines(self) -> Mapping[str, nn.Module]:
        return self.baseline.modules()


_REPARAMETERISED = Drawing(pathwise=True)
_NO_COST, _CONSTANT_DENSITY = Needs(cost=False), Needs(cost=False, constant_density=True)


def is_partial(distribution: td.Distribution) -> bool:
    """Whether `rsample` of this distribution leaves a score part to be added."""
    if isinstance(distribution, td.Independent):
        return is_partial(distribution.base_dist)
    if isinstance(distribution, td.TransformedDistribution):
        return is_partial(distribution.base_dist)
    return hasattr(distribution, "score_part")


def score_part(distribution: td.Distribution, value: Tensor) -> Tensor:
    """The score part of a partly reparameterised distribution, `[*batch]`, at a draw that carries its gradient."""
    if isinstance(distribution, td.Independent):
        part = score_part(distribution.base_dist, value)
        return sum_rightmost(part, distribution.reinterpreted_batch_ndims)
    if isinstance(distribution, td.TransformedDistribution):
        for transform in reversed(distribution.transforms):
            value = transform.inv(value)
        return score_part(distribution.base_dist, value)
    own: Tensor = distribution.score_part(value)  # type: ignore[attr-defined]  # `is_partial` has looked
    return own
