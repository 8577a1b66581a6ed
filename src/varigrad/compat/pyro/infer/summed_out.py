"""The posterior of sites of a model that are marked for enumeration and that its guide lacks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from functools import partial

from torch import Tensor
from torch import distributions as td

from varigrad.compat.pyro import distributions as dist
from varigrad.compat.pyro.primitives import get_param_store
from varigrad.distributions.finite_support import inner_of
from varigrad.distributions.rng import Source
from varigrad.errors import VarigradError
from varigrad.language.messages import Forward, Indices, InUse, Message, Program, Sample, evolve
from varigrad.language.runtime import Handled, default, run
from varigrad.objectives.bound import Bound
from varigrad.objectives.elbo import ELBO
from varigrad.objectives.marginal_posterior import SummedRun, sites_to_sum, summed_runs
from varigrad.terms.elimination.reductions import log_sum_exp


def is_marked(message: Sample) -> bool:
    """Whether a site of a model asks for enumeration: the engine sums it out if the guide lacks it.

    Raises:
        NotImplementedError: it asks for samples in place of all values.
    """
    if not message.notes.get("enumerate"):
        return False
    if message.notes.get("num_samples") is not None:
        raise NotImplementedError(
            f"{message.name!r}: samples of a site in the model, in place of all of its values (tensor Monte Carlo), "
            "are not there. Try: no num_samples, for the exact sum; or the site in the guide"
        )
    return True


def without_mask(message: Sample) -> Sample:
    """A site that is summed out, with its density wherever a mask leaves it out.

    In Pyro such a site keeps the probabilities of its distribution there, and masks act on what depends on it.
    """
    return message if message.mask is None else evolve(message, mask=None)


def summed_run(
    model: Program, guide: Program, args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[SummedRun | None, Bound]:
    """One run of guide and model with all values of the sites that are summed out; None if there are no such sites.

    The programs are looked at anew: with these arguments other sites may be observed than with those of a fit. Sites
    that nothing depends on, and that would be drawn at all of these values, are hidden.
    """
    objective = ELBO(strict=False, marginal=is_marked)
    bound = objective.bind(model, guide, Source(), get_param_store())
    marginal, hidden = sites_to_sum(bound, args, kwargs)
    if not marginal:
        return None, bound
    if hidden:
        bound = objective.bind(Handled(model, partial(_hide, hidden)), guide, Source(), get_param_store())
    bound.init(*args, **kwargs)
    return next(summed_runs(bound, 1, args, kwargs)), bound


def posterior_marginals(summed: SummedRun) -> OrderedDict[str, td.Distribution]:
    """The posterior of each site that is summed out, as a distribution of the site's own family."""
    families = {density.message.name: density.message for density in summed.densities}
    found: OrderedDict[str, td.Distribution] = OrderedDict()
    for name, probabilities in summed.derivative(log_sum_exp).items():
        message = families[name]
        assert isinstance(message, Sample)
        found[name] = _of_family(message.distribution, summed.slots.sites[name].values, probabilities.clamp(min=0))
    return found


def replayed(
    summed: SummedRun,
    assignment: Mapping[str, Tensor],
    program: Program,
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> object:
    """What the program returns if its sites have the values of a run, and those of an assignment."""
    values = {**summed.latents, **summed.priors, **assignment}

    def replay(message: Message, forward: Forward) -> Message:
        if isinstance(message, Sample) and not message.observed and message.value is None and message.name in values:
            message = evolve(message, value=values[message.name])
        elif isinstance(message, Indices) and message.name in summed.indices:
            message = evolve(message, value=summed.indices[message.name])
        elif isinstance(message, InUse) and message.name in summed.indices:
            return evolve(message, value=summed.indices[message.name])
        return forward(message)

    return run(program, (replay,), args, kwargs)


def _hide(names: Collection[str], message: Message, forward: Forward) -> Message:
    """Draw these sites, and let handlers further out know nothing of them."""
    return default(message) if isinstance(message, Sample) and message.name in names else forward(message)


def _of_family(distribution: td.Distribution, values: Tensor, probabilities: Tensor) -> td.Distribution:
    """The distribution of the same family with these probabilities, `[*plates, values]`.

    Raises:
        VarigradError: the family has no parameters for arbitrary probabilities.
    """
    inner, _ = inner_of(distribution)
    logits = probabilities.log()
    found: td.Distribution
    if isinstance(inner, td.Bernoulli):
        assert values.reshape(-1).tolist() == [0, 1]
        found = dist.Bernoulli(logits=logits[..., 1] - logits[..., 0])
        return found
    for kind in (td.OneHotCategorical, td.Categorical):
        if isinstance(inner, kind):
            found = getattr(dist, kind.__name__)(logits=logits)
            return found
    raise VarigradError(
        f"{type(inner).__name__} has no parameters for the probabilities of a posterior",
        try_="a Categorical in the model; or varigrad.SVI(...).run(...).marginals(site), which returns a table",
    )
