"""varigrad in one file: the whole idea, importing nothing of it, for people who want to see how it works.

A model and a guide are plain Python; running them yields *sites*. The bound is a sum of *terms*, the sites'
log-densities, and each term knows its *plates* and the random choices *upstream* of it. An *estimator*, one for each
choice of the guide, turns the *cost* of that choice (the terms downstream of it) into a *surrogate*: a tensor whose
gradient is right on average and whose value means nothing. What the library adds is speed (alternatives in one batched
pass, a cheaper tracker), checks, minibatches and more estimators; tests hold the two to equal gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from operator import methodcaller
from sys import _getframe
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributions as dist
from torch.distributions import Distribution, constraints, transform_to
from torch.utils._pytree import tree_leaves, tree_map


# --- Provenance: which random choices was this tensor computed from? -------------------------------------------------
class Source(NamedTuple):
    """A random choice, and the plates whose elements were mixed on the way from it to here."""

    site: str
    cross_element: frozenset[str] = frozenset()


Sources = frozenset[Source]
# Calls that answer with something else than a tensor, and say nothing about its values.
ABOUT_SHAPE = {"__get__", "__len__", "__hash__", "dim", "size", "numel", "stride", "is_floating_point", "is_complex"}


class Tracked(Tensor):
    """A tensor that carries its sources through every torch function.

    A dependency may be reported though it is not there, never lost: once a value has left torch (`if z`, `z.item()`, a
    write into another tensor), its sources join the run's `leaks`, and all that follows counts as downstream of them.
    """

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.__name__
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tracked)]
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
        sources, leaks = frozenset().union(*(t.sources for t in inputs)), inputs[0].leaks
        left_torch = name not in ABOUT_SHAPE and not any(isinstance(leaf, Tensor) for leaf in tree_leaves(result))
        if name == "__bool__" and _getframe(1).f_globals["__name__"].startswith("torch.distributions"):
            left_torch = False  # validation of arguments: the answer is yes, or an exception
        in_place = name.endswith("_") and (name.startswith("__i") or not name.endswith("__"))
        if left_torch or in_place or "out" in kwargs:
            leaks.update(sources)
        return tree_map(lambda leaf: marked(leaf, sources, leaks) if isinstance(leaf, Tensor) else leaf, result)


def marked(tensor: Tensor, sources: Sources, leaks: set[Source]) -> Tensor:
    """The same tensor, carrying `sources`."""
    twin = plain(tensor).as_subclass(Tracked)
    twin.sources, twin.leaks = sources, leaks
    return twin


def plain(tensor: Tensor) -> Tensor:
    """The same tensor, carrying nothing."""
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.as_subclass(Tensor)


# --- Statements: what a program says, and the handlers that decide what it means --------------------------------------
@dataclass(frozen=True)
class Plate:
    """A dimension whose elements are declared independent; the handler that is in force inside it."""

    name: str
    size: int
    dim: int

    def __call__(self, message: Any, forward: Forward) -> Any:
        return forward(replace(message, plates=(self, *message.plates)) if isinstance(message, Sample) else message)


@dataclass(frozen=True, eq=False)
class Sample:
    """A random choice: latent, or observed at `value`."""

    name: str
    distribution: Distribution
    value: Tensor | None
    observed: bool
    plates: tuple[Plate, ...] = ()
    estimator: Estimator | None = None


@dataclass(frozen=True, eq=False)
class Param:
    """A learnable tensor; `value` obeys the constraint."""

    name: str
    init: Tensor
    constraint: Any
    value: Tensor | None = None


Forward = Callable[[Any], Any]
Handler = Callable[[Any, Forward], Any]
Program = Callable[[], Any]
Draw = Callable[[Distribution], Tensor]
State = Mapping[str, Tensor]  # what the baselines carry from step to step, by site
handlers: ContextVar[tuple[Handler, ...]] = ContextVar("handlers", default=())


@contextmanager
def handling(handler: Handler) -> Iterator[None]:
    """Put a handler inside the others while the block lasts."""
    token = handlers.set((*handlers.get(), handler))
    try:
        yield
    finally:
        handlers.reset(token)


def send(message: Any) -> Any:
    """Pass a message outward through the handlers, innermost first; each may change it before and after the others."""

    def onward(message: Any, stack: tuple[Handler, ...]) -> Any:
        if stack:
            return stack[-1](message, lambda changed: onward(changed, stack[:-1]))
        if message.value is not None:
            return message
        # Outside inference a program draws from its own distributions, at its initial parameters.
        return replace(message, value=message.init if isinstance(message, Param) else expanded(message).sample())

    return onward(message, handlers.get())


def sample(name: str, distribution: Distribution, obs: Any = None, estimator: Estimator | None = None) -> Tensor:
    return send(Sample(name, distribution, obs, obs is not None, (), estimator)).value


def param(name: str, init: Any, constraint: Any = constraints.real) -> Tensor:
    return send(Param(name, torch.as_tensor(init), constraint)).value


def plate(name: str, size: int) -> Any:
    """Declare the rightmost free batch dimension independent: every choice in the `with` block is marked with it."""
    return handling(Plate(name, size, -1 - sum(isinstance(handler, Plate) for handler in handlers.get())))


def expanded(message: Sample) -> Distribution:
    """The distribution, with one batch dimension for every plate around it."""
    shape = [p.size for p in sorted(message.plates, key=lambda p: p.dim)]
    return message.distribution.expand(torch.broadcast_shapes(message.distribution.batch_shape, shape))


# --- One run: terms, each with what is upstream of it ----------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Term:
    """A summand of the bound: `sign * log_prob`, `[*plates]`."""

    name: str
    sign: int
    log_prob: Tensor
    plates: tuple[Plate, ...]
    upstream: Sources


@dataclass(eq=False)
class Run:
    """The guide, then the model at the guide's values.

    `leaves` are the unconstrained parameters, added to as the programs mention new ones; sites named in `forced` take
    the given values, all others are drawn.
    """

    leaves: dict[str, Tensor]
    draw: Draw
    forced: Mapping[str, Tensor]
    sites: dict[str, Sample] = field(default_factory=dict)
    terms: list[Term] = field(default_factory=list)
    leaks: set[Source] = field(default_factory=set)

    def of(self, model: Program, guide: Program) -> Run:
        with handling(self.in_guide):
            guide()
        with handling(self.in_model):
            model()
        return self

    def in_guide(self, message: Any, forward: Forward) -> Any:
        if isinstance(message, Param):
            return forward(self.parameter(message))
        name, distribution = message.name, expanded(message)
        estimator = message.estimator or (Pathwise() if distribution.has_rsample else Score(decay=0.9))
        draw = type(distribution).rsample if estimator.pathwise else self.draw
        value = plain(self.forced[name] if name in self.forced else draw(distribution))
        value = marked(value, self.add(message, -1, distribution.log_prob(value), Source(name)), self.leaks)
        self.sites[name] = replace(message, distribution=distribution, value=value, estimator=estimator)
        return forward(self.sites[name])

    def in_model(self, message: Any, forward: Forward) -> Any:
        if isinstance(message, Param):
            return forward(self.parameter(message))
        if not message.observed:
            message = replace(message, value=self.sites[message.name].value)
        self.add(message, 1, expanded(message).log_prob(torch.as_tensor(message.value)))
        return forward(message)

    def parameter(self, message: Param) -> Param:
        to_constrained = transform_to(message.constraint)
        if message.name not in self.leaves:
            self.leaves[message.name] = to_constrained.inv(message.init).detach().clone().requires_grad_()
        return replace(message, value=to_constrained(self.leaves[message.name]))

    def add(self, message: Sample, sign: int, log_prob: Tensor, *own: Source) -> Sources:
        """Record a term. What it read, as parameter or as value, is in the log-density's own provenance."""
        here = frozenset(p.name for p in message.plates)
        plates = {name: frozenset(p.name for p in site.plates) for name, site in self.sites.items()}
        # Inside a plate, element n depends on element n of a choice only; unless the way leads through something
        # outside the plate, such as a global choice that reads a sum. Then the dependence is cross-element, for good.
        read = {Source(site, mixed | plates[site] - here) for site, mixed in getattr(log_prob, "sources", ())}
        upstream = frozenset(read | {Source(site, plates[site]) for site, _ in self.leaks}).union(own)
        self.terms.append(Term(message.name, sign, plain(log_prob), message.plates, upstream))
        return upstream


