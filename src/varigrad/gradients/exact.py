"""Exact expected gradients of programs with discrete guides, by running every outcome instead of sampling.

Replaying an *estimator* along every path through the tree of outcomes (`outcomes.py`) gives the mean and variance of
its gradient without sampling error (`expected_gradient`); replaying the *programs* gives the gradient it should have
(`exact_gradient`), by code that shares nothing with estimators, terms and costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from varigrad.distributions.mixin import masked, unmasked
from varigrad.errors import VarigradError
from varigrad.gradients.joint_values import JointValues
from varigrad.gradients.outcomes import LIMIT, Outcomes, outcomes
from varigrad.language.messages import Factor, Forward, Indices, Message, Param, Sample, evolve
from varigrad.language.plates import same_minibatch
from varigrad.language.runtime import expanded, plate_shape, run
from varigrad.objectives.bound import Bound
from varigrad.shapes import join

Gradient = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Moments:
    """Exact mean and variance of a gradient estimate, by parameter, over `count` outcomes.

    Attributes:
        mean, variance: by parameter, in the parameter's shape.
        count: outcomes that were run.
        value: the mean of the estimate of the bound, in nats.

    Example:
        >>> import varigrad as vg
        >>> from varigrad import testing
        >>> coin = testing.PROGRAMS["bernoulli"]
        >>> moments = testing.expected_gradient(vg.ELBO()(coin.model, coin.guide))
        >>> moments.count, sorted(moments.mean)
        (2, ['t'])
    """

    mean: Gradient
    variance: Gradient
    count: int
    value: float


def expected_gradient(
    bound: Bound, *args: object, limit: int = LIMIT, nodes: int | None = None, **kwargs: object
) -> Moments:
    """What the bound's gradient estimate is on average, over every outcome of its draws.

    Baselines keep the state that they have. Parameters of baselines are left out.

    Args:
        bound: an objective of a model and a guide.
        args, kwargs: what the programs are called with.
        limit: the most outcomes that are run.
        nodes: of a quadrature for uniform numbers of which the estimator promises nothing: then exact only as far as
            a polynomial of degree `2 * nodes - 1` in each comes near the gradient, which is not so over a jump.

    Returns:
        Mean and variance of the gradient by the unconstrained parameters, by name.

    Raises:
        NotEnumerable: a draw is not from a finite support, a uniform number without `nodes` included, or there are
            too many outcomes.

    Example:
        >>> import varigrad as vg
        >>> from varigrad import testing
        >>> coin = testing.PROGRAMS["bernoulli"]
        >>> testing.expected_gradient(vg.ELBO()(coin.model, coin.guide)).mean["t"].shape
        torch.Size([1])
    """
    names, leaves = _leaves(bound)
    first = [torch.zeros_like(p) for p in leaves]
    second = [torch.zeros_like(p) for p in leaves]
    count, total, value = 0, 0.0, 0.0
    for path in outcomes(limit, nodes):
        with bound.drawing_from(path):
            result = bound.estimate(*args, **kwargs)
            grads = torch.autograd.grad(result.surrogate, leaves, allow_unused=True)
        weight = path.probability
        for one, two, grad in zip(first, second, grads, strict=True):
            if grad is not None:
                one += weight * grad
                two += weight * grad.square()
        count, total, value = count + 1, total + weight, value + weight * float(result.value)
    if abs(total - 1) > 1e-9:
        raise VarigradError(f"probabilities of the outcomes sum to {total}")
    variance = {n: two - one.square() for n, one, two in zip(names, first, second, strict=True)}
    return Moments(dict(zip(names, first, strict=True)), variance, count, value)


def _mean(probabilities: Tensor, log_weights: Tensor) -> Tensor:
    return (probabilities * log_weights).sum()


def exact_gradient(
    bound: Bound,
    *args: object,
    limit: int = LIMIT,
    of: Callable[[Tensor, Tensor], Tensor] = _mean,
    **kwargs: object,
) -> tuple[float, Gradient]:
    """A bound and its gradient, by enumerating all values of the guide's choices. Uses no estimator.

    Sites of the model that the objective sums out are summed over all joint values of all of their elements.

    Args:
        bound: an objective of a model and a guide.
        args, kwargs: what the programs are called with.
        limit: the most outcomes that are run.
        of: the bound, from the probabilities of the guide's outcomes and `log p(x, z) - log q(z)` in each, both
            `[outcomes]`; default: the ELBO.

    Returns:
        The bound in nats, and its gradient by the unconstrained parameters, by name.

    Raises:
        NotEnumerable: a choice has no finite support, there are too many outcomes, or a minibatch is scaled inside a
            sum over values.

    Example:
        >>> import varigrad as vg
        >>> from varigrad import testing
        >>> coin = testing.PROGRAMS["bernoulli"]
        >>> value, gradient = testing.exact_gradient(vg.ELBO()(coin.model, coin.guide))
        >>> sorted(gradient)
        ['t']
    """
    names, leaves = _leaves(bound)
    paths = [_outcome(bound, path, args, kwargs) for path in outcomes(limit)]
    total = of(torch.stack([p for p, _ in paths]), torch.stack([w for _, w in paths]))
    grads = torch.autograd.grad(total, leaves, allow_unused=True)
    found = {n: torch.zeros_like(p) if g is None else g for n, p, g in zip(names, leaves, grads, strict=True)}
    return float(total.detach()), found


def options_of(bound: Bound, *args: object, limit: int = LIMIT, **kwargs: object) -> int:
    """How many outcomes the guide's choices have if every path has as many options as the first; cheap.

    Raises:
        NotEnumerable: a choice has no finite support, or by itself more than `limit` outcomes.
    """
    first = Outcomes(limit=limit)
    with torch.no_grad():
        _outcome(bound, first, args, kwargs)
    return math.prod(count for _, count in first.taken)


def draws_of(bound: Bound, *args: object, nodes: int | None = None, limit: int = LIMIT, **kwargs: object) -> int:
    """As `options_of`, for what the bound's estimators draw; `nodes` as in `expected_gradient`.

    Raises:
        NotEnumerable: they draw something without finite support, or with more than `limit` outcomes.
    """
    first = Outcomes(nodes=nodes, limit=limit)
    with bound.drawing_from(first):
        bound.estimate(*args, **kwargs)
    return math.prod(count for _, count in first.taken)


def gradient_of(bound: Bound, function: Callable[[dict[str, Tensor]], Tensor]) -> tuple[float, Gradient]:
    """Value and gradient of a closed form, given as a function of the constrained parameters by name.

    Args:
        bound: the owner of the parameters.
        function: a differentiable scalar of the constrained parameters by name.

    Returns:
        The value, and the gradient by the unconstrained parameters, by name.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import testing
        >>> def program():
        ...     vg.sample("z", vg.distributions.Normal(vg.param("m", torch.tensor(3.0)), 1.0))
        >>> bound = vg.ELBO()(program, program).init()
        >>> testing.gradient_of(bound, lambda parameters: parameters["m"] ** 2)
        (9.0, {'m': tensor(6.)})
    """
    names, leaves = _leaves(bound)
    value = function(bound.owner.constrained_leaves())
    grads = torch.autograd.grad(value, leaves, allow_unused=True)
    return float(value.detach()), {
        n: torch.zeros_like(p) if g is None else g for n, p, g in zip(names, leaves, grads, strict=True)
    }


def largest_difference(a: Gradient, b: Gradient) -> float:
    """The largest absolute difference of two gradients.

    Args:
        a, b: gradients by name, of the same parameters.

    Returns:
        The difference, over all elements of all parameters.

    Example:
        >>> import torch
        >>> from varigrad import testing
        >>> testing.largest_difference({"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([1.0, 2.5])})
        0.5
    """
    return max(float((a[n] - b[n]).abs().max()) for n in a)


def _leaves(bound: Bound) -> tuple[list[str], list[Tensor]]:
    named = [(n, p) for n, p in bound.owner.named_parameters() if p.requires_grad and not n.startswith("baselines.")]
    return [n for n, _ in named], [p for _, p in named]


def _outcome(
    bound: Bound, source: Outcomes, args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[Tensor, Tensor]:
    """One path's probability and its log-ratio; differentiable."""
    cache: dict[str, Tensor] = {}
    values: dict[str, Tensor] = {}
    indices: dict[str, Tensor] = {}
    log_q: list[Tensor] = []  # what the draws follow
    terms: list[Tensor] = []  # what the bound counts
    chance = 1.0
    every = JointValues() if bound.config.marginal else None  # of what is summed out

    def common(message: Message, forward: Forward, sign: int) -> Message:
        nonlocal chance
        if isinstance(message, Param) and message.value is None:
            message = evolve(message, value=bound.owner.constrained(message, cache))
        elif isinstance(message, Indices):
            if message.name not in indices:
                before = source.probability
                indices[message.name] = source.subset(message.size, message.batch)
                chance *= source.probability / before
            message = evolve(message, value=same_minibatch(message, indices[message.name]))
        elif isinstance(message, Factor):
            terms.append(sign * _counted(message, message.log_factor))
        return forward(message)

    def guide(message: Message, forward: Forward) -> Message:
        if isinstance(message, Sample):
            distribution = expanded(message)
            value = source.draw(distribution)
            values[message.name] = value
            log_q.append(unmasked(distribution).log_prob(value).sum())
            terms.append(-_counted(message, distribution.log_prob(value)))
            return forward(evolve(message, value=value))
        return common(message, forward, -1)

    def model(message: Message, forward: Forward) -> Message:
        if isinstance(message, Sample):
            left_out: float | None = None
            if not message.observed and (every is None or message.name in values):
                message = evolve(message, value=values[message.name])
            elif every is not None and not message.observed:
                message = evolve(message, value=every.value_of(message))
                left_out = -math.log(every.options[message.name][1])
            assert message.value is not None
            log_prob = message.distribution.log_prob(message.value)
            if every is None:
                terms.append(_counted(message, log_prob))
            else:
                every.add(message, _counted(evolve(message, scale=1.0), log_prob, left_out))
            return forward(message)
        if isinstance(message, Factor) and every is not None:
            every.add(message, _counted(evolve(message, scale=1.0), message.log_factor))
            return forward(message)
        return common(message, forward, 1)

    run(bound.guide_program, (guide,), args, kwargs)
    for _ in [None] if every is None else every.runs(source.limit):
        run(bound.model_program, (model,), args, kwargs)
    if every is not None:
        terms.append(every.log_sum())
    probability = torch.stack(log_q).sum().exp() if log_q else torch.ones(())
    return chance * probability, torch.stack(terms).sum()


def _counted(message: Sample | Factor, log_prob: Tensor, left_out: float | None = None) -> Tensor:
    """The log-density, scaled and summed; what a mask leaves out counts zero, or `left_out`."""
    shape = plate_shape(message)
    log_prob = log_prob.expand(join(log_prob.shape, shape))
    if message.mask is not None:
        log_prob = masked(log_prob, message.mask)
        log_prob = log_prob if left_out is None else torch.where(message.mask, log_prob, left_out)
    return (log_prob * message.scale).sum()
