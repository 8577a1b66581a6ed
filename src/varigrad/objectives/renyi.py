r"""`Renyi`: Rényi bounds, with several particles inside one logarithm; order 0 is the importance-weighted bound.

With :math:`w_k = p(x, z_k) / q(z_k)` for `K` particles drawn from the guide,

.. math:: f(z_{1:K}) = \frac{1}{1 - \alpha} \log \frac1K \sum_k w_k^{1 - \alpha}, \qquad
   \nabla E_q[f] = E_q\Big[\sum_k \hat w_k \nabla \log w_k + \sum_k (f - b_k)\, \nabla \log q(z_k)\Big]

where :math:`\hat w_k = w_k^{1-\alpha} / \sum_j w_j^{1-\alpha}` comes from differentiating `f`, through pathwise draws,
too, and the second sum runs over the choices that are not pathwise. Unlike in the ELBO, :math:`\hat w_k \nabla \log
q(z_k)` has no mean of zero, so nothing may be left out; and the logarithm does not split into terms, so the cost of
every choice is the whole bound.

References:
    Burda, Grosse, Salakhutdinov (2016), Importance weighted autoencoders.
    Li, Turner (2016), Rényi divergence variational inference.
    Mnih, Rezende (2016), Variational inference for Monte Carlo objectives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from varigrad.distributions.rng import Source
from varigrad.errors import SiteError, VarigradError, store_whole
from varigrad.estimators.base import Estimator, State
from varigrad.language.messages import Program, evolve
from varigrad.objectives.bound import BiasWarning, Bound
from varigrad.objectives.elbo import check_particles_and_estimators, check_switches
from varigrad.objectives.estimator_selection import Asked
from varigrad.objectives.marginal_sites import Marginal, check_marginal
from varigrad.objectives.parameters import ParameterStore
from varigrad.objectives.run_record import Ensemble, RunRecord, Vectorization
from varigrad.objectives.surrogate import Estimate, Share, SurrogateParts, drawn, scored, site_surrogate
from varigrad.terms.cost import lanes
from varigrad.terms.term import Term
from varigrad.user_warnings import warn_user


@dataclass(frozen=True)
class Renyi:
    r"""Rényi's variational bound of order alpha; `alpha=0` is the importance-weighted bound (IWAE).

    .. math:: \frac{1}{1 - \alpha}\, E_q \log \frac1K \sum_k \Big(\frac{p(x, z_k)}{q(z_k)}\Big)^{1 - \alpha}

    Below the log-evidence for alpha in [0, 1), and nearer to it the more particles there are. Gradients are unbiased
    for this bound at the given number of particles, with pathwise and with score-function choices.

    Args:
        alpha: its order, any finite number but 1.
        particles: K, at least 2: with one, every order is the ELBO.
        estimators: `{glob on site names: estimator}`: `Pathwise()` or `Score(...)` or "auto"; the first match counts.
        leave_one_out: subtract from the cost of each particle the bound with its own weight replaced by the geometric
            mean of the others'.
        vectorize, strict, marginal: as in `ELBO`.

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
        >>> loss = vg.Renyi(alpha=0.0, particles=5)(model, guide)
        >>> loss().backward()
        >>> loss.m.grad.shape
        torch.Size([])

    References:
        Li, Turner (2016), Rényi divergence variational inference. arXiv:1602.02311.
        Burda, Grosse, Salakhutdinov (2016), Importance weighted autoencoders. arXiv:1509.00519.
        Mnih, Rezende (2016), Variational inference for Monte Carlo objectives (`leave_one_out`). arXiv:1602.06725.
    """

    alpha: float = 0.0
    particles: int = 2
    estimators: Mapping[str, Asked] | Literal["auto"] | None = None
    leave_one_out: bool = True
    vectorize: bool | None = None
    strict: bool = True
    marginal: Marginal = False

    analytic_kl: ClassVar[bool] = False
    weights: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    def __post_init__(self) -> None:
        store_whole(self, "particles")
        check_switches(strict=self.strict, vectorize=self.vectorize)
        check_marginal(self.marginal)
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, (int, float)) or not math.isfinite(self.alpha):
            raise VarigradError(f"alpha must be a finite number, got {self.alpha!r}")
        if self.alpha == 1:
            raise VarigradError(
                "alpha must not be 1", because="the bound of order 1 is the ELBO", try_="ELBO(particles=...)"
            )
        check_particles_and_estimators(self.particles, self.estimators, at_least=2)

    def __call__(self, model: Program, guide: Program) -> Bound:
        """The objective of this model and guide, a torch module that owns their parameters."""
        return self.bind(model, guide, None)

    def bind(self, model: Program, guide: Program, source: Source | None, owner: ParameterStore | None = None) -> Bound:
        """The bound of this model and guide, with a source for all draws, and another owner of the parameters."""
        return Bound(self, model, guide, source, owner)

    def check(self, run: RunRecord) -> None:
        """Check that the objective can serve these programs.

        Raises:
            SiteError: an estimator presumes that the objective is a sum of terms.
        """
        for site, choice in run.choices.items():
            estimator = choice.estimator
            reason = _why_unfit(estimator, estimator.alternatives(run.draws[site].distribution))
            if reason is not None:
                because, try_ = reason
                raise SiteError(
                    f"{type(estimator).__name__} cannot serve this site under a Rényi bound",
                    site=site,
                    because=because,
                    try_=try_,
                )
        for statement in (*run.guide, *run.model):
            for plate in statement.message.plates:
                if plate.size is not None and plate.size != plate.batch and plate.index is None:
                    warn_user(
                        f"{plate.name!r}: is subsampled, and the logarithm of a minibatch's estimate is not an "
                        "estimate of the logarithm: what is maximised is another bound than that of the whole data. "
                        "Try: ELBO(), or no subsample",
                        BiasWarning,
                    )
                    return

    def combine(
        self, ensembles: Sequence[Ensemble], vectorization: Vectorization, state: Mapping[str, State]
    ) -> Estimate:
        """Value and surrogate from the terms of all particles."""
        log_w = torch.cat([_log_weights(e.terms, vectorization) for e in ensembles])
        bound = self._bound(log_w)
        states = dict(state)  # every particle's baseline is that of the last step: this step's costs know all draws
        losses: list[Tensor] = []
        shares: list[Share] = []
        signals = (bound - self._others(log_w)).detach().chunk(len(ensembles))
        surrogate = bound  # its own gradient has the weights, the paths, and what log q needs
        for ensemble, signal in zip(ensembles, signals, strict=True):
            own = {t.name: t for t in ensemble.terms if t.sign < 0}
            for site, estimator in scored(ensemble.base).items():
                draw = evolve(ensemble.base.draws[site], log_q=lanes(own[site].raw, (), vectorization.dims))
                # One cost for all plates; over particles the surrogate is a sum, for `f` has all of them in it.
                cost = (
                    signal.reshape(-1, *(1,) * (vectorization.dims - 1))
                    if vectorization.particles > 1
                    else signal.reshape(())
                )
                fresh = dict(state)
                shares.append(site_surrogate(estimator, site, draw, cost, fresh, losses))
                surrogate = surrogate + shares[-1].surrogate
                states.update({site: fresh[site]} if site in fresh else {})
        for loss in losses:
            surrogate = surrogate - loss
        return Estimate(
            bound.detach(),
            surrogate,
            states,
            lambda: self._by_site(ensembles, vectorization, log_w, bound),
            lambda: SurrogateParts(bound, shares, drawn(ensembles), 1),
        )

    def _bound(self, log_w: Tensor) -> Tensor:
        """The bound of `[..., particles]` log-weights."""
        order = 1 - self.alpha
        return (torch.logsumexp(order * log_w, -1) - math.log(log_w.shape[-1])) / order

    def _others(self, log_w: Tensor) -> Tensor:
        """For each particle the bound without its own weight: a baseline, for it does not depend on its draws."""
        if not self.leave_one_out:
            return torch.zeros_like(log_w)
        log_w = log_w.detach()
        count = len(log_w)
        own = torch.eye(count, dtype=torch.bool, device=log_w.device)
        without = log_w.expand(count, count).masked_fill(own, 0.0)
        mean = without.sum(-1, keepdim=True) / (count - 1)
        # A particle of weight zero has no logarithm to average: then no baseline, which the others alone decide.
        return self._bound(torch.where(own, mean, without)).nan_to_num(0.0, 0.0, 0.0)

    def _by_site(
        self, ensembles: Sequence[Ensemble], vectorization: Vectorization, log_w: Tensor, bound: Tensor
    ) -> dict[str, Tensor]:
        """Every site's share of the weighted mean of `log w`, and under "divergence" what the bound has besides."""
        weights = torch.softmax((1 - self.alpha) * log_w.detach(), 0)
        found: dict[str, Tensor] = {}
        for ensemble, weight in zip(ensembles, weights.chunk(len(ensembles)), strict=True):
            for term in ensemble.terms:
                share = (weight * term.sign * _by_particle(term, vectorization).detach()).sum()
                found[term.name] = found.get(term.name, torch.zeros_like(share)) + share
        found["divergence"] = bound.detach() - (weights * log_w.detach()).sum()
        return found