def cost(terms: Sequence[Term], site: Sample) -> Tensor:
    """The terms downstream of `site`, reduced to its plates: `[*plates]`.

    Whatever is not downstream has mean zero when multiplied by the score, so it is left out (Rao-Blackwellisation);
    and so have, for one element of a plate, the terms of the other elements.
    """
    total = torch.zeros(())
    for term in terms:
        paths = [source.cross_element for source in term.upstream if source.site == site.name]
        if paths:
            cross_element = frozenset().union(*paths)
            keep = {p.dim for p in site.plates if p in term.plates and p.name not in cross_element}
            if site.estimator.per_element and len(keep) < len(site.plates):
                raise ValueError(f"{site.name}: {site.estimator} needs costs inside its plates, not {term.name!r}")
            log_prob = term.log_prob.detach()
            for dim in sorted(set(range(-log_prob.dim(), 0)) - keep):
                log_prob = log_prob.sum(dim, keepdim=-dim <= len(site.plates))
            total = total + term.sign * log_prob
    return total


# --- Estimators: how to draw a choice, and the surrogate to differentiate ---------------------------------------------
class Estimator:
    """Attached to one choice. `alternatives` are further values at which it wants to know the cost."""

    pathwise = per_element = False

    def alternatives(self, distribution: Distribution, draw: Draw) -> Sequence[Tensor]:
        return ()

    def surrogate(self, log_q: Tensor, cost: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What to differentiate, and the next state; `log_q` and `cost` are `[1 + alternatives, *plates]`."""


@dataclass(frozen=True)
class Pathwise(Estimator):
    """The draw is a differentiable function of the parameters: the terms themselves carry the gradient."""

    pathwise = True


@dataclass(frozen=True)
class Score(Estimator):
    """(f - b) grad log q(z). E[grad log q(z)] = 0, so any b will do that does not see z: an average of *past* costs."""

    decay: float | None = None

    def surrogate(self, log_q: Tensor, cost: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        average = cost.new_zeros(()) if state is None else state
        after = None if self.decay is None else torch.lerp(cost.mean(), average, self.decay)
        return (cost[0] - average) * log_q[0], after


@dataclass(frozen=True)
class LeaveOneOut(Estimator):
    """k draws, each with the mean cost of the others for a baseline."""

    k: int = 2

    def alternatives(self, distribution: Distribution, draw: Draw) -> Sequence[Tensor]:
        return [plain(draw(distribution)) for _ in range(self.k - 1)]

    def surrogate(self, log_q: Tensor, cost: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        others = (cost.sum(0) - cost) / (self.k - 1)
        return ((cost - others) * log_q).mean(0), None


@dataclass(frozen=True)
class Enumerate(Estimator):
    """Every value, weighted by its probability. All elements of a plate vary together, at the price of one."""

    per_element = True

    def alternatives(self, distribution: Distribution, draw: Draw) -> Sequence[Tensor]:
        return list(plain(distribution.enumerate_support()))

    def surrogate(self, log_q: Tensor, cost: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return (log_q[1:].exp() * cost[1:]).sum(0), None


# --- The bound, and the step ------------------------------------------------------------------------------------------
def estimate(
    model: Program, guide: Program, leaves: dict[str, Tensor], state: State, draw: Draw = methodcaller("sample")
) -> tuple[Tensor, Tensor, State]:
    """The ELBO, E_q[log p(x, z) - log q(z)]: its value in one run, what to differentiate, and the next state."""
    base = Run(leaves, draw, {}).of(model, guide)
    before, after, parts = {}, dict(state), []
    for term in base.terms:
        # At a score-function choice -grad log q(z) has mean zero by itself, and would only add noise.
        noise = term.sign < 0 and not base.sites[term.name].estimator.pathwise
        parts.append(term.sign * (term.log_prob.detach() if noise else term.log_prob).sum())
    value = torch.stack(parts).sum().detach()
    for name, site in base.sites.items():
        if not site.estimator.pathwise:
            # The choices before this one stay as they were, the ones after it are drawn anew.
            others = site.estimator.alternatives(site.distribution, draw)
            runs = [base, *(Run(leaves, draw, {**before, name: other}).of(model, guide) for other in others)]
            log_q = torch.stack([next(t.log_prob for t in run.terms if t.name == name) for run in runs])
            costs = torch.stack([cost(run.terms, site) for run in runs])
            surrogate, after[name] = site.estimator.surrogate(log_q, costs, state.get(name))
            parts.append(surrogate.sum())
        before[name] = site.value
    return value, torch.stack(parts).sum(), after


class SVI:
    """Follow the estimated gradient uphill."""

    def __init__(self, model: Program, guide: Program, **adam: Any) -> None:
        self.programs, self.leaves, self.state = (model, guide), {}, {}
        estimate(model, guide, self.leaves, {})  # so that the parameters exist
        self.optimizer = torch.optim.Adam(self.leaves.values(), **adam)

    def step(self) -> float:
        value, surrogate, self.state = estimate(*self.programs, self.leaves, self.state)
        self.optimizer.zero_grad()
        (-surrogate).backward()
        self.optimizer.step()
        return value.item()


# --- Two programs -----------------------------------------------------------------------------------------------------
TOSSES, REPORTS = torch.tensor([1.0] * 6 + [0.0] * 4), torch.tensor([1.9, 0.8, 2.2, 1.1, -0.4])


def coin() -> None:
    fairness = sample("fairness", dist.Beta(10.0, 10.0))
    with plate("tosses", len(TOSSES)):
        sample("toss", dist.Bernoulli(fairness), obs=TOSSES)


def coin_guide(estimator: Estimator) -> None:
    a, b = (param(name, 15.0, constraints.positive) for name in "ab")
    sample("fairness", dist.Beta(a, b), estimator=estimator)


def weather() -> None:
    """Was there a storm, and where did it rain? Choices in a plate, under a global one."""
    storm = sample("storm", dist.Bernoulli(0.3))
    with plate("streets", len(REPORTS)):
        rain = sample("rain", dist.Bernoulli(0.1 + 0.7 * storm))
        sample("report", dist.Normal(2 * rain, 1.0), obs=REPORTS)


def weather_guide(estimator: Estimator) -> None:
    storm = sample("storm", dist.Bernoulli(logits=param("storm_logit", 0.0)), estimator=estimator)
    calm, stormy = (param(name, torch.zeros(len(REPORTS))) for name in ("calm_logits", "stormy_logits"))
    with plate("streets", len(REPORTS)):
        sample("rain", dist.Bernoulli(logits=torch.where(storm > 0, stormy, calm)), estimator=estimator)


def main() -> None:
    print("coin: steps until the guide is within 0.8 of the posterior, Beta(16, 14)")
    for estimator in (Score(decay=0.9), LeaveOneOut(2), Pathwise()):
        svi, steps = SVI(coin, partial(coin_guide, estimator), lr=5e-4, betas=(0.93, 0.999)), 0
        while any(abs(svi.leaves[name].exp().item() - aim) >= 0.8 for name, aim in (("a", 16), ("b", 14))):
            svi.step()
            steps += 1
        print(f"  {estimator!s:20}{steps:8}")
    print("weather: mean bound over the last 50 of 300 steps (the guide can be exact: log p(x) is its maximum)")
    for estimator in (Score(), Score(decay=0.9), LeaveOneOut(4), Enumerate()):
        svi = SVI(weather, partial(weather_guide, estimator), lr=0.05)
        print(f"  {estimator!s:20}{sum([svi.step() for _ in range(300)][-50:]) / 50:8.3f}")


if __name__ == "__main__":
    main()
