"""Sites of the model that are summed out, on random programs: value and gradient of the bound are those of brute force.

The model is run with every joint value of every element of what is summed out, and the discrete draws of the guide are
enumerated, so there is no sampling error.
"""

import math
import warnings
from collections import Counter
from dataclasses import replace

import pytest
import torch
from marginal_programs.programs import Programs
from marginal_programs.reference import bound_by_brute_force, paths
from marginal_programs.specs import random_spec

import varigrad as vg
from varigrad.errors import SiteError
from varigrad.objectives import BiasWarning

REFUSED = ("couple every element", "varies all elements of plate")
"""Programs for which there is no answer: an elimination that is exponential, a joint cost with `Enumerate`."""


def bound_of(spec):
    """The bound of a specification; with a simpler guide and fewer particles if its draws have too many outcomes."""
    programs = Programs(spec)
    bound = vg.ELBO(marginal=True, particles=spec.particles, vectorize=True)(programs.model, programs.guide)
    source = next(paths(spec, bound.discovered.vectorization.plates))
    with bound.drawing_from(source):
        bound.estimate()
    if math.prod(count for _, count in source.taken) <= 64:
        return spec, bound
    sites = [replace(site, estimator=site.estimator and "Score") for site in spec.sites]
    return bound_of(replace(spec, sites=tuple(sites), particles=1))


def check(spec):
    """Hold the engine to brute force."""
    spec, bound = bound_of(spec)
    leaves = dict(bound.named_parameters())
    value = 0.0
    mean = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    for source in paths(spec, bound.discovered.vectorization.plates):
        with bound.drawing_from(source):
            estimate = bound.estimate()
        value += source.probability * float(estimate.value)
        for name, gradient in gradients(estimate.surrogate, leaves).items():
            mean[name] += source.probability * gradient
    exact = bound_by_brute_force(spec, bound.owner.constrained_leaves())
    wanted = float(exact.detach())
    size = max(1.0, abs(wanted))
    assert abs(value - wanted) <= 1e-9 * size, (spec, value, wanted)
    for name, gradient in gradients(exact, leaves).items():
        assert float((mean[name] - gradient).abs().max()) <= 1e-9 * size, (spec, name, mean[name], gradient)


def gradients(total, leaves):
    """The gradient by every parameter."""
    if not total.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(leaves.items(), found, strict=True)}


def check_all(seeds, most_assignments, most_outcomes, most_sites):
    """Hold many programs to the law; few of them may be refused."""
    refused = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BiasWarning)  # minibatches under a sum outside of them
        for seed in seeds:
            spec = random_spec(seed, most_assignments, most_outcomes, most_sites)
            try:
                check(spec)
            except SiteError as error:
                reason = next((text for text in REFUSED if text in str(error)), None)
                if reason is None:
                    raise AssertionError(spec) from error
                refused[reason] += 1
    assert refused.total() <= 1 + len(seeds) // 8, refused


@pytest.mark.parametrize("first", range(0, 60, 15))
def test_value_and_gradient_are_those_of_brute_force(first):
    """On small programs."""
    check_all(range(first, first + 15), 16, 4, 4)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1_000, 1_520, 20))
def test_value_and_gradient_are_those_of_brute_force_on_larger_programs(first):
    """On 520 programs."""
    check_all(range(first, first + 20), 256, 8, 6)
