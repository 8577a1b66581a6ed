"""`assert_unbiased(model, guide, data)`: tests in one line that a program's gradient is unbiased."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from varigrad.errors import VarigradError, whole_number
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
from varigrad.language.messages import Program
from varigrad.objectives.bound import Bound
from varigrad.objectives.elbo import ELBO
from varigrad.objectives.gradient_draws import by_name, samples

POWER = 3.1
"""An error as large as this many standard errors more than the limit is found with a probability of 99.9 %."""
MORE = 100
"""How many times as many draws as asked for are taken, at most, to find an error of scale."""


def assert_unbiased(
    model: Program,
    guide: Program,
    args: object = (),
    estimators: Mapping[str, Estimator] | None = None,
    *,
    draws: int = 2_000,
    outcomes: int = 2_000,
    scale_error: float | None = None,
    seed: int = 0,
    objective: ELBO | None = None,
    at: Bound | None = None,
) -> float:
    """Raise unless the gradient of a model and guide has the right mean, as far as the draws can tell.

    Where both the guide's choices and what the estimators draw have few outcomes, nothing is sampled: the mean over all
    outcomes has to be the exact gradient. Else the mean of `draws` estimates is compared, element by element, with the
    exact gradient if the guide's choices have at most `outcomes` outcomes, else with the mean of four times as many
    draws of leave-one-out. If so many draws would not find an error of scale of the size of `scale_error`, more are
    taken. A difference too large for chance (1e-3 over all elements) is looked at again with
    four times as many fresh draws, of both, and fails if it is there again (1e-5 over all elements). So a correct
    estimator fails in less than one of 10^5 tests (about one of 10^8), as far as means of so many draws are normal:
    choices with probabilities near 0 or 1 need many. Changes nothing of yours, nor any generator.

    Args:
        model, guide: the programs.
        args: what the programs are called with: a tuple, or the only argument.
        estimators: `{glob: estimator}`, as in `ELBO(estimators=...)`; default: what the guide says, or the rule.
        draws: gradients in the first stage, at least.
        outcomes: the most outcomes that are enumerated.
        scale_error: the error of scale that has to be found: 0.05 is a gradient that is 5 % too long or too short;
            None: what `draws` find.
        seed: of all draws.
        objective: default: that of `at`, else `ELBO()`.
        at: look at the parameters of this bound (`svi.bound`); default: where they start.

    Returns:
        The power of the test: the smallest error of scale, as a part of the gradient, that it would have found with a
        probability of 99.9 %. It is 0 where nothing was sampled.

    Raises:
        AssertionError: a parameter's gradient is biased; the text says which, by how much, its standard error and z. Or
            a hundred times as many draws would not find `scale_error`, because the gradient is nearly zero, or noisy.
        VarigradError: draws is not a whole number of at least 2, scale_error is not positive, or an estimator cannot
            serve its site.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist, testing
        >>> def model():
        ...     z = vg.sample("z", dist.Bernoulli(0.3))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.5))
        >>> def guide():
        ...     vg.sample("z", dist.Bernoulli(logits=vg.param("w", 0.0)))
        >>> testing.assert_unbiased(model, guide, draws=100)
        0.0
    """
    draws = whole_number("draws", draws, 2)
    if scale_error is not None and not scale_error > 0:
        raise VarigradError(f"scale_error must be positive, got {scale_error!r}", try_="scale_error=0.05")
    args = args if isinstance(args, tuple) else (args,)
    with measured_bound(model, guide, args, at, seed, objective) as at:
        config = at.config if objective is None else objective
        sites = tuple(estimators or ()) or ("*",)

        def look(stage: int, count: int, alarm: float) -> Finding:
            own = 1_000_003 * (stage + 1) + seed
            reference = reference_of(at, config, sites, args, outcomes, 4 * count, own)
            bound = candidate(at, config, estimators or {}, args, own + 1)
            bias = exact_bias(bound, reference, args, max(count, outcomes))
            if bias is not None:
                return Finding(exact_complaint(bound, reference, bias), 0.0, exact=True)
            return sampled_finding(bound, reference, args, count, alarm)

        found = look(0, draws, FIRST_ALARM)
        if not found.complaint and scale_error is not None and found.scale_error > scale_error:
            needed = (1.1 * found.scale_error / scale_error) ** 2  # the standard error is an estimate, too
            if needed > MORE:
                raise AssertionError(
                    f"{draws} draws find an error of scale of {found.scale_error:.2g} only, and {MORE} times as many "
                    f"would not find one of {scale_error:.2g}: the gradient is nearly zero, or noisy. "
                    "Try: other parameters (at=), or more draws"
                )
            draws = math.ceil(draws * needed)
            found = look(1, draws, FIRST_ALARM)
        if found.complaint and not found.exact:
            found = look(2, 4 * draws, SECOND_ALARM)
    if found.complaint:
        raise AssertionError(found.complaint)
    return found.scale_error


@dataclass(frozen=True)
class Finding:
    """The result of one comparison.

    Attributes:
        complaint: what is biased; empty if nothing is.
        scale_error: the smallest error of scale that would have been found.
        exact: whether nothing was sampled.
    """

    complaint: str
    scale_error: float
    exact: bool = False


def sampled_finding(bound: Bound, reference: Reference, args: tuple[object, ...], draws: int, alarm: float) -> Finding:
    """What is biased, as far as so many draws can tell.

    Args:
        bound: the objective to draw gradients of.
        reference: the gradient that their mean is compared with.
        args: the programs' arguments.
        draws: how many gradients to draw.
        alarm: the probability of a false alarm.
    """
    found = RunningMoments()
    for start in range(0, draws, 100):
        found.add(samples(bound, min(100, draws - start), args, {}))
    z = z_scores(found, reference, dtype_of(bound))
    spread = (found.error.square() + reference.error.square()).sqrt()
    limit = limit_of(alarm, len(z))
    lines = worst(bound, found.mean - reference.mean, spread, z, limit)
    # Each element is tested by itself, so the one that knows its gradient best decides what error of scale is found.
    relative = spread / reference.mean.abs()
    scale_error = float(torch.where(relative.isnan(), torch.inf, relative).min()) * (limit + POWER)
    told = f"limit of z: {limit:.1f}; {draws} draws; reference: {reference.how}"
    return Finding("\n".join([*lines, told]) if lines else "", scale_error)


def exact_complaint(bound: Bound, reference: Reference, bias: Tensor) -> str:
    """What is biased, given the exact bias; nothing if nothing is.

    Args:
        bound: the objective, which knows the parameters' names.
        reference: the gradient that the mean was compared with.
        bias: the difference, for all parameters in one vector.
    """
    wrong = bias.abs() > rounding_of(reference, dtype_of(bound))
    z = torch.where(wrong, bias.sign() * torch.inf, 0.0)
    lines = worst(bound, bias, torch.zeros_like(bias), z, 1.0)
    return "\n".join([*lines, "without sampling: every outcome of its draws was run"]) if lines else ""


def worst(bound: Bound, bias: Tensor, error: Tensor, z: Tensor, limit: float) -> list[str]:
    """A line for each parameter with a |z| above a limit, about the element where it is largest.

    Args:
        bound: the objective, which knows the parameters' names.
        bias, error, z: bias, standard error and their ratio, for all parameters in one vector.
        limit: what |z| may be at most.
    """
    lines = []
    biases, errors = by_name(bound, bias), by_name(bound, error)
    for name, score in by_name(bound, z).items():
        at = int(score.abs().argmax())
        b, e, s = (float(x.reshape(-1)[at]) for x in (biases[name], errors[name], score))
        if abs(s) > limit:
            where = f"[{at}]" if score.numel() > 1 else ""
            lines.append(f"the gradient of {name!r}{where} is biased by {b:.4g}, standard error {e:.2g}, z = {s:.1f}")
    return lines
