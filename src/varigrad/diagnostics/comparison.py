"""`compare`: measures the bias, variance and cost of several estimators on one program, and recommends one."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from varigrad.diagnostics.advice import advise
from varigrad.diagnostics.measurements import Measured, Row
from varigrad.diagnostics.report import Comparison
from varigrad.errors import SiteError, VarigradError, did_you_mean, is_whole
from varigrad.estimators.base import Estimator
from varigrad.gradients.moments import (
    FIRST_ALARM,
    SECOND_ALARM,
    Reference,
    RunningMoments,
    candidate,
    dtype_of,
    exact_bias,
    limit_of,
    measured_bound,
    reference_of,
    rounding_of,
    z_scores,
)
from varigrad.language.messages import Program, Sample
from varigrad.objectives.bound import BiasWarning, Bound
from varigrad.objectives.elbo import ELBO
from varigrad.objectives.gradient_draws import by_name, leaves_of, samples
from varigrad.objectives.objective import Objective
from varigrad.objectives.plan import shown
from varigrad.objectives.renyi import Renyi

SMALLEST = 4
BLOCKS = 20


def compare(
    model: Program,
    guide: Program,
    args: object = (),
    estimators: Mapping[str, Sequence[Estimator]] | None = None,
    *,
    budget: int = 1_000,
    objective: ELBO | Renyi | None = None,
    at: Bound | None = None,
    seed: int = 0,
) -> Comparison:
    """Try estimators on a model and guide, and say which to use.

    Every estimator gives `budget` gradients, in blocks that take turns, at fixed parameters, after averages have seen
    100 costs (networks of baselines are copies, trained meanwhile). Biases are relative to the exact gradient, where
    the guide's choices have at most `budget` outcomes, else to the mean of four times as many draws of leave-one-out.
    A difference too large for chance (1e-3 over all estimators and elements) is looked at again, without sampling or
    with four times as many fresh draws; "biased" is what is found twice (1e-5). Changes nothing of yours, nor any
    generator.

    Args:
        model, guide: the programs.
        args: what the programs are called with: a tuple, or the only argument.
        estimators: `{glob: [estimators]}`, each in turn at all sites that match; other sites keep what the objective,
            the guide or the rule says.
        budget: gradients for each estimator.
        objective: default: that of `at`, else `ELBO()`.
        at: look at the parameters of this bound (`svi.bound`, `fit.bound`); default: where they start.
        seed: of all draws.

    Returns:
        What was measured, with advice for each glob: a table to `print`.

    Raises:
        VarigradError: the budget is no whole number of at least 4, there are no estimators, or a glob names no site.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> def model():
        ...     z = vg.sample("z", dist.Normal(0.0, 1.0))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(2.0))
        >>> def guide():
        ...     vg.sample("z", dist.Normal(vg.param("m", 0.0), 0.7))
        >>> from varigrad.estimators import LeaveOneOut, Pathwise
        >>> found = vg.compare(model, guide, estimators={"z": [LeaveOneOut(2), Pathwise()]}, budget=8)
        >>> [(m.estimator, m.evaluations) for m in found.measured]
        [('LeaveOneOut(k=2)', 2), ('Pathwise()', 1)]
    """
    if not is_whole(budget, SMALLEST):
        raise VarigradError(
            f"budget must be a whole number of at least {SMALLEST}, got {budget!r}",
            because="it is how many gradients are drawn with each estimator, and a variance needs some",
            try_="budget=1000",
        )
    budget = int(budget)
    globs = _checked(estimators)
    args = args if isinstance(args, tuple) else (args,)
    with measured_bound(model, guide, args, at, seed, objective) as at, warnings.catch_warnings():
        warnings.simplefilter("ignore", BiasWarning)  # what is suspect is said in the table
        config: Objective = at.config if objective is None else objective
        owners = _sites_of_parameters(at, args, tuple(globs))
        reference = reference_of(at, config, tuple(globs), args, budget, 4 * budget, seed + 1)
        probes = [_Probe(glob, e, name) for glob, some in globs.items() for name, e in some.items()]
        for i, probe in enumerate(probes):
            probe.start(at, config, args, seed + 2 + i)
        blocks = max(2, min(BLOCKS, budget // 10))
        sizes = [budget // blocks + (b < budget % blocks) for b in range(blocks)]
        serving = [p for p in probes if p.bound is not None]
        for i, size in enumerate(sizes):
            turn = i % max(1, len(serving))  # no estimator always comes after the same other one
            for probe in (*serving[turn:], *serving[:turn]):
                probe.draw(size, args)
        tests = max(1, len(serving)) * len(reference.mean)
        again = _SecondStage(at, reference, config, args, tuple(globs), budget, seed, tests)
        measured = tuple(p.measured(reference, owners, limit_of(FIRST_ALARM, tests), again) for p in probes)
    advice = tuple(advise(g, [m for m in measured if m.sites == g], blocks) for g in globs)
    return Comparison(measured, reference.how, budget, advice)


def _checked(estimators: Mapping[str, Sequence[Estimator]] | None) -> dict[str, dict[str, Estimator]]:
    """`glob -> name -> estimator`."""
    found: dict[str, dict[str, Estimator]] = {}
    if estimators is not None and not isinstance(estimators, Mapping):
        raise VarigradError(
            f"estimators must be a dictionary of lists by site, got {type(estimators).__name__}",
            try_='{"z*": [Score(MovingAverage()), LeaveOneOut(4)]}',
        )
    for glob, some in (estimators or {}).items():
        several = list(some) if isinstance(some, (list, tuple)) else [some]
        found[glob] = {}
        for estimator in several:
            if not isinstance(estimator, Estimator):
                raise VarigradError(
                    f"estimators[{glob!r}] must be a list of estimators, got {estimator!r} in it",
                    try_='{"z*": [Score(MovingAverage()), LeaveOneOut(4)]}',
                )
            name = shown(estimator)
            twins = sum(known.split(" #")[0] == name for known in found[glob])
            found[glob][f"{name} #{twins + 1}" if twins else name] = estimator
    if not any(found.values()) or not all(found.values()):
        raise VarigradError(
            "there are no estimators to compare", try_='estimators={"z*": [Score(MovingAverage()), LeaveOneOut(4)]}'
        )
    return found


def _sites_of_parameters(at: Bound, args: tuple[object, ...], globs: tuple[str, ...]) -> dict[str, str]:
    """`parameter -> site` for those that enter the distribution of one site of the guide directly.

    Raises:
        SiteError: a glob matches no site.
    """
    trace = at.trace_guide(*args)
    sites = {n: m for n, m in trace.items() if isinstance(m, Sample)}
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in sites):
            raise SiteError(
                f"matches no site of the guide{did_you_mean(glob, sites)}",
                site=glob,
                because=f"the sites are {', '.join(map(repr, sites)) or 'none'}",
                try_="the site's name, or a glob such as 'z*'",
            )
    leaves = leaves_of(at)
    found: dict[str, list[str]] = {name: [] for name in leaves}
    for site, message in sites.items():
        assert message.value is not None
        log_q = message.distribution.log_prob(message.value.detach()).sum()
        if not log_q.requires_grad:
            continue
        grads = torch.autograd.grad(log_q, list(leaves.values()), allow_unused=True)
        for name, grad in zip(leaves, grads, strict=True):
            if grad is not None:
                found[name].append(site)
    return {name: some[0] for name, some in found.items() if len(some) == 1}


@dataclass(frozen=True)
class _SecondStage:
    """A second test of gradients that seem biased: without sampling if there are few outcomes, else with fresh draws of
    estimator and reference, four times as many.
    """

    at: Bound
    reference: Reference
    config: Objective
    args: tuple[object, ...]
    globs: tuple[str, ...]
    budget: int
    seed: int
    tests: int

    def biased(self, glob: str, estimator: Estimator) -> bool:
        seed, count = 1_000_003 + self.seed, 4 * self.budget
        reference = self.reference
        if reference.count:
            reference = reference_of(self.at, self.config, self.globs, self.args, 0, 4 * count, seed)
        bound = candidate(self.at, self.config, {glob: estimator}, self.args, seed + 1)
        bias = exact_bias(bound, reference, self.args, count)
        if bias is not None:
            return bool((bias.abs() > rounding_of(reference, dtype_of(bound))).any())
        found = RunningMoments()
        for start in range(0, count, 100):
            found.add(samples(bound, min(100, count - start), self.args, {}))
        z = z_scores(found, reference, dtype_of(bound))
        return bool((z.abs() > limit_of(SECOND_ALARM, self.tests)).any())


@dataclass(eq=False)
class _Probe:
    """One estimator whose gradients are being measured."""

    glob: str
    estimator: Estimator
    name: str
    bound: Bound | None = None
    refusal: str = ""
    running: RunningMoments = field(default_factory=RunningMoments)
    variances: list[Tensor] = field(default_factory=list)
    """The variance in each block, `[elements]`."""
    times: list[float] = field(default_factory=list)

    def start(self, at: Bound, config: Objective, args: tuple[object, ...], seed: int) -> None:
        """Make the estimator's bound and warm it up; or note why it cannot serve."""
        try:
            self.bound = candidate(at, config, {self.glob: self.estimator}, args, seed)
        except VarigradError as error:
            self.refusal = str(error)

    def draw(self, count: int, args: tuple[object, ...]) -> None:
        """Draw one block of gradients."""
        assert self.bound is not None
        start = time.perf_counter()
        block = samples(self.bound, count, args, {})
        self.times.append((time.perf_counter() - start) / count * 1e6)
        self.running.add(block)
        self.variances.append(block.double().var(0))

    def measured(self, reference: Reference, owners: Mapping[str, str], limit: float, again: _SecondStage) -> Measured:
        """What the draws say about the estimator."""
        bound = self.bound
        if bound is None:
            return Measured(self.glob, self.name, "refused", self.refusal)
        z = z_scores(self.running, reference, dtype_of(bound))
        verdict, because = "unbiased", ""
        plan = bound.plan(*again.args)
        mine = [s for s in plan.sites if fnmatchcase(s.name, self.glob)]
        suspect = [s.name for s in mine if s.suspect]
        if not all(s.unbiased for s in mine):
            worst = int(z.abs().argmax())
            verdict = "biased by name"
            because = f"says so itself; here by up to {float((self.running.mean - reference.mean).abs().max()):.2g}, "
            because += f"and most surely where z = {float(z[worst]):.1f}"
        elif suspect:
            verdict, because = "biased by name", f"suspect at {', '.join(suspect)}: its value goes through a jump"
        elif bool((z.abs() > limit).any()) and again.biased(self.glob, self.estimator):
            verdict, because = "biased", "its mean is not the gradient, though it says that it is unbiased"
        seconds = torch.tensor(self.times, dtype=torch.float64)
        low, middle, high = seconds.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
        blocks = torch.stack(self.variances)
        rows = self._rows(bound, z, reference, blocks, owners)
        several = by_name(bound, blocks)
        mine_alone = [r.parameter for r in rows if r.site and fnmatchcase(r.site, self.glob)]
        own = [several[name].reshape(len(blocks), -1) for name in mine_alone]
        return Measured(
            self.glob,
            self.name,
            verdict,
            because,
            plan.particles * plan.lanes,
            middle,
            # A median's error is 1.25 times a mean's; 1.35 standard deviations lie between the quartiles.
            1.25 * (high - low) / 1.35 / len(seconds) ** 0.5,
            float(self.running.variance.sum()),
            _error(blocks),
            tuple(rows),
            sum(r.variance for r in rows if r.parameter in mine_alone) if own else float("nan"),
            _error(torch.cat(own, -1)) if own else float("nan"),
        )

    def _rows(
        self, bound: Bound, z: Tensor, reference: Reference, blocks: Tensor, owners: Mapping[str, str]
    ) -> list[Row]:
        scores = by_name(bound, z)
        bias, variance = by_name(bound, self.running.mean - reference.mean), by_name(bound, self.running.variance)
        signal, several = by_name(bound, reference.mean), by_name(bound, blocks)
        rows = []
        for name, score in scores.items():
            worst, noise = int(score.abs().argmax()), float(variance[name].sum())
            rows.append(
                Row(
                    name,
                    owners.get(name, ""),
                    float(bias[name].reshape(-1)[worst]),
                    float(score.reshape(-1)[worst]),
                    noise,
                    _error(several[name].reshape(len(blocks), -1)),
                    float(signal[name].square().sum().sqrt()) / noise**0.5 if noise > 0 else float("inf"),
                )
            )
        return rows


def _error(blocks: Tensor) -> float:
    """Standard error of a total, from its values in blocks, `[blocks, elements]`."""
    return float(blocks.sum(-1).std() / len(blocks) ** 0.5)