def _log_weights(terms: Sequence[Term], vectorization: Vectorization) -> Tensor:
    """`log p(x, z) - log q(z)` of every particle in a run, `[particles]`; differentiable."""
    return torch.stack([term.sign * _by_particle(term, vectorization) for term in terms]).sum(0)


def _by_particle(term: Term, vectorization: Vectorization) -> Tensor:
    """A term's sum for every particle of its run, `[particles]`."""
    value = term.log_prob
    if vectorization.particles == 1 or value.dim() < vectorization.dims or value.shape[0] == 1:
        return value.sum().expand(vectorization.particles)
    return value.reshape(vectorization.particles, -1).sum(-1)


def _why_unfit(estimator: Estimator, alternatives: int) -> tuple[str, str] | None:
    if alternatives or estimator.needs.per_element:
        return (
            "it compares costs that are sums of terms, and here they are inside a logarithm",
            "Score(MovingAverage())",
        )
    if estimator.needs.across_particles:
        return (
            "all particles share one cost here, so the others' costs are no baseline",
            "Score(), with Renyi(leave_one_out=True), which subtracts the bound of the others",
        )
    if estimator.drawing.coupling is not None:
        return (
            "the bound is the mean of a logarithm over independent particles, and coupled ones have another mean",
            "Pathwise()",
        )
    if estimator.needs.constant_density:
        return "under the weights, the score of the guide has no mean of zero", "Pathwise()"
    return None
