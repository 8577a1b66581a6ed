"""`LeaveOneOut`: a score-function estimator with several draws; each has the others' mean cost for a baseline."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch import distributions as td

from varigrad.errors import SiteError, is_whole, store_whole
from varigrad.estimators.base import Draw, Estimator, State, Surrogate, equal_weights
from varigrad.estimators.traits import Needs


@dataclass(frozen=True)
class LeaveOneOut(Estimator):
    r"""Score-function estimator whose baseline is the other draws' mean cost.

    .. math:: \frac1K \sum_k \Big(f_k - \frac{1}{K-1} \sum_{j \ne k} f_j\Big) \nabla \log q(z_k)

    Serves every distribution. K evaluations. Unbiased. Equal, draw by draw, to minus the gradient of

    .. math:: \tfrac12\, \frac{1}{K - 1} \sum_k \big(\ell_k - \bar\ell\big)^2, \qquad \ell_k = f_k - \log q(z_k)

    half the sample variance of the log-ratio, with the draws held fixed and `f` the cost without the site's own
    density: the form that goes by the name of VarGrad.

    Args:
        k: draws at this site (the sites before it are shared, the sites after it drawn anew), at least 2; None: the
            particles of the objective, which must then be at least 2.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist, testing
        >>> from varigrad.estimators import LeaveOneOut
        >>> def model():
        ...     z = vg.sample("z", dist.Bernoulli(0.3))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.5))
        >>> def guide():
        ...     vg.sample("z", dist.Bernoulli(logits=vg.param("w", 0.0)), estimator=LeaveOneOut(2))
        >>> bound = vg.ELBO()(model, guide)
        >>> _, exact = testing.exact_gradient(bound)
        >>> testing.largest_difference(testing.expected_gradient(bound).mean, exact) < 1e-6
        True

    References:
        Kool, van Hoof, Welling (2019), Buy 4 REINFORCE samples, get a baseline for free!
        Richter, Boustati, Nüsken, Ruiz, Akyildiz (2020), VarGrad: a low-variance gradient estimator for variational
        inference. arXiv:2010.10436.
        Mnih, Rezende (2016), Variational inference for Monte Carlo objectives. arXiv:1602.06725.
    """

    k: int | None = None

    def __post_init__(self) -> None:
        if self.k is not None:
            store_whole(self, "k")
            check_draws(self.k, "LeaveOneOut", "Score(MovingAverage())")

    @property
    def needs(self) -> Needs:
        return _OF_PARTICLES if self.k is None else _OF_DRAWS

    def refusal(self, distribution: td.Distribution) -> tuple[str, str] | None:
        return None

    def alternatives(self, distribution: td.Distribution) -> int:
        return 0 if self.k is None else self.k - 1

    def lane_weights(self, draw: Draw) -> Tensor | None:
        return None if self.k is None else equal_weights(draw)

    def surrogate(self, draw: Draw, cost: Tensor, state: State) -> Surrogate:
        assert draw.log_q is not None
        if self.k is not None:
            return Surrogate(_leave_one_out(cost, draw.log_q, 0))
        if draw.particles is None:
            raise SiteError(
                "LeaveOneOut() has no other particles to leave in",
                because="the objective has one particle",
                try_="ELBO(particles=4), or LeaveOneOut(4)",
            )
        # The objective averages sums over particles.
        return Surrogate(_leave_one_out(cost, draw.log_q, draw.particles) * cost.shape[draw.particles])


_OF_DRAWS, _OF_PARTICLES = Needs(), Needs(across_particles=True)


def _leave_one_out(cost: Tensor, log_q: Tensor, dim: int) -> Tensor:
    if cost.shape[dim] == 1:
        return (cost * log_q).sum(dim)  # the only particle that has this site: no others, no baseline
    return ((cost - others(cost, dim)) * log_q).mean(dim)


def others(value: Tensor, dim: int = 0) -> Tensor:
    """For each draw, the mean over all but itself."""
    return (value.sum(dim, keepdim=True) - value) / (value.shape[dim] - 1)


def check_draws(k: object, name: str, one: str) -> None:
    """Check that a number of draws leaves others to compare a draw with.

    Args:
        k: the number of draws.
        name: the estimator, for the error.
        one: what to use with one draw, for the error.

    Raises:
        SiteError: it is not a whole number of at least 2.
    """
    if not is_whole(k, 2):
        raise SiteError(
            f"k must be a whole number of at least 2, got {k!r}",
            site=name,
            because="the baseline of a draw is made of the other draws",
            try_=f"{name}(2), or {one} for one draw",
        )
