"""Programs for the tests of Pyro's names, their exact gradients, and an optimiser that needs nothing."""

import torch

import varigrad.compat.pyro as pyro
from varigrad.compat.pyro import distributions as dist
from varigrad.testing import exact_gradient, expected_gradient, largest_difference

f64 = torch.float64


def t(value):
    return torch.tensor(value, dtype=f64)


def coins_model():
    """Two coins, the second leaning towards the first, and what is seen of both."""
    a = pyro.sample("a", dist.Bernoulli(t(0.3)))
    b = pyro.sample("b", dist.Bernoulli(torch.sigmoid(2 * a - 1)))
    pyro.sample("x", dist.Normal(a + 2 * b, 1.0), obs=t(2.5))


def coins_guide(**infer):
    """A guide for them whose sites carry options: `coins_guide(a={...}, b={...})`."""

    def guide():
        logit = pyro.param("logit", t(0.2))
        a = pyro.sample("a", dist.Bernoulli(logits=logit), infer=infer.get("a"))
        pyro.sample("b", dist.Bernoulli(logits=pyro.param("other", t([0.5, -0.3]))[a.long()]), infer=infer.get("b"))

    return guide


def assert_exact(bound, *args, tolerance=1e-9):
    """The expected gradient of the bound's estimators is that of the enumerated bound."""
    bound.estimate(*args)  # parameters come into being
    value, gradient = exact_gradient(bound, *args)
    moments = expected_gradient(bound, *args)
    assert gradient and largest_difference(gradient, moments.mean) < tolerance
    assert abs(moments.value - value) < tolerance
    return moments


class SGD:
    """Plain gradient steps, on whatever a step hands over."""

    def __init__(self, lr=0.1):
        self.lr = lr
        self.seen = []

    def __call__(self, params):
        names = []
        for p in params:
            names.append(pyro.get_param_store().param_name(p))
            if p.grad is not None:
                p.data.sub_(self.lr * p.grad)
        self.seen.append(sorted(names))
