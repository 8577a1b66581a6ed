"""Fast laws of the gradient machinery: what `tests/mutants/` holds mutants to, and pytest the source.

Nearly all are exact: every outcome of the draws is run, Normal draws are Gauss-Hermite nodes. A law is a function
without arguments that raises `AssertionError` if it is broken.
"""

from collections.abc import Callable

import torch

import varigrad as vg
from varigrad import distributions as dist
from varigrad.distributions.rng import Source
from varigrad.testing import exact_gradient, expected_gradient, largest_difference

LAWS: dict[str, Callable[[], None]] = {}
TOLERANCE = 1e-9


def law(function, name=None):
    LAWS[name or function.__name__.replace("_", " ")] = function
    return function


def t(*values):
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=torch.float64)


def logits(name, *values):
    return vg.param(name, lambda: t(*values))


def hold(model, guide, *, steps=2, elbo=None):
    """The mean of the gradient estimate is the exact gradient."""
    bound = (elbo or vg.ELBO())(model, guide)
    for _ in range(steps):
        bound()
    moments = expected_gradient(bound)
    value, gradient = exact_gradient(bound)
    assert abs(moments.value - value) < TOLERANCE
    assert largest_difference(moments.mean, gradient) < TOLERANCE
    return bound, moments


def seeded(elbo, model, guide, seed=3):
    bound = elbo.bind(model, guide, Source(torch.Generator().manual_seed(seed)))
    return bound.init() if bound.is_empty else bound  # programs without arguments were run when it was made


def drawn(bound, seed=11):
    """One draw of the gradient, with the seed that decides it."""
    bound.draw_from(Source(torch.Generator().manual_seed(seed)))
    named = dict(bound.named_parameters())
    grads = torch.autograd.grad(bound.estimate().surrogate, list(named.values()), allow_unused=True)
    return dict(zip(named, grads, strict=True))


def trained(bound, steps):
    for _ in range(steps):
        bound()
    return bound


def by_plate(estimator, family, function, exact, **parameters):
    """An estimator on many equal elements of a plate is as many draws of its gradient: held to 5 standard errors."""
    many = 4000

    def model():
        with vg.plate("n", many):
            z = vg.sample("z", family(**{k: t(v) for k, v in parameters.items()}))
            vg.factor("f", function(z))

    def guide():
        with vg.plate("n", many):
            free = {
                k: vg.param(k, lambda v=v: torch.full((many,), v, dtype=torch.float64)) for k, v in parameters.items()
            }
            vg.sample("z", family(**free), estimator=estimator)

    # Nothing but the factor counts.
    found = drawn(seeded(vg.ELBO(weights={"z": 0.0}), model, guide))
    leaves = {k: t(v).requires_grad_() for k, v in parameters.items()}
    wanted = dict(zip(leaves, torch.autograd.grad(exact(**leaves), list(leaves.values())), strict=True))
    for name, gradient in found.items():
        error = (gradient.mean() - wanted[name]).abs()
        assert error < 5 * gradient.std() / many**0.5 + 1e-9, (family, name, error)


def bernoulli(estimator, obs=0.8, logit=0.7):
    def model():
        z = vg.sample("z", dist.Bernoulli(t(0.3)))
        vg.sample("x", dist.Normal(2 * z, t(1.0)), obs=t(obs))

    def guide():
        vg.sample("z", dist.Bernoulli(logits=logits("t", logit)), estimator=estimator)

    return model, guide
