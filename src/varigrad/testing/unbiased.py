"""`assert_unbiased(model, guide, data)`: tests in one line that a program's gradient is unbiased."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from varigrad.errors import whole_number
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


def assert_unbiased(
    model: Program,
    guide: Program,
    args: object = (),
    estimators: Mapping[str, Estimator] | None = None,
    *,
    draws: int = 2_000,
    outcomes: int = 2_000,
    seed: int = 0,
    objective: ELBO | None = None,
    at: Bound | None = None,
) -> None:
    """Raise unless the gradient of a model and guide has the right mean, as far as the draws can tell.

    The mean of `draws` estimates is compared, element by element, with the exact gradient if the guide's choices have
    at most `outcomes` outcomes, else with the mean of four times as many draws of leave-one-out. A difference too
    large for chance (1e-3 over all elements) is looked at again: without sampling, if what the estimator draws has few
    outcomes, else with four times as many fresh draws, of both, and fails if it is there again (1e-5 over all
    elements). So a correct estimator fails in less than one of 10^5 tests (about one of 10^8), as far as means of so
    many draws are normal: choices with probabilities near 0 or 1 need many. Changes nothing of yours, nor any
    generator.

    Args:
        model, guide: the programs.
        args: what the programs are called with: a tuple, or the only argument.
        estimators: `{glob: estimator}`, as in `ELBO(estimators=...)`; default: what the guide says, or the rule.
        draws: gradients in the first stage.
        outcomes: the most outcomes that are enumerated.
        seed: of all draws.
        objective: default: that of `at`, else `ELBO()`.
        at: look at the parameters of this bound (`svi.bound`); default: where they start.

    Raises:
        AssertionError: a parameter's gradient is biased; the text says which, by how much, its standard error and z.
        VarigradError: draws is not a whole number of at least 2, or an estimator cannot serve its site.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist, testing
        >>> def model():
        ...     z = vg.sample("z", dist.Bernoulli(0.3))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.5))
        >>> def guide():
        ...     vg.sample("z", dist.Bernoulli(logits=vg.param("w", 0.0)))
        >>> testing.assert_unbiased(model, guide, draws=100)
    """
    draws = whole_number("draws", draws, 2)
    args = args if isinstance(args, tuple) else (args,)
    with measured_bound(model, guide, args, at, seed) as at:
        config = at.config if objective is None else objective
        sites = tuple(estimators or ()) or ("*",)
        text = ""
        for stage, alarm in enumerate((FIRST_ALARM, SECOND_ALARM)):
            count, own = draws * 4**stage, 1_000_003 * (stage + 1) + seed
            reference = reference_of(at, config, sites, args, outcomes, 4 * count, own)
            bound = candidate(at, config, estimators or {}, args, own + 1)
            bias = exact_bias(bound, reference, args, count) if stage else None
            if bias is None:
                text = sampled_complaint(bound, reference, args, count, alarm)
            else:
                text = exact_complaint(bound, reference, bias)
            if not text:
                return
    raise AssertionError(text)


def sampled_complaint(bound: Bound, reference: Reference, args: tuple[object, ...], draws: int, alarm: float) -> str:
    """What is biased, as far as so many draws can tell; nothing if nothing is.

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
    return "\n".join([*lines, f"limit of z: {limit:.1f}; {draws} draws; reference: {reference.how}"]) if lines else ""


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
