"""The posterior of sites that are summed out, given draws of the guide: probabilities, draws, the most probable values.

All three come from one elimination each. Its derivative by the log-density of a value is the posterior probability of
that value; where every sum is replaced by its largest part, or by a part that is drawn, the derivative is one at the
most probable joint value, or at a joint draw from the posterior, and zero elsewhere.

References:
    Darwiche (2003), A differential approach to inference in Bayesian networks. doi:10.1145/765568.765570.
    Obermeyer et al. (2019), Tensor variable elimination for plated factor graphs. arXiv:1902.03210.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from varigrad.distributions.rng import Source
from varigrad.errors import SiteError, VarigradError
from varigrad.language.messages import Sample, evolve
from varigrad.objectives.bound import Bound
from varigrad.objectives.checks.first_run import check_arguments
from varigrad.objectives.run_record import RunRecord, RunSettings, Vectorization, vectorization_of
from varigrad.objectives.surrogate import densities_of
from varigrad.terms.elimination.chains import ChainSites
from varigrad.terms.elimination.reductions import Reduction, log_max, log_sum_exp, sampled_sum
from varigrad.terms.marginal import JointDensity, Slots, eliminated

Assignment = Literal["sample", "max"]
"""A joint draw from the posterior, or the most probable joint value."""


@dataclass(frozen=True, eq=False)
class SummedRun:
    """One run of guide and model, with all values of the sites that are summed out.

    Attributes:
        latents: what the guide drew, by site.
        densities: the log-densities that read sites which are summed out.
        slots: these sites.
        priors: the values of sites that the guide lacks and that are not summed out, unless they depend on such sites.
        indices: the minibatches in use, by plate.
    """

    latents: Mapping[str, Tensor]
    densities: list[JointDensity]
    slots: Slots
    priors: Mapping[str, Tensor] = field(default_factory=dict)
    indices: Mapping[str, Tensor] = field(default_factory=dict)

    def assignment(self, how: Assignment, source: Source) -> dict[str, Tensor]:
        """A joint value of the sites that are summed out, `[*plates, *event]` by site: drawn, or the most probable."""
        reduce = sampled_sum(source) if how == "sample" else log_max
        chosen = {name: one.argmax(-1) for name, one in self.derivative(reduce).items()}
        return self.by_round({name: self.slots.sites[name].values[index] for name, index in chosen.items()})

    def derivative(self, reduce: Reduction) -> dict[str, Tensor]:
        """The derivative of the elimination by the log-density of every value of every site, `[*plates, values]`."""
        added: dict[str, Tensor] = {}
        for density in self.densities:
            site = self.slots.sites.get(density.message.name)
            if site is not None:
                plates = density.log_prob.shape[density.log_prob.dim() - self.slots.dims :] if self.slots.dims else ()
                zeros = density.log_prob.new_zeros(len(site.values), 1, *plates)
                added[site.name] = zeros.requires_grad_()
        with torch.enable_grad():
            found = eliminated(self.densities, self.slots, reduce=reduce, scaled=False, added=added)
            total = torch.stack([factor.table.sum() for factor in found.factors]).sum()
            if not bool(total.isfinite()):
                raise SiteError(
                    "has no posterior",
                    site=next(iter(self.slots.sites)),
                    because="the data are impossible, or their density is not finite, at this draw of the guide",
                    try_="svi.diagnose(*args), which names the first density that is not finite",
                )
            grads = torch.autograd.grad(total, list(added.values()))
        return {name: self._of_plates(name, grad) for name, grad in zip(added, grads, strict=True)}

    def _of_plates(self, name: str, table: Tensor) -> Tensor:
        """`[*plates, values]` from `[values, lanes, *dims]`: dimensions left of the site's own plates have size 1."""
        own = max((-p.dim for p in self.slots.sites[name].plates if p.dim is not None), default=0)
        return table.reshape(len(table), *table.shape[table.dim() - own :]).movedim(0, -1)

    def joined(self, found: dict[str, Tensor], event: int) -> dict[str, Tensor]:
        """Values by site, with the rounds of a chain's site together: `z_0` and `z_1-9` become `z`.

        Args:
            event: how many of the values' dimensions are not of plates.
        """
        found = dict(found)
        for chain in self.slots.chains:
            dim = self._dim_of(chain) - event
            for first, _, others in chain.triples:
                found[first.removesuffix("_0")] = torch.cat([found.pop(first), found.pop(others)], dim)
        return found

    def by_round(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """Values by site, with a site for every round of a chain, as programs have them that run round by round."""
        split: dict[str, Tensor] = {}
        for name, value in found.items():
            chain = next((c for c in self.slots.chains if any(name == t[2] for t in c.triples)), None)
            if chain is None:
                split[name] = value
                continue
            dim = self._dim_of(chain) - (self.slots.sites[name].values.dim() - 1)
            base = next(t[0] for t in chain.triples if t[2] == name).removesuffix("0")
            for t in range(value.shape[dim]):
                split[f"{base}{t + 1}"] = value.narrow(dim, t, 1)
        return split

    def _dim_of(self, chain: ChainSites) -> int:
        """The batch dimension of a chain's rounds."""
        plates = self.slots.sites[chain.triples[0][2]].plates
        dim = next(p.dim for p in plates if p.name == chain.plate)
        assert dim is not None
        return dim


def marginals(bound: Bound, draws: int, args: tuple[object, ...], kwargs: dict[str, object]) -> dict[str, Tensor]:
    """Posterior probabilities of the values of every site that is summed out, averaged over draws of the guide.

    Returns:
        `[*plates, values]` by site; of a plate that is subsampled, for the elements of a minibatch.

    Raises:
        VarigradError: nothing is summed out.
    """
    total: dict[str, Tensor] = {}
    for run in summed_runs(bound, draws, args, kwargs):
        for name, one in run.joined(run.derivative(log_sum_exp), 1).items():
            total[name] = total[name] + one if name in total else one
    return {name: sum_ / draws for name, sum_ in total.items()}


def assignments(
    bound: Bound, draws: int, how: Assignment, args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Draws of the guide, each with a joint value of the sites that are summed out.

    Args:
        how: "sample": the joint value is drawn from its posterior given the guide's draw; "max": it is the most
            probable one.

    Returns:
        `[draws, *plates, *event]` by site: of the guide's sites, and of those that are summed out.

    Raises:
        VarigradError: nothing is summed out, or `how` is neither.
    """
    if how not in ("sample", "max"):
        raise VarigradError(f'marginal must be "sample" or "max", got {how!r}')
    guide: list[Mapping[str, Tensor]] = []
    model: list[Mapping[str, Tensor]] = []
    for run in summed_runs(bound, draws, args, kwargs):
        guide.append(run.latents)
        model.append(run.assignment(how, bound.source))
    return _stacked(guide), _stacked(model)


def _stacked(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def summed_runs(bound: Bound, count: int, args: tuple[object, ...], kwargs: dict[str, object]) -> Iterator[SummedRun]:
    """Run guide and model, each time with all values of the sites that are summed out.

    Sites that are observed when the programs are fitted may have no observation in these arguments: their densities
    are left out.

    Raises:
        VarigradError: nothing is summed out.
        SiteError: what is left out has an influence on a density that is not.
    """
    if bound.is_empty:
        bound.init(*args, **kwargs)
    known, runs = bound.discovered, bound.runs
    assert known is not None
    settings = evolve(_exploring(bound), nondifferentiable=known.nondifferentiable, never_marginal=known.observed)
    with torch.no_grad(), bound.preserved():
        try:
            explored = runs.perform(settings, args, kwargs)
        except TypeError:
            check_arguments(runs.model, runs.guide, args, kwargs)
            raise
        plain = vectorization_of(explored, 1).plain
        dependent = _left_out(explored)
    if not plain.slots:
        raise VarigradError("no site of the model is summed out", try_='ELBO(marginal="k")')
    settings = evolve(settings, vectorization=plain, track_all=False, explore=False, loop=True)
    for _ in range(count):
        with torch.no_grad():
            run = runs.perform(settings, args, kwargs)
            slots = run.slots(plain)
            assert slots is not None
            left_out = {s.message.name for s in run.guide if isinstance(s.message, Sample) and s.message.auxiliary}
            latents = {n: d.value for n, d in run.draws.items() if n not in left_out and n not in run.unguided}
            densities = [d for d in densities_of(run, plain)[1] if d.message.name not in run.unguided]
            priors = {n: d.value for n, d in run.draws.items() if n in run.unguided and n not in dependent}
            summed = SummedRun(latents, densities, slots, priors, dict(run.indices))
        yield summed


def sites_to_sum(bound: Bound, args: tuple[object, ...], kwargs: dict[str, object]) -> tuple[set[str], set[str]]:
    """The sites of a model that are to be summed out, and those, neither observed nor guided, that depend on them.

    Densities of the latter integrate to one, if nothing else depends on them, so a posterior goes without them. The
    programs need not have been looked at; parameters come into being.

    Raises:
        SiteError: something else depends on one of them.
    """
    with torch.no_grad(), bound.preserved():
        explored = bound.runs.perform(_exploring(bound), args, kwargs)
    return set(explored.marginal), _left_out(explored)


def _exploring(bound: Bound) -> RunSettings:
    """Settings of a run that finds out what the programs do."""
    settings = bound.runs.settings(Vectorization(), track_all=True, explore=True)
    return evolve(settings, strict=False, patterns=())


def _left_out(run: RunRecord) -> set[str]:
    """The sites without a guide that depend on sites which are summed out: their densities are left out.

    Raises:
        SiteError: a density that is not left out depends on one of them.
    """
    reads = {s.message.name: {token.site for token in s.upstream} for s in run.model}
    dependent = {name for name in run.unguided if not run.marginal.keys().isdisjoint(reads[name])}
    for statement in run.model:
        name = statement.message.name
        found = dependent & reads[name]
        if name not in run.unguided and found:
            site = min(found)
            raise SiteError(
                "is neither observed, nor summed out, nor a site of the guide",
                site=site,
                because=f"it depends on sites that are summed out, and {name!r} depends on it, so their posterior is "
                f"an integral over {site!r}",
                try_=f"a value for {site!r} (obs=, condition, replay of a guide's run), or {site!r} in the guide",
            )
    return dependent
